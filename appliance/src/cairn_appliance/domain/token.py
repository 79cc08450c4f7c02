"""Enrolment tokens, as the appliance keeps them."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from dataclasses import dataclass, field

from cairn_appliance.domain.errors import Invalid

_SOURCES_MAX = 16
_INSTANCES_MAX = 64
_INSTANCE_ID = re.compile(r"[!-~]{1,128}")


@dataclass(frozen=True, slots=True)
class Token:
    """What a new node may join with; the secret itself is not kept."""

    id: str
    secret_hash: str  # hex
    created_at: float  # seconds since 1970
    created_by: str
    expires_at: float
    max_uses: int = 1
    uses: int = 0
    site: str = ""  # name
    labels: dict[str, str] = field(default_factory=dict)
    vsubnets: tuple[str, ...] = ()  # IDs
    needs_approval: bool = False
    pin: str = ""  # hex SHA-256 of the cluster CA that its string names; empty: the first one
    sources: tuple[str, ...] = ()  # networks that its nodes come from; none: from anywhere
    instances: tuple[str, ...] = ()  # instance IDs of the machines that it is for; none: of any

    def matches(self, secret: str) -> bool:
        """Compare in constant time."""
        return hmac.compare_digest(self.secret_hash, secret_hash(self.id, secret))

    def is_for(self, address: str) -> bool:
        """Return whether it may be used from there: an address as an appliance sees it."""
        if not self.sources:
            return True
        try:
            source = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        if isinstance(source, ipaddress.IPv6Address) and source.ipv4_mapped:
            source = source.ipv4_mapped
        return any(source in ipaddress.ip_network(each) for each in self.sources)

    def is_for_instance(self, instance_id: str) -> bool:
        """Return whether a machine may use it that says this of itself: no proof, whoever knows
        an ID can say it."""
        return not self.instances or instance_id.lower() in self.instances


def checked_sources(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Return networks in canonical form, each once; raise Invalid."""
    if len(texts) > _SOURCES_MAX:
        raise Invalid(f"a token has at most {_SOURCES_MAX} networks to come from")
    return tuple(dict.fromkeys(map(_network, texts)))


def checked_instances(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Return instance IDs in lower case, each once; raise Invalid.

    Hypervisors and the kernel write one UUID in different cases.
    """
    if len(texts) > _INSTANCES_MAX:
        raise Invalid(f"a token has at most {_INSTANCES_MAX} instance IDs")
    return tuple(dict.fromkeys(map(_instance_id, texts)))


def _instance_id(text: str) -> str:
    found = text.strip().lower()
    if not _INSTANCE_ID.fullmatch(found):
        raise Invalid(
            f"{text[:80]!r} is no instance ID",
            "write it as `cairn-agent doctor` shows it on the machine: up to 128 characters, "
            "no spaces",
            code="invalid_instance",
        )
    return found


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text.strip()))
    except ValueError as error:
        raise Invalid(
            f"{text[:80]!r} is no network: {error}",
            "write it as 192.0.2.0/24, 2001:db8::/32, or as one address",
            code="invalid_source",
        ) from error


def secret_hash(token_id: str, secret: str) -> str:
    """Return the hex HMAC-SHA256 of the secret (256 random bits: no slow hash is needed)."""
    key = b"cairn-token-1/" + token_id.encode()
    return hmac.new(key, secret.encode(), hashlib.sha256).hexdigest()
