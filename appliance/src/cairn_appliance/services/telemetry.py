"""The board of what nodes report of themselves (docs/adr/0013).

In memory of the replica that holds the node's stream; nothing of it is written to the store,
which could not take a report of ten thousand nodes each ten seconds. While anybody looks, the
other replicas' boards are read as well (cairn_appliance.cluster.telemetry_exchange).
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterable

import msgspec
from cairn_agent.protocol import telemetry as wire

from cairn_appliance.domain.telemetry import (
    KEPT_S,
    PEERS_KEPT,
    NodeRecord,
    PeerKnown,
    Shared,
    bum_sent,
    decoded,
    encoded_shared,
    extended,
    loss_of,
    points_of,
    storm_dropped,
)
from cairn_appliance.netmap.netmaps import Netmaps
from cairn_appliance.services.clock import Clock, wall_clock
from cairn_appliance.services.news import News

log = logging.getLogger(__name__)

WATCHED_S = 60.0  # after anybody asked, what the others know is kept fresh
PATHS_MAX = 100_000  # whose history is kept; beyond it none begins
_REFRESHED_WITHIN_S = 1.5  # whoever asks first waits so long for the others


class TelemetryBoard:
    """What this replica's nodes report, and what the others' do."""

    def __init__(
        self,
        netmaps: Netmaps,
        news: News,
        clock: Clock = wall_clock,
        monotonic: Clock = time.monotonic,
    ) -> None:
        self._netmaps = netmaps
        self._news = news
        self._clock = clock
        self._monotonic = monotonic
        self._mine: dict[str, NodeRecord] = {}
        self._others: dict[str, dict[str, NodeRecord]] = {}  # by appliance, by node
        self._history: dict[tuple[str, str], bytes] = {}  # by the two nodes, in order
        self._version = 0
        self._instance = os.getrandom(8).hex()
        self._watched_until = float("-inf")
        self.refresh: Callable[[], Awaitable[None]] | None = None  # reads the others' boards
        self.refused = 0  # lines that were none

    def take(self, node: str, line: bytes) -> None:
        """Take a node's report; one that is none is passed over.

        A node reports of itself alone: whose the connection is says who it is, and the peers
        that it may name are members of the vSubnets that it is in.
        """
        if len(line) > wire.LINE_MAX_OCTETS:
            self.refused += 1
            return
        try:
            said = decoded(line)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            self.refused += 1
            log.debug("a report can't be read node=%s reason=%s", node, error)
            return
        now = self._clock()
        self._version += 1
        old = self._mine.get(node)
        record = NodeRecord(node, peers={}) if said.full or old is None else old
        was = (record.problems, record.dataplane.is_up)
        vnis = self._vnis_of(node)
        record.at, record.version = now, self._version
        measured_at = now - min(said.measured_s, KEPT_S)
        record.agent_version = said.agent_version or record.agent_version
        record.dataplane = said.dataplane or record.dataplane
        if said.vsubnets is not None:
            vsubnets = [each for each in said.vsubnets if each.vni in vnis]
            past_s = measured_at - record.measured_at
            record.storms = _rates(record.vsubnets, vsubnets, past_s, storm_dropped)
            record.bum = _rates(record.vsubnets, vsubnets, past_s, bum_sent)
            record.vsubnets = vsubnets
        if said.problems is not None:
            record.problems = said.problems
        record.measured_at = measured_at
        self._mine[node] = record
        has_turned = old is None or said.full or was != (record.problems, record.dataplane.is_up)
        has_turned |= self._take_peers(record, said.peers, vnis, now)
        if has_turned:
            self._news.changed("topology", [node])
        if said.peers:
            self._news.changed("latency", [node])

    def _take_peers(
        self, record: NodeRecord, said: Iterable[wire.PeerSaid], vnis: dict[int, str], now: float
    ) -> bool:
        """Put the peers into the record; return whether a session or path is another one."""
        has_turned = False
        for peer in said:
            vsubnet = vnis.get(peer.vni)
            if vsubnet is None or peer.node not in self._netmaps.snapshot.members_of(vsubnet):
                continue
            if peer.node == record.node:
                continue
            key = sys.intern(f"{peer.vni}/{peer.node}")  # many nodes have sessions with one
            known = record.peers.get(key)
            if known is None and len(record.peers) >= PEERS_KEPT:
                continue
            if known is None or known.standing != (peer.session, peer.path):
                has_turned = True
            record.peers[key] = PeerKnown.of(peer, now)
            self._note(record.node, peer, now)
        return has_turned

    def _note(self, node: str, peer: wire.PeerSaid, now: float) -> None:
        """Add to the history of the path; the node whose ID is lower tells it."""
        if peer.rtt_us is None or peer.session != "up" or node > peer.node:
            return
        path = node, peer.node
        history = self._history.get(path, b"")
        if not history and len(self._history) >= PATHS_MAX:
            return
        loss = loss_of(peer.lost, peer.probes) or 0.0
        longer = extended(history, now, peer.rtt_us / 1000, loss)
        if longer is not history:
            self._history[path] = longer

    def history(self, a: str, b: str) -> list[tuple[float, float, float]]:
        """Return (at, ms, loss) of a path, oldest first, as far as this replica has it."""
        known = self._history.get((min(a, b), max(a, b)))
        return list(points_of(known)) if known else []

    async def look(self) -> None:
        """Have the others' boards read, and kept fresh for a while."""
        was_watched = self.is_watched
        self._watched_until = self._monotonic() + WATCHED_S
        if not was_watched and self.refresh is not None:
            try:
                async with asyncio.timeout(_REFRESHED_WITHIN_S):
                    await self.refresh()
            except TimeoutError:
                log.info("not all other appliances have said in time what nodes report")

    @property
    def is_watched(self) -> bool:
        """True while what all nodes report is wanted here."""
        return self._news.is_followed or self._monotonic() < self._watched_until

    def record(self, node: str) -> NodeRecord | None:
        """Return the newest that any replica has of a node."""
        known = [each[node] for each in (self._mine, *self._others.values()) if node in each]
        return max(known, key=lambda each: each.at, default=None)

    def records(self) -> dict[str, NodeRecord]:
        """Return the newest of every node that is still one of ours."""
        found: dict[str, NodeRecord] = {}
        for records in (self._mine, *self._others.values()):
            for node, record in records.items():
                known = found.get(node)
                if known is None or known.at < record.at:
                    found[node] = record
        nodes = self._netmaps.snapshot.nodes
        return {node: record for node, record in found.items() if node in nodes}

    def since(self, instance: str, after: int) -> bytes:
        """Return what another replica has not had yet, encoded."""
        begin = after if instance == self._instance else 0
        changed = [each for each in self._mine.values() if each.version > begin]
        shared = Shared(self._instance, self._version, self._clock(), changed)
        return encoded_shared(shared)

    def merge(self, appliance: str, shared: Shared, *, is_anew: bool) -> None:
        """Take over what another replica has; `is_anew`: what it had before is over."""
        if is_anew:
            self._others.pop(appliance, None)
        known = self._others.setdefault(appliance, {})
        ahead_s, turned = self._clock() - shared.now, []
        for theirs in shared.nodes:
            record = theirs.shifted(ahead_s)
            old = known.get(record.node)
            known[record.node] = record
            if old is None or not _alike(old, record) or _sessions(old) != _sessions(record):
                turned.append(record.node)
            for known_peer in record.peers.values():
                self._note(record.node, known_peer.said, known_peer.at)
        if turned:
            self._news.changed("topology", turned)
        if shared.nodes:
            self._news.changed("latency", [each.node for each in shared.nodes])

    def forget_others(self, present: Iterable[str]) -> None:
        """Forget what came from appliances that are no more."""
        for gone in self._others.keys() - set(present):
            del self._others[gone]

    async def tidy(self) -> None:
        """Forget nodes that are none any more, and what is too old."""
        nodes, oldest = self._netmaps.snapshot.nodes, self._clock() - KEPT_S
        for records in (self._mine, *self._others.values()):
            for node in [n for n, each in records.items() if n not in nodes or each.at < oldest]:
                del records[node]
            for record in records.values():
                for key in [k for k, peer in record.peers.items() if peer.at < oldest]:
                    del record.peers[key]
        for path in [each for each in self._history if not nodes.keys() >= set(each)]:
            del self._history[path]

    def _vnis_of(self, node: str) -> dict[int, str]:
        """Return VNI -> vSubnet of those that the node is in."""
        snapshot = self._netmaps.snapshot
        found = {}
        for vsubnet in snapshot.vsubnets_of(node):
            known = snapshot.vsubnets.get(vsubnet)
            if known is not None:
                found[known.vni] = vsubnet
        return found


def _rates(
    before: Iterable[wire.VSubnetSaid],
    now: Iterable[wire.VSubnetSaid],
    past_s: float,
    count: Callable[[wire.VSubnetSaid], int | None],
) -> dict[int, float]:
    """Return VNI -> frames a second since the figures before, where there are such.

    Less than before: the data plane began anew in between.
    """
    old = {each.vni: count(each) for each in before}
    found = {}
    for each in now:
        was, frames = old.get(each.vni), count(each)
        if was is not None and frames is not None and past_s > 0:
            found[each.vni] = max(0, frames - was) / past_s
    return found


def _alike(old: NodeRecord, new: NodeRecord) -> bool:
    """Return whether two records say the same of what isn't as it should be."""
    return old.problems == new.problems and old.dataplane.is_up == new.dataplane.is_up


def _sessions(record: NodeRecord) -> dict[str, tuple[str, str]]:
    return {key: known.standing for key, known in record.peers.items()}
