"""Domain values as the operations API shows them.

IDs are shown with the names they have now; what is gone is shown by its ID alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from cairn_appliance.api.ops_v1.models import (
    ActorOut,
    Attachment,
    EventOut,
    LinkOut,
    MemberOut,
    NodeOut,
    NodeRef,
    PolicyModel,
    TokenOut,
    VSubnetOut,
    VSubnetRef,
    moment,
    moment_or_none,
)
from cairn_appliance.domain.event import Event
from cairn_appliance.domain.member import Member
from cairn_appliance.domain.node import Presence
from cairn_appliance.domain.token import Token
from cairn_appliance.domain.vsubnet import VSubnet
from cairn_appliance.services.nodes import NodeView
from cairn_appliance.services.services import Services
from cairn_appliance.services.stored import read_all
from cairn_appliance.store import keys, records


@dataclass(frozen=True, slots=True)
class Names:
    """The names of vSubnets and nodes, to put beside IDs."""

    vsubnets: Mapping[str, VSubnet]
    nodes: Mapping[str, str]

    def vsubnet(self, vsubnet_id: str) -> VSubnetRef:
        """Return the vSubnet with its name and VNI, as far as it is still there."""
        known = self.vsubnets.get(vsubnet_id)
        return VSubnetRef(
            id=vsubnet_id, name=known.name if known else "", vni=known.vni if known else 0
        )

    def node(self, node_id: str) -> NodeRef:
        """Return the node with its name, as far as it is still there."""
        return NodeRef(id=node_id, name=self.nodes.get(node_id, ""))


async def vsubnet_names(services: Services) -> Names:
    """Return the names of all vSubnets."""
    return Names({each.value.id: each.value for each in await services.vsubnets.list()}, {})


async def all_names(services: Services) -> Names:
    """Return the names of all vSubnets and nodes."""
    vsubnets = await vsubnet_names(services)
    nodes = await read_all(services.store, records.nodes, keys.NODES)  # removed ones too
    return Names(vsubnets.vsubnets, {each.value.id: each.value.name for each in nodes})


def vsubnet_out(vsubnet: VSubnet, members: int) -> VSubnetOut:
    """Return a vSubnet with its number of members."""
    return VSubnetOut(
        id=vsubnet.id,
        vni=vsubnet.vni,
        name=vsubnet.name,
        prefixes=list(vsubnet.prefixes),
        reserved=list(vsubnet.reserved),
        mtu=vsubnet.mtu,
        suite=vsubnet.suite,
        policy=PolicyModel(**asdict(vsubnet.policy)),
        members=members,
        created_at=moment(vsubnet.created_at),
    )


def node_out(view: NodeView, names: Names) -> NodeOut:
    """Return a node with its registration, memberships and link."""
    node, registration = view.node, view.registration
    return NodeOut(
        id=node.id,
        name=node.name,
        state=node.state,
        site=node.site,
        labels=node.labels,
        token=node.token,
        created_at=moment(node.created_at),
        registered_at=moment_or_none(registration.registered_at),
        generation=registration.generation.current,
        agent_version=registration.agent_version,
        dataplane_version=registration.dataplane_version,
        offloads=registration.offloads,
        endpoints=list(registration.endpoints),
        seen_address=registration.seen_address,
        machine={name: value for name, value in asdict(registration.facts).items() if value},
        link=_link(view.presence),
        members=[_attachment(member, names) for member in view.members],
        wanted=[names.vsubnet(each) for each in node.wanted],
        removed_at=moment_or_none(node.removed_at),
        removed_why=node.removed_why,
        copy_of=names.node(node.copy_of) if node.copy_of else None,
        frozen_at=moment_or_none(registration.frozen_at),
    )


def member_out(member: Member, names: Names) -> MemberOut:
    """Return a member with the names of its vSubnet and node."""
    return MemberOut(
        vsubnet=names.vsubnet(member.vsubnet),
        node=names.node(member.node),
        mac=member.mac,
        ips=list(member.ips),
        role=member.role,
        created_at=moment(member.created_at),
    )


def token_out(token: Token, names: Names, now: float) -> TokenOut:
    """Return a token; its secret is not known here."""
    used_up = token.uses >= token.max_uses
    return TokenOut(
        id=token.id,
        state="expired" if now >= token.expires_at else "used_up" if used_up else "active",
        vsubnets=[names.vsubnet(each) for each in token.vsubnets],
        uses=token.uses,
        max_uses=token.max_uses,
        expires_at=moment(token.expires_at),
        site=token.site,
        labels=token.labels,
        needs_approval=token.needs_approval,
        sources=list(token.sources),
        instances=list(token.instances),
        created_at=moment(token.created_at),
        created_by=token.created_by,
    )


def event_out(event: Event, names: Names) -> EventOut:
    """Return an event with the names that its node and vSubnet have now."""
    return EventOut(
        id=event.id,
        sequence=event.sequence,
        at=moment(event.at),
        severity=event.severity,
        kind=event.kind,
        text=event.text,
        by=ActorOut(kind=event.by.kind, name=event.by.name, address=event.by.address),
        node=names.node(event.node) if event.node else None,
        vsubnet=names.vsubnet(event.vsubnet) if event.vsubnet else None,
        details=event.details,
    )


def count_by(ids: Iterable[str]) -> dict[str, int]:
    """Return how often each occurs."""
    counts: dict[str, int] = {}
    for each in ids:
        counts[each] = counts.get(each, 0) + 1
    return counts


def _attachment(member: Member, names: Names) -> Attachment:
    return Attachment(
        vsubnet=names.vsubnet(member.vsubnet),
        mac=member.mac,
        ips=list(member.ips),
        role=member.role,
    )


def _link(presence: Presence | None) -> LinkOut | None:
    if presence is None:
        return None
    return LinkOut(
        connected=presence.connected,
        since=moment(presence.since),
        last_seen=moment(presence.last_seen),
        replica=presence.replica,
        loaded_revision=presence.loaded_revision,
        refused=presence.refused,
    )
