"""What nodes report of themselves, as the appliances keep it: in memory, cleaned, bounded."""

from __future__ import annotations

import struct
import sys
import unicodedata
from collections.abc import Iterator
from typing import Any

import msgspec
from cairn_agent.protocol import telemetry as wire

# Between appliances, on the agents' port: the path, and the subject of the client's certificate.
SHARED_REPORTS = "/appliance/v1/telemetry"
APPLIANCE = "cairn-appliance"
PEERS_KEPT = 2_048  # of one node; with so many sessions nothing draws them either
KEPT_S = 600.0  # a report that is older is forgotten
POINT_EVERY_S, POINTS_MAX = 30.0, 120  # of one path's history: an hour
_PATHS = frozenset({"direct", "relayed", "gateway"})
_SLOT = struct.Struct("=I")  # before the points: of which half minute since 1970 the newest is
_POINT = struct.Struct("=eB")  # milliseconds with three digits that count, parts of loss
_LOSS_PARTS, _RTT_MAX_MS = 200, 65_504.0
_AT = struct.Struct("=d")
_report = msgspec.json.Decoder(wire.Report)
_INVISIBLE = ("Cc", "Cf", "Cs", "Cn", "Co", "Zl", "Zp")


class PeerKnown(bytes):
    """What a node said last of a peer in a vSubnet, and when (seconds since 1970).

    Packed into one object: there are twenty for each node, which are read only while somebody
    looks, and take half of what they do as JSON.
    """

    __slots__ = ()

    @classmethod
    def of(cls, said: wire.PeerSaid, at: float) -> PeerKnown:
        """Return what was said at a time."""
        return cls(_AT.pack(at) + _pack(msgspec.structs.astuple(said)))

    @property
    def at(self) -> float:
        """When it was said."""
        return float(_AT.unpack_from(self)[0])

    @property
    def said(self) -> wire.PeerSaid:
        """What the node said."""
        return wire.PeerSaid(*self._fields())

    @property
    def standing(self) -> tuple[str, str]:
        """Session and path: what is news where it is another one."""
        _, _, session, path, *_ = self._fields()
        return session, path

    def _fields(self) -> list[Any]:
        fields: list[Any] = _unpack(memoryview(self)[_AT.size :])
        return fields

    def shifted(self, seconds: float) -> PeerKnown:
        """Return it with its time on a clock that is so far ahead."""
        return PeerKnown(_AT.pack(self.at + seconds) + self[_AT.size :])


class NodeRecord(msgspec.Struct):
    """All that a node has reported; `at` is when the last report came, `measured_at` of when
    its figures are."""

    node: str
    at: float = 0.0
    measured_at: float = 0.0
    agent_version: str = ""
    dataplane: wire.DataPlaneSaid = wire.DataPlaneSaid()
    vsubnets: list[wire.VSubnetSaid] = []
    problems: list[wire.ProblemSaid] = []
    storms: dict[int, float] = {}  # VNI -> frames a second that its limits dropped, of late
    bum: dict[int, float] = {}  # VNI -> BUM frames a second that it sent, where it counts them
    peers: dict[str, PeerKnown] = {}  # by "VNI/node ID"
    version: int = 0  # of the board, when it was changed last

    def is_fresh(self, now: float) -> bool:
        """Return whether it says something of now."""
        return now - self.at <= wire.STALE_S

    def shifted(self, seconds: float) -> NodeRecord:
        """Return the record with its times on a clock that is so far ahead."""
        peers = {sys.intern(key): known.shifted(seconds) for key, known in self.peers.items()}
        return msgspec.structs.replace(
            self, at=self.at + seconds, measured_at=self.measured_at + seconds, peers=peers
        )


class Shared(msgspec.Struct):
    """What one appliance tells another: the records that have changed after `after`."""

    instance: str  # of the board: versions of another one mean nothing
    version: int
    now: float  # of its clock
    nodes: list[NodeRecord]


_NO_POINT = _POINT.pack(0.0, 255)
_NO_POINTS = _SLOT.pack(0) + _NO_POINT * POINTS_MAX


def extended(history: bytes, at: float, rtt_ms: float, loss: float) -> bytes:
    """Return the history of a path with a point more, where the half minute has none yet.

    It is the last hour, three octets a point; the oldest goes. There are twenty for each node, so
    it is one object, and as large at its beginning as it will ever be: what grows a little now
    and then, twenty thousand times, leaves holes everywhere.
    """
    slot = int(at / POINT_EVERY_S)
    history = history or _NO_POINTS
    passed: int = min(slot - _SLOT.unpack_from(history)[0], POINTS_MAX)
    if passed <= 0:
        return history
    kept = history[_SLOT.size + passed * _POINT.size :] + _NO_POINT * (passed - 1)
    point = _POINT.pack(min(rtt_ms, _RTT_MAX_MS), round(loss * _LOSS_PARTS))
    return _SLOT.pack(slot) + kept + point


def points_of(history: bytes) -> Iterator[tuple[float, float, float]]:
    """Yield (seconds since 1970, ms, loss), oldest first."""
    first = _SLOT.unpack_from(history)[0] - POINTS_MAX + 1
    for slot, (rtt_ms, loss) in enumerate(_POINT.iter_unpack(history[_SLOT.size :]), first):
        if loss <= _LOSS_PARTS:
            yield slot * POINT_EVERY_S, rtt_ms, loss / _LOSS_PARTS


class _PeerShared(msgspec.Struct):
    said: wire.PeerSaid
    at: float


def encoded_shared(shared: Shared) -> bytes:
    """Return what one appliance tells another."""
    return msgspec.json.encode(shared, enc_hook=_as_shared)


def decoded_shared(octets: bytes) -> Shared:
    """Return what another appliance tells; raise msgspec.MsgspecError for what is none."""
    return _shared.decode(octets)


def _as_shared(known: PeerKnown) -> _PeerShared:
    return _PeerShared(known.said, known.at)


def _from_shared(_kind: type, told: object) -> PeerKnown:
    peer = msgspec.convert(told, _PeerShared)
    return PeerKnown.of(peer.said, peer.at)


_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder().decode
_shared = msgspec.json.Decoder(Shared, dec_hook=_from_shared)


def storm_dropped(said: wire.VSubnetSaid) -> int:
    """Return how many broadcast, unknown and multicast frames the limits have dropped."""
    return sum(said.drops.get(name, 0) for name in ("storm_limit", "source_storm_limit"))


def bum_sent(said: wire.VSubnetSaid) -> int | None:
    """Return how many broadcast, unknown and multicast frames went out to the others.

    None where none was counted: counters at zero aren't reported, and older data planes have
    no such counter.
    """
    return said.counters.get("bum_sent")


def clean(text: str) -> str:
    """Return the text without what draws nothing: control characters, marks of direction."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(each for each in text if unicodedata.category(each) not in _INVISIBLE)


def decoded(line: bytes) -> wire.Report:
    """Return the report with all its texts cleaned; raise msgspec.MsgspecError for what is none.

    A line of printable ASCII without escapes has nothing to clean, and nearly all are such:
    JSON allows no control character but the last of ASCII in a string.
    """
    said = _report.decode(line)
    if line.isascii() and b"\\" not in line and b"\x7f" not in line:
        return said
    return _cleaned(said)


def path_of(said: wire.PeerSaid) -> str:
    """Return how a peer is reached, where that is known here; a newer agent may say more."""
    return said.path if said.path in _PATHS else ""


def loss_of(lost: int, probes: int) -> float | None:
    """Return the share of probes without an answer; None where there were none."""
    return round(min(lost, probes) / probes, 4) if probes else None


def _cleaned(said: wire.Report) -> wire.Report:
    replace = msgspec.structs.replace
    dataplane, vsubnets, problems = said.dataplane, said.vsubnets, said.problems
    if dataplane is not None:
        dataplane = replace(
            dataplane, version=clean(dataplane.version), drops=_counters(dataplane.drops)
        )
    if vsubnets is not None:
        vsubnets = [
            replace(
                each,
                problem=clean(each.problem),
                drops=_counters(each.drops),
                counters=_counters(each.counters),
                learned=[replace(one, mac=clean(one.mac)) for one in each.learned],
            )
            for each in vsubnets
        ]
    if problems is not None:
        problems = [
            replace(
                each,
                name=clean(each.name),
                cause=clean(each.cause),
                remedy=clean(each.remedy),
                node=clean(each.node),
            )
            for each in problems
        ]
    version = None if said.agent_version is None else clean(said.agent_version)
    peers = [
        replace(
            each,
            node=clean(each.node),
            path=clean(each.path),
            endpoint=clean(each.endpoint),
        )
        for each in said.peers
    ]
    return replace(
        said,
        agent_version=version,
        dataplane=dataplane,
        vsubnets=vsubnets,
        problems=problems,
        peers=peers,
    )


def _counters(counters: dict[str, int]) -> dict[str, int]:
    return {clean(name): number for name, number in counters.items()}
