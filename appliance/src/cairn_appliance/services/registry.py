"""Registration: what a node is now and where it can be reached; and its leaving."""

from __future__ import annotations

import ipaddress
import logging
from dataclasses import dataclass, replace

from cairn_appliance.domain.errors import DuplicateNode, Invalid, Unavailable
from cairn_appliance.domain.event import Severity
from cairn_appliance.domain.generation import Decision, decide
from cairn_appliance.domain.identity import Actor, ActorKind, Facts
from cairn_appliance.domain.node import Node, NodeState, Registration
from cairn_appliance.services.clock import Clock, wall_clock
from cairn_appliance.services.commit import until_committed
from cairn_appliance.services.directory import living_node
from cairn_appliance.services.enrolment import host_name
from cairn_appliance.services.events import Journal
from cairn_appliance.services.nodes import Nodes
from cairn_appliance.services.presence import PresenceBoard
from cairn_appliance.services.stored import read
from cairn_appliance.store import keys, records
from cairn_appliance.store.port import Compare, Put, Store

log = logging.getLogger(__name__)

ENDPOINTS_MAX = 16
_OFFLOADS_MAX = 32
_DUPLICATE_TOLD_EVERY_S = 60.0
_TOLD_MAX = 10_000
DOUBT_S = 25.0  # a dead link is known to be dead after 20 s
_DOUBT_KEPT_S = 120.0


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


@dataclass(frozen=True, slots=True)
class Registered:
    """What the node is told."""

    state: NodeState
    generation: int  # offered


class Registry:
    """Registers nodes and lets them leave."""

    def __init__(
        self,
        store: Store,
        nodes: Nodes,
        presence: PresenceBoard,
        journal: Journal,
        clock: Clock = wall_clock,
    ) -> None:
        self._store = store
        self._nodes = nodes
        self._presence = presence
        self._journal = journal
        self._clock = clock
        self._told: dict[str, float] = {}
        self._doubts: dict[str, float] = {}  # node -> since when

    async def register(self, node_id: str, report: Report, address: str) -> Registered:
        """Return the offered generation; raise NodeRemoved, DuplicateNode, Invalid.

        `address` is where the appliance saw the node come from.
        """
        report = replace(report, endpoints=checked_endpoints(report.endpoints))
        return await until_committed(lambda: self._register(node_id, report, address))

    async def _register(self, node_id: str, report: Report, address: str) -> Registered:
        node = await living_node(self._store, node_id)
        key = keys.registration(node_id)
        old = await read(self._store, records.registrations, key)
        registration = old.value if old else Registration(node_id)
        decision = decide(
            report.generation,
            registration.generation,
            same_machine=registration.facts.same_machine(report.facts),
            other_alive=self._presence.is_connected(node_id),
        )
        if decision is Decision.DUPLICATE:
            self._check_certain(registration, report)
            await self._refuse_duplicate(node.value, registration, report, address)
        new = _renewed(registration, report, decision, _plain(address), self._clock())
        compares = [Compare(keys.node(node_id), node.revision)]
        compares.append(Compare(key, old.revision if old else 0))
        writes = [Put(key, records.registrations.encode(new))]
        name = host_name(report.name, node_id)
        if name != node.value.name:
            renamed = replace(node.value, name=name)
            writes.append(Put(keys.node(node_id), records.nodes.encode(renamed)))
        entry = self._entry(node.value, registration, new, decision, address)
        await self._store.commit(compares, [*writes, *entry])
        self._presence.seen(node_id)
        self._doubts.pop(node_id, None)
        log.info(
            "node registered node=%s generation=%d decision=%s",
            node_id,
            report.generation,
            decision.name.lower(),
        )
        return Registered(node.value.state, new.generation.offered)

    async def known_at(self, node_id: str) -> int:
        """Return the revision of what is known of a node; raise NodeRemoved.

        A stream that begins no earlier shows the node what it has just registered.
        """
        node = await living_node(self._store, node_id)
        registration = await self._store.get(keys.registration(node_id))
        return max(node.revision, registration.revision if registration else 0)

    async def leave(self, node_id: str, reason: str, address: str) -> None:
        """Remove the node on its own wish; asking again changes nothing."""
        by = Actor(ActorKind.NODE, node_id, address)
        await self._nodes.remove(node_id, by, reason=f"it left: {reason}" if reason else "it left")

    def _check_certain(self, registration: Registration, report: Report) -> None:
        """Raise Unavailable while it may be the same machine, put back to a snapshot.

        The link from before the restore looks alive until it is known to be dead (serving.py).
        Whoever is turned away as a clone must not come back, so that waits for certainty.
        """
        if not registration.facts.same_machine(report.facts):
            return
        now = self._clock()
        self._doubts = {n: at for n, at in self._doubts.items() if now - at < _DOUBT_KEPT_S}
        since = self._doubts.setdefault(registration.node, now)
        if now - since < DOUBT_S:
            raise Unavailable(
                "a link of this node from before is still open: whether it lives is known in "
                f"{DOUBT_S:.0f} seconds",
                "wait; the agent tries again by itself",
            )

    async def _refuse_duplicate(
        self, node: Node, registration: Registration, report: Report, address: str
    ) -> None:
        now = self._clock()
        if now - self._told.get(node.id, 0.0) >= _DUPLICATE_TOLD_EVERY_S:
            if len(self._told) >= _TOLD_MAX:
                self._told.clear()
            self._told[node.id] = now
            entry = self._journal.entry(
                "duplicate_node",
                f"a second machine came as node {node.name} and was turned away",
                Actor(ActorKind.NODE, node.id, address),
                severity=Severity.ALARM,
                node=node.id,
                first=_machine(registration.facts),
                second=_machine(report.facts),
                first_address=registration.seen_address,
            )
            await self._store.commit([], [entry])
        raise DuplicateNode(
            f"another machine is registered as this node (generation "
            f"{registration.generation.current}, this one shows {report.generation})"
        )

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


def _renewed(
    old: Registration, report: Report, decision: Decision, address: str, now: float
) -> Registration:
    generation = old.generation.presented(report.generation)
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
