"""Takes over what documents say that the cluster had signed in the time that it has lost.

While the restored cluster serves nothing yet, the newest document of a vSubnet is the truth
about it: members that it has are made, those that it has not are taken out. Later, when the
cluster has given out addresses of its own again, a document only adds: where an address is
somebody else's by now it stays so, and an alarm tells of it.
"""

from __future__ import annotations

import base64
import ipaddress
import logging
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from cairn_agent.protocol import netmap as wire

from cairn_appliance.domain.addressing import is_held
from cairn_appliance.domain.event import Severity
from cairn_appliance.domain.generation import Generation
from cairn_appliance.domain.identity import SYSTEM
from cairn_appliance.domain.member import Claim, Member, MemberRole
from cairn_appliance.domain.node import Node, NodeState, Registration
from cairn_appliance.domain.vsubnet import PSK_OVERLAP_S, Policy, Psk, Psks, VSubnet
from cairn_appliance.netmap.document import NodeDocument, VSubnetDocument
from cairn_appliance.pki.sealing import Sealer
from cairn_appliance.services.clock import Clock, wall_clock
from cairn_appliance.services.commit import until_committed
from cairn_appliance.services.events import Journal
from cairn_appliance.services.stored import Stored, read, read_all
from cairn_appliance.services.vsubnets import Epochs, seal_place
from cairn_appliance.store import keys, records
from cairn_appliance.store.port import Compare, Delete, Put, Store

log = logging.getLogger(__name__)

_NAMESPACE = uuid.UUID("5a3a54f5-4d55-4bb5-9a3b-6f1b5c1f0a11")


@dataclass(frozen=True, slots=True)
class NodeKeys:
    """What a node that came itself has proved, and said, of its keys."""

    control_key: str  # hex SHA-256 of the key that its certificate proves
    data_public_key: str  # base64 of 32 octets


Keys = Mapping[str, NodeKeys]  # by node ID


@dataclass(slots=True)
class Report:
    """What was taken over, for people."""

    vsubnets: list[str] = field(default_factory=list)  # made, by name
    nodes: list[str] = field(default_factory=list)  # made, by name
    attached: int = 0
    detached: int = 0
    set_aside: list[str] = field(default_factory=list)  # nodes that wait for an operator, by name
    conflicts: int = 0


class Absorption:
    """Brings the store up to documents."""

    def __init__(
        self,
        store: Store,
        epochs: Epochs,
        sealer: Sealer,
        journal: Journal,
        clock: Clock = wall_clock,
    ) -> None:
        self._store = store
        self._epochs = epochs
        self._sealer = sealer
        self._journal = journal
        self._clock = clock

    async def take(
        self,
        document: VSubnetDocument,
        known: Keys,
        report: Report,
        *,
        is_late: bool = False,
        takes_header: bool = True,
    ) -> str:
        """Make what the document has and the store has not; return the vSubnet's ID.

        It may be repeated: what is done already is left as it is.
        """
        vsubnet = await until_committed(
            partial(self._take_header, document.header, report, takes_header)
        )
        nodes = {
            s.value.id: s.value for s in await read_all(self._store, records.nodes, keys.NODES)
        }
        registered = await read_all(self._store, records.registrations, keys.REGISTRATIONS)
        since = {stored.value.node: stored.value.sessions_since for stored in registered}
        members = await self._members(vsubnet.id)
        for member in document.members:
            node, here = nodes.get(member.node_id), members.get(member.node_id)
            is_done = (
                node is not None
                and node.state is NodeState.APPROVED
                and here is not None
                and (here.mac, here.ips) == (_mac(member), _ips(member))
                and since.get(node.id) == member.generation
            )
            if not is_done:
                attempt = partial(self._attach, vsubnet, member, known, report, is_late)
                await until_committed(attempt)
        return vsubnet.id

    async def take_out(self, vsubnet_id: str, document: VSubnetDocument, report: Report) -> None:
        """Take out the members that the document has not; a node without any place waits."""
        present = {member.node_id for member in document.members}
        for node_id in sorted((await self._members(vsubnet_id)).keys() - present):
            await until_committed(partial(self._detach, vsubnet_id, node_id, report))

    async def adopt(self, held: NodeDocument, own: NodeKeys, report: Report) -> None:
        """Make a node that is unknown, and in no vSubnet yet; an operator decides on it."""
        await until_committed(partial(self._adopt, held.document, own, report))

    async def _adopt(self, document: wire.NodeDocument, own: NodeKeys, report: Report) -> None:
        if await self._store.get(keys.node(document.node_id)):
            return
        node = Node(
            id=document.node_id,
            name=document.name,
            state=NodeState.PENDING,
            data_public_key=own.data_public_key,
            control_key=own.control_key,
            created_at=self._clock(),
            site=document.site,
        )
        entry = self._journal.entry(
            "node_reasserted",
            f"node {node.name} enrolled in the time that is lost; it is in no vSubnet and waits",
            SYSTEM,
            severity=Severity.WARNING,
            node=node.id,
            remedy="`cairn node approve` or `cairn node reject`",
        )
        key = keys.node(node.id)
        await self._store.commit([Compare(key, 0)], [Put(key, records.nodes.encode(node)), entry])
        report.nodes.append(node.name)

    async def _take_header(
        self, header: wire.VSubnetHeader, report: Report, takes_header: bool
    ) -> VSubnet:
        item = await self._store.get(keys.vni(header.vni))
        if item is None:
            return await self._make(header, report)
        vsubnet_id = item.value.decode()
        old = await read(self._store, records.vsubnets, keys.vsubnet(vsubnet_id))
        if old is None or not takes_header:
            return old.value if old else await self._make(header, report)
        new = replace(
            old.value,
            mtu=header.mtu,
            suite=header.suite,
            prefixes=tuple(header.prefixes),
            policy=_policy(header),
        )
        compares, writes = await self._psks(vsubnet_id, header)
        if new != old.value:
            key = keys.vsubnet(vsubnet_id)
            text = f"vSubnet {new.name} was changed in the time that is lost"
            entry = self._journal.entry("vsubnet_reasserted", text, SYSTEM, vsubnet=new.id)
            compares.append(Compare(key, old.revision))
            writes += [Put(key, records.vsubnets.encode(new)), entry]
        if writes:
            await self._store.commit(compares, writes)
        return new

    async def _make(self, header: wire.VSubnetHeader, report: Report) -> VSubnet:
        """Make a vSubnet that the data lack, with the VNI and the secrets that it had."""
        name = header.name
        if await self._store.get(keys.name("vsubnet", name)):
            name = f"{name[:50]}-{header.vni}"
        vsubnet = VSubnet(
            id=str(uuid.uuid5(_NAMESPACE, str(header.vni))),
            vni=header.vni,
            name=name,
            created_at=self._clock(),
            prefixes=tuple(header.prefixes),
            mtu=header.mtu,
            suite=header.suite,
            policy=_policy(header),
        )
        own_id = vsubnet.id.encode()
        writes: list[Put | Delete] = [
            Put(keys.name("vsubnet", name), own_id),
            Put(keys.vni(vsubnet.vni), own_id),
            Put(keys.vsubnet(vsubnet.id), records.vsubnets.encode(vsubnet)),
        ]
        compares = [Compare(write.key, 0) for write in writes]
        more, psks = await self._psks(vsubnet.id, header)
        entry = self._journal.entry(
            "vsubnet_reasserted",
            f"vSubnet {name} was made in the time that is lost; its members brought it back",
            SYSTEM,
            severity=Severity.WARNING,
            vsubnet=vsubnet.id,
            remedy="its reserved ranges are unknown: set them again if it had any",
        )
        await self._store.commit([*compares, *more], [*writes, *psks, entry])
        report.vsubnets.append(name)
        return vsubnet

    async def _psks(
        self, vsubnet_id: str, header: wire.VSubnetHeader
    ) -> tuple[list[Compare], list[Put | Delete]]:
        """Return what makes the epochs those that the members use, if they are others."""
        key = keys.psks(vsubnet_id)
        old = await read(self._store, records.psks, key)
        epochs = old.value.epochs if old else ()
        here = [(p.epoch, self._epochs.open(vsubnet_id, p.epoch, p.sealed)) for p in epochs]
        if here == [(psk.epoch, psk.key) for psk in header.psks]:
            return [], []
        now = self._clock()
        taken = [
            Psk(
                psk.epoch,
                self._sealed(vsubnet_id, psk),
                now,
                now + PSK_OVERLAP_S if number else 0.0,
            )
            for number, psk in enumerate(header.psks)
        ]
        put = Put(key, records.psks.encode(Psks(vsubnet_id, tuple(taken))))
        return [Compare(key, old.revision if old else 0)], [put]

    def _sealed(self, vsubnet_id: str, psk: wire.Psk) -> str:
        place = seal_place(vsubnet_id, psk.epoch)
        return base64.b64encode(self._sealer.seal(place, base64.b64decode(psk.key))).decode()

    async def _attach(
        self, vsubnet: VSubnet, member: wire.Member, known: Keys, report: Report, is_late: bool
    ) -> None:
        node_id = member.node_id
        node = await read(self._store, records.nodes, keys.node(node_id))
        if node is not None and node.value.state is NodeState.REMOVED:
            return  # an operator was faster
        here = await read(self._store, records.members, keys.member(vsubnet.id, node_id))
        if is_late and here is not None:
            return  # what the cluster has said since counts
        mac, ips = _mac(member), _ips(member)
        places = [keys.mac(vsubnet.id, mac), *(keys.ip(vsubnet.id, ip) for ip in ips)]
        claims = [await read(self._store, records.claims, place) for place in places]
        if is_late and (taken := _taken(places, claims, node_id, self._clock())):
            await self._tell_conflict(vsubnet, member, taken)
            report.conflicts += 1
            return
        compares = [
            Compare(place, claim.revision if claim else 0)
            for place, claim in zip(places, claims, strict=True)
        ]
        held = records.claims.encode(Claim(node_id))
        writes: list[Put | Delete] = [Put(place, held) for place in places]
        if here is not None:
            more, released = await self._released(vsubnet.id, here.value, keep=places)
            compares += more
            writes += released
        role = MemberRole(member.role)
        created = here.value.created_at if here else self._clock()
        made = Member(vsubnet.id, node_id, mac, created, ips, role)
        key = keys.member(vsubnet.id, node_id)
        compares.append(Compare(key, here.revision if here else 0))
        writes.append(Put(key, records.members.encode(made)))
        more, puts = await self._node(member, node, vsubnet.id, known.get(node_id))
        await self._store.commit(
            [*compares, *more], [*writes, *puts, self._attached(vsubnet, member, node, made)]
        )
        report.attached += here is None
        if node is None:
            report.nodes.append(member.name)

    async def _node(
        self,
        member: wire.Member,
        old: Stored[Node] | None,
        vsubnet_id: str,
        own: NodeKeys | None,
    ) -> tuple[list[Compare], list[Put | Delete]]:
        """Return what makes the node and its registration as its peers know it."""
        node_key, registration_key = keys.node(member.node_id), keys.registration(member.node_id)
        node = old.value if old else None
        node = node or Node(
            id=member.node_id,
            name=member.name,
            state=NodeState.APPROVED,
            data_public_key=member.public_key,
            control_key=own.control_key if own else "",  # until it renews its certificate
            created_at=self._clock(),
        )
        node = replace(
            node,
            name=member.name,
            site=member.site,
            state=NodeState.APPROVED,
            data_public_key=member.public_key,
            wanted=tuple(each for each in node.wanted if each != vsubnet_id),
        )
        found = await read(self._store, records.registrations, registration_key)
        registration = found.value if found else Registration(member.node_id)
        newest = max(registration.generation.current, member.generation)
        registration = replace(
            registration,
            generation=Generation(newest, max(registration.generation.offered, newest + 1)),
            sessions_since=member.generation,
            endpoints=tuple(member.endpoints),
            seen_address="",  # it is among the endpoints
        )
        compares = [
            Compare(node_key, old.revision if old else 0),
            Compare(registration_key, found.revision if found else 0),
        ]
        writes: list[Put | Delete] = [
            Put(node_key, records.nodes.encode(node)),
            Put(registration_key, records.registrations.encode(registration)),
        ]
        return compares, writes

    def _attached(
        self, vsubnet: VSubnet, member: wire.Member, node: Stored[Node] | None, made: Member
    ) -> Put:
        lately = "in the time that is lost"
        what = f"had enrolled {lately} and" if node is None else f"is as {lately}:"
        return self._journal.entry(
            "node_reasserted" if node is None else "member_reasserted",
            f"node {member.name} {what} is a member of vSubnet {vsubnet.name}",
            SYSTEM,
            severity=Severity.WARNING if node is None else Severity.INFO,
            node=member.node_id,
            vsubnet=vsubnet.id,
            mac=made.mac,
            ips=", ".join(made.ips),
        )

    async def _tell_conflict(self, vsubnet: VSubnet, member: wire.Member, taken: str) -> None:
        """Write an alarm, once: the node comes again and again until somebody decides."""
        key = keys.reassertion_conflict(vsubnet.id, member.node_id)
        if await self._store.get(key):
            return
        entry = self._journal.entry(
            "reassertion_conflict",
            f"node {member.name} had {taken} in vSubnet {vsubnet.name} in the time that is lost, "
            "and another node has it now: it stays with that one",
            SYSTEM,
            severity=Severity.ALARM,
            node=member.node_id,
            vsubnet=vsubnet.id,
            remedy="give it another address: `cairn member create` for it, without --ip",
        )
        await self._store.commit([Compare(key, 0)], [Put(key, taken.encode()), entry])

    async def _detach(self, vsubnet_id: str, node_id: str, report: Report) -> None:
        member = await read(self._store, records.members, keys.member(vsubnet_id, node_id))
        node = await read(self._store, records.nodes, keys.node(node_id))
        if member is None:
            return
        compares, writes = await self._released(vsubnet_id, member.value, keep=())
        name = node.value.name if node else node_id
        key = keys.member(vsubnet_id, node_id)
        compares.append(Compare(key, member.revision))
        writes.append(Delete(key))
        everywhere = await read_all(self._store, records.members, keys.MEMBERS)
        places = [each.value.vsubnet for each in everywhere if each.value.node == node_id]
        is_last = node is not None and node.value.state is NodeState.APPROVED
        is_last = is_last and places == [vsubnet_id]
        if node is not None and is_last:
            waits = replace(node.value, state=NodeState.PENDING)
            compares.append(Compare(keys.node(node_id), node.revision))
            writes.append(Put(keys.node(node_id), records.nodes.encode(waits)))
        entry = self._journal.entry(
            "member_deleted",
            f"node {name} was taken out of the vSubnet in the time that is lost"
            + (", as of all others: it waits" if is_last else ""),
            SYSTEM,
            severity=Severity.WARNING,
            node=node_id,
            vsubnet=vsubnet_id,
            remedy="if it was removed then: `cairn node delete`" if is_last else "",
        )
        await self._store.commit(compares, [*writes, entry])
        report.detached += 1
        if is_last:
            report.set_aside.append(name)

    async def _released(
        self, vsubnet_id: str, member: Member, keep: Sequence[str]
    ) -> tuple[list[Compare], list[Put | Delete]]:
        """Return what puts a member's addresses in quarantine, where they still are its own."""
        places = [keys.mac(vsubnet_id, member.mac), *(keys.ip(vsubnet_id, ip) for ip in member.ips)]
        value = records.claims.encode(Claim(member.node, self._clock()))
        compares: list[Compare] = []
        writes: list[Put | Delete] = []
        for place in places:
            claim = await read(self._store, records.claims, place)
            if place not in keep and claim is not None and claim.value.node == member.node:
                compares.append(Compare(place, claim.revision))
                writes.append(Put(place, value))
        return compares, writes

    async def _members(self, vsubnet_id: str) -> dict[str, Member]:
        found = await read_all(self._store, records.members, keys.members_of(vsubnet_id))
        return {stored.value.node: stored.value for stored in found}


def _policy(header: wire.VSubnetHeader) -> Policy:
    policy = header.policy
    shared = tuple(policy.shared_ips or ())
    return Policy(policy.bum_pps, policy.bum_burst, policy.ageing_s, policy.offline_trust_s, shared)


def _mac(member: wire.Member) -> str:
    return member.macs[0].lower()


def _ips(member: wire.Member) -> tuple[str, ...]:
    return tuple(str(ipaddress.ip_interface(ip).ip) for ip in member.ips)


def _taken(
    places: Sequence[str], claims: Sequence[Stored[Claim] | None], node: str, now: float
) -> str:
    """Return the address that another node has, or had until lately; nothing where none has."""
    for place, claim in zip(places, claims, strict=True):
        if claim is not None and is_held(claim.value, node, now):
            return keys.last_part(place)
    return ""
