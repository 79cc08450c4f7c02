"""Registration: what a node is now and where it can be reached; and its leaving."""

from __future__ import annotations

import ipaddress
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace

from cairn_appliance.domain.errors import (
    DuplicateNode,
    Invalid,
    NodeFrozen,
    Unavailable,
)
from cairn_appliance.domain.event import Severity
from cairn_appliance.domain.generation import (
    TAKEOVERS_MAX,
    TAKEOVERS_WINDOW_S,
    Attempt,
    Decision,
    Other,
    Standing,
    counted,
    decide,
    registered_lately,
)
from cairn_appliance.domain.identity import Actor, ActorKind, Facts
from cairn_appliance.domain.node import Copies, Node, NodeState, Registration
from cairn_appliance.netmap.snapshot import Snapshot
from cairn_appliance.services.clock import Clock, wall_clock
from cairn_appliance.services.commit import until_committed
from cairn_appliance.services.directory import check_key, living, living_node
from cairn_appliance.services.enrolment import host_name
from cairn_appliance.services.events import Journal
from cairn_appliance.services.nodes import Nodes
from cairn_appliance.services.presence import PresenceBoard
from cairn_appliance.services.stored import Stored, read
from cairn_appliance.store import keys, records
from cairn_appliance.store.port import Compare, Conflict, Put, Store

log = logging.getLogger(__name__)

ENDPOINTS_MAX = 16
_OFFLOADS_MAX = 32
DUPLICATE_TOLD_EVERY_S = 60.0
DOUBT_S = 25.0  # a dead link is known to be dead after 20 s
# The presence of an appliance that died goes with its lease of 20 s, which begins anew where
# etcd's leader died as well. One that is still there then lives, and only we can't ask it.
UNASKED_S = 40.0
COMES_AGAIN_S = 2.0
_DOUBT_KEPT_S = 90.0  # of one that doesn't come again: agents wait at most a third of it
_DAY_S = 86_400.0


_Doubtful = tuple[str, int]  # node, and the value that was presented
# Node -> whether its open stream lives; None where that can't be told now
Answers = Callable[[str], Awaitable[bool | None]]


async def _nobody_knows(_node: str) -> bool | None:
    return None


@dataclass(frozen=True, slots=True)
class Report:
    """What a node says of itself when it registers."""

    generation: int
    facts: Facts
    endpoints: tuple[str, ...]
    name: str
    agent_version: str
    dataplane_version: str
    offloads: dict[str, str]
    control_key: str = ""  # hex SHA-256 of the key that its certificate proves
    attempt: Attempt = field(default_factory=Attempt)


@dataclass(frozen=True, slots=True)
class Registered:
    """What the node is told."""

    state: NodeState
    generation: int  # offered
    again: bool = False  # nothing was noted: who still waits for the answer registers once more


class Registry:
    """Registers nodes and lets them leave."""

    def __init__(
        self,
        store: Store,
        nodes: Nodes,
        presence: PresenceBoard,
        journal: Journal,
        clock: Clock = wall_clock,
        answers: Answers | None = None,
        snapshot: Snapshot | None = None,
        monotonic: Clock = time.monotonic,
    ) -> None:
        self._snapshot = snapshot or Snapshot()
        self._answers = answers or _nobody_knows
        self._store = store
        self._nodes = nodes
        self._presence = presence
        self._journal = journal
        self._clock = clock
        self._monotonic = monotonic  # for what this replica remembers by itself
        self._doubts: dict[_Doubtful, tuple[float, float]] = {}  # since when, looked at when
        self._locked_out: dict[str, float] = {}  # node -> told when

    async def register(self, node_id: str, report: Report, address: str) -> Registered:
        """Return the offered generation; raise NodeRemoved, DuplicateNode, NodeFrozen, Invalid,
        and Unavailable while it can't be told yet whether it is a copy.

        `address` is where the appliance saw the node come from.
        """
        report = replace(report, endpoints=checked_endpoints(report.endpoints))
        known = self._remembered(node_id)
        if known and _is_plain(known[0].value, known[1].value, report):
            # Most do nothing but go on: what is in memory will do, as the commit compares it.
            with suppress(Conflict):
                return await self._register(*known, report, address)

        async def as_stored() -> Registered:
            return await self._register(*await self._stored(node_id), report, address)

        return await until_committed(as_stored)

    def _remembered(self, node_id: str) -> tuple[Stored[Node], Stored[Registration]] | None:
        """Return what this replica has seen of a node; it may be behind."""
        snapshot = self._snapshot
        node, registration = snapshot.nodes.get(node_id), snapshot.registrations.get(node_id)
        if node is None or registration is None:
            return None
        node_at, registered_at = map(snapshot.written_at, _places(node_id))
        return Stored(node, node_at), Stored(registration, registered_at)

    async def _stored(self, node_id: str) -> tuple[Stored[Node], Stored[Registration]]:
        """Return a node that is there and what it last registered; raise NodeRemoved."""
        node, item = await self._store.get_all(_places(node_id))
        if item is None:
            return living(node), Stored(Registration(node_id), 0)
        return living(node), Stored(records.registrations.decode(item), item.revision)

    async def _register(
        self, node: Stored[Node], old: Stored[Registration], report: Report, address: str
    ) -> Registered:
        node_id, registration = node.value.id, old.value
        check_key(node.value, report.control_key)
        key = keys.registration(node_id)
        if registration.frozen_at:
            raise NodeFrozen(f"node {node.value.name} is frozen: two machines fought for it")
        decision, takeovers = counted(
            await self._decision(registration, report), registration.takeovers, self._clock()
        )
        if decision is Decision.LATE:
            offered = registration.generation.offered
            return Registered(node.value.state, offered, again=True)
        if decision is Decision.WAIT:
            raise Unavailable(
                "another machine has registered as this node of late, or its link still looks "
                f"open: whether it lives is known within {UNASKED_S:.0f} seconds",
                "wait; the agent tries again by itself",
            )
        if decision is Decision.DUPLICATE:
            await self._refuse_duplicate(node.value, registration, report, address)
        if decision is Decision.FREEZE:
            await self._freeze(node, old, address)
        registration = replace(registration, takeovers=takeovers)
        new = _renewed(registration, report, decision, _plain(address), self._clock())
        compares = [Compare(keys.node(node_id), node.revision)]
        compares.append(Compare(key, old.revision))
        writes = [Put(key, records.registrations.encode(new))]
        name = host_name(report.name, node_id)
        # A node that its peers brought back after a restore has its key on record from now on.
        control_key = node.value.control_key or report.control_key
        known = replace(node.value, name=name, control_key=control_key)
        if known != node.value:
            writes.append(Put(keys.node(node_id), records.nodes.encode(known)))
        entry = self._entry(node.value, registration, new, decision, address)
        await self._store.commit(compares, [*writes, *entry])
        self._presence.seen(node_id)
        self._doubts.pop((node_id, report.generation), None)
        log.info(
            "node registered node=%s generation=%d decision=%s",
            node_id,
            report.generation,
            decision.name.lower(),
        )
        return Registered(node.value.state, new.generation.offered)

    async def known_at(self, node_id: str, control_key: str = "") -> int:
        """Return the revision of what is known of a node; raise NodeRemoved, DuplicateNode.

        A stream that begins no earlier shows the node what it has just registered.
        """
        item, registration = await self._store.get_all(_places(node_id))
        node = living(item)
        check_key(node.value, control_key)
        return max(node.revision, registration.revision if registration else 0)

    async def leave(self, node_id: str, reason: str, address: str, control_key: str = "") -> None:
        """Remove the node on its own wish; asking again changes nothing.

        Raise DuplicateNode for a machine that is this node no more.
        """
        found = await read(self._store, records.nodes, keys.node(node_id))
        if found is not None:
            check_key(found.value, control_key)
        by = Actor(ActorKind.NODE, node_id, address)
        await self._nodes.remove(node_id, by, reason=f"it left: {reason}" if reason else "it left")

    async def tell_locked_out(self, node_id: str, address: str) -> None:
        """Write an event, once a day for each node, of one whose certificate is too old to be
        renewed: its traffic goes on, and nobody would know why it doesn't follow any more."""
        now = self._monotonic()
        self._locked_out = {n: at for n, at in self._locked_out.items() if now - at < _DAY_S}
        node = await living_node(self._store, node_id)
        if node_id in self._locked_out:
            return
        self._locked_out[node_id] = now
        entry = self._journal.entry(
            "node_locked_out",
            f"node {node.value.name} came with a certificate too old to be renewed",
            Actor(ActorKind.NODE, node_id, address),
            severity=Severity.WARNING,
            node=node_id,
            remedy="there: `cairn-agent leave --force`, then join again with a new token",
        )
        await self._store.commit([], [entry])

    async def _decision(self, registration: Registration, report: Report) -> Decision:
        generation = registration.generation
        same_machine = registration.facts.same_machine(report.facts)
        standing = generation.standing(report.generation, report.attempt)
        other = Other.NONE
        if standing is Standing.OLD or not same_machine:
            other = await self._other(registration, report.generation, same_machine=same_machine)
        return decide(
            report.generation,
            generation,
            same_machine=same_machine,
            other=other,
            attempt=report.attempt,
        )

    async def _other(
        self, registration: Registration, presented: int, *, same_machine: bool
    ) -> Other:
        """Return what is known of another machine, or run, that is this node.

        An open link alone says little for 20 s after a power failure (serving.py): a machine
        that is started elsewhere meanwhile must not be taken for a copy. One that answers lives,
        at whichever appliance its link is.
        """
        node_id = registration.node
        doubtful = node_id, presented
        if not self._presence.is_connected(node_id):
            if same_machine:
                # What its machine gave up comes once, late; a machine comes again.
                is_there = self._is_certain(doubtful, COMES_AGAIN_S)
                return Other.NONE if is_there else Other.UNSURE
            is_late = registered_lately(registration.registered_at, self._clock())
            return Other.UNSURE if is_late else Other.NONE
        answers = await self._answers(node_id)
        # A machine that was put back to a snapshot may answer for a while on its link from before.
        certain_after_s = UNASKED_S if answers is None else DOUBT_S if same_machine else 0.0
        is_certain = self._is_certain(doubtful, certain_after_s)
        return Other.ALIVE if answers is not False and is_certain else Other.UNSURE

    def _is_certain(self, doubtful: _Doubtful, after_s: float) -> bool:
        """Return whether it has looked so for so long that it is.

        By what was presented: all that a machine gave up with one value, and that this replica
        was too slow for, comes at one time.
        """
        now = self._monotonic()
        self._doubts = {n: d for n, d in self._doubts.items() if now - d[1] < _DOUBT_KEPT_S}
        since, _ = self._doubts.get(doubtful, (now, now))
        self._doubts[doubtful] = since, now
        return now - since >= after_s

    async def _refuse_duplicate(
        self, node: Node, registration: Registration, report: Report, address: str
    ) -> None:
        """Tell of it, once for all that come within a minute at any replica, and raise."""
        now = self._clock()
        key = keys.copies(node.id)
        found = await read(self._store, records.copies, key)
        copies = found.value if found else Copies(node.id)
        if not 0 <= now - copies.told_at < DUPLICATE_TOLD_EVERY_S:
            entry = self._journal.entry(
                "duplicate_node",
                f"a second machine came as node {node.name} and was turned away",
                Actor(ActorKind.NODE, node.id, address),
                severity=Severity.ALARM,
                node=node.id,
                first=_machine(registration.facts),
                first_address=registration.seen_address,
                first_generation=str(registration.generation.current),
                second=_machine(report.facts),
                second_address=_plain(address),
                second_generation=str(report.generation),
                remedy="cairn node list --state pending: approve a copy as a new node, or say "
                "that it is this node (cairn node claim)",
            )
            told = Put(key, records.copies.encode(replace(copies, told_at=now)))
            await self._store.commit([Compare(key, found.revision if found else 0)], [told, entry])
        raise DuplicateNode(
            f"another machine is registered as this node (generation "
            f"{registration.generation.current}, this one shows {report.generation})"
        )

    async def _freeze(self, node: Stored[Node], old: Stored[Registration], address: str) -> None:
        """Freeze the node, with one alarm, and raise."""
        key = keys.registration(node.value.id)
        entry = self._journal.entry(
            "node_frozen",
            f"node {node.value.name} was taken over {TAKEOVERS_MAX} times within "
            f"{TAKEOVERS_WINDOW_S:.0f} seconds: frozen",
            Actor(ActorKind.NODE, node.value.id, address),
            severity=Severity.ALARM,
            node=node.value.id,
            remedy=NodeFrozen.remedy,
        )
        frozen = replace(old.value, frozen_at=self._clock())
        compares = [Compare(key, old.revision), Compare(keys.node(node.value.id), node.revision)]
        await self._store.commit(compares, [Put(key, records.registrations.encode(frozen)), entry])
        raise NodeFrozen(f"node {node.value.name} is frozen: two machines fought for it")

    def _entry(
        self,
        node: Node,
        old: Registration,
        new: Registration,
        decision: Decision,
        address: str,
    ) -> list[Put]:
        """Return the event of a registration that an operator wants to know of, if it is one."""
        kind, text = "", ""
        if decision is Decision.MOVED:
            kind, text = "node_moved", f"node {node.name} moved to another host or cloud"
        elif decision is Decision.RESTORED:
            kind, text = "node_restored", f"node {node.name} was restored from a snapshot"
        elif not old.registered_at:
            kind, text = "node_registered", f"node {node.name} registered for the first time"
        elif old.candidates != new.candidates:
            kind, text = "endpoints_changed", f"node {node.name} is reached at other addresses"
        if not kind:
            return []
        by = Actor(ActorKind.NODE, node.id, address)
        endpoints = ", ".join(new.candidates)
        return [self._journal.entry(kind, text, by, node=node.id, endpoints=endpoints)]


def checked_endpoints(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Return the endpoints in canonical form without unusable ones; raise Invalid."""
    if len(texts) > ENDPOINTS_MAX:
        raise Invalid(f"at most {ENDPOINTS_MAX} endpoints", code="invalid_endpoint")
    checked = [_endpoint(text) for text in texts]
    return tuple(dict.fromkeys(endpoint for endpoint in checked if endpoint))


def _endpoint(text: str) -> str:
    """Return address:port, or nothing for an address that no peer can reach."""
    host, _, port = text.rpartition(":")
    try:
        address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
        number = int(port)
    except ValueError as error:
        raise Invalid(
            f"{text[:80]!r} is no endpoint", "write it as 192.0.2.7:8002", code="invalid_endpoint"
        ) from error
    if not 0 < number < 65536 or (isinstance(address, ipaddress.IPv6Address) and address.scope_id):
        raise Invalid(f"{text[:80]!r} is no endpoint", code="invalid_endpoint")
    if address.is_loopback or address.is_multicast or address.is_unspecified:
        return ""
    if address.is_link_local:
        return ""
    return f"[{address}]:{number}" if address.version == 6 else f"{address}:{number}"


def _places(node_id: str) -> tuple[str, str]:
    return keys.node(node_id), keys.registration(node_id)


def _is_plain(node: Node, registration: Registration, report: Report) -> bool:
    """Return whether the same machine goes on as the node that it is."""
    return (
        node.state is not NodeState.REMOVED
        and not node.became
        and report.control_key not in node.lost_keys
        and not registration.frozen_at
        and registration.facts.same_machine(report.facts)
        and registration.generation.standing(report.generation, report.attempt) is Standing.NEWEST
    )


def _renewed(
    old: Registration, report: Report, decision: Decision, address: str, now: float
) -> Registration:
    if decision is Decision.RESTORED:
        generation = old.generation.restored()
    else:
        generation = old.generation.presented(report.generation, report.attempt)
    needs_new = decision.needs_new_sessions
    return Registration(
        node=old.node,
        generation=generation,
        sessions_since=generation.current if needs_new else old.sessions_since,
        facts=report.facts.clipped(),
        endpoints=report.endpoints,
        seen_address=address,
        agent_version=report.agent_version[:64],
        dataplane_version=report.dataplane_version[:64],
        offloads=_clipped(report.offloads),
        registered_at=now,
        takeovers=old.takeovers,
    )


def _plain(address: str) -> str:
    """Return the address peers may try, without an IPv4-mapped form or a zone; or nothing."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped:
        parsed = parsed.ipv4_mapped
    unusable = parsed.is_loopback or parsed.is_link_local or parsed.is_unspecified
    return "" if unusable else str(parsed)


def _clipped(offloads: dict[str, str]) -> dict[str, str]:
    pairs = list(offloads.items())[:_OFFLOADS_MAX]
    return {name[:64]: state[:128] for name, state in pairs}


def _machine(facts: Facts) -> str:
    """Return what tells a machine from another, for an event."""
    names = ("cloud_instance_id", "dmi_uuid", "machine_id", "first_mac")
    return next((f"{name} {getattr(facts, name)}" for name in names if getattr(facts, name)), "?")
