"""vSubnets: virtual Ethernet segments, and the secrets of their epochs."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field

from cairn_appliance.domain.errors import Invalid

Prefix = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

VNI_MAX = (1 << 24) - 1
MTU_MIN, MTU_MAX = 1280, 9000
PSK_OVERLAP_S = 600.0  # how long the old epoch is accepted (trust.md 2.2)
PSK_LIFE_S = 86_400.0
_EPOCHS_KEPT = 4  # sent and accepted; a header has to stay small


@dataclass(frozen=True, slots=True)
class Policy:
    """What the members enforce; the fields of cairn_agent.protocol.netmap.Policy."""

    bum_pps: int = 200
    bum_burst: int = 400
    ageing_s: int = 300
    offline_trust_s: int = 30 * 86_400
    shared_ips: tuple[str, ...] = ()  # that any member may take, one at a time: virtual IPs


@dataclass(frozen=True, slots=True)
class VSubnet:
    """A virtual Ethernet segment."""

    id: str  # UUID
    vni: int  # its 24-bit number on the wire
    name: str
    created_at: float  # seconds since 1970
    prefixes: tuple[str, ...] = ()  # at most one of each family; none: unmanaged
    reserved: tuple[str, ...] = ()  # "10.7.0.10-10.7.0.20": never allocated by itself
    mtu: int = 1400  # octets of the inner IP packet
    suite: int = 1
    policy: Policy = field(default_factory=Policy)
    closed: bool = False  # takes no members: it is being deleted or renumbered

    @property
    def networks(self) -> tuple[Prefix, ...]:
        """The prefixes as values."""
        return tuple(ipaddress.ip_network(prefix) for prefix in self.prefixes)


@dataclass(frozen=True, slots=True)
class Psk:
    """The secret of one epoch, sealed with a key that is not in the store."""

    epoch: int  # 1 to 65535
    sealed: str  # base64
    since: float  # seconds since 1970
    accepted_until: float = 0.0  # 0: it is the one used to send


@dataclass(frozen=True, slots=True)
class Psks:
    """The epochs of one vSubnet; the first is used to send."""

    vsubnet: str
    epochs: tuple[Psk, ...]

    def next_epoch(self) -> int:
        """Return the number of the epoch after the newest; 0 means "no secret" on the wire."""
        return self.epochs[0].epoch % 0xFFFF + 1 if self.epochs else 1

    def rotated(self, sealed: str, now: float, overlap_s: float) -> Psks:
        """Return the epochs after a new one took over; the last is accepted for `overlap_s`."""
        kept: list[Psk] = []
        if self.epochs and overlap_s > 0:
            last = self.epochs[0]
            kept.append(Psk(last.epoch, last.sealed, last.since, now + overlap_s))
            kept.extend(self.unexpired(now).epochs[1:])
        new = Psk(self.next_epoch(), sealed, now)
        return Psks(self.vsubnet, (new, *kept)[:_EPOCHS_KEPT])

    def unexpired(self, now: float) -> Psks:
        """Return the epochs that are still used or accepted."""
        kept = (p for p in self.epochs if not p.accepted_until or p.accepted_until > now)
        return Psks(self.vsubnet, tuple(kept))


def checked_prefixes(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Return the prefixes in canonical form, IPv4 first; raise Invalid."""
    prefixes = sorted((_prefix(text) for text in texts), key=lambda prefix: prefix.version)
    if len({prefix.version for prefix in prefixes}) != len(prefixes):
        raise Invalid("a vSubnet has at most one IPv4 and one IPv6 prefix", code="invalid_prefix")
    return tuple(str(prefix) for prefix in prefixes)


def _prefix(text: str) -> Prefix:
    try:
        prefix = ipaddress.ip_network(text)
    except ValueError as error:
        raise Invalid(
            f"{text[:80]!r} is no prefix: {error}",
            remedy="write it as 10.7.0.0/24 or fd00:7::/64",
            code="invalid_prefix",
        ) from error
    longest = 30 if prefix.version == 4 else 126
    if not 8 <= prefix.prefixlen <= longest:
        raise Invalid(
            f"{prefix}: the prefix length has to be from 8 to {longest}", code="invalid_prefix"
        )
    if prefix.is_multicast or prefix.is_loopback or prefix.is_link_local:
        raise Invalid(f"{prefix} is no prefix for hosts", code="invalid_prefix")
    return prefix


def checked_mtu(mtu: int) -> int:
    """Return the MTU if members can carry it; raise Invalid."""
    if not MTU_MIN <= mtu <= MTU_MAX:
        raise Invalid(
            f"an MTU of {mtu} octets can't be",
            remedy=f"choose {MTU_MIN} to {MTU_MAX}; 1400 fits almost everywhere, and 8900 where "
            "the underlay has 9001",
            code="invalid_mtu",
        )
    return mtu


def checked_policy(policy: Policy) -> Policy:
    """Return the policy if its numbers make sense; raise Invalid."""
    if not (0 < policy.bum_pps < 1 << 31 and 0 < policy.bum_burst < 1 << 31):
        raise Invalid("the limits of broadcast frames have to be 1 or more")
    if not 10 <= policy.ageing_s <= 1_000_000:
        raise Invalid("the ageing time has to be 10 to 1,000,000 seconds")
    if policy.offline_trust_s and not 86_400 <= policy.offline_trust_s < 1 << 31:
        raise Invalid("the offline trust limit is 24 hours or more, or 0 for unlimited")
    return policy
