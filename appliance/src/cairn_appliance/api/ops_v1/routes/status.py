"""Is it all right: health, readiness, status, the cluster's CA."""

from __future__ import annotations

import asyncio
from time import perf_counter

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import HTMLResponse

import cairn_appliance
from cairn_appliance.api.ops_v1 import reference
from cairn_appliance.api.ops_v1.context import Ops, OpsDep
from cairn_appliance.api.ops_v1.models import (
    Counts,
    Health,
    ProblemOut,
    StatusOut,
    StoreOut,
    moment,
)
from cairn_appliance.api.ops_v1.routes.cluster import problem_out
from cairn_appliance.domain.cluster_health import ClusterView
from cairn_appliance.domain.errors import Unavailable
from cairn_appliance.domain.node import NodeState
from cairn_appliance.services.problems import problems_known
from cairn_appliance.services.services import Services
from cairn_appliance.services.sites import sites_of
from cairn_appliance.store import keys
from cairn_appliance.store.port import StoreError

# Whoever asks whether it is ready wants to know it soon; a healthy store takes a few ms.
STORE_WITHIN_S = 2.0
PROBLEMS_WITHIN_S = 6.0

health = APIRouter(tags=["health"])
router = APIRouter(tags=["status"])


@health.get("/healthz")
async def healthz() -> Health:
    """Alive: the process answers."""
    return Health()


@health.get("/readyz")
async def readyz(ops: OpsDep) -> Health:
    """Ready: the store has a quorum and answers; 503 if not, and while the appliance ends."""
    ops.services.streams.check_open()
    store = await _store_health(ops)
    if not store.healthy:
        raise Unavailable(store.detail)
    return Health()


class PemResponse(Response):
    """A certificate as text."""

    media_type = "application/x-pem-file"


@router.get("/docs", response_class=HTMLResponse)
async def docs(request: Request) -> Response:
    """This reference as a page, made by the appliance itself; it needs no network."""
    app: FastAPI = request.app
    text = await asyncio.to_thread(reference.page, app.openapi())
    return HTMLResponse(text, headers={"Content-Security-Policy": reference.POLICY})


@router.get("/ca", response_class=PemResponse)
async def ca(ops: OpsDep) -> Response:
    """The certificate of the cluster's CA; a client compares its SHA-256 with its pin.

    While the CA is being replaced the former or the next one comes after it.
    """
    return PemResponse(ops.services.keyring.believed)


@router.get("/status")
async def status(ops: OpsDep) -> StatusOut:
    """Version, cluster, store and counts."""
    cluster, store = ops.services.cluster, await _store_health(ops)
    return StatusOut(
        version=cairn_appliance.__version__,
        cluster_id=cluster.id,
        incarnation=cluster.incarnation,
        appliances=list(cluster.appliances),
        at=moment(ops.now()),
        store=store,
        counts=await counts_of(ops.services) if store.healthy else None,
        problems=await _problems(ops),
    )


async def _store_health(ops: Ops) -> StoreOut:
    began = perf_counter()
    try:
        async with asyncio.timeout(STORE_WITHIN_S):
            await ops.services.store.get(keys.CLUSTER_INFO)
    except (StoreError, TimeoutError):
        return StoreOut(healthy=False, detail=f"no answer within {STORE_WITHIN_S:.0f} s")
    return StoreOut(healthy=True, answered_in_ms=round((perf_counter() - began) * 1000, 1))


async def _problems(ops: Ops) -> list[ProblemOut]:
    """Return what is wrong, also as nodes at other replicas say, as far as it is known soon."""
    async with asyncio.TaskGroup() as asked:
        asked.create_task(ops.services.telemetry.look(), name="look at nodes' reports")
        view = await cluster_view(ops)
    return [problem_out(each.problem) for each in problems_known(ops.services, view)]


async def cluster_view(ops: Ops) -> ClusterView | None:
    """Return how the cluster is; None where that can't be known soon."""
    try:
        async with asyncio.timeout(PROBLEMS_WITHIN_S):
            return await ops.membership.view()
    except (StoreError, TimeoutError):
        return None


async def counts_of(services: Services) -> Counts:
    """Return how many there are of everything."""
    views = [each.value for each in await services.nodes.list()]
    presences = [view.presence for view in views if view.presence is not None]
    return Counts(
        vsubnets=len(await services.vsubnets.list()),
        members=len(await services.members.list()),
        tokens=len(await services.tokens.list()),
        nodes=len(views),
        nodes_connected=sum(presence.connected for presence in presences),
        nodes_pending=sum(view.node.state is NodeState.PENDING for view in views),
        nodes_refusing=sum(bool(presence.refused) for presence in presences),
        sites=len(await sites_of(services.store, views)),
    )
