"""Domain objects -> the documents of cairn_agent.protocol.netmap."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from typing import TypeGuard

from cairn_agent.protocol import gateway
from cairn_agent.protocol import netmap as wire
from msgspec import UNSET

from cairn_appliance.domain.cluster import Cluster
from cairn_appliance.domain.member import MemberRole
from cairn_appliance.domain.node import Node, NodeState
from cairn_appliance.domain.segment import Segment
from cairn_appliance.domain.trust import Trust
from cairn_appliance.domain.vsubnet import VSubnet
from cairn_appliance.netmap.snapshot import Snapshot
from cairn_appliance.pki.authority import key_id_of

OpenProbeKey = Callable[[str, str], str]  # vSubnet ID, sealed -> base64; "" where it can't be
OpenPsk = Callable[[str, int, str], str]  # vSubnet ID, epoch, sealed -> base64 of 32 octets


def header(snapshot: Snapshot, vsubnet: VSubnet, open_psk: OpenPsk) -> wire.VSubnetHeader:
    """Return what holds for the vSubnet as a whole."""
    psks = snapshot.psks.get(vsubnet.id)
    epochs = psks.epochs if psks else ()
    policy = vsubnet.policy
    return wire.VSubnetHeader(
        vni=vsubnet.vni,
        name=vsubnet.name,
        suite=vsubnet.suite,
        mtu=vsubnet.mtu,
        prefixes=list(vsubnet.prefixes),
        psks=[wire.Psk(psk.epoch, open_psk(vsubnet.id, psk.epoch, psk.sealed)) for psk in epochs],
        policy=wire.Policy(
            policy.bum_pps,
            policy.bum_burst,
            policy.ageing_s,
            policy.offline_trust_s,
            list(policy.shared_ips) or UNSET,
        ),
    )


def member(snapshot: Snapshot, vsubnet: VSubnet, node_id: str) -> wire.Member | None:
    """Return a member as its peers must know it; None unless it is one, of an approved node."""
    found = snapshot.members_of(vsubnet.id).get(node_id)
    node = snapshot.nodes.get(node_id)
    if found is None or not is_approved(node):
        return None
    registration = snapshot.registrations.get(node_id)
    return wire.Member(
        node_id=node_id,
        name=node.name,
        site=node.site,
        role=found.role.value,
        public_key=node.data_public_key,
        macs=[found.mac],
        ips=[_with_length(vsubnet, ip) for ip in found.ips],
        endpoints=list(registration.candidates) if registration else [],
        generation=registration.sessions_since if registration else 0,
    )


def node_document(
    snapshot: Snapshot, node: Node, cluster: Cluster, open_probe_key: OpenProbeKey
) -> wire.NodeDocument:
    """Return what concerns the node alone; one that is not approved is in no vSubnet."""
    places = snapshot.vsubnets_of(node.id) if is_approved(node) else ()
    vnis = (snapshot.vsubnets[each].vni for each in places if each in snapshot.vsubnets)
    return wire.NodeDocument(
        node_id=node.id,
        name=node.name,
        site=node.site,
        vnis=sorted(vnis),
        appliances=list(cluster.appliances),
        settings=wire.Settings(heartbeat_s=cluster.word_every_s(len(snapshot.appliances))),
        gateways=_duties(snapshot, node.id, open_probe_key),
        preflights=_preflights(snapshot, node.id) if is_approved(node) else [],
    )


def serving(snapshot: Snapshot, segment: Segment) -> tuple[str, ...]:
    """Return the gateways that may take part in a segment: approved nodes, still members."""
    members = snapshot.members_of(segment.vsubnet)
    return tuple(
        node
        for node in segment.nodes
        if is_approved(snapshot.nodes.get(node))
        and node in members
        and members[node].role is MemberRole.GATEWAY
    )


def _duties(
    snapshot: Snapshot, node_id: str, open_probe_key: OpenProbeKey
) -> list[gateway.GatewayDuty]:
    duties = (
        _duty(snapshot, each, node_id, open_probe_key) for each in snapshot.segments_of(node_id)
    )
    return [duty for duty in duties if duty]


def _duty(
    snapshot: Snapshot, segment: Segment, node_id: str, open_probe_key: OpenProbeKey
) -> gateway.GatewayDuty | None:
    """Return a node's part in a segment; None where it has none: it must not bridge then."""
    place, vsubnet = segment.gateway(node_id), snapshot.vsubnets.get(segment.vsubnet)
    sealed, gateways = snapshot.probe_keys.get(segment.vsubnet), serving(snapshot, segment)
    if place is None or vsubnet is None or sealed is None or node_id not in gateways:
        return None
    key = open_probe_key(segment.vsubnet, sealed.sealed)
    if not key:
        return None
    guards = segment.guards
    return gateway.GatewayDuty(
        segment=segment.id,
        name=segment.name,
        vni=vsubnet.vni,
        port=place.port,
        vlan=place.vlan,
        key=key,
        gateways=list(gateways),
        preference=segment.preference.value,
        guards=gateway.Guards(
            dhcp=guards.dhcp,
            router_advertisements=guards.router_advertisements,
            silent_hosts=list(guards.silent_hosts),
            mac_limit=guards.mac_limit,
            bum_pps=guards.bum_pps,
            source_bum_pps=guards.source_bum_pps,
        ),
        is_bridging=segment.is_bridging,
    )


def _preflights(snapshot: Snapshot, node_id: str) -> list[gateway.PreflightTask]:
    return [
        gateway.PreflightTask(
            each.task, each.port, each.vlan, snapshot.vsubnets[each.vsubnet].vni, each.listen_s
        )
        for each in snapshot.preflights_of(node_id)
        if each.vsubnet in snapshot.vsubnets
    ]


def trust_document(trust: Trust) -> wire.TrustDocument:
    """Return whom all nodes are to trust."""
    keys, authorities = trust.map_keys, trust.authorities
    return wire.TrustDocument(
        authorities=list(authorities.believed),
        issuer=key_id_of(authorities.issuer.public),
        map_key=keys.current.public,
        next_map_key=keys.next.public if keys.next else "",
        renew_within_s=authorities.renew_within_s,
    )


def successions(trust: Trust) -> list[wire.Succession]:
    """Return how the map key of now came to be, and which one follows it."""
    chain = trust.map_keys.successions
    return [wire.Succession(each.old, each.new, each.signature) for each in chain]


def is_approved(node: Node | None) -> TypeGuard[Node]:
    """True for a node that may take part in vSubnets."""
    return node is not None and node.state is NodeState.APPROVED


def _with_length(vsubnet: VSubnet, ip: str) -> str:
    address = ipaddress.ip_address(ip)
    for network in vsubnet.networks:
        if address.version == network.version and address in network:
            return f"{ip}/{network.prefixlen}"
    return f"{ip}/{address.max_prefixlen}"
