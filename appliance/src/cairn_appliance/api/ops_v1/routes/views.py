"""What the console's pages show: the whole at a glance, and a stream of what changes."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated

import msgspec
from cairn_agent.protocol.telemetry import CLONE_SEEN
from fastapi import APIRouter, Query, Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent

from cairn_appliance.api.ops_v1.context import Ops, OpsDep, ServicesDep
from cairn_appliance.api.ops_v1.models import moment
from cairn_appliance.api.ops_v1.models_views import (
    EnrolmentOut,
    LatencyHistoryOut,
    LatencyOut,
    LatencyPointOut,
    LatencyRowOut,
    NodeReportOut,
    OverviewApplianceOut,
    OverviewCounts,
    OverviewOut,
    OverviewProblemOut,
    SearchOut,
    SubjectOut,
    TableOut,
    TopologyOut,
)
from cairn_appliance.api.ops_v1.paging import Reference
from cairn_appliance.api.ops_v1.routes.events import ResumeDep, is_new
from cairn_appliance.api.ops_v1.routes.status import cluster_view, counts_of
from cairn_appliance.api.ops_v1.shown import all_names, event_out
from cairn_appliance.api.ops_v1.shown_views import (
    found_out,
    found_token,
    latency_fields,
    latency_row,
    problem_about,
    report_out,
    subject_out,
    table_out,
    topology_fields,
)
from cairn_appliance.domain.cluster_health import ClusterView
from cairn_appliance.domain.errors import NotFound
from cairn_appliance.domain.event import Event
from cairn_appliance.domain.problem import Problem
from cairn_appliance.services.news import Beat, Changed
from cairn_appliance.services.picture import FOUND_MAX
from cairn_appliance.services.problems import problems_known
from cairn_appliance.services.services import Services

router = APIRouter(tags=["views"])

RECENT = 10
NODE_PROBLEMS_MAX = 50
PACKED_FROM_OCTETS = 2048
Site = Annotated[str, Query(max_length=63)]


@router.get("/overview")
async def overview(ops: OpsDep) -> OverviewOut:
    """What is wrong, how many there are, and what happened last."""
    services = ops.services
    await services.telemetry.look()
    view = await cluster_view(ops)
    counts = await counts_of(services)
    events = await services.events.latest(RECENT)
    names = await all_names(services)
    snapshot = services.netmaps.snapshot
    gateways = {node for each in snapshot.segments.values() for node in each.nodes}
    return OverviewOut(
        at=moment(ops.now()),
        problems=_problems(ops, view),
        counts=OverviewCounts(
            **counts.model_dump(), gateways=len(gateways), segments=len(snapshot.segments)
        ),
        appliances=_appliances(services, view),
        recent=[event_out(each, names) for each in reversed(events)],
    )


@router.get("/topology", response_model=TopologyOut)
async def topology(ops: OpsDep, request: Request) -> Response:
    """All nodes, and the pairs of them that have a session or had one of late."""
    await ops.services.telemetry.look()
    return await _packed(request, msgspec.json.encode(topology_fields(ops.services, ops.now())))


@router.get("/latency", response_model=LatencyOut)
async def latency(
    ops: OpsDep, request: Request, site: Site = "", vsubnet: Reference = ""
) -> Response:
    """Round-trip times, loss and jitter of all pairs with a session, as agents measure them.

    `site`: one end at least is there; `vsubnet`: the session is in it.
    """
    services = ops.services
    place = (await services.vsubnets.get(vsubnet)).value.id if vsubnet else ""
    await services.telemetry.look()
    ways = services.picture.ways(site=site, vsubnet=place)
    return await _packed(request, msgspec.json.encode(latency_fields(ways, ops.now())))


@router.get("/latency/{a}/{b}")
async def latency_history(a: str, b: str, ops: OpsDep) -> LatencyHistoryOut:
    """One pair, by IDs or names, with its last hour.

    The history is in the memory of the appliance that is asked: of nodes linked to it from
    when they were, of others from when anybody began to look here. A restart forgets it.
    """
    services = ops.services
    ends = sorted([(await services.nodes.get(each)).value.node.id for each in (a, b)])
    await services.telemetry.look()
    way = services.picture.way(*ends)
    row = latency_row(way) if way else None
    points = services.telemetry.history(*ends)
    return LatencyHistoryOut(
        at=moment(ops.now()),
        a=ends[0],
        b=ends[1],
        now=LatencyRowOut.model_validate(row) if row else None,
        points=[
            LatencyPointOut(at=moment(at), rtt_ms=round(ms, 3), loss=round(loss, 4))
            for at, ms, loss in points
        ],
    )


@router.get("/vsubnets/{vsubnet}/table", response_model=TableOut)
async def vsubnet_table(vsubnet: str, ops: OpsDep, request: Request) -> Response:
    """Every MAC of a vSubnet: members, machines behind gateways, what data planes learned."""
    found = (await ops.services.vsubnets.get(vsubnet)).value
    await ops.services.telemetry.look()
    table = table_out(ops.services, found, ops.now())
    return await _packed(request, table.model_dump_json().encode())


@router.get("/nodes/{node}/report")
async def node_report(node: str, ops: OpsDep) -> NodeReportOut:
    """What the node's agent reported last, with its age; 404 `no_report` where it did not yet."""
    services = ops.services
    known = (await services.nodes.get(node)).value.node
    await services.telemetry.look()
    record = services.telemetry.record(known.id)
    if record is None:
        raise NotFound(
            f"the agent of {known.name} has reported nothing for ten minutes",
            "see whether it is connected, and whether its version is older than the appliance's",
            code="no_report",
        )
    return report_out(services, record, known.name, ops.now())


@router.get("/search")
async def search(
    services: ServicesDep, q: Annotated[str, Query(min_length=1, max_length=128)]
) -> SearchOut:
    """Nodes, vSubnets, segments, tokens, sites and members by name, ID, MAC or IP address."""
    items = [found_out(each) for each in services.picture.search(q)]
    wanted = q.strip().lower()
    if len(wanted) >= 4:
        tokens = [each.value for each in await services.tokens.list()]
        items += [found_token(each) for each in tokens if each.id.startswith(wanted)]
    return SearchOut(items=items[:FOUND_MAX])


@router.get("/enrolment")
async def enrolment(ops: OpsDep) -> EnrolmentOut:
    """Where a new node reaches the appliances, and the pin by which it knows them."""
    services = ops.services
    return EnrolmentOut(
        addresses=list(services.cluster.appliances),
        pin=f"sha256//{services.keyring.authority.pin}",
        install_url="",
    )


@router.get("/stream", response_class=EventSourceResponse)
async def stream(ops: OpsDep, resume: ResumeDep) -> AsyncIterator[ServerSentEvent]:
    """`hello` first, then each `event` as it happens, `changed` where a list is another one (at
    most twice a second), and a `beat` each 2 s by which a client knows that this appliance lives.

    Last-Event-ID resumes after that event; everything may have changed meanwhile then.
    """
    services = ops.services
    hello = {"appliance": services.replica, "revision": services.netmaps.revision}
    yield ServerSentEvent(data=hello, event="hello")
    after = None if resume is None else resume[0] - 1
    async with aclosing(services.news.follow(after)) as news:
        async for each in news:
            match each:
                case Event():
                    if is_new(each, resume):
                        shown = event_out(each, await all_names(services))
                        event_id = f"{each.sequence}/{each.id}"
                        yield ServerSentEvent(data=shown, event="event", id=event_id)
                case Changed():
                    changed = {"what": each.what, "ids": list(each.ids)}
                    yield ServerSentEvent(data=changed, event="changed")
                case Beat():
                    yield ServerSentEvent(data={"at": moment(ops.now())}, event="beat")


def _problems(ops: Ops, view: ClusterView | None) -> list[OverviewProblemOut]:
    """Return all that is wrong, and what nodes say of themselves."""
    services, now = ops.services, ops.now()
    about = [(each.problem, subject_out(each)) for each in problems_known(services, view)]
    about += _of_nodes(services, now)
    shown = [problem_about(each, subject, ops.first_seen, now) for each, subject in about]
    present = {(each.name, each.subject.id or each.cause) for each in shown}
    for gone in [each for each in ops.first_seen if each not in present]:
        del ops.first_seen[gone]
    return sorted(shown, key=lambda each: not each.urgent)


def _of_nodes(services: Services, now: float) -> list[tuple[Problem, SubjectOut]]:
    nodes = services.netmaps.snapshot.nodes
    found = []
    for node, record in sorted(services.telemetry.records().items()):
        if not record.is_fresh(now):
            continue
        subject = SubjectOut(kind="node", id=node, name=nodes[node].name)
        found += [
            (Problem(each.name, f"{nodes[node].name}: {each.cause}", each.remedy), subject)
            for each in record.problems
            if each.name != CLONE_SEEN  # that is an alarm about the node that it names
        ]
    return found[:NODE_PROBLEMS_MAX]


def _appliances(services: Services, view: ClusterView | None) -> list[OverviewApplianceOut]:
    if view is None:
        known = services.netmaps.snapshot.appliances_by_name()
        return [
            OverviewApplianceOut(
                id=each.name,
                name=each.name,
                up=each.name == services.replica,
                leader=False,
                version=each.version,
            )
            for each in known
        ]
    return [
        OverviewApplianceOut(
            id=each.name,
            name=each.name,
            up=each.is_healthy and each.replica is not None,
            leader=each.leads,
            version=each.appliance.version if each.appliance else "",
        )
        for each in view.seen
    ]


async def _packed(request: Request, octets: bytes) -> Response:
    """Return the answer, packed where it is long and the client takes that.

    A thousand nodes with their paths are a megabyte of which a tenth says something new.
    """
    headers = {"vary": "accept-encoding"}
    if len(octets) >= PACKED_FROM_OCTETS and "gzip" in request.headers.get("accept-encoding", ""):
        octets = await asyncio.to_thread(gzip.compress, octets, 1)
        headers["content-encoding"] = "gzip"
    return Response(octets, media_type="application/json", headers=headers)
