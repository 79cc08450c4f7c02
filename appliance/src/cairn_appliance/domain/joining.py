"""The string by which a new appliance joins the cluster: pasteable, one use, short-lived.

`cairn-join1.` followed by base64url (no padding) of JSON and of the first four octets of
that JSON's SHA-256, so that a string cut short by a copy says so. It has a prefix other
than a node's enrolment token, because it opens far more: whoever joins gets the KEK.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from dataclasses import asdict, dataclass

from cairn_appliance.domain.errors import Invalid

PREFIX = "cairn-join1."
_CHECK_OCTETS = 4
_HEX_SHA256 = re.compile(r"[0-9a-f]{64}")
_REMEDY = "copy the whole string that `cairn cluster join-string` printed"


@dataclass(frozen=True, slots=True)
class JoinString:
    """What a new appliance needs to join."""

    operations: tuple[str, ...]  # host:port of the operations APIs
    pin: str  # hex SHA-256 of the cluster CA certificate (DER)
    id: str
    secret: str


@dataclass(frozen=True, slots=True)
class ClusterKeys:
    """What every appliance of a cluster has on its disk."""

    kek: bytes
    etcd_ca: bytes  # PEM
    etcd_ca_key: bytes  # sealed under the KEK


@dataclass(frozen=True, slots=True)
class Handover:
    """What an appliance of a cluster gives to one that joins; sealed for the way."""

    cluster_id: str
    name: str  # of the new appliance and its member of etcd
    initial_cluster: str  # name=URL,...: what etcd wants to be told at its first start
    endpoints: tuple[str, ...]  # host:port of the other members' etcds
    heartbeat_s: float
    keys: ClusterKeys


def encode(join: JoinString) -> str:
    """Return the pasteable string."""
    body = json.dumps(asdict(join), separators=(",", ":")).encode()
    octets = body + hashlib.sha256(body).digest()[:_CHECK_OCTETS]
    return PREFIX + base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def decode(text: str) -> JoinString:
    """Return what the string says; raise Invalid with a sentence for who pasted it."""
    text = "".join(text.split())
    if not text.startswith(PREFIX):
        raise Invalid(f"a join string starts with {PREFIX!r}", _REMEDY)
    encoded = text.removeprefix(PREFIX)
    try:
        octets = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    except (binascii.Error, ValueError) as error:
        raise Invalid("the join string has characters that none has", _REMEDY) from error
    body, check = octets[:-_CHECK_OCTETS], octets[-_CHECK_OCTETS:]
    if hashlib.sha256(body).digest()[:_CHECK_OCTETS] != check:
        raise Invalid("the join string is damaged or cut short", _REMEDY)
    try:
        fields = json.loads(body)
        join = JoinString(
            tuple(map(str, fields["operations"])),
            str(fields["pin"]),
            str(fields["id"]),
            str(fields["secret"]),
        )
    except (ValueError, LookupError, TypeError) as error:
        raise Invalid("the join string is of another version of Cairn", _REMEDY) from error
    if not join.operations or not _HEX_SHA256.fullmatch(join.pin):
        raise Invalid("the join string names no appliance or no pin", _REMEDY)
    return join
