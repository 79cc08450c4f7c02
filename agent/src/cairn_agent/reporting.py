"""Makes the report of a running agent out of netmap, link, host and data plane."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

from cairn_agent.daemon import Agent
from cairn_agent.dataplane import PeerStats, Stats, VSubnetStats
from cairn_agent.errors import AgentError, BadInput
from cairn_agent.host.machine import boottime
from cairn_agent.membership import Membership
from cairn_agent.netmap.desired import tap_mtu, tap_name
from cairn_agent.netmap.held import HeldVSubnet
from cairn_agent.netmap.trust import limit_s
from cairn_agent.protocol.netmap import Member
from cairn_agent.report import (
    VERSION,
    CloneReport,
    DataPlaneReport,
    LinkReport,
    PeerReport,
    Status,
    VSubnetReport,
)


async def status(agent: Agent) -> Status:
    """Return the state of everything, as of now."""
    stats = Stats("")
    if agent.dataplane is not None:
        with contextlib.suppress(AgentError):
            stats = await agent.dataplane.stats()
    return status_of(agent, stats)


def status_of(agent: Agent, stats: Stats) -> Status:
    """Return the state of everything, given what the data plane said."""
    membership = agent.membership
    if membership is None:
        return Status("none", VERSION, dataplane=_dataplane(agent, stats))
    identity = membership.identity()
    netmap = membership.netmap
    node = netmap.node.document if netmap and netmap.node else None
    peers = _peers(membership, stats)
    clones = clones_of(agent, peers)
    return Status(
        state="barred" if identity.barred else identity.state,
        agent_version=VERSION,
        node_id=identity.node_id,
        name=node.name if node else identity.name,
        site=node.site if node else "",
        cluster_id=identity.cluster_id,
        barred=identity.barred,
        copy_of=identity.copy_of_name or identity.copy_of,
        waits=membership.waits,
        revision=netmap.revision if netmap else 0,
        incarnation=netmap.incarnation if netmap else 0,
        offline_s=membership.offline.seconds(boottime()),
        endpoints=list(membership.endpoints()),
        behind_nat=membership.behind_nat,
        link=_link(membership),
        dataplane=_dataplane(agent, stats),
        vsubnets=_vsubnets(agent, membership, stats),
        peers=peers,
        clones=clones,
        gateways=agent.gateways.reports() if agent.gateways else [],
        problems=_problems(agent, membership) + [each.told()[0] for each in clones],
    )


def find_peer(agent: Agent, reference: str) -> PeerReport:
    """Return the peer with this name, IP address or node ID; raise BadInput."""
    peers = _peers(agent.membership, Stats("")) if agent.membership else []
    wanted = reference.lower()
    for peer in peers:
        addresses = {address.partition("/")[0].lower() for address in peer.ips}
        if wanted in addresses | {peer.node_id.lower(), peer.name.lower()}:
            return peer
    if agent.membership and wanted == agent.membership.identity().node_id.lower():
        raise BadInput(f"{reference} is this node itself", "name another one")
    raise BadInput(
        f"no peer has the name, address or node ID {reference!r}",
        "see `cairn-agent peers` for those that there are",
    )


def clones_of(agent: Agent, peers: Sequence[PeerReport]) -> list[CloneReport]:
    """Return the peers that were seen to be two machines, while they are peers."""
    seen = agent.clones.seen()
    known = {(peer.vni, peer.node_id): peer for peer in peers} if seen else {}
    return [
        CloneReport(peer.node_id, peer.name, peer.vni, peer.vsubnet)
        for key in seen
        if (peer := known.get(key)) is not None
    ]


def _problems(agent: Agent, membership: Membership) -> list[str]:
    """Return a sentence for everything that isn't as it should be."""
    problems = [membership.identity().barred, membership.waits, *agent.problems.values()]
    if agent.dataplane_error is not None:
        problems.append(agent.dataplane_error.cause)
    if agent.gateways is not None:
        problems += [
            f"segment {each.name} on {each.port} is {each.state}: {each.why}"
            for each in agent.gateways.reports()
            if each.code
        ]
    if not membership.link.state.is_up:
        problems.append(membership.link.state.error)
    return [problem for problem in problems if problem]


def _link(membership: Membership) -> LinkReport:
    state = membership.link.state
    heard = membership.heard_at
    return LinkReport(
        is_up=state.is_up,
        appliance=state.appliance,
        age_s=max(0.0, asyncio.get_running_loop().time() - state.since) if state.since else 0.0,
        heard_s=None if heard is None else boottime() - heard,
        error=state.error,
        remedy=state.remedy,
        skew_s=state.skew_s,
        appliances=list(membership.identity().appliances),
    )


def _dataplane(agent: Agent, stats: Stats) -> DataPlaneReport:
    hello, error = agent.hello, agent.dataplane_error
    return DataPlaneReport(
        is_up=agent.dataplane is not None,
        version=hello.version if hello else "",
        pid=hello.pid if hello else 0,
        error=error.cause if error else "",
        remedy=error.remedy if error else "",
        loaded_revision=agent.applied.revision if agent.applied else None,
        offloads={**hello.offloads, **agent.degraded} if hello else {},
        entropy=hello.entropy if hello else "",
        drops=stats.drops,
    )


def _vsubnets(agent: Agent, membership: Membership, stats: Stats) -> list[VSubnetReport]:
    netmap = membership.netmap
    counted = {vsubnet.vni: vsubnet for vsubnet in stats.vsubnets}
    offline_s = membership.offline.seconds(boottime())
    reports: list[VSubnetReport] = []
    for vni, held in (netmap.vsubnets if netmap else {}).items():
        limit = limit_s(held.header, agent.settings.offline_trust_s)
        own = held.members.get(membership.identity().node_id)
        reports.append(
            _vsubnet(
                held,
                own.member if own else None,
                counted.get(vni, VSubnetStats(vni)),
                agent.problems.get(vni, ""),
                max(0.0, limit - offline_s) if limit else None,
                agent.network.carried_mtu(),
            )
        )
    return reports


def _vsubnet(
    held: HeldVSubnet,
    me: Member | None,
    stats: VSubnetStats,
    problem: str,
    trusted_for_s: float | None,
    carried_mtu: int | None,
) -> VSubnetReport:
    header = held.header
    return VSubnetReport(
        vni=header.vni,
        name=header.name,
        tap=tap_name(header.vni),
        mac=me.macs[0] if me and me.macs else "",
        ips=me.ips if me else [],
        mtu=header.mtu,
        tap_mtu=tap_mtu(header.mtu, carried_mtu),
        members=len(held.members),
        problem=problem,
        tx_octets=stats.tx_octets,
        rx_octets=stats.rx_octets,
        trusted_for_s=trusted_for_s,
    )


def _peers(membership: Membership, stats: Stats) -> list[PeerReport]:
    netmap = membership.netmap
    own_id = membership.identity().node_id
    measured = {
        (vsubnet.vni, peer.id): peer for vsubnet in stats.vsubnets for peer in vsubnet.peers
    }
    return [
        _peer(
            held,
            member,
            measured.get((vni, member.node_id), PeerStats(member.node_id)),
            membership.network.carried_mtu(),
        )
        for vni, held in (netmap.vsubnets if netmap else {}).items()
        for member in sorted(held.readable(), key=lambda member: member.name)
        if member.node_id != own_id
    ]


def _peer(
    held: HeldVSubnet, member: Member, stats: PeerStats, carried_mtu: int | None
) -> PeerReport:
    return PeerReport(
        node_id=member.node_id,
        name=member.name,
        site=member.site,
        vni=held.header.vni,
        vsubnet=held.header.name,
        role=member.role,
        ips=member.ips,
        macs=member.macs,
        endpoints=member.endpoints,
        session=stats.session,
        path=stats.path,
        endpoint=stats.endpoint or "",
        rtt_us=stats.rtt_us,
        mtu=stats.mtu,
        wanted_mtu=tap_mtu(held.header.mtu, carried_mtu),
        tx_octets=stats.tx_octets,
        rx_octets=stats.rx_octets,
        key_age_s=stats.session_age_s,
        last_received_s=stats.last_received_s,
    )
