"""LAN segments: make, change, attach gateways, stop, delete.

A port of a node, or one VLAN of it, belongs to one segment at most: a key of its own guards
that. A gateway's membership in the vSubnet comes and goes with its place in the segment.
"""

from __future__ import annotations

import base64
import builtins
import logging
import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from cairn_appliance.domain.cluster import SEGMENTS_FORMAT
from cairn_appliance.domain.errors import CairnError, Changed, Clash, NotFound
from cairn_appliance.domain.event import Severity
from cairn_appliance.domain.identity import SYSTEM, Actor, checked_name
from cairn_appliance.domain.member import Member, MemberRole
from cairn_appliance.domain.node import Node, NodeState
from cairn_appliance.domain.segment import (
    DUTIES_MAX,
    Gateway,
    Guards,
    Preference,
    ProbeKey,
    Segment,
    checked_guards,
    checked_port,
    checked_vlan,
)
from cairn_appliance.domain.vsubnet import VSubnet
from cairn_appliance.pki.sealing import Sealer
from cairn_appliance.services.addressing import Addressing
from cairn_appliance.services.attachments import segments_of
from cairn_appliance.services.clock import Clock, wall_clock
from cairn_appliance.services.commit import until_committed
from cairn_appliance.services.directory import find_node
from cairn_appliance.services.events import Journal
from cairn_appliance.services.formats import check_writable
from cairn_appliance.services.members import check_joinable
from cairn_appliance.services.restoration import Restoration
from cairn_appliance.services.stored import Stored, read, read_all
from cairn_appliance.services.vsubnets import VSubnets
from cairn_appliance.store import keys, records
from cairn_appliance.store.port import MAX_WRITES, Compare, Delete, Put, Store

log = logging.getLogger(__name__)

_KEY_OCTETS = 32


@dataclass(frozen=True, slots=True)
class SegmentOrder:
    """A segment to be; its gateways are attached one by one."""

    name: str
    vsubnet: str  # name, ID or VNI
    preference: Preference = Preference.SAFETY
    guards: Guards = field(default_factory=Guards)


@dataclass(frozen=True, slots=True)
class SegmentChange:
    """What is to change; None: stays."""

    name: str | None = None
    preference: Preference | None = None
    guards: Guards | None = None


class ProbeKeys:
    """Draws, seals and opens what authenticates the loop probes of a vSubnet."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def new(self, vsubnet: str) -> ProbeKey:
        """Return a new one."""
        sealed = self._sealer.seal(_seal_place(vsubnet), os.getrandom(_KEY_OCTETS))
        return ProbeKey(vsubnet, base64.b64encode(sealed).decode())

    def open(self, vsubnet: str, sealed: str) -> str:
        """Return the key in base64, for the gateways' documents; raise SealBroken."""
        octets = self._sealer.open(_seal_place(vsubnet), base64.b64decode(sealed))
        return base64.b64encode(octets).decode()


class Segments:
    """All there is to do with segments and which gateways they have."""

    def __init__(
        self,
        store: Store,
        vsubnets: VSubnets,
        addressing: Addressing,
        probe_keys: ProbeKeys,
        journal: Journal,
        clock: Clock = wall_clock,
        restoration: Restoration | None = None,
    ) -> None:
        self._store = store
        self._vsubnets = vsubnets
        self._addressing = addressing
        self._probe_keys = probe_keys
        self._journal = journal
        self._clock = clock
        self._restoration = restoration or Restoration(store, clock)

    async def create(self, order: SegmentOrder, by: Actor) -> Stored[Segment]:
        """Return the new segment, without gateways; raise Invalid, NotFound, Clash."""
        self._restoration.check_open()
        await check_writable(self._store, SEGMENTS_FORMAT, "a segment")
        draft = Segment(
            id=str(uuid.UUID(bytes=os.getrandom(16), version=4)),
            name=checked_name(order.name, "segment"),
            vsubnet=(await self._vsubnets.get(order.vsubnet)).value.id,
            created_at=self._clock(),
            preference=order.preference,
            guards=checked_guards(order.guards),
        )
        return await until_committed(lambda: self._create(draft, by))

    async def _create(self, segment: Segment, by: Actor) -> Stored[Segment]:
        vsubnet = await self._vsubnets.get(segment.vsubnet)
        if vsubnet.value.closed:
            raise Clash(f"vSubnet {vsubnet.value.name} is being deleted or renumbered")
        name_key = keys.name("segment", segment.name)
        if await self._store.get(name_key):
            raise _name_taken(segment.name)
        compares = [
            Compare(keys.vsubnet(segment.vsubnet), vsubnet.revision),
            Compare(name_key, 0),
            Compare(keys.segment(segment.id), 0),
        ]
        writes = [
            Put(name_key, segment.id.encode()),
            Put(keys.segment(segment.id), records.segments.encode(segment)),
        ]
        key = keys.probe_key(segment.vsubnet)
        if not await self._store.get(key):
            compares.append(Compare(key, 0))
            writes.append(
                Put(key, records.probe_keys.encode(self._probe_keys.new(segment.vsubnet)))
            )
        text = f"segment {segment.name} of vSubnet {vsubnet.value.name} was created"
        entry = self._entry("segment_created", text, by, segment)
        return Stored(segment, await self._store.commit(compares, [*writes, entry]))

    async def list(self) -> tuple[Stored[Segment], ...]:
        """Return all segments by name."""
        found = await read_all(self._store, records.segments, keys.SEGMENTS)
        return tuple(sorted(found, key=lambda stored: stored.value.name.casefold()))

    async def get(self, reference: str) -> Stored[Segment]:
        """Return the segment with this name or ID; raise NotFound."""
        segment_id = await self._id_of(reference)
        found = segment_id and await read(self._store, records.segments, keys.segment(segment_id))
        if not found:
            raise NotFound(
                f"there is no segment {reference[:80]!r}", "look at `cairn gateway segment list`"
            )
        return found

    async def change(
        self, reference: str, change: SegmentChange, by: Actor, *, expected: int | None = None
    ) -> Stored[Segment]:
        """Return the segment after the change; raise NotFound, Invalid, Clash, Changed."""
        return await until_committed(lambda: self._change(reference, change, by, expected))

    async def _change(
        self, reference: str, change: SegmentChange, by: Actor, expected: int | None
    ) -> Stored[Segment]:
        old = await self.get(reference)
        _check_expected(old, expected)
        was = old.value
        new = replace(
            was,
            name=was.name if change.name is None else checked_name(change.name, "segment"),
            preference=change.preference or was.preference,
            guards=was.guards if change.guards is None else checked_guards(change.guards),
        )
        if new == was:
            return old
        compares: builtins.list[Compare] = []
        writes: builtins.list[Put | Delete] = []
        old_name, new_name = keys.name("segment", was.name), keys.name("segment", new.name)
        if old_name != new_name:
            if await self._store.get(new_name):
                raise _name_taken(new.name)
            compares.append(Compare(new_name, 0))
            writes += [Delete(old_name), Put(new_name, new.id.encode())]
        fields = ", ".join(
            each for each in new.__slots__ if getattr(was, each) != getattr(new, each)
        )
        text = f"segment {new.name} was changed"
        entry = self._entry("segment_changed", text, by, new, fields=fields)
        return await self._replace(old, new, compares, [*writes, entry])

    async def delete(self, reference: str, by: Actor, *, expected: int | None = None) -> None:
        """Delete a segment without gateways; raise NotFound, Clash (has gateways), Changed."""
        await until_committed(lambda: self._delete(reference, by, expected))

    async def _delete(self, reference: str, by: Actor, expected: int | None) -> None:
        old = await self.get(reference)
        _check_expected(old, expected)
        segment = old.value
        if segment.gateways:
            raise Clash(
                f"segment {segment.name} has {len(segment.gateways)} gateways",
                "detach them first (`cairn gateway detach`)",
                code="has_gateways",
            )
        text = f"segment {segment.name} was deleted"
        writes: builtins.list[Put | Delete] = [
            Delete(keys.segment(segment.id)),
            Delete(keys.name("segment", segment.name)),
            Delete(keys.forwarding(segment.id)),
            self._entry("segment_deleted", text, by, segment),
        ]
        await self._store.commit([Compare(keys.segment(segment.id), old.revision)], writes)
        await self._forget(keys.stations_of(segment.id))
        await self._forget(keys.troubles_of(segment.id))

    async def attach(
        self, reference: str, node: str, port: str, vlan: int, by: Actor
    ) -> Stored[Segment]:
        """Return the segment with the node as one more gateway, by this port.

        The node becomes a member of the vSubnet with a MAC and no addresses. The same again
        changes nothing. Raise NotFound, Invalid, Clash.
        """
        self._restoration.check_open()
        gateway = Gateway("", checked_port(port), checked_vlan(vlan), self._clock())
        return await until_committed(lambda: self._attach(reference, node, gateway, by))

    async def _attach(
        self, reference: str, node_reference: str, place: Gateway, by: Actor
    ) -> Stored[Segment]:
        old, node = await self.get(reference), await find_node(self._store, node_reference)
        segment, gateway = old.value, replace(place, node=node.value.id)
        known = segment.gateway(gateway.node)
        if known and (known.port, known.vlan) == (gateway.port, gateway.vlan):
            return old
        vsubnet = await self._vsubnets.get(segment.vsubnet)
        check_joinable(node.value, vsubnet.value)
        await self._check_other_duties(segment, node.value)
        new = segment.with_gateway(gateway)
        port_key = keys.segment_port(gateway.node, gateway.port, gateway.vlan)
        await self._check_port(port_key, gateway, node.value)
        compares, writes = await self._membership(vsubnet, node.value)
        compares += [
            Compare(keys.node(gateway.node), node.revision),
            Compare(keys.vsubnet(segment.vsubnet), vsubnet.revision),
            Compare(port_key, 0),
        ]
        text = f"node {node.value.name} became a gateway of segment {segment.name}"
        entry = self._entry(
            "gateway_attached",
            text,
            by,
            new,
            gateway.node,
            port=gateway.port,
            vlan=str(gateway.vlan),
        )
        return await self._replace(
            old, new, compares, [*writes, Put(port_key, segment.id.encode()), entry]
        )

    async def detach(
        self, reference: str, node: str, by: Actor, *, expected: int | None = None
    ) -> Stored[Segment]:
        """Return the segment without this gateway, which is no member any more; NotFound.

        Where it forwards at that moment it is not confirmed again, and another is granted the
        segment when its right has run out for certain (domain/forwarding.py).
        """
        return await until_committed(lambda: self._detach(reference, node, by, expected))

    async def _detach(
        self, reference: str, node_reference: str, by: Actor, expected: int | None
    ) -> Stored[Segment]:
        old, node = await self.get(reference), await find_node(self._store, node_reference)
        _check_expected(old, expected)
        gateway = old.value.gateway(node.value.id)
        new = old.value.without_gateway(node.value.id)
        assert gateway is not None  # or it had been NotFound
        compares: builtins.list[Compare] = []
        writes: builtins.list[Put | Delete] = [
            Delete(keys.segment_port(gateway.node, gateway.port, gateway.vlan))
        ]
        member_key = keys.member(new.vsubnet, gateway.node)
        member = await read(self._store, records.members, member_key)
        if member:
            rotation = await self._vsubnets.rotation(new.vsubnet)
            compares += [Compare(member_key, member.revision), rotation.compare]
            released = self._addressing.release(
                new.vsubnet, gateway.node, member.value.mac, member.value.ips
            )
            writes += [Delete(member_key), rotation.put, *released]
        text = f"node {node.value.name} is no gateway of segment {new.name} any more"
        entry = self._entry("gateway_detached", text, by, new, gateway.node, port=gateway.port)
        return await self._replace(old, new, compares, [*writes, entry])

    async def set_bridging(
        self, reference: str, by: Actor, *, is_bridging: bool
    ) -> Stored[Segment]:
        """Stop what crosses between LAN and vSubnet, or let it go on; the bridges stay."""

        async def attempt() -> Stored[Segment]:
            old = await self.get(reference)
            new = replace(old.value, is_bridging=is_bridging)
            if new == old.value:
                return old
            kind, word = ("resumed", "goes on") if is_bridging else ("stopped", "was stopped")
            text = f"bridging of segment {new.name} {word}"
            severity = Severity.INFO if is_bridging else Severity.WARNING
            entry = self._entry(f"bridging_{kind}", text, by, new, severity=severity)
            return await self._replace(old, new, [], [entry])

        return await until_committed(attempt)

    async def tidy(self) -> None:
        """Take out gateways whose nodes are gone, and records of segments that are."""
        segments = await self.list()
        for stored in segments:
            for gateway in stored.value.gateways:
                node = await read(self._store, records.nodes, keys.node(gateway.node))
                if node is None or node.value.state is not NodeState.REMOVED:
                    continue
                try:
                    await self.detach(stored.value.id, gateway.node, SYSTEM)
                except CairnError as error:
                    log.warning("gateway stays segment=%s reason=%s", stored.value.id, error)
        known = {stored.value.id for stored in segments}
        for item in (await self._store.list(keys.FORWARDINGS)).items:
            if keys.last_part(item.key) not in known:
                await self._store.commit([Compare(item.key, item.revision)], [Delete(item.key)])

    async def _membership(
        self, vsubnet: Stored[VSubnet], node: Node
    ) -> tuple[builtins.list[Compare], builtins.list[Put | Delete]]:
        """Return what makes the node a member with a MAC and no addresses, unless it is."""
        key = keys.member(vsubnet.value.id, node.id)
        member = await read(self._store, records.members, key)
        if member is not None:
            _check_gateway_member(member.value, vsubnet.value, node)
            # Written again as it is: two segments that want the node at once meet here.
            same = Put(key, records.members.encode(member.value))
            return [Compare(key, member.revision)], [same]
        claiming = await self._addressing.plan_mac(vsubnet.value, node.id)
        new = Member(vsubnet.value.id, node.id, claiming.mac, self._clock(), (), MemberRole.GATEWAY)
        put = Put(key, records.members.encode(new))
        return [Compare(key, 0), *claiming.compares], [put, *claiming.writes]

    async def _check_other_duties(self, segment: Segment, node: Node) -> None:
        duties = await segments_of(self._store, node.id)
        for other in duties:
            if other.vsubnet == segment.vsubnet and other.id != segment.id:
                raise Clash(
                    f"node {node.name} is a gateway of segment {other.name} of the same vSubnet: "
                    "two LANs on one vSubnet need two nodes",
                    "attach another node, or bridge the two LANs on the LAN side",
                    code="is_gateway",
                )
        if len(duties) >= DUTIES_MAX:
            raise Clash(f"node {node.name} is a gateway of {DUTIES_MAX} segments, the most it can")

    async def _check_port(self, port_key: str, gateway: Gateway, node: Node) -> None:
        taken = await self._store.get(port_key)
        if taken is None:
            return
        other = await read(self._store, records.segments, keys.segment(taken.value.decode()))
        tag = f"VLAN {gateway.vlan} of it" if gateway.vlan else "without a tag"
        raise Clash(
            f"{gateway.port} of node {node.name}, {tag}, belongs to segment "
            f"{other.value.name if other else '?'}",
            "choose another port or VLAN, or detach it there",
            code="port_taken",
        )

    async def _replace(
        self,
        old: Stored[Segment],
        new: Segment,
        compares: Sequence[Compare],
        writes: Sequence[Put | Delete],
    ) -> Stored[Segment]:
        key = keys.segment(new.id)
        put = Put(key, records.segments.encode(new))
        revision = await self._store.commit([Compare(key, old.revision), *compares], [put, *writes])
        return Stored(new, revision)

    async def _forget(self, prefix: str) -> None:
        items = (await self._store.list(prefix)).items
        for start in range(0, len(items), MAX_WRITES):
            deletes = [Delete(item.key) for item in items[start : start + MAX_WRITES]]
            await self._store.commit([], deletes)

    async def _id_of(self, reference: str) -> str:
        try:
            item = await self._store.get(keys.name("segment", reference))
        except ValueError:
            return ""
        if item is not None:
            return item.value.decode()
        try:
            return str(uuid.UUID(reference))
        except ValueError:
            return ""

    def _entry(
        self,
        kind: str,
        text: str,
        by: Actor,
        segment: Segment,
        node: str = "",
        *,
        severity: Severity = Severity.INFO,
        **details: str,
    ) -> Put:
        details["segment"] = segment.id
        return self._journal.entry(
            kind, text, by, severity=severity, node=node, vsubnet=segment.vsubnet, **details
        )


def _seal_place(vsubnet: str) -> str:
    return f"probe-key/{vsubnet}"


def _check_gateway_member(member: Member, vsubnet: VSubnet, node: Node) -> None:
    """Raise Clash for a member that has a life of its own in the vSubnet."""
    if member.role is MemberRole.GATEWAY and not member.ips:
        return
    has = f" with {', '.join(member.ips)}" if member.ips else ""
    raise Clash(
        f"node {node.name} is a {member.role} in vSubnet {vsubnet.name} already{has}: a gateway "
        "has no addresses of its own there",
        f"use another node, or take this one out first (`cairn member delete {vsubnet.name} "
        f"{node.name}`); what it serves in the vSubnet ends by that",
        code="is_member",
    )


def _check_expected(stored: Stored[Segment], expected: int | None) -> None:
    if expected is not None and stored.revision != expected:
        raise Changed(f"segment {stored.value.name} was changed meanwhile")


def _name_taken(name: str) -> Clash:
    return Clash(f"there is a segment {name!r} already", "choose another name", code="name_taken")
