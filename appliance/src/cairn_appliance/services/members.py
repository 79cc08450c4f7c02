"""Members: which node is attached to which vSubnet, with which addresses."""

from __future__ import annotations

import asyncio
import builtins
import weakref
from dataclasses import dataclass, replace

from cairn_appliance.domain.errors import Changed, Clash, NotFound
from cairn_appliance.domain.identity import Actor
from cairn_appliance.domain.member import Member, MemberRole
from cairn_appliance.domain.node import Node, NodeState
from cairn_appliance.domain.vsubnet import VSubnet
from cairn_appliance.services.addressing import Addressing
from cairn_appliance.services.attachments import segments_of
from cairn_appliance.services.clock import Clock, wall_clock
from cairn_appliance.services.commit import until_committed
from cairn_appliance.services.directory import find_node
from cairn_appliance.services.events import Journal
from cairn_appliance.services.restoration import Restoration
from cairn_appliance.services.stored import Stored, read, read_all
from cairn_appliance.services.vsubnets import VSubnets
from cairn_appliance.store import keys, records
from cairn_appliance.store.port import Compare, Delete, Put, Store


@dataclass(frozen=True, slots=True)
class MemberOrder:
    """A member to be; `ips` empty: one address of each prefix is allocated."""

    vsubnet: str  # name, ID or VNI
    node: str  # ID or name
    ips: tuple[str, ...] = ()  # static addresses
    role: MemberRole = MemberRole.HOST


@dataclass(frozen=True, slots=True)
class MemberChange:
    """What is to change; None: stays."""

    ips: tuple[str, ...] | None = None
    role: MemberRole | None = None


class Members:
    """All there is to do with members."""

    def __init__(
        self,
        store: Store,
        vsubnets: VSubnets,
        addressing: Addressing,
        journal: Journal,
        clock: Clock = wall_clock,
        restoration: Restoration | None = None,
    ) -> None:
        self._restoration = restoration or Restoration(store, clock)
        self._store = store
        self._vsubnets = vsubnets
        self._addressing = addressing
        self._journal = journal
        self._clock = clock
        # Within a replica the joins of one vSubnet queue up instead of racing each other.
        self._turns: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()

    async def create(self, order: MemberOrder, by: Actor) -> Stored[Member]:
        """Attach a node; the same order again returns the member. Raise Clash, NoAddressLeft."""
        node = await find_node(self._store, order.node)
        vsubnet = await self._vsubnets.get(order.vsubnet)
        existing = await self._read(vsubnet.value.id, node.value.id)
        if existing:
            return _same_or_clash(existing, order)
        return await self.attach(node.value.id, vsubnet.value.id, by, order.ips, order.role)

    async def attach(
        self,
        node_id: str,
        vsubnet_id: str,
        by: Actor,
        ips: tuple[str, ...] = (),
        role: MemberRole = MemberRole.HOST,
    ) -> Stored[Member]:
        """Make the node a member unless it is one; raise Clash, NotFound, NoAddressLeft.

        A vSubnet the node was still waiting for is struck off its list in the same transaction.
        """
        attempts = 0

        async def attempt() -> Stored[Member]:
            nonlocal attempts
            attempts += 1
            return await self._attach(node_id, vsubnet_id, by, ips, role, attempts - 1)

        turn = self._turns.get(vsubnet_id) or asyncio.Lock()
        self._turns[vsubnet_id] = turn
        async with turn:
            return await until_committed(attempt)

    async def _attach(
        self,
        node_id: str,
        vsubnet_id: str,
        by: Actor,
        static: tuple[str, ...],
        role: MemberRole,
        attempts: int,
    ) -> Stored[Member]:
        node = await find_node(self._store, node_id)
        existing = await self._read(vsubnet_id, node_id)
        if existing and vsubnet_id not in node.value.wanted:
            return existing
        vsubnet = await self._vsubnets.get(vsubnet_id)
        check_joinable(node.value, vsubnet.value)
        node_key = keys.node(node_id)
        waiting = tuple(wanted for wanted in node.value.wanted if wanted != vsubnet_id)
        struck_off = []
        if waiting != node.value.wanted:
            new_node = replace(node.value, wanted=waiting)
            struck_off = [Put(node_key, records.nodes.encode(new_node))]
        compares = [
            Compare(node_key, node.revision),
            Compare(keys.vsubnet(vsubnet_id), vsubnet.revision),
        ]
        if existing:
            await self._store.commit(compares, struck_off)
            return existing
        if static:
            self._restoration.check_open()
        else:
            self._restoration.check_allocation(vsubnet.value)
        claiming = await self._addressing.plan(vsubnet.value, node_id, static, attempt=attempts)
        member = Member(vsubnet_id, node_id, claiming.mac, self._clock(), claiming.ips, role)
        key = keys.member(vsubnet_id, node_id)
        text = f"node {node.value.name} became a member of vSubnet {vsubnet.value.name}"
        entry = self._journal.entry(
            "member_created",
            text,
            by,
            node=node_id,
            vsubnet=vsubnet_id,
            mac=member.mac,
            ips=", ".join(member.ips),
        )
        writes = [Put(key, records.members.encode(member)), *claiming.writes, *struck_off, entry]
        compares += [Compare(key, 0), *claiming.compares]
        return Stored(member, await self._store.commit(compares, writes))

    async def list(self, vsubnet: str = "", node: str = "") -> tuple[Stored[Member], ...]:
        """Return the members, of one vSubnet or node if given (name, ID or VNI)."""
        prefix = keys.MEMBERS
        if vsubnet:
            prefix = keys.members_of((await self._vsubnets.get(vsubnet)).value.id)
        found = await read_all(self._store, records.members, prefix)
        if node:
            node_id = (await find_node(self._store, node)).value.id
            found = [stored for stored in found if stored.value.node == node_id]
        return tuple(found)

    async def get(self, vsubnet: str, node: str) -> Stored[Member]:
        """Return a member; raise NotFound."""
        node_id = (await find_node(self._store, node)).value.id
        vsubnet_id = (await self._vsubnets.get(vsubnet)).value.id
        found = await self._read(vsubnet_id, node_id)
        if found is None:
            raise NotFound(
                f"node {node[:80]!r} is no member of vSubnet {vsubnet[:80]!r}",
                "look at `cairn member list`",
            )
        return found

    async def change(
        self,
        vsubnet: str,
        node: str,
        change: MemberChange,
        by: Actor,
        *,
        expected: int | None = None,
    ) -> Stored[Member]:
        """Return the member after the change; raise NotFound, Clash, Changed."""
        return await until_committed(lambda: self._change(vsubnet, node, change, by, expected))

    async def _change(
        self, vsubnet: str, node: str, change: MemberChange, by: Actor, expected: int | None
    ) -> Stored[Member]:
        old = await self.get(vsubnet, node)
        _check_expected(old, expected)
        await self._check_serves_nothing(old.value)
        place = await self._vsubnets.get(vsubnet)
        member = replace(old.value, role=change.role or old.value.role)
        key = keys.member(member.vsubnet, member.node)
        compares = [Compare(key, old.revision)]
        claims: builtins.list[Put] = []
        if change.ips is not None:
            claiming = await self._addressing.replan(
                place.value, member.node, member.mac, member.ips, change.ips
            )
            member = replace(member, ips=claiming.ips)
            compares += [Compare(keys.vsubnet(member.vsubnet), place.revision), *claiming.compares]
            claims += claiming.writes
        if member == old.value:
            return old
        entry = self._journal.entry(
            "member_changed",
            f"a member of vSubnet {place.value.name} was changed",
            by,
            node=member.node,
            vsubnet=member.vsubnet,
            ips=", ".join(member.ips),
            role=member.role,
        )
        writes = [Put(key, records.members.encode(member)), *claims, entry]
        return Stored(member, await self._store.commit(compares, writes))

    async def delete(
        self,
        vsubnet: str,
        node: str,
        by: Actor,
        *,
        revoke_now: bool = False,
        expected: int | None = None,
    ) -> None:
        """Detach a node and start a new epoch of the vSubnet's secret; raise NotFound, Changed."""
        member = await self.get(vsubnet, node)
        _check_expected(member, expected)
        await self._check_serves_nothing(member.value)
        await self.detach(member.value.vsubnet, member.value.node, by, revoke_now=revoke_now)

    async def detach(
        self, vsubnet_id: str, node_id: str, by: Actor, *, revoke_now: bool = False
    ) -> None:
        """Detach a node; nothing happens where it is no member (any more)."""
        await until_committed(lambda: self._detach(vsubnet_id, node_id, by, revoke_now))

    async def _detach(self, vsubnet_id: str, node_id: str, by: Actor, revoke_now: bool) -> None:
        old = await self._read(vsubnet_id, node_id)
        if old is None:
            return
        rotation = await self._vsubnets.rotation(vsubnet_id, revoke_now=revoke_now)
        key = keys.member(vsubnet_id, node_id)
        released = self._addressing.release(vsubnet_id, node_id, old.value.mac, old.value.ips)
        text = "a node is no longer a member of the vSubnet"
        entry = self._journal.entry(
            "member_deleted", text, by, node=node_id, vsubnet=vsubnet_id, epoch=str(rotation.epoch)
        )
        writes: builtins.list[Put | Delete] = [Delete(key), rotation.put, *released, entry]
        await self._store.commit([Compare(key, old.revision), rotation.compare], writes)

    async def _check_serves_nothing(self, member: Member) -> None:
        """Raise Clash for a gateway of a segment: its membership belongs to that."""
        if member.role is not MemberRole.GATEWAY:
            return
        for segment in await segments_of(self._store, member.node):
            if segment.vsubnet == member.vsubnet:
                raise Clash(
                    f"the member is a gateway of segment {segment.name}",
                    f"detach it there (`cairn gateway detach {segment.name} NODE`): that takes "
                    "it out of the vSubnet too",
                    code="is_gateway",
                )

    async def _read(self, vsubnet_id: str, node_id: str) -> Stored[Member] | None:
        return await read(self._store, records.members, keys.member(vsubnet_id, node_id))


def check_joinable(node: Node, vsubnet: VSubnet) -> None:
    """Raise Clash where the node may not become a member of the vSubnet now."""
    if node.state is not NodeState.APPROVED:
        raise Clash(
            f"node {node.name} is {node.state}, not approved",
            "approve it first (`cairn node approve`)",
            code="node_not_approved",
        )
    if vsubnet.closed:
        raise Clash(
            f"vSubnet {vsubnet.name} takes no members: it is being deleted or renumbered",
            "wait for the end of that, or repeat it if it was cut short",
            code="vsubnet_closed",
        )


def _same_or_clash(existing: Stored[Member], order: MemberOrder) -> Stored[Member]:
    member = existing.value
    if member.role is order.role and set(order.ips) <= set(member.ips):
        return existing
    raise Clash(
        "the node is a member of the vSubnet already, with other addresses or another role",
        "change the member instead (`cairn member set`)",
        code="is_member",
    )


def _check_expected(stored: Stored[Member], expected: int | None) -> None:
    if expected is not None and stored.revision != expected:
        raise Changed("the member was changed meanwhile")
