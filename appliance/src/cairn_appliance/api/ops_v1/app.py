"""Builds the operations API: an ASGI application for TCP 8443."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI

import cairn_appliance
from cairn_appliance.api import errors
from cairn_appliance.api.limits import StrangerLimit
from cairn_appliance.api.ops_v1 import description as describe
from cairn_appliance.api.ops_v1.context import Ops
from cairn_appliance.api.ops_v1.gate import Gate
from cairn_appliance.api.ops_v1.matrix import ROOT
from cairn_appliance.api.ops_v1.meter import Meter, Metered
from cairn_appliance.api.ops_v1.models import ProblemBody
from cairn_appliance.api.ops_v1.recorder import Recorder
from cairn_appliance.api.ops_v1.routes import (
    api_tokens,
    audit,
    backups,
    cluster,
    events,
    members,
    metrics,
    nodes,
    oidc,
    outputs,
    segments,
    session,
    sessions,
    sites,
    status,
    tokens,
    trust,
    updates,
    users,
    views,
    vsubnets,
)
from cairn_appliance.domain.errors import JoinRefused
from cairn_appliance.domain.figures import OwnFigures
from cairn_appliance.services.access import Access
from cairn_appliance.services.backups import Backups
from cairn_appliance.services.clock import Clock, wall_clock
from cairn_appliance.services.idempotency import Idempotency
from cairn_appliance.services.membership import Membership
from cairn_appliance.services.oidc import Oidc
from cairn_appliance.services.services import Services
from cairn_appliance.services.updates import Updates
from cairn_appliance.store.port import StoreError

log = logging.getLogger(__name__)

SWEEP_EVERY_S = 600.0
_RESOURCES = (
    session,
    sessions,
    users,
    api_tokens,
    status,
    cluster,
    updates,
    backups,
    trust,
    sites,
    vsubnets,
    members,
    segments,
    tokens,
    nodes,
    events,
    audit,
    views,
    outputs,
    oidc,
)
_PROBLEM = {
    "description": "An error: its code, its cause and what to do",
    "model": ProblemBody,
    "content": {errors.MEDIA_TYPE: {}},
}


def create_app(
    services: Services,
    membership: Membership,
    making: Backups,
    *,
    clock: Clock = wall_clock,
    install: Callable[[], str] = str,
    own: Callable[[], OwnFigures] = OwnFigures,
    updating: Updates | None = None,
) -> FastAPI:
    """Return the application; `own` says what the appliance measures of itself.

    Its lifespan sweeps what has expired in the store, so run it with lifespan on.
    """
    access = Access(services.store, services.sealer, now=clock)
    answers = Idempotency(services.store, now=clock)
    joinings = StrangerLimit(JoinRefused)
    meter = Meter()
    ops = Ops(
        services,
        membership,
        making,
        access,
        Oidc(services.store, services.sealer, access, now=clock),
        answers,
        joinings,
        install,
        clock,
        meter,
        own,
        updating,
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            sweeping = tasks.create_task(_sweep(ops), name="sweep sessions and answers")
            yield
            sweeping.cancel()

    app = FastAPI(
        title="Cairn operations API",
        version=cairn_appliance.__version__,
        openapi_url=f"{ROOT}/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.ops = ops
    errors.install(app)
    app.include_router(status.health)
    app.include_router(metrics.router)
    app.include_router(_api())
    describe.complete(app)
    app.add_middleware(Recorder, audit=services.audit)  # behind the gate, before every route
    app.add_middleware(Gate, access=access, audit=services.audit)
    app.add_middleware(Metered, meter=meter)
    return app


def _api() -> APIRouter:
    api = APIRouter(prefix=ROOT, responses={"4XX": _PROBLEM, "5XX": _PROBLEM})
    for resource in _RESOURCES:
        api.include_router(resource.router)
    api.include_router(cluster.joining)
    return api


async def _sweep(ops: Ops) -> None:
    """Forget what has expired, for ever; replicas do so at different times."""
    while True:
        await asyncio.sleep(SWEEP_EVERY_S * random.uniform(0.8, 1.2))
        try:
            swept = await ops.access.sweep() + await ops.oidc.sweep()
            swept += await ops.idempotency.sweep()
        except StoreError as error:
            log.warning("sweeping was put off reason=%s", error)
        else:
            log.info("swept sessions, failures and answers count=%d", swept)
