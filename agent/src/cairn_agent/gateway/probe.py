"""Loop probes: small authenticated frames that show where two Ethernets have become one.

A gateway sends one out of the LAN port (`lan`) and one into the overlay (`overlay`) every
200 ms. Each says which side it was sent on, so whoever hears it on the other side knows
of a loop. They also carry who forwards with which term, and which probes were heard.
Nobody without the segment's key can make one; an old one is told by its number.

On the LAN the forwarder also names the stations that it knows, in frames of the same kind:
whoever takes over must say at once where they are, and may never have heard them itself.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

ETHERTYPE: Final = 0x88B5  # IEEE 802 local experimental 1
GROUP: Final = "03:43:41:49:52:4e"  # locally administered, a group: switches flood it
MAX_ACKNOWLEDGED: Final = 16
MAX_STATIONS: Final = 200  # in one frame: 1,280 octets

Side = Literal["lan", "overlay"]
Role = Literal["standby", "forwarder"]

MAGIC: Final = b"CRNp"
_VERSION: Final = 1
_SIDES: Final[dict[int, Side]] = {1: "lan", 2: "overlay"}
_ROLES: Final[dict[int, Role]] = {0: "standby", 1: "forwarder"}
_HEAD: Final = struct.Struct("!4sBBBB16s16sQQQ")
_HEARD: Final = struct.Struct("!16sQQ")
_TAG_OCTETS: Final = 16
_MAC_OCTETS: Final = 6
_STATIONS: Final = 3  # beside the kinds of `_SIDES`
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
    head = _head(probe, _number(_SIDES, probe.side), len(acknowledged))
    heard = b"".join(
        _HEARD.pack(uuid.UUID(each.node).bytes, each.boot % _MOST, each.sequence % _MOST)
        for each in acknowledged
    )
    return head + heard + _tag(head + heard, key)


def encode_stations(probe: Probe, macs: Sequence[str], key: bytes) -> bytes:
    """Return the payload that names up to MAX_STATIONS stations of the sender's LAN."""
    named = macs[:MAX_STATIONS]
    body = _head(probe, _STATIONS, len(named)) + b"".join(
        bytes.fromhex(mac.replace(":", "")) for mac in named
    )
    return body + _tag(body, key)


def decode_stations(octets: bytes, key: bytes) -> tuple[Probe, list[str]] | None:
    """Return who says so and the MACs; None for what isn't such a frame, or not under the key."""
    least = _HEAD.size + _TAG_OCTETS
    if len(octets) < least or octets[:4] != MAGIC or octets[4:6] != bytes([_VERSION, _STATIONS]):
        return None
    end = _HEAD.size + octets[7] * _MAC_OCTETS
    if len(octets) != end + _TAG_OCTETS:
        return None
    if not hmac.compare_digest(_tag(octets[:end], key), octets[end:]) or octets[6] not in _ROLES:
        return None
    macs = [octets[at : at + _MAC_OCTETS].hex(":") for at in range(_HEAD.size, end, _MAC_OCTETS)]
    return _said(octets, "lan", ()), macs


def _head(probe: Probe, kind: int, count: int) -> bytes:
    return _HEAD.pack(
        MAGIC,
        _VERSION,
        kind,
        _number(_ROLES, probe.role),
        count,
        uuid.UUID(probe.segment).bytes,
        uuid.UUID(probe.node).bytes,
        probe.boot % _MOST,
        probe.sequence % _MOST,
        probe.term % _MOST,
    )


def decode(octets: bytes, key: bytes) -> Probe | None:
    """Return the probe of a payload; None for what isn't one, or not under this key."""
    if len(octets) < _HEAD.size + _TAG_OCTETS or octets[:4] != MAGIC or octets[4] != _VERSION:
        return None
    end = _HEAD.size + octets[7] * _HEARD.size
    if octets[7] > MAX_ACKNOWLEDGED or len(octets) != end + _TAG_OCTETS:
        return None
    if not hmac.compare_digest(_tag(octets[:end], key), octets[end:]):
        return None
    if octets[5] not in _SIDES or octets[6] not in _ROLES:
        return None
    acknowledged = tuple(
        Heard(str(uuid.UUID(bytes=who)), its_boot, its_sequence)
        for who, its_boot, its_sequence in _HEARD.iter_unpack(octets[_HEAD.size : end])
    )
    return _said(octets, _SIDES[octets[5]], acknowledged)


def _said(octets: bytes, side: Side, acknowledged: tuple[Heard, ...]) -> Probe:
    """Return what a head says that is known to be well."""
    _, _, _, role, _, segment, node, boot, sequence, term = _HEAD.unpack_from(octets)
    return Probe(
        side,
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
