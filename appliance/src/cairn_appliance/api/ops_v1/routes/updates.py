"""Updates of the image: uploaded, then one appliance after the other, and the way back."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fastapi import APIRouter, Request
from starlette.requests import ClientDisconnect

from cairn_appliance.api.ops_v1.context import ActorDep, OpsDep
from cairn_appliance.api.ops_v1.idempotent import IdempotentRoute
from cairn_appliance.api.ops_v1.models import (
    MachineOut,
    UpdateAsked,
    UpdateFileOut,
    UpdateOut,
    moment,
    moment_or_none,
)
from cairn_appliance.domain.errors import Unavailable, UpdateRefused
from cairn_appliance.domain.update import Action, Plan, Report, newest_uploaded
from cairn_appliance.services.updates import State, Updates

router = APIRouter(prefix="/cluster/update", tags=["cluster"], route_class=IdempotentRoute)
_FILE = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.get("")
async def get_update(ops: OpsDep) -> UpdateOut:
    """What is under way, or was last, and how each machine stands with its two slots."""
    return _out(await _updates(ops.updates).state())


@router.put("/file", openapi_extra=_FILE)
async def upload_update(request: Request, ops: OpsDep, by: ActorDep) -> UpdateFileOut:
    """Bring the file of an update; it lies on the appliance that is asked, once it was checked."""
    head = await _updates(ops.updates).keep(_chunks(request), by)
    return UpdateFileOut(version=head.version, digest=head.digest)


@router.post("/start", status_code=202)
async def start_update(asked: UpdateAsked, ops: OpsDep, by: ActorDep) -> UpdateOut:
    """Update all appliances, one after the other, to a version that was uploaded."""
    return _out(await _updates(ops.updates).start(Action.INSTALL, by, asked.version))


@router.post("/rollback", status_code=202)
async def roll_back(ops: OpsDep, by: ActorDep) -> UpdateOut:
    """Take all that were updated, one after the other, back to what lies in their other slots."""
    return _out(await _updates(ops.updates).start(Action.ROLLBACK, by))


def _updates(updates: Updates | None) -> Updates:
    if updates is None:
        raise UpdateRefused("this appliance knows no updates")
    return updates


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    try:
        async for chunk in request.stream():
            yield chunk
    except ClientDisconnect as error:
        raise Unavailable("the upload broke off", "upload it again") from error


def _out(state: State) -> UpdateOut:
    plan = state.plan or Plan("", Action.INSTALL, "")
    return UpdateOut(
        action=plan.action.value if state.plan else None,
        phase=plan.phase.value if state.plan else None,
        version=plan.version,
        started_by=plan.started_by,
        started_at=moment_or_none(plan.started_at),
        since=moment_or_none(plan.since),
        current=plan.current,
        done=list(plan.done),
        cause=plan.cause,
        remedy=plan.remedy,
        uploaded=newest_uploaded(state.reports),
        appliances=[_machine_out(each) for _, each in sorted(state.reports.items())],
    )


def _machine_out(report: Report) -> MachineOut:
    standing = report.standing
    return MachineOut(
        name=report.name,
        version=standing.version,
        slot=standing.slot,
        other_version=standing.other_version,
        state=standing.step.value,
        wanted=standing.wanted,
        cause=standing.cause,
        remedy=standing.remedy,
        at=moment(standing.at) if standing.at else None,
        uploaded=report.bundle_version,
    )
