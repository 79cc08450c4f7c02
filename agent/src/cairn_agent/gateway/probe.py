"""Loop probes: small authenticated frames that show where two Ethernets have become one.

A gateway sends one out of the LAN port (`lan`) and one into the overlay (`overlay`) every
200 ms. Each says which side it was sent on, so whoever hears it on the other side knows
of a loop. They also carry who forwards with which term, and which probes were heard.
Nobody without the segment's key can make one; an old one is told by its number.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
import uuid
from dataclasses import dataclass
from typing import Final, Literal

ETHERTYPE: Final = 0x88B5  # IEEE 802 local experimental 1
GROUP: Final = "03:43:41:49:52:4e"  # locally administered, a group: switches flood it
MAX_ACKNOWLEDGED: Final = 16

Side = Literal["lan", "overlay"]
Role = Literal["standby", "forwarder"]

_MAGIC: Final = b"CRNp"
_VERSION: Final = 1
_SIDES: Final[dict[int, Side]] = {1: "lan", 2: "overlay"}
_ROLES: Final[dict[int, Role]] = {0: "standby", 1: "forwarder"}
_HEAD: Final = struct.Struct("!4sBBBB16s16sQQQ")
_HEARD: Final = struct.Struct("!16sQQ")
_TAG_OCTETS: Final = 16
_MOST: Final = 2**64


@dataclass(frozen=True, slots=True)
class Heard:
    """A forwarder's probe that was heard: which one exactly."""

    node: str  # UUID
    boot: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Probe:
    """What a probe says."""

    side: Side
    segment: str  # UUID
    node: str  # UUID
    boot: int  # random, new with each start of the sender's duty
    sequence: int
    term: int
    role: Role
    acknowledged: tuple[Heard, ...] = ()


def encode(probe: Probe, key: bytes) -> bytes:
    """Return the payload of the frame, authenticated under the segment's key."""
    acknowledged = probe.acknowledged[:MAX_ACKNOWLEDGED]
    head = _HEAD.pack(
        _MAGIC,
        _VERSION,
        _number(_SIDES, probe.side),
        _number(_ROLES, probe.role),
        len(acknowledged),
        uuid.UUID(probe.segment).bytes,
        uuid.UUID(probe.node).bytes,
        probe.boot % _MOST,
        probe.sequence % _MOST,
        probe.term % _MOST,
    )
    heard = b"".join(
        _HEARD.pack(uuid.UUID(each.node).bytes, each.boot % _MOST, each.sequence % _MOST)
        for each in acknowledged
    )
    return head + heard + _tag(head + heard, key)


def decode(octets: bytes, key: bytes) -> Probe | None:
    """Return the probe of a payload; None for what isn't one, or not under this key."""
    if len(octets) < _HEAD.size + _TAG_OCTETS or octets[:4] != _MAGIC or octets[4] != _VERSION:
        return None
    end = _HEAD.size + octets[7] * _HEARD.size
    if octets[7] > MAX_ACKNOWLEDGED or len(octets) != end + _TAG_OCTETS:
        return None
    if not hmac.compare_digest(_tag(octets[:end], key), octets[end:]):
        return None
    _, _, side, role, _, segment, node, boot, sequence, term = _HEAD.unpack_from(octets)
    if side not in _SIDES or role not in _ROLES:
        return None
    acknowledged = tuple(
        Heard(str(uuid.UUID(bytes=who)), its_boot, its_sequence)
        for who, its_boot, its_sequence in _HEARD.iter_unpack(octets[_HEAD.size : end])
    )
    return Probe(
        _SIDES[side],
        str(uuid.UUID(bytes=segment)),
        str(uuid.UUID(bytes=node)),
        boot,
        sequence,
        term,
        _ROLES[role],
        acknowledged,
    )


def _tag(octets: bytes, key: bytes) -> bytes:
    return hmac.new(key, octets, hashlib.sha256).digest()[:_TAG_OCTETS]


def _number(names: dict[int, Side] | dict[int, Role], name: str) -> int:
    return next(number for number, each in names.items() if each == name)
