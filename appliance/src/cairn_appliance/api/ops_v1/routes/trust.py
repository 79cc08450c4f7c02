"""The cluster's CA and map key: how they are, and their replacement step by step."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from cairn_appliance.api.ops_v1.context import ActorDep, OpsDep
from cairn_appliance.api.ops_v1.idempotent import IdempotentRoute
from cairn_appliance.api.ops_v1.models import (
    BehindOut,
    CaOut,
    MapKeyOut,
    RetiredOut,
    TrustOut,
    moment,
    moment_or_none,
)
from cairn_appliance.pki.authority import pin_of
from cairn_appliance.services.rotation import Progress, View

router = APIRouter(prefix="/trust", tags=["trust"], route_class=IdempotentRoute)
_SHOWN = 100


@router.get("")
async def get_trust(ops: OpsDep) -> TrustOut:
    """Both keys, how far their replacement is, and who is behind with what to do."""
    return _shown(await ops.services.rotation.view())


@router.post("/ca/rotate", status_code=202)
async def rotate_ca(ops: OpsDep, by: ActorDep) -> TrustOut:
    """Make a new CA and make it known; the rest follows by itself as nodes keep up."""
    await ops.services.rotation.begin_ca(by)
    return await get_trust(ops)


@router.post("/ca/issue")
async def issue_ca(ops: OpsDep, by: ActorDep) -> TrustOut:
    """Let the new CA issue now, whoever is behind; nobody is locked out by it."""
    await ops.services.rotation.issue_ca(by)
    return await get_trust(ops)


@router.post("/ca/retire")
async def retire_ca(ops: OpsDep, by: ActorDep) -> TrustOut:
    """Believe the former CA no more, whoever is behind; their certificates are renewed."""
    await ops.services.rotation.retire_ca(by)
    return await get_trust(ops)


@router.post("/map-key/rotate", status_code=202)
async def rotate_map_key(ops: OpsDep, by: ActorDep) -> TrustOut:
    """Make a new map key and make it known; it is used as soon as nodes have acknowledged."""
    await ops.services.rotation.begin_map_key(by)
    return await get_trust(ops)


@router.post("/map-key/use")
async def use_map_key(ops: OpsDep, by: ActorDep) -> TrustOut:
    """Sign by the new map key now, whoever is behind."""
    await ops.services.rotation.use_map_key(by)
    return await get_trust(ops)


def _shown(view: View) -> TrustOut:
    authorities, keys = view.trust.authorities, view.trust.map_keys
    return TrustOut(
        ca=CaOut(
            **_progress(view.ca),
            fingerprint=pin_of(authorities.issuer.public),
            other=pin_of(authorities.other.public) if authorities.other else None,
            retired=[
                RetiredOut(fingerprint=pin_of(each.certificate), at=moment(each.at))
                for each in authorities.retired
            ],
            old_tokens=[each.id for each in view.old_tokens],
        ),
        map_key=MapKeyOut(
            **_progress(view.map_key),
            public_key=keys.current.public,
            next=keys.next.public if keys.next else None,
        ),
    )


def _progress(progress: Progress) -> dict[str, Any]:
    return {
        "phase": progress.phase.value,
        "since": moment_or_none(progress.since),
        "nodes": progress.nodes,
        "done": progress.done,
        "goes_on_at": moment_or_none(progress.goes_on_at),
        "behind": [
            BehindOut(
                name=each.name,
                node=each.node or None,
                away=each.is_away,
                cause=each.cause,
                remedy=each.remedy,
            )
            for each in progress.behind[:_SHOWN]
        ],
    }
