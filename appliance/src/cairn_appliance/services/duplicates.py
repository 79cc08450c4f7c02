"""Copies of a machine: each becomes a node of its own that waits for an operator's word."""

from __future__ import annotations

import logging
from dataclasses import replace

from cairn_appliance.domain.errors import Clash, Invalid, NodeRemoved, NotFound, Refused, TooMany
from cairn_appliance.domain.event import Severity
from cairn_appliance.domain.generation import Generation
from cairn_appliance.domain.identity import Actor, ActorKind
from cairn_appliance.domain.node import Copies, Node, NodeState, Registration
from cairn_appliance.services.clock import Clock, wall_clock
from cairn_appliance.services.commit import until_committed
from cairn_appliance.services.directory import find_node, living_node
from cairn_appliance.services.enrolment import (
    Credentials,
    Enrolment,
    Newcomer,
    checked_newcomer,
    control_key_of,
    same_or_refused,
)
from cairn_appliance.services.events import Journal
from cairn_appliance.services.nodes import check_expected
from cairn_appliance.services.stored import Stored, read
from cairn_appliance.store import keys, records
from cairn_appliance.store.port import Compare, Delete, Put, Store

log = logging.getLogger(__name__)

COPIES_MAX = 100  # waiting at once, of one node: whoever holds its keys can ask for more
_LOST_KEYS_KEPT = 16


class Duplicates:
    """Takes copies in, and does with them what an operator says."""

    def __init__(
        self, store: Store, enrolment: Enrolment, journal: Journal, clock: Clock = wall_clock
    ) -> None:
        self._store = store
        self._enrolment = enrolment
        self._journal = journal
        self._clock = clock

    async def admit(self, original_id: str, newcomer: Newcomer, address: str) -> Credentials:
        """Return the credentials of a new, pending node; raise NodeRemoved, TooMany, Invalid.

        `original_id` is the node whose certificate the machine came with. Asking again with
        the same ID and keys gets the same answer.
        """
        node = replace(checked_newcomer(newcomer), copy_of=original_id)
        stored = await until_committed(lambda: self._admit(node, newcomer, address))
        log.info("copy enrolled node=%s copy_of=%s", node.id, original_id)
        return await self._enrolment.credentials(stored, newcomer.certificate_request)

    async def _admit(self, node: Node, newcomer: Newcomer, address: str) -> Node:
        existing = await read(self._store, records.nodes, keys.node(node.id))
        if existing:
            return same_or_refused(existing.value, node)
        original = (await living_node(self._store, node.copy_of)).value
        if node.data_public_key == original.data_public_key or node.control_key in (
            original.control_key,
            *original.lost_keys,
        ):
            raise Invalid("a copy needs keys of its own", code="invalid_key")
        key = keys.copies(original.id)
        found = await read(self._store, records.copies, key)
        copies = found.value if found else Copies(original.id)
        pending = await self._still_pending(copies)
        if len(pending) >= COPIES_MAX:
            raise TooMany(
                f"{len(pending)} copies of node {original.name} wait for an operator",
                "approve or reject them (`cairn node list --state pending`)",
            )
        node = replace(node, site=original.site, labels=original.labels, created_at=self._clock())
        registration = Registration(
            node.id, facts=newcomer.facts, agent_version=newcomer.agent_version[:64]
        )
        puts = [
            Put(keys.node(node.id), records.nodes.encode(node)),
            Put(keys.registration(node.id), records.registrations.encode(registration)),
        ]
        noted = Put(key, records.copies.encode(replace(copies, pending=(*pending, node.id))))
        entry = self._journal.entry(
            "copy_enrolled",
            f"a copy of node {original.name} is node {node.name} now and waits",
            Actor(ActorKind.NODE, node.id, address),
            node=node.id,
            copy_of=original.id,
        )
        compares = [Compare(put.key, 0) for put in puts]
        compares.append(Compare(key, found.revision if found else 0))
        await self._store.commit(compares, [*puts, noted, entry])
        return node

    async def _still_pending(self, copies: Copies) -> tuple[str, ...]:
        """Return those that still wait; looked up only where there are many."""
        if len(copies.pending) < COPIES_MAX:
            return copies.pending
        pending = []
        for node_id in copies.pending:
            found = await read(self._store, records.nodes, keys.node(node_id))
            if found and found.value.state is NodeState.PENDING:
                pending.append(node_id)
        return tuple(pending)

    async def claim(self, reference: str, by: Actor, *, expected: int | None = None) -> str:
        """Give a waiting copy the identity that it is a copy of; return that node's ID.

        Name, addresses and memberships stay with the node ID; the keys are the copy's own,
        which nobody else has. The machine that was the node until now is turned away as the
        copy that it is from here on. Raise NotFound, Clash, Changed.
        """

        async def attempt() -> str:
            copy = await find_node(self._store, reference)
            check_expected(copy, expected)
            original = await self._original_of(copy.value)
            await self._hand_over(original, copy, by)
            return original.value.id

        return await until_committed(attempt)

    async def _hand_over(self, original: Stored[Node], copy: Stored[Node], by: Actor) -> None:
        now = self._clock()
        old, new = original.value, copy.value
        lost = (*(key for key in old.lost_keys if key != new.control_key), old.control_key)
        node = replace(
            old,
            data_public_key=new.data_public_key,
            control_key=new.control_key,
            lost_keys=lost[-_LOST_KEYS_KEPT:],
        )
        became = replace(
            new,
            state=NodeState.REMOVED,
            became=old.id,
            wanted=(),
            removed_at=now,
            removed_why=f"it is node {old.name}, by an operator's word",
        )
        its, theirs = await self._registration(old.id), await self._registration(new.id)
        # Above all that the other machine was ever offered.
        current = its.value.generation.offered + 1
        registration = replace(
            theirs.value,
            node=old.id,
            generation=Generation(current, current + 1),
            sessions_since=current,
            registered_at=now,
        )
        entry = self._journal.entry(
            "node_claimed",
            f"node {old.name} is another machine from now on: its copy {new.name}",
            by,
            node=old.id,
            copy=new.id,
            severity=Severity.WARNING,
        )
        compares = [
            Compare(keys.node(old.id), original.revision),
            Compare(keys.node(new.id), copy.revision),
            Compare(keys.registration(old.id), its.revision),
            Compare(keys.registration(new.id), theirs.revision),
        ]
        writes: list[Put | Delete] = [
            Put(keys.node(old.id), records.nodes.encode(node)),
            Put(keys.node(new.id), records.nodes.encode(became)),
            Put(keys.registration(old.id), records.registrations.encode(registration)),
            entry,
        ]
        await self._store.commit(compares, writes)

    async def become(self, node_id: str, certificate_request: str) -> Credentials:
        """Return the credentials of the node that an operator said this one is.

        Raise Refused where nobody did, or where the request is for another key than the
        operator has seen.
        """
        found = await read(self._store, records.nodes, keys.node(node_id))
        if found is None or not found.value.became:
            raise Refused("no operator said that this machine is another node", code="not_claimed")
        node = (await living_node(self._store, found.value.became)).value
        if control_key_of(certificate_request, node.id) != node.control_key:
            raise Refused(
                "the identity has been given to yet another machine",
                "leave and join again with a new token",
                code="not_claimed",
            )
        return await self._enrolment.credentials(node, certificate_request)

    async def unfreeze(self, reference: str, by: Actor, *, expected: int | None = None) -> None:
        """Let a frozen node register again; raise NotFound, Changed. One that isn't stays."""

        async def attempt() -> None:
            node = await find_node(self._store, reference)
            check_expected(node, expected)
            registration = await self._registration(node.value.id)
            if not registration.value.frozen_at:
                return
            thawed = replace(registration.value, frozen_at=0.0, takeovers=())
            put = Put(keys.registration(node.value.id), records.registrations.encode(thawed))
            text = f"node {node.value.name} may register again"
            entry = self._journal.entry("node_unfrozen", text, by, node=node.value.id)
            await self._store.commit([Compare(put.key, registration.revision)], [put, entry])

        await until_committed(attempt)

    async def _original_of(self, copy: Node) -> Stored[Node]:
        if not copy.copy_of:
            raise Clash(
                f"node {copy.name} is no copy of another",
                "see `cairn node list --state pending` for those that are",
                code="not_a_copy",
            )
        if copy.state is not NodeState.PENDING:
            raise Clash(
                f"node {copy.name} is {copy.state}, not pending: it is a node of its own",
                "delete it (`cairn node delete`), and have the machine join anew",
                code="node_not_pending",
            )
        try:
            return await living_node(self._store, copy.copy_of)
        except NodeRemoved as error:
            raise NotFound(
                f"the node that {copy.name} is a copy of was removed",
                f"approve it as a new node (`cairn node approve {copy.name}`)",
            ) from error

    async def _registration(self, node_id: str) -> Stored[Registration]:
        found = await read(self._store, records.registrations, keys.registration(node_id))
        return found or Stored(Registration(node_id), 0)
