"""What nodes say of peers that proved to be two machines (docs/protocol.md 1.4).

The proof convinces the peer that was sent it, and nobody else: it is of one session, whose keys
only those two have. So what a node says is its word. It is told with who says it, in sentences
of our own, and changes nothing of the node that it names: a member that lies can make an
operator look, and freeze nobody.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

from cairn_agent.protocol import telemetry as wire

from cairn_appliance.domain.alarm import Alarm
from cairn_appliance.domain.errors import TooMany
from cairn_appliance.domain.event import Severity
from cairn_appliance.domain.identity import Actor, ActorKind
from cairn_appliance.domain.node import Copies, Node
from cairn_appliance.domain.problem import Problem
from cairn_appliance.domain.telemetry import NodeRecord
from cairn_appliance.netmap.netmaps import Netmaps
from cairn_appliance.services.clock import Clock, wall_clock
from cairn_appliance.services.commit import until_committed
from cairn_appliance.services.events import Journal
from cairn_appliance.services.limits import Buckets
from cairn_appliance.services.stored import read
from cairn_appliance.services.telemetry import TelemetryBoard
from cairn_appliance.store import keys, records
from cairn_appliance.store.port import Compare, Put, Store

TOLD_EVERY_S = 3600.0  # an event about one node, while it lasts
EVENTS_PER_S, EVENTS_AT_ONCE = 16 / 3600, 16.0  # that one reporter can bring about
SHOWN_MAX = 50  # the alarms; of whom most say it first
_NAMED = 3  # reporters in a sentence, and of each the endpoints
_ENDPOINT = re.compile(r"[0-9a-f.:\[\]]+")  # whatever else a reporter writes there is not told
_REMEDY = (
    "find the second machine by its address (`cairn node show {name}`, `cairn event list`) and "
    "stop one of the two; to keep both, stop the copy's agent, run `cairn-agent seal-image` there "
    "and join it anew (`cairn-agent leave` would remove the node for both)"
)


@dataclass(frozen=True, slots=True)
class _Seen:
    """A node that is said to be two machines, and by whom; `places` are "VNI/node ID"."""

    node: Node
    vsubnets: tuple[str, ...]
    reporters: tuple[NodeRecord, ...]
    places: tuple[str, ...]


class Clones:
    """Makes one alarm, and one event, of all that is said of one node."""

    def __init__(
        self,
        store: Store,
        netmaps: Netmaps,
        telemetry: TelemetryBoard,
        journal: Journal,
        clock: Clock = wall_clock,
        *,
        limit: Buckets | None = None,
    ) -> None:
        self._store = store
        self._netmaps = netmaps
        self._telemetry = telemetry
        self._journal = journal
        self._clock = clock
        self._limit = limit or Buckets(EVENTS_PER_S, EVENTS_AT_ONCE)
        self._told: dict[str, float] = {}  # node ID -> when, as far as this replica knows

    def problems_by_node(self) -> list[tuple[Node, Problem]]:
        """Return the alarms, with whose they are; from memory."""
        return [
            (seen.node, Problem(Alarm.CLONE_SEEN, self._cause(seen), _remedy(seen.node)))
            for seen in self._seen()[:SHOWN_MAX]
        ]

    async def tell(self) -> None:
        """Make an event for each node of which none was made of late."""
        now = self._clock()
        self._told = {n: at for n, at in self._told.items() if _is_recent(at, now)}
        for seen in self._seen():
            if seen.node.id not in self._told:
                by = self._payer(seen)
                if by is not None:
                    self._told[seen.node.id] = await self._tell(seen, by, now)

    async def _tell(self, seen: _Seen, by: str, now: float) -> float:
        """Make the event, unless another replica has; return when it was made."""

        async def attempt() -> float:
            key = keys.copies(seen.node.id)
            found = await read(self._store, records.copies, key)
            copies = found.value if found else Copies(seen.node.id)
            if _is_recent(copies.seen_at, now):
                return copies.seen_at
            entry = self._journal.entry(
                "clone_seen",
                self._cause(seen),
                Actor(ActorKind.NODE, by),
                severity=Severity.WARNING,
                node=seen.node.id,
                reporters=", ".join(map(self._name, seen.reporters[:SHOWN_MAX])),
                remedy=_remedy(seen.node),
            )
            told = Put(key, records.copies.encode(replace(copies, seen_at=now)))
            await self._store.commit([Compare(key, found.revision if found else 0)], [told, entry])
            return now

        return await until_committed(attempt)

    def _payer(self, seen: _Seen) -> str | None:
        """Return the first reporter that may bring about one more event; None: nobody may."""
        for record in seen.reporters:
            try:
                self._limit.take(record.node, "clones seen")
            except TooMany:
                continue
            return record.node
        return None

    def _seen(self) -> list[_Seen]:
        """Return the nodes that are said to be two, of whom most say it first."""
        snapshot = self._netmaps.snapshot
        said = defaultdict[str, dict[str, tuple[NodeRecord, list[tuple[str, str]]]]](dict)
        for record, node, vsubnet, place in self._said():
            _, of = said[node].setdefault(record.node, (record, []))
            of.append((vsubnet, place))
        found = []
        for node, reports in said.items():
            places = {each for _, of in reports.values() for each in of}
            reporters = sorted((record for record, _ in reports.values()), key=self._name)
            found.append(
                _Seen(
                    snapshot.nodes[node],
                    tuple(sorted({vsubnet for vsubnet, _ in places})),
                    tuple(reporters),
                    tuple(sorted({place for _, place in places})),
                )
            )
        return sorted(found, key=lambda each: (-len(each.reporters), each.node.name))

    def _said(self) -> Iterator[tuple[NodeRecord, str, str, str]]:
        """Yield (record, node, the vSubnet's name, "VNI/node") of what counts: a node may speak
        of its fellow members alone, and of itself it can't."""
        snapshot, now = self._netmaps.snapshot, self._clock()
        for record in self._telemetry.records().values():
            named = [each for each in record.problems if each.name == wire.CLONE_SEEN]
            if not named or not record.is_fresh(now):
                continue
            vsubnets = (snapshot.vsubnets.get(each) for each in snapshot.vsubnets_of(record.node))
            by_vni = {each.vni: each for each in vsubnets if each is not None}
            for problem in named:
                vsubnet, node = by_vni.get(problem.vni), problem.node
                if vsubnet is None or node == record.node or node not in snapshot.nodes:
                    continue
                if node in snapshot.members_of(vsubnet.id):
                    yield record, node, vsubnet.name, f"{vsubnet.vni}/{node}"

    def _cause(self, seen: _Seen) -> str:
        by = [self._name(record) + _where(record, seen) for record in seen.reporters[:_NAMED]]
        more = len(seen.reporters) - len(by)
        named = ", ".join(by) + (f" and {more} more" if more else "")
        where = f"vSubnet{'s' if len(seen.vsubnets) > 1 else ''} {', '.join(seen.vsubnets)}"
        return f"node {seen.node.name} seems to be two machines in {where}: {named} heard both"

    def _name(self, record: NodeRecord) -> str:
        known = self._netmaps.snapshot.nodes.get(record.node)
        return known.name if known else record.node


def _where(record: NodeRecord, seen: _Seen) -> str:
    """Return where a reporter has the node now, as a part of a sentence."""
    known = (record.peers.get(place) for place in seen.places)
    said = {each.said.endpoint for each in known if each}
    endpoints = sorted(each for each in said if _ENDPOINT.fullmatch(each))[:_NAMED]
    return f" (which has it at {', '.join(endpoints)})" if endpoints else ""


def _remedy(node: Node) -> str:
    return _REMEDY.format(name=node.name)


def _is_recent(at: float, now: float) -> bool:
    return 0 <= now - at < TOLD_EVERY_S
