"""The picture of the whole as it is now: nodes, the paths between them, what is on a vSubnet.

Made out of memory alone (netmaps, presence, gateways, reports), so that any replica draws it
without a read of the store, and while the store has no quorum.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from cairn_agent.protocol import telemetry as wire

from cairn_appliance.domain.node import Node, NodeState
from cairn_appliance.domain.segment import Segment, is_station
from cairn_appliance.domain.telemetry import KEPT_S, NodeRecord, loss_of, path_of
from cairn_appliance.domain.vsubnet import VSubnet
from cairn_appliance.netmap.netmaps import Netmaps
from cairn_appliance.services.clock import Clock, wall_clock
from cairn_appliance.services.election import Election
from cairn_appliance.services.gateway_board import GatewayBoard
from cairn_appliance.services.presence import PresenceBoard
from cairn_appliance.services.telemetry import TelemetryBoard

FOUND_MAX = 50


class Health(StrEnum):
    """How a node is, as far as it can be known.

    Stale: it is not heard of late, and may well run: a data plane goes on without its agent
    and without an appliance. Down: nobody hears it any more, its peers neither.
    """

    UP = "up"
    STALE = "stale"
    DOWN = "down"
    PENDING = "pending"


@dataclass(frozen=True, slots=True)
class Way:
    """The path between two nodes, `a` < `b`, put together from what both report of it."""

    a: str
    b: str
    vsubnets: tuple[str, ...]
    path: str
    is_up: bool
    is_stale: bool  # neither of them was heard of late
    at: float  # seconds since 1970, of the newest word about it
    rtt_ms: float | None = None
    rtt_max_ms: float | None = None
    jitter_ms: float | None = None
    loss: float | None = None
    mtu: int | None = None


# What one end says of a path in one vSubnet: the word, when, whether it is fresh, the vSubnet.
_Word = tuple[wire.PeerSaid, float, bool, str]


@dataclass(frozen=True, slots=True)
class Entry:
    """A MAC in a vSubnet and where it is."""

    mac: str
    ips: tuple[str, ...]
    node: str
    kind: str  # "member", "station", "learned"
    segment: str = ""
    age_s: float | None = None
    moves: int = 0
    is_frozen: bool = False
    conflict: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """Something that a search found."""

    kind: str
    id: str
    name: str
    matched: str
    where: str
    link: str


class Picture:
    """Draws what this replica knows; nothing is kept."""

    def __init__(
        self,
        netmaps: Netmaps,
        presence: PresenceBoard,
        telemetry: TelemetryBoard,
        election: Election,
        board: GatewayBoard,
        clock: Clock = wall_clock,
    ) -> None:
        self._netmaps = netmaps
        self._presence = presence
        self._telemetry = telemetry
        self._election = election
        self._board = board
        self._clock = clock

    def nodes(self) -> list[Node]:
        """Return the nodes that are there, by name."""
        nodes = self._netmaps.snapshot.nodes.values()
        there = [each for each in nodes if each.state is not NodeState.REMOVED]
        return sorted(there, key=lambda each: (each.name, each.id))

    def ways(self, *, site: str = "", vsubnet: str = "") -> list[Way]:
        """Return the paths that there are sessions on, or were of late; in order."""
        words: dict[tuple[str, str], list[_Word]] = {}
        for node, record in self._telemetry.records().items():
            self._hear(node, record, site, vsubnet, words)
        return [_way(ends, words[ends]) for ends in sorted(words)]

    def _hear(
        self,
        node: str,
        record: NodeRecord,
        site: str,
        vsubnet: str,
        words: dict[tuple[str, str], list[_Word]],
    ) -> None:
        """Add what a node says of its peers; for a thousand nodes this is what takes time."""
        snapshot, now = self._netmaps.snapshot, self._clock()
        nodes, is_fresh = snapshot.nodes, record.is_fresh(now)
        places = {
            header.vni: each
            for each in snapshot.vsubnets_of(node)
            if vsubnet in ("", each) and (header := snapshot.vsubnets.get(each)) is not None
        }
        is_elsewhere = bool(site) and nodes[node].site != site
        for known in record.peers.values():
            said = known.said
            peer, place = said.node, places.get(said.vni)
            if place is None or peer not in nodes or now - known.at > KEPT_S:
                continue
            if is_elsewhere and nodes[peer].site != site:
                continue
            ends = (node, peer) if node < peer else (peer, node)
            word = (said, known.at, is_fresh, place)
            if ends in words:
                words[ends].append(word)
            else:
                words[ends] = [word]

    def way(self, a: str, b: str) -> Way | None:
        """Return the path between two nodes."""
        ends = (min(a, b), max(a, b))
        return next((each for each in self.ways() if (each.a, each.b) == ends), None)

    def health(self, node: Node, heard: Counter[str]) -> Health:
        """Return how a node is; `heard`: how many paths with a session each node has."""
        if node.state is NodeState.PENDING:
            return Health.PENDING
        record = self._telemetry.record(node.id)
        is_fresh = record is not None and record.is_fresh(self._clock())
        if self._presence.is_connected(node.id):
            return Health.UP if is_fresh or record is None else Health.STALE
        return Health.STALE if is_fresh or heard[node.id] else Health.DOWN

    def record(self, node: str) -> NodeRecord | None:
        """Return what a node has reported."""
        return self._telemetry.record(node)

    def entries(self, vsubnet: VSubnet) -> list[Entry]:
        """Return everything on a vSubnet, by MAC, with what is wrong with it."""
        found = [*self._members(vsubnet), *self._stations(vsubnet)]
        known = {each.mac for each in found}
        found += [each for each in self._learned(vsubnet) if each.mac not in known]
        macs = Counter(each.mac for each in found)
        ips = Counter(ip for each in found for ip in set(each.ips))
        shared = set(vsubnet.policy.shared_ips)
        return sorted(
            (_judged(each, macs, ips, shared) for each in found),
            key=lambda each: (each.mac, each.kind, each.node),
        )

    def segments_of(self, vsubnet: str) -> list[Segment]:
        """Return the segments that are bridged into a vSubnet, by name."""
        segments = self._netmaps.snapshot.segments.values()
        there = [each for each in segments if each.vsubnet == vsubnet]
        return sorted(there, key=lambda each: each.name)

    def forwarder(self, segment: Segment) -> tuple[str, str]:
        """Return who forwards for a segment, and a word for how it is."""
        status = self._election.status(segment)
        if not segment.is_bridging:
            return "", "stopped"
        if status.record.holder not in segment.nodes:
            return "", "no_forwarder" if segment.gateways else "no_gateway"
        holder = status.of(status.record.holder)
        if not holder.is_able or holder.age_s > wire.STALE_S:
            return status.record.holder, "unable"
        return status.record.holder, "forwarding"

    def search(self, text: str) -> list[Found]:
        """Return what a text is the ID, address or part of the name of; the best first."""
        wanted = text.strip().lower()
        if not wanted:
            return []
        ranked = [(rank, each) for rank, each in self._matches(wanted, wanted.replace("-", ":"))]
        ranked.sort(key=lambda each: (each[0], each[1].kind, each[1].name, each[1].id))
        return [each for _, each in ranked[:FOUND_MAX]]

    def _matches(self, wanted: str, mac: str) -> Iterator[tuple[int, Found]]:
        snapshot = self._netmaps.snapshot
        for node in self.nodes():
            link = f"/nodes/{node.id}"
            yield from _named("node", node.id, node.name, link, wanted)
            registration = snapshot.registrations.get(node.id)
            for endpoint in registration.candidates if registration else ():
                if endpoint.lower().rpartition(":")[0].strip("[]") == wanted:
                    yield 1, Found("node", node.id, node.name, endpoint, "ip", link)
        for vsubnet in snapshot.vsubnets.values():
            link = f"/vsubnets/{vsubnet.id}"
            yield from _named("vsubnet", vsubnet.id, vsubnet.name, link, wanted)
            if wanted == str(vsubnet.vni):
                yield 0, Found("vsubnet", vsubnet.id, vsubnet.name, wanted, "id", link)
            for entry in self._members(vsubnet):
                known = snapshot.nodes.get(entry.node)
                name = known.name if known else entry.node
                identity = f"{vsubnet.id}/{entry.node}"
                yield from _addressed("member", identity, name, link, entry, wanted, mac)
            for entry in self._stations(vsubnet):
                segment = snapshot.segments[entry.segment]
                place = f"/segments/{segment.id}"
                yield from _addressed(
                    "segment", segment.id, segment.name, place, entry, wanted, mac
                )
        for segment in snapshot.segments.values():
            link = f"/segments/{segment.id}"
            yield from _named("segment", segment.id, segment.name, link, wanted)
        for site in {each.site for each in self.nodes() if each.site}:
            if wanted in site.lower():
                rank = 0 if wanted == site.lower() else 3
                yield rank, Found("site", site, site, site, "name", f"/nodes?site={site}")

    def _members(self, vsubnet: VSubnet) -> Iterator[Entry]:
        snapshot, now = self._netmaps.snapshot, self._clock()
        for member in snapshot.members_of(vsubnet.id).values():
            record = self._telemetry.record(member.node)
            registration = snapshot.registrations.get(member.node)
            yield Entry(
                member.mac.lower(),
                member.ips,
                member.node,
                "member",
                age_s=None if record is None else max(0.0, now - record.at),
                is_frozen=bool(registration and registration.frozen_at),
            )

    def _stations(self, vsubnet: VSubnet) -> Iterator[Entry]:
        now = self._clock()
        for segment in self.segments_of(vsubnet.id):
            forwarder, _ = self.forwarder(segment)
            for station in self._board.stations(segment.id).values():
                yield Entry(
                    station.mac,
                    station.ips,
                    forwarder,
                    "station",
                    segment.id,
                    max(0.0, now - station.since),
                    len(station.moves),
                    station.is_frozen(now),
                    "duplicate_ip" if station.frozen_ips(now) else "",
                )

    def _learned(self, vsubnet: VSubnet) -> Iterator[Entry]:
        """Yield what data planes have learned behind gateways, the newest word of each place."""
        now = self._clock()
        members = self._netmaps.snapshot.members_of(vsubnet.id)
        found: dict[tuple[str, str], float] = {}
        for node in members:
            record = self._telemetry.record(node)
            if record is None or not record.is_fresh(now):
                continue
            for said in (each for each in record.vsubnets if each.vni == vsubnet.vni):
                for learned in said.learned:
                    place = learned.mac.lower(), learned.peer
                    if not is_station(place[0]) or learned.peer not in members:
                        continue
                    age_s = learned.age_s + max(0.0, now - record.measured_at)
                    found[place] = min(age_s, found.get(place, math.inf))
        for (mac, peer), age_s in found.items():
            yield Entry(mac, (), peer, "learned", age_s=age_s)


def heard(ways: list[Way]) -> Counter[str]:
    """Return how many paths with a session each node has, by a fresh word of the other end."""
    found: Counter[str] = Counter()
    for way in ways:
        if way.is_up:
            found.update((way.a, way.b))
    return found


def _way(ends: tuple[str, str], words: list[_Word]) -> Way:
    newest, at, is_fresh, _ = max(words, key=_when)
    if not is_fresh:
        fresh = [each for each in words if each[2]]
        if fresh:
            newest, is_fresh = max(fresh, key=_when)[0], True
    is_up = is_fresh and newest.session == "up"
    vsubnets, best = set(), None
    probes = lost = rtt_max_us = 0
    jitter_us: int | None = None
    mtu: int | None = None
    for said, _, word_is_fresh, place in words:
        if said.session != "up":
            continue
        vsubnets.add(place)
        if not (is_up and word_is_fresh):
            continue
        if best is None or _measured(said) < _measured(best):
            best = said
        probes, lost = probes + said.probes, lost + said.lost
        rtt_max_us = max(rtt_max_us, said.rtt_max_us or 0)
        if said.jitter_us is not None:
            jitter_us = max(jitter_us or 0, said.jitter_us)
        if said.mtu:
            mtu = min(mtu or said.mtu, said.mtu)
    return Way(
        *ends,
        vsubnets=tuple(sorted(vsubnets)),
        path=path_of(newest) or "direct",
        is_up=is_up,
        is_stale=not is_fresh,
        at=at,
        rtt_ms=_ms(best.rtt_us if best else None),
        rtt_max_ms=_ms(rtt_max_us or None),
        jitter_ms=_ms(jitter_us),
        loss=loss_of(lost, probes),
        mtu=mtu,
    )


def _when(word: _Word) -> float:
    return word[1]


def _measured(said: wire.PeerSaid) -> float:
    return math.inf if said.probed_s is None else said.probed_s


def _ms(micros: int | None) -> float | None:
    return None if micros is None else micros / 1000


def _judged(entry: Entry, macs: Counter[str], ips: Counter[str], shared: set[str]) -> Entry:
    if macs[entry.mac] > 1:
        return replace(entry, conflict="duplicate_mac")
    if any(ips[ip] > 1 and ip not in shared for ip in entry.ips):
        return replace(entry, conflict="duplicate_ip")
    return entry


def _named(
    kind: str, identity: str, name: str, link: str, wanted: str
) -> Iterator[tuple[int, Found]]:
    lower = name.lower()
    if wanted == lower:
        yield 0, Found(kind, identity, name, name, "name", link)
    elif wanted == identity or (len(wanted) >= 4 and identity.startswith(wanted)):
        yield 1, Found(kind, identity, name, identity, "id", link)
    elif wanted in lower:
        yield 2 if lower.startswith(wanted) else 3, Found(kind, identity, name, name, "name", link)


def _addressed(
    kind: str, identity: str, name: str, link: str, entry: Entry, wanted: str, mac: str
) -> Iterator[tuple[int, Found]]:
    if len(mac) >= 5 and entry.mac.startswith(mac):
        yield 1, Found(kind, identity, name, entry.mac, "mac", link)
    for ip in entry.ips:
        if ip.lower() == wanted or (len(wanted) >= 4 and ip.lower().startswith(wanted)):
            yield 1 if ip.lower() == wanted else 2, Found(kind, identity, name, ip, "ip", link)
