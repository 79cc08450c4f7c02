"""What the node reports of itself to the appliance, and how it measures its paths.

Theory of operation. Every few seconds some of the peers with a session are probed inside
it, those first that were not for the longest; the last ten answers make up round-trip time,
jitter and loss. Every ten seconds, and a second after a session came or went, a report goes up
the netmap stream: in it those peers whose state has changed, then those whose figures were not
told for the longest, so that its size is bounded whatever the number of peers.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, TypeVar

import msgspec

from cairn_agent.dataplane import DataPlane, DataPlaneRefused, PeerStats, Stats, VSubnetStats
from cairn_agent.errors import AgentError
from cairn_agent.protocol import telemetry as wire
from cairn_agent.report import VERSION, Status

PROBE_EVERY_S: Final = 4.0
PROBED_AT_ONCE: Final = 8
PROBE_TIMEOUT_MS: Final = 1000
# What nothing happens with is told again after so long, not every ten seconds: reports of an idle
# fleet are most of what its appliance does. Less than `wire.STALE_S`, with the next wait.
CALM_S: Final = 18.0
CALM_RTT: Final = 0.25  # of its round trip: less of a difference is no news
CALM_OCTETS: Final = 64 * 1024  # sent and received since: less is none
WINDOW: Final = 10  # probes of a peer that its figures are made of
# Asking the data plane for everything takes as long as there are peers: at most this share of time.
REST_OF_ASKING: Final = 50.0
Key = tuple[int, str]  # VNI, node ID
_T = TypeVar("_T")


@dataclass
class Way:
    """The last probes of one peer; None: there was no answer."""

    answers: deque[int | None] = field(default_factory=lambda: deque(maxlen=WINDOW))
    probed_at: float = 0.0

    def note(self, rtt_us: int | None, now: float) -> None:
        """Keep the outcome of a probe."""
        self.answers.append(rtt_us)
        self.probed_at = now

    @property
    def known(self) -> list[int]:
        """Round-trip times, oldest first."""
        return [each for each in self.answers if each is not None]

    @property
    def jitter_us(self) -> int | None:
        """Mean difference from one to the next."""
        known = self.known
        if len(known) < 2:
            return None
        return sum(abs(b - a) for a, b in pairwise(known)) // (len(known) - 1)


_UNMEASURED: Final = Way()  # to be read only


class Ways:
    """Measures the paths to the peers that there are sessions with."""

    def __init__(self) -> None:
        self._ways: dict[Key, Way] = {}

    def of(self, key: Key) -> Way:
        """Return what is known of a peer."""
        return self._ways.get(key, _UNMEASURED)

    async def measure(self, dataplane: DataPlane, up: Iterable[Key]) -> None:
        """Probe some of the peers, and forget those that have no session any more."""
        self._ways = {key: self._ways.get(key) or Way() for key in up}
        due = sorted(self._ways, key=lambda key: (self._ways[key].probed_at, random.random()))
        await asyncio.gather(*(self._probe(dataplane, key) for key in due[:PROBED_AT_ONCE]))

    async def _probe(self, dataplane: DataPlane, key: Key) -> None:
        way = self._ways[key]
        rtt_us: int | None = None
        try:
            rtt_us = (await dataplane.probe(*key, PROBE_TIMEOUT_MS)).rtt_us
        except DataPlaneRefused as refused:
            if refused.code != "timeout":
                return  # there is no session any more: that is no loss
        except AgentError:
            return
        way.note(rtt_us, time.monotonic())


class Teller:
    """Chooses what goes into the next report; knows what was told on the stream before."""

    def __init__(self, ways: Ways) -> None:
        self._ways = ways
        self._told: dict[Key, tuple[wire.PeerSaid, float]] = {}  # and when
        self._said: dict[str, object] = {}  # field -> what was told last
        self._vsubnets: list[wire.VSubnetSaid] = []  # as they were told last
        self._reported_at = 0.0

    def report(
        self, status: Status, stats: Stats, *, full: bool, measured_s: float
    ) -> wire.Report | None:
        """Return what there is to say now; None: nothing, but that some counters went on."""
        if full:
            self._told, self._said = {}, {}
        now = time.monotonic()
        vsubnets = _vsubnets(status, stats)
        report = wire.Report(
            full=full,
            agent_version=self._news("agent_version", VERSION),
            dataplane=self._news("dataplane", _dataplane(status, stats)),
            problems=self._news("problems", _problems(status)),
            peers=self._peers(stats, now),
            measured_s=measured_s,
        )
        is_calm = report == wire.Report(measured_s=measured_s)
        is_calm = is_calm and _standing(vsubnets) == _standing(self._vsubnets)
        if is_calm and now - self._reported_at < CALM_S:
            return None
        self._reported_at, self._vsubnets = now, vsubnets
        return msgspec.structs.replace(report, vsubnets=self._news("vsubnets", vsubnets))

    def _news(self, name: str, value: _T) -> _T | None:
        if name in self._said and self._said[name] == value:
            return None
        self._said[name] = value
        return value

    def _peers(self, stats: Stats, now: float) -> list[wire.PeerSaid]:
        """Return peers whose state is another one, then those that were told of long ago."""
        present = {
            (vsubnet.vni, peer.id): self._peer(vsubnet.vni, peer, now)
            for vsubnet in stats.vsubnets
            for peer in vsubnet.peers
            if peer.session != "down" or (vsubnet.vni, peer.id) in self._told
        }
        for key, (told, _) in self._told.items():
            if key not in present:  # it is a peer no more
                present[key] = msgspec.structs.replace(told, session="down", rtt_us=None)
        news = [key for key in present if self._is_news(key, present[key], now)]
        chosen = sorted(news, key=lambda key: self._urgency(key, present[key]))
        said = []
        for key in chosen[: wire.PEERS_MAX]:
            peer = present[key]
            said.append(peer)
            if peer.session == "down":
                self._told.pop(key, None)
            else:
                self._told[key] = (peer, now)
        return said

    def _is_news(self, key: Key, peer: wire.PeerSaid, now: float) -> bool:
        told = self._told.get(key)
        return told is None or now - told[1] >= CALM_S or not is_calm(told[0], peer)

    def _urgency(self, key: Key, peer: wire.PeerSaid) -> tuple[bool, float]:
        told = self._told.get(key)
        return (told is not None and _state(told[0]) == _state(peer), told[1] if told else 0.0)

    def _peer(self, vni: int, stats: PeerStats, now: float) -> wire.PeerSaid:
        way = self._ways.of((vni, stats.id))
        known = way.known
        return wire.PeerSaid(
            node=stats.id,
            vni=vni,
            session=stats.session if stats.session in ("up", "handshaking") else "down",  # type: ignore[arg-type]
            path=stats.path[:64],
            endpoint=(stats.endpoint or "")[:64],
            rtt_us=known[-1] if known else stats.rtt_us,
            rtt_max_us=max(known, default=None),
            jitter_us=way.jitter_us,
            probes=len(way.answers),
            lost=len(way.answers) - len(known),
            probed_s=round(now - way.probed_at, 1) if way.answers else None,
            mtu=stats.mtu,
            tx_octets=stats.tx_octets,
            rx_octets=stats.rx_octets,
        )


def is_calm(told: wire.PeerSaid, peer: wire.PeerSaid) -> bool:
    """Return whether hardly anything has happened with a peer since it was told of."""
    if _state(told) != _state(peer) or told.lost != peer.lost:
        return False
    moved = peer.tx_octets - told.tx_octets + peer.rx_octets - told.rx_octets
    if not 0 <= moved < CALM_OCTETS:
        return False
    if told.rtt_us is None or peer.rtt_us is None:
        return told.rtt_us == peer.rtt_us
    return abs(peer.rtt_us - told.rtt_us) <= told.rtt_us * CALM_RTT


def encode(report: wire.Report) -> bytes:
    """Return the line; without some of what is least, where it would be too long."""
    line = msgspec.json.encode(report) + b"\n"
    while len(line) > wire.LINE_MAX_OCTETS and report.peers:
        report = msgspec.structs.replace(report, peers=report.peers[: len(report.peers) // 2])
        line = msgspec.json.encode(report) + b"\n"
    if len(line) > wire.LINE_MAX_OCTETS and report.vsubnets:
        short = [msgspec.structs.replace(each, learned=[], counters={}) for each in report.vsubnets]
        line = msgspec.json.encode(msgspec.structs.replace(report, vsubnets=short)) + b"\n"
    return line


def sessions_up(stats: Stats) -> list[Key]:
    """Return the peers that frames can be sent to."""
    return [
        (vsubnet.vni, peer.id)
        for vsubnet in stats.vsubnets
        for peer in vsubnet.peers
        if peer.session == "up"
    ]


async def asked(dataplane: DataPlane | None) -> Stats | None:
    """Return what the data plane says; None where it says nothing."""
    if dataplane is not None:
        with contextlib.suppress(AgentError):
            return await dataplane.stats()
    return None


def _state(peer: wire.PeerSaid) -> tuple[str, str, str, int | None]:
    return peer.session, peer.path, peer.endpoint, peer.mtu


def _dataplane(status: Status, stats: Stats) -> wire.DataPlaneSaid:
    known = status.dataplane
    return wire.DataPlaneSaid(
        is_up=known.is_up,
        version=known.version[:64],
        loaded_revision=known.loaded_revision,
        drops=_few(stats.drops),
    )


def _vsubnets(status: Status, stats: Stats) -> list[wire.VSubnetSaid]:
    counted = {each.vni: each for each in stats.vsubnets}
    found = []
    for known in status.vsubnets[: wire.VSUBNETS_MAX]:
        of = counted.get(known.vni) or VSubnetStats(known.vni)
        learned = sorted(of.learned, key=lambda each: each.age_s)[: wire.LEARNED_MAX]
        found.append(
            wire.VSubnetSaid(
                vni=known.vni,
                members=known.members,
                peers_up=sum(peer.session == "up" for peer in of.peers),
                mtu=known.tap_mtu,
                problem=known.problem[:500],
                tx_frames=of.tx_frames,
                rx_frames=of.rx_frames,
                tx_octets=of.tx_octets,
                rx_octets=of.rx_octets,
                drops=_few(of.drops),
                counters=_few(of.counters),
                learned=[wire.LearnedSaid(each.mac, each.peer, each.age_s) for each in learned],
            )
        )
    return found


def _standing(vsubnets: list[wire.VSubnetSaid]) -> list[wire.VSubnetSaid]:
    """Return them without what goes on while hardly anything happens."""
    replace = msgspec.structs.replace
    return [
        replace(
            each,
            tx_frames=0,
            rx_frames=0,
            tx_octets=0,
            rx_octets=0,
            counters={},
            learned=[replace(one, age_s=0.0) for one in each.learned],
        )
        for each in vsubnets
    ]


def _problems(status: Status) -> list[wire.ProblemSaid]:
    """Return what isn't as it should be; that the link is down nobody would hear."""
    found = []
    if not status.dataplane.is_up:
        cause = status.dataplane.error or "the data plane is away"
        found.append(wire.ProblemSaid("data_plane", cause[:500], status.dataplane.remedy[:500]))
    found += [
        wire.ProblemSaid("vsubnet", f"{each.name}: {each.problem}"[:500])
        for each in status.vsubnets
        if each.problem
    ]
    for clone in status.clones:
        cause, remedy = clone.told()
        said = wire.ProblemSaid(
            wire.CLONE_SEEN, cause[:500], remedy[:500], clone.node_id, clone.vni
        )
        found.append(said)
    for peer in status.peers:
        narrow = peer.narrow()
        if narrow is not None:
            found.append(wire.ProblemSaid("path_mtu", narrow[0][:500], narrow[1][:500]))
        if len(found) >= wire.PROBLEMS_MAX:
            break
    return found[: wire.PROBLEMS_MAX]


def _few(counters: dict[str, int]) -> dict[str, int]:
    """Return those that are largest, of what is over 0."""
    most = sorted(counters.items(), key=lambda each: -each[1])[: wire.NAMES_MAX]
    return {name[:64]: number for name, number in most if number > 0}
