"""The picture of nodes, paths and tables as the operations API shows it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cairn_agent.protocol import telemetry as wire

from cairn_appliance.api.ops_v1.models import moment, moment_or_none
from cairn_appliance.api.ops_v1.models_views import (
    BumNodeOut,
    BumOut,
    FoundOut,
    NodeReportOut,
    OverviewProblemOut,
    ReportDataPlaneOut,
    ReportPeerOut,
    ReportProblemOut,
    ReportVSubnetOut,
    SubjectOut,
    TableEntryOut,
    TableOut,
)
from cairn_appliance.domain.problem import Problem
from cairn_appliance.domain.telemetry import (
    NodeRecord,
    bum_sent,
    loss_of,
    path_of,
    storm_dropped,
)
from cairn_appliance.domain.token import Token
from cairn_appliance.domain.vsubnet import VSubnet
from cairn_appliance.services.picture import Entry, Found, Way, heard
from cairn_appliance.services.problems import About
from cairn_appliance.services.services import Services


def subject_out(about: About) -> SubjectOut:
    """Return what a problem is about."""
    return SubjectOut.model_validate({"kind": about.kind, "id": about.id, "name": about.name})


def problem_about(
    problem: Problem, subject: SubjectOut, first_seen: dict[tuple[str, str], float], now: float
) -> OverviewProblemOut:
    """Return a problem with since when it is known here."""
    since = first_seen.setdefault((problem.name, subject.id or problem.cause), now)
    return OverviewProblemOut(
        name=problem.name,
        cause=problem.cause,
        remedy=problem.remedy,
        urgent=problem.is_urgent,
        since=moment(since),
        subject=subject,
    )


def topology_fields(services: Services, now: float) -> dict[str, object]:
    """Return the fields of a TopologyOut.

    Of ten thousand paths models would take longer than everything else; so does LatencyOut.
    """
    snapshot, picture = services.netmaps.snapshot, services.picture
    nodes, ways = picture.nodes(), picture.ways()
    paths = heard(ways)
    shown = []
    for node in nodes:
        record = picture.record(node.id)
        duties = [each.id for each in snapshot.segments_of(node.id)]
        shown.append(
            {
                "id": node.id,
                "name": node.name,
                "site": node.site,
                "state": node.state,
                "health": picture.health(node, paths),
                "connected": services.presence.is_connected(node.id),
                "role": "gateway" if duties else "host",
                "gateways": duties,
                "vsubnets": sorted(snapshot.vsubnets_of(node.id)),
                "reported_at": moment_or_none(record.at if record else 0.0),
                "stale": record is None or not record.is_fresh(now),
            }
        )
    return {
        "at": moment(now),
        "sites": [{"name": each} for each in sorted({node.site for node in nodes if node.site})],
        "nodes": shown,
        "edges": [_edge(each) for each in ways],
        "segments": list(_segments(services)),
    }


def latency_fields(ways: Iterable[Way], now: float) -> dict[str, object]:
    """Return the fields of a LatencyOut."""
    rows = (latency_row(each) for each in ways)
    return {"at": moment(now), "rows": [row for row in rows if row is not None]}


def latency_row(way: Way) -> dict[str, object] | None:
    """Return the fields of a LatencyRowOut; None where nothing is measured now."""
    if not way.is_up or way.rtt_ms is None:
        return None
    return {
        "a": way.a,
        "b": way.b,
        "rtt_ms": way.rtt_ms,
        "rtt_max_ms": way.rtt_max_ms,
        "loss": way.loss,
        "jitter_ms": way.jitter_ms,
        "path": way.path,
        "at": moment(way.at),
    }


def table_out(services: Services, vsubnet: VSubnet, now: float) -> TableOut:
    """Return everything that is on a vSubnet."""
    nodes = services.netmaps.snapshot.nodes
    names = {node: known.name for node, known in nodes.items()}
    entries = services.picture.entries(vsubnet)
    return TableOut(
        at=moment(now),
        entries=[_entry(each, names) for each in entries],
        multicast=[],
        bum=_bum(services, vsubnet, now),
    )


def report_out(services: Services, record: NodeRecord, name: str, now: float) -> NodeReportOut:
    """Return what an agent reported last."""
    snapshot = services.netmaps.snapshot
    places = {each.vni: each for each in snapshot.vsubnets.values()}
    known = record.dataplane
    return NodeReportOut(
        node=record.node,
        name=name,
        at=moment(record.at),
        age_s=round(max(0.0, now - record.at), 1),
        stale=not record.is_fresh(now),
        measured_at=moment(record.measured_at),
        agent_version=record.agent_version,
        dataplane=ReportDataPlaneOut(
            up=known.is_up,
            version=known.version,
            loaded_revision=known.loaded_revision,
            drops=known.drops,
        ),
        vsubnets=[
            _vsubnet(places[each.vni], each) for each in record.vsubnets if each.vni in places
        ],
        peers=list(_peers(services, record, places)),
        problems=[
            ReportProblemOut(name=each.name, cause=each.cause, remedy=each.remedy)
            for each in record.problems
        ],
    )


def found_out(found: Found) -> FoundOut:
    """Return something that a search found."""
    return FoundOut(
        kind=found.kind,  # type: ignore[arg-type]
        id=found.id,
        name=found.name,
        matched=found.matched,
        where=found.where,  # type: ignore[arg-type]
        link=found.link,
    )


def found_token(token: Token) -> FoundOut:
    """Return a token whose ID fits."""
    return FoundOut(
        kind="token", id=token.id, name=token.id, matched=token.id, where="id", link="/tokens"
    )


def _edge(way: Way) -> dict[str, object]:
    return {
        "a": way.a,
        "b": way.b,
        "vsubnets": way.vsubnets,
        "path": way.path,
        "rtt_ms": way.rtt_ms,
        "loss": way.loss,
        "mtu": way.mtu,
        "up": way.is_up,
        "stale": way.is_stale,
        "at": moment(way.at),
    }


def _segments(services: Services) -> Iterator[dict[str, object]]:
    for segment in sorted(services.netmaps.snapshot.segments.values(), key=lambda each: each.name):
        forwarder, state = services.picture.forwarder(segment)
        yield {
            "id": segment.id,
            "name": segment.name,
            "vsubnet": segment.vsubnet,
            "forwarder": forwarder or None,
            "gateways": segment.nodes,
            "state": state,
        }


def _entry(entry: Entry, names: dict[str, str]) -> TableEntryOut:
    return TableEntryOut(
        mac=entry.mac,
        ips=list(entry.ips),
        node=entry.node,
        node_name=names.get(entry.node, ""),
        kind=entry.kind,  # type: ignore[arg-type]
        gateway_segment=entry.segment or None,
        age_s=None if entry.age_s is None else round(entry.age_s, 1),
        moves=entry.moves,
        frozen=entry.is_frozen,
        conflict=entry.conflict,  # type: ignore[arg-type]
    )


def _bum(services: Services, vsubnet: VSubnet, now: float) -> BumOut:
    vni, dropped_per_s = vsubnet.vni, 0.0
    rates: list[float] = []
    by_node = []
    for node in sorted(services.netmaps.snapshot.members_of(vsubnet.id)):
        record = services.picture.record(node)
        if record is None:
            continue
        rate = None
        if record.is_fresh(now):
            rate = record.bum.get(vni)
            dropped_per_s += record.storms.get(vni, 0.0)
        if rate is not None:
            rates.append(rate)
        told = [_bum_of(node, said, rate) for said in record.vsubnets if said.vni == vni]
        by_node += [each for each in told if each.dropped or each.frames]
    return BumOut(
        frames_per_s=round(sum(rates), 1) if rates else None,
        dropped_per_s=round(dropped_per_s, 1),
        by_node=by_node,
    )


def _bum_of(node: str, said: wire.VSubnetSaid, rate: float | None) -> BumNodeOut:
    return BumNodeOut(
        node=node,
        frames=bum_sent(said),
        frames_per_s=None if rate is None else round(rate, 1),
        dropped=storm_dropped(said),
    )


def _vsubnet(known: VSubnet, said: wire.VSubnetSaid) -> ReportVSubnetOut:
    return ReportVSubnetOut(
        vsubnet=known.id,
        name=known.name,
        members=said.members,
        peers_up=said.peers_up,
        mtu=said.mtu,
        problem=said.problem,
        tx_frames=said.tx_frames,
        rx_frames=said.rx_frames,
        tx_octets=said.tx_octets,
        rx_octets=said.rx_octets,
        drops=said.drops,
        counters=said.counters,
    )


def _peers(
    services: Services, record: NodeRecord, places: dict[int, VSubnet]
) -> Iterator[ReportPeerOut]:
    nodes = services.netmaps.snapshot.nodes

    def order(heard: tuple[wire.PeerSaid, float]) -> tuple[int, str]:
        said, _ = heard
        peer = nodes.get(said.node)
        return said.vni, peer.name if peer else said.node

    for said, at in sorted(((each.said, each.at) for each in record.peers.values()), key=order):
        place = places.get(said.vni)
        peer = nodes.get(said.node)
        if place is None or peer is None:
            continue
        yield ReportPeerOut(
            node=said.node,
            name=peer.name,
            vsubnet=place.id,
            session=said.session,
            path=path_of(said),
            endpoint=said.endpoint,
            rtt_ms=_ms(said.rtt_us),
            rtt_max_ms=_ms(said.rtt_max_us),
            jitter_ms=_ms(said.jitter_us),
            loss=loss_of(said.lost, said.probes),
            mtu=said.mtu,
            tx_octets=said.tx_octets,
            rx_octets=said.rx_octets,
            at=moment(at),
        )


def _ms(micros: int | None) -> float | None:
    return None if micros is None else micros / 1000
