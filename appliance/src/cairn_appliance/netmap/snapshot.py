"""The objects that netmaps are made of, as of one revision."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from cairn_appliance.domain.cluster import Appliance
from cairn_appliance.domain.member import Member
from cairn_appliance.domain.node import Node, NodeState, Registration
from cairn_appliance.domain.segment import Preflight, ProbeKey, Segment
from cairn_appliance.domain.soundness import flaw_of
from cairn_appliance.domain.trust import Trust
from cairn_appliance.domain.vsubnet import Psks, VSubnet
from cairn_appliance.store import keys, records
from cairn_appliance.store.codec import Codec
from cairn_appliance.store.port import Delete, Events, Item, Reset

log = logging.getLogger(__name__)

_CODECS: dict[str, Codec[Any]] = {
    keys.APPLIANCES: records.appliances,
    keys.NODES: records.nodes,
    keys.REGISTRATIONS: records.registrations,
    keys.VSUBNETS: records.vsubnets,
    keys.PSKS: records.psks,
    keys.MEMBERS: records.members,
    keys.TRUST: records.trust,
    keys.SEGMENTS: records.segments,
    keys.PROBE_KEYS: records.probe_keys,
    keys.PREFLIGHTS: records.preflights,
}


@dataclass(slots=True)
class Touched:
    """Which documents a change may have changed."""

    headers: set[str] = field(default_factory=set)  # vSubnet IDs
    members: set[tuple[str, str]] = field(default_factory=set)  # vSubnet ID, node ID
    nodes: set[str] = field(default_factory=set)  # node IDs
    trust: bool = False


class Snapshot:
    """All appliances, nodes, vSubnets, members, segments and keys at `revision`."""

    def __init__(self) -> None:
        self.revision = 0
        self.appliances: dict[str, Appliance] = {}
        self.nodes: dict[str, Node] = {}
        self.registrations: dict[str, Registration] = {}
        self.vsubnets: dict[str, VSubnet] = {}
        self.psks: dict[str, Psks] = {}
        self.trust: Trust | None = None
        self.segments: dict[str, Segment] = {}
        self.probe_keys: dict[str, ProbeKey] = {}  # by vSubnet
        self._duties: dict[str, set[str]] = {}  # node -> segments
        self._preflights: dict[str, dict[str, Preflight]] = {}  # by node, by task
        self._members: dict[str, dict[str, Member]] = {}  # by vSubnet, by node
        self._places: dict[str, set[str]] = {}  # node -> vSubnets
        self._versions: dict[str, tuple[int, int]] = {}  # key -> created, last written
        self.flaws: dict[str, str] = {}  # key -> why its value is left out though it can be read

    def has(self, key: str) -> bool:
        """True while the store has the key, readable or not."""
        return key in self._versions

    def appliances_by_name(self) -> list[Appliance]:
        """Return the appliances in the same order at every replica."""
        return [self.appliances[name] for name in sorted(self.appliances)]

    def agents(self) -> dict[str, str]:
        """Return name -> agent version of the nodes that are part of it."""
        found = {}
        for node in self.nodes.values():
            registration = self.registrations.get(node.id)
            if node.state is NodeState.APPROVED and registration and registration.agent_version:
                found[node.name] = registration.agent_version
        return found

    def members_of(self, vsubnet: str) -> dict[str, Member]:
        """Return a vSubnet's members by node ID."""
        return self._members.get(vsubnet, {})

    def vsubnets_of(self, node: str) -> set[str]:
        """Return the IDs of the vSubnets that the node is a member of."""
        return self._places.get(node, set())

    def segments_of(self, node: str) -> list[Segment]:
        """Return the segments that the node is a gateway of, in the same order everywhere."""
        return [self.segments[each] for each in sorted(self._duties.get(node, ()))]

    def preflights_of(self, node: str) -> list[Preflight]:
        """Return the pre-flights that wait for the node."""
        tasks = self._preflights.get(node, {})
        return [tasks[each] for each in sorted(tasks)]

    def joined_at(self, vsubnet: str, node: str) -> int:
        """Return the revision at which the node became a member."""
        return self._versions.get(keys.member(vsubnet, node), (0, 0))[0]

    def written_at(self, key: str) -> int:
        """Return the revision of a key's last write; 0 where there is no such key."""
        return self._versions.get(key, (0, 0))[1]

    @property
    def trust_at(self) -> int:
        """The revision of the cluster's keys; 0 while none was ever replaced."""
        return self.written_at(keys.TRUST)

    def changed_at(self, vsubnet: str) -> int:
        """Return a revision since which the vSubnet's document has not changed, nor its signature.

        Deletions leave no key behind, but each of a member starts a new epoch, which does.
        """
        places = [keys.vsubnet(vsubnet), keys.psks(vsubnet), keys.TRUST]
        for node in self.members_of(vsubnet):
            places += [keys.member(vsubnet, node), keys.node(node), keys.registration(node)]
        return max(map(self.written_at, places))

    def apply(self, change: Reset | Events) -> Touched:
        """Take a change over and return what it may have changed.

        A Reset is applied as the difference, so that what stayed the same is not touched.
        """
        touched = Touched()
        for write in (
            self._differences(change) if isinstance(change, Reset) else change.puts_and_deletes
        ):
            if isinstance(write, Delete):
                self._delete(write.key, touched)
            else:
                self._put(write, touched)
        self.revision = max(self.revision, change.revision)
        return touched

    def _differences(self, reset: Reset) -> Iterator[Item | Delete]:
        present = {item.key for item in reset.items}
        for key in [key for key in self._versions if key not in present]:
            yield Delete(key)
        for item in reset.items:
            if self._versions.get(item.key) != (item.created, item.revision):
                yield item

    def _put(self, item: Item, touched: Touched) -> None:
        self._versions[item.key] = (item.created, item.revision)
        prefix = _prefix_of(item.key)
        values = [each for each in _values_of(prefix, item) if self._is_sound(item, each)]
        if not values:
            # What is broken is left out, as if it were not there; quarantine or `flaws` have it.
            self._forget(item.key, touched)
        for value in values:
            self._set(value, touched)

    def _is_sound(self, item: Item, value: object) -> bool:
        """Return whether netmaps can be made of a value; note what is wrong with it."""
        self.flaws.pop(item.key, None)
        own_key = _key_of(value)
        flaw = flaw_of(value) if own_key == item.key else f"it belongs to {own_key}"
        if flaw:
            self.flaws[item.key] = flaw
            log.error("object can't be and is left out key=%s reason=%s", item.key, flaw)
        return not flaw

    def _set(self, value: object, touched: Touched) -> None:
        match value:
            case Appliance():
                self.appliances[value.name] = value
                touched.nodes.update(self.nodes)
            case Node():
                self.nodes[value.id] = value
                self._touch_node(value.id, touched)
                self._touch_fellows(value.id, touched)
            case Registration():
                self.registrations[value.node] = value
                self._touch_node(value.node, touched)
            case VSubnet():
                old = self.vsubnets.get(value.id)
                self.vsubnets[value.id] = value
                self._touch_vsubnet(value.id, touched, also_members=_renumbered(old, value))
            case Trust():
                self.trust = value
                touched.trust = True
                touched.nodes.update(self.nodes)
            case Psks():
                self.psks[value.vsubnet] = value
                touched.headers.add(value.vsubnet)
            case Member():
                self._members.setdefault(value.vsubnet, {})[value.node] = value
                self._places.setdefault(value.node, set()).add(value.vsubnet)
                touched.members.add((value.vsubnet, value.node))
                touched.nodes.add(value.node)
                self._touch_fellows(value.node, touched)
            case Segment() | ProbeKey() | Preflight():
                self._set_for_gateways(value, touched)

    def _set_for_gateways(self, value: Segment | ProbeKey | Preflight, touched: Touched) -> None:
        match value:
            case Segment():
                self._set_segment(value, touched)
            case ProbeKey():
                self.probe_keys[value.vsubnet] = value
                for segment in self.segments.values():
                    if segment.vsubnet == value.vsubnet:
                        touched.nodes.update(segment.nodes)
            case Preflight():
                self._preflights.setdefault(value.node, {})[value.task] = value
                touched.nodes.add(value.node)

    def _set_segment(self, segment: Segment, touched: Touched) -> None:
        self._forget_segment(segment.id, touched)
        self.segments[segment.id] = segment
        for node in segment.nodes:
            self._duties.setdefault(node, set()).add(segment.id)
        touched.nodes.update(segment.nodes)

    def _forget_segment(self, segment_id: str, touched: Touched) -> None:
        old = self.segments.pop(segment_id, None)
        for node in old.nodes if old else ():
            duties = self._duties[node]
            duties.discard(segment_id)
            if not duties:
                del self._duties[node]
            touched.nodes.add(node)

    def _forget_preflight(self, node: str, task: str, touched: Touched) -> None:
        tasks = self._preflights.get(node, {})
        if tasks.pop(task, None) is not None:
            touched.nodes.add(node)
        if not tasks:
            self._preflights.pop(node, None)

    def _touch_fellows(self, node: str, touched: Touched) -> None:
        """Touch the gateways that share a segment with the node: they are told of each other."""
        for segment in self.segments_of(node):
            touched.nodes.update(segment.nodes)

    def _delete(self, key: str, touched: Touched) -> None:
        self._versions.pop(key, None)
        records.quarantine.release(key)
        self.flaws.pop(key, None)
        self._forget(key, touched)

    def _forget(self, key: str, touched: Touched) -> None:
        name = keys.last_part(key)
        prefix = _prefix_of(key)
        if prefix == keys.MEMBERS:
            vsubnet = keys.last_part(key.removesuffix("/" + name))
            self._forget_member(vsubnet, name, touched)
            return
        if prefix == keys.SEGMENTS:
            self._forget_segment(name, touched)
            return
        if prefix == keys.PREFLIGHTS:
            self._forget_preflight(keys.last_part(key.removesuffix("/" + name)), name, touched)
            return
        holders: dict[str, dict[str, Any]] = {
            keys.APPLIANCES: self.appliances,
            keys.NODES: self.nodes,
            keys.REGISTRATIONS: self.registrations,
            keys.VSUBNETS: self.vsubnets,
            keys.PSKS: self.psks,
            keys.PROBE_KEYS: self.probe_keys,
        }
        if holders.get(prefix, {}).pop(name, None) is None:
            return
        if prefix == keys.APPLIANCES:
            touched.nodes.update(self.nodes)
        elif prefix in (keys.NODES, keys.REGISTRATIONS):
            self._touch_node(name, touched)
        else:
            self._touch_vsubnet(name, touched, also_members=prefix == keys.VSUBNETS)

    def _forget_member(self, vsubnet: str, node: str, touched: Touched) -> None:
        if not self._members.get(vsubnet, {}).pop(node, None):
            return
        if not self._members[vsubnet]:
            del self._members[vsubnet]
        places = self._places[node]
        places.discard(vsubnet)
        if not places:
            del self._places[node]
        touched.members.add((vsubnet, node))
        touched.nodes.add(node)
        self._touch_fellows(node, touched)

    def _touch_node(self, node: str, touched: Touched) -> None:
        touched.nodes.add(node)
        touched.members.update((vsubnet, node) for vsubnet in self.vsubnets_of(node))

    def _touch_vsubnet(self, vsubnet: str, touched: Touched, *, also_members: bool) -> None:
        touched.headers.add(vsubnet)
        if also_members:
            members = self.members_of(vsubnet)
            touched.members.update((vsubnet, node) for node in members)
            touched.nodes.update(members)


def _values_of(prefix: str, item: Item) -> list[object]:
    """Return the item's value, or nothing where it is broken or none of ours."""
    codec = _CODECS.get(prefix)
    return list(codec.decode_all([item], records.quarantine)) if codec else []


def _key_of(value: object) -> str:
    """Return where a value belongs; empty where its parts can be no key."""
    try:
        return _place_of(value)
    except ValueError:
        return ""


def _place_of(value: object) -> str:
    match value:
        case Appliance():
            return keys.appliance(value.name)
        case Node():
            return keys.node(value.id)
        case Registration():
            return keys.registration(value.node)
        case VSubnet():
            return keys.vsubnet(value.id)
        case Psks():
            return keys.psks(value.vsubnet)
        case Member():
            return keys.member(value.vsubnet, value.node)
        case Segment():
            return keys.segment(value.id)
        case ProbeKey():
            return keys.probe_key(value.vsubnet)
        case Preflight():
            return keys.preflight(value.node, value.task)
        case _:
            return keys.TRUST


def _prefix_of(key: str) -> str:
    return next((prefix for prefix in _CODECS if key.startswith(prefix)), "")


def _renumbered(old: VSubnet | None, new: VSubnet) -> bool:
    """True where the members' entries or their nodes' documents follow from the change."""
    return old is None or (old.prefixes, old.vni) != (new.prefixes, new.vni)
