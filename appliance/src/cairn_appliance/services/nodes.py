"""Nodes, as operators see them: list, approve, reject, remove."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from cairn_appliance.domain.errors import CairnError, Changed, Clash, NotFound
from cairn_appliance.domain.event import Severity
from cairn_appliance.domain.identity import SYSTEM, Actor
from cairn_appliance.domain.member import Member
from cairn_appliance.domain.node import Node, NodeState, Presence, Registration
from cairn_appliance.pki.authority import AGENT_LIFE_DAYS
from cairn_appliance.services.attachments import serving_nodes
from cairn_appliance.services.clock import Clock, wall_clock
from cairn_appliance.services.commit import until_committed
from cairn_appliance.services.directory import find_node
from cairn_appliance.services.events import Journal
from cairn_appliance.services.members import Members
from cairn_appliance.services.presence import PresenceBoard
from cairn_appliance.services.stored import Stored, read, read_all
from cairn_appliance.store import keys, records
from cairn_appliance.store.port import Compare, Conflict, Delete, Put, Store

log = logging.getLogger(__name__)

_TOLD_MAX = 100_000
_LOOKED_AT_ONCE = 500  # then all else that waits has its turn


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node with what it last registered, its memberships, and its link (None: never seen)."""

    node: Node
    registration: Registration
    members: tuple[Member, ...]
    presence: Presence | None


class Nodes:
    """All that operators do with nodes."""

    def __init__(
        self,
        store: Store,
        members: Members,
        presence: PresenceBoard,
        journal: Journal,
        clock: Clock = wall_clock,
        certificate_days: float = AGENT_LIFE_DAYS,
    ) -> None:
        # One that was issued before the setting was lowered lives as long as it said.
        self._certificate_s = max(certificate_days, AGENT_LIFE_DAYS) * 86_400.0
        self._store = store
        self._members = members
        self._presence = presence
        self._journal = journal
        self._clock = clock
        self._told_waiting: set[tuple[str, str]] = set()  # node and vSubnet
        self._detached: set[str] = set()  # removed nodes that are in no vSubnet, for good

    async def list(self, state: NodeState | None = None) -> tuple[Stored[NodeView], ...]:
        """Return nodes by name; removed ones only when asked for by their state."""
        registered = await read_all(self._store, records.registrations, keys.REGISTRATIONS)
        registrations = {stored.value.node: stored.value for stored in registered}
        members = defaultdict(list)
        for member in await self._members.list():
            members[member.value.node].append(member.value)
        views = [
            Stored(
                self._view(
                    stored.value, registrations.get(stored.value.id), members[stored.value.id]
                ),
                stored.revision,
            )
            for stored in await read_all(self._store, records.nodes, keys.NODES)
            if _is_asked_for(stored.value, state)
        ]
        return tuple(sorted(views, key=lambda view: (view.value.node.name, view.value.node.id)))

    async def get(self, reference: str) -> Stored[NodeView]:
        """Return the node with this ID, or this name if only one has it; NotFound, Ambiguous."""
        stored = await find_node(self._store, reference)
        node_id = stored.value.id
        registration = await read(self._store, records.registrations, keys.registration(node_id))
        members = [m.value for m in await self._members.list() if m.value.node == node_id]
        view = self._view(stored.value, registration.value if registration else None, members)
        return Stored(view, stored.revision)

    async def approve(
        self, reference: str, by: Actor, *, expected: int | None = None
    ) -> Stored[NodeView]:
        """Let a pending node in: it becomes a member of the vSubnets its token names; a copy
        of another node, of those that the other is in, with addresses of its own."""

        async def attempt() -> Node:
            old = await find_node(self._store, reference)
            check_expected(old, expected)
            if old.value.state is NodeState.APPROVED:
                return old.value
            if old.value.state is NodeState.REMOVED:
                raise Clash(f"node {old.value.name} was removed; it has to join anew")
            wanted = (*old.value.wanted, *await self._places(old.value.copy_of))
            node = replace(old.value, state=NodeState.APPROVED, wanted=tuple(dict.fromkeys(wanted)))
            await self._write(old, node, "node_approved", f"node {node.name} was approved", by)
            return node

        node = await until_committed(attempt)
        await self.fulfil(node.id, by)
        return await self.get(node.id)

    async def _places(self, node_id: str) -> tuple[str, ...]:
        """Return the IDs of the vSubnets that a node is in."""
        if not node_id:
            return ()
        members = await self._members.list()
        return tuple(each.value.vsubnet for each in members if each.value.node == node_id)

    async def fulfil(self, node_id: str, by: Actor = SYSTEM) -> None:
        """Make an approved node a member of the vSubnets that it is still waiting for.

        What can't be done now (no free address) stays on its list, is told by an event once,
        and is tried again by `tidy`.
        """
        node = (await find_node(self._store, node_id)).value
        if node.state is not NodeState.APPROVED:
            return
        for vsubnet_id in node.wanted:
            try:
                await self._members.attach(node_id, vsubnet_id, by)
            except NotFound:
                await until_committed(partial(self._strike_off, node_id, vsubnet_id))
            except CairnError as error:
                await self._tell_waiting(node, vsubnet_id, error, by)

    async def reject(self, reference: str, by: Actor, reason: str = "") -> None:
        """Turn a pending node away; it has to join anew. Raise NotFound, Clash (not pending)."""

        async def attempt() -> None:
            old = await find_node(self._store, reference)
            if old.value.state is not NodeState.PENDING:
                raise Clash(
                    f"node {old.value.name} is {old.value.state}, not pending",
                    "remove it instead (`cairn node delete`)",
                    code="node_not_pending",
                )
            why = reason or "rejected by an operator"
            await self._write_removed(old, "node_rejected", why, by)

        await until_committed(attempt)

    async def remove(
        self,
        reference: str,
        by: Actor,
        *,
        reason: str = "",
        revoke_now: bool = False,
        expected: int | None = None,
    ) -> None:
        """Cut a node off: out of every netmap at once, addresses in quarantine for a day.

        The first transaction cuts it off; what follows (memberships, new epochs) is repeated
        by `tidy` if it is cut short.
        """

        async def attempt() -> str:
            old = await find_node(self._store, reference)
            check_expected(old, expected)
            if old.value.state is not NodeState.REMOVED:
                why = reason or "removed by an operator"
                await self._write_removed(old, "node_removed", why, by)
            return old.value.id

        node_id = await until_committed(attempt)
        places = [m.value.vsubnet for m in await self._members.list() if m.value.node == node_id]
        await self._detach(node_id, places, by, revoke_now)

    async def tidy(self) -> None:
        """Finish what was cut short: memberships of removed nodes, and of waiting ones; and
        forget nodes that were removed so long ago that nobody can come as they any more."""
        nodes = await read_all(self._store, records.nodes, keys.NODES)
        await self._tidy_removed([n for n in nodes if n.value.state is NodeState.REMOVED])
        for number, each in enumerate(nodes):
            if each.value.state is NodeState.APPROVED and each.value.wanted:
                await self.fulfil(each.value.id)
            await _let_others(number)

    async def _tidy_removed(self, removed: Sequence[Stored[Node]]) -> None:
        # A removed node becomes no member again: who is known to be in no vSubnet stays so.
        self._detached &= {each.value.id for each in removed}
        if len(self._detached) < len(removed):  # seldom: all members are read
            places = defaultdict(list)
            for member in await self._members.list():
                places[member.value.node].append(member.value.vsubnet)
            for number, each in enumerate(removed):
                await self._detach(each.value.id, places[each.value.id], SYSTEM, revoke_now=False)
                await _let_others(number)
            self._detached = {each.value.id for each in removed}
        now = self._clock()
        over = [each for each in removed if each.value.is_forgotten(now, self._certificate_s)]
        if over:
            serving = await serving_nodes(self._store)
            for each in over:
                if each.value.id not in serving:
                    await self._forget(each)

    async def _forget(self, removed: Stored[Node]) -> None:
        """Delete what there is of a removed node, unless another replica does."""
        node_id = removed.value.id
        places = (keys.node(node_id), keys.registration(node_id), keys.copies(node_id))
        try:
            compare = Compare(keys.node(node_id), removed.revision)
            await self._store.commit([compare], [Delete(place) for place in places])
        except Conflict:
            return
        log.info("a node that was removed long ago is forgotten node=%s", node_id)

    async def _detach(
        self, node_id: str, vsubnets: Iterable[str], by: Actor, revoke_now: bool
    ) -> None:
        for vsubnet in vsubnets:
            await self._members.detach(vsubnet, node_id, by, revoke_now=revoke_now)

    async def _strike_off(self, node_id: str, vsubnet_id: str) -> None:
        old = await find_node(self._store, node_id)
        wanted = tuple(each for each in old.value.wanted if each != vsubnet_id)
        put = Put(keys.node(node_id), records.nodes.encode(replace(old.value, wanted=wanted)))
        await self._store.commit([Compare(put.key, old.revision)], [put])

    async def _tell_waiting(
        self, node: Node, vsubnet_id: str, error: CairnError, by: Actor
    ) -> None:
        """Write an event, once for each node and vSubnet while this replica runs.

        Housekeeping comes by all the time, for as many nodes as wait: looking it up among
        all events would keep the replica busy with nothing else.
        """
        if (node.id, vsubnet_id) in self._told_waiting:
            return
        if len(self._told_waiting) >= _TOLD_MAX:
            self._told_waiting.clear()
        text = f"node {node.name} could not become a member: {error.cause}"
        entry = self._journal.entry(
            "member_waiting",
            text,
            by,
            severity=Severity.WARNING,
            node=node.id,
            vsubnet=vsubnet_id,
            remedy=error.remedy,
        )
        await self._store.commit([], [entry])
        self._told_waiting.add((node.id, vsubnet_id))

    async def _write_removed(self, old: Stored[Node], kind: str, why: str, by: Actor) -> None:
        node = replace(
            old.value,
            state=NodeState.REMOVED,
            wanted=(),
            removed_at=self._clock(),
            removed_why=why[:200],
        )
        verb = "rejected" if kind == "node_rejected" else "removed"
        await self._write(old, node, kind, f"node {node.name} was {verb}: {node.removed_why}", by)

    async def _write(self, old: Stored[Node], node: Node, kind: str, text: str, by: Actor) -> None:
        key = keys.node(node.id)
        entry = self._journal.entry(kind, text, by, node=node.id)
        put = Put(key, records.nodes.encode(node))
        await self._store.commit([Compare(key, old.revision)], [put, entry])

    def _view(
        self, node: Node, registration: Registration | None, members: Sequence[Member]
    ) -> NodeView:
        presence = self._presence.of(node.id)
        return NodeView(node, registration or Registration(node.id), tuple(members), presence)


async def _let_others(number: int) -> None:
    if number % _LOOKED_AT_ONCE == _LOOKED_AT_ONCE - 1:
        await asyncio.sleep(0)


def _is_asked_for(node: Node, state: NodeState | None) -> bool:
    return node.state is state if state else node.state is not NodeState.REMOVED


def check_expected(stored: Stored[Node], expected: int | None) -> None:
    """Raise Changed if the caller has seen another revision."""
    if expected is not None and stored.revision != expected:
        raise Changed(f"node {stored.value.name} was changed meanwhile")
