"""vSubnets."""

from __future__ import annotations

from dataclasses import replace

from fastapi import APIRouter, Response

from cairn_appliance.api.ops_v1.context import (
    ActorDep,
    ExpectedDep,
    RequiredDep,
    ServicesDep,
    tagged,
)
from cairn_appliance.api.ops_v1.idempotent import IdempotentRoute
from cairn_appliance.api.ops_v1.models import (
    Page,
    RotationAsked,
    RotationOut,
    VSubnetAsked,
    VSubnetOut,
    VSubnetPatch,
)
from cairn_appliance.api.ops_v1.paging import PagingDep, Part, has
from cairn_appliance.api.ops_v1.shown import count_by, vsubnet_out
from cairn_appliance.domain.vsubnet import Policy, VSubnet
from cairn_appliance.services.services import Services
from cairn_appliance.services.stored import Stored
from cairn_appliance.services.vsubnets import VSubnetChange, VSubnetOrder

router = APIRouter(prefix="/vsubnets", tags=["vSubnets"], route_class=IdempotentRoute)


@router.get("")
async def list_vsubnets(
    services: ServicesDep, paging: PagingDep, name: Part = ""
) -> Page[VSubnetOut]:
    """All vSubnets, by name."""
    found = [each.value for each in await services.vsubnets.list()]
    stored = [each for each in found if has(name, each.name)]
    page, following = paging.page(stored, lambda vsubnet: f"{vsubnet.name}\0{vsubnet.id}")
    members = count_by(each.value.vsubnet for each in await services.members.list())
    items = [vsubnet_out(each, members.get(each.id, 0)) for each in page]
    return Page(items=items, next=following)


@router.post("", status_code=201)
async def create_vsubnet(
    asked: VSubnetAsked, response: Response, services: ServicesDep, by: ActorDep
) -> VSubnetOut:
    """Make a vSubnet; its VNI is drawn."""
    stored = await services.vsubnets.create(_order(asked), by)
    response.headers["Location"] = f"/api/v1/vsubnets/{stored.value.id}"
    return await _out(services, stored, response)


@router.get("/{vsubnet}")
async def get_vsubnet(vsubnet: str, response: Response, services: ServicesDep) -> VSubnetOut:
    """One vSubnet, by name, ID or VNI."""
    return await _out(services, await services.vsubnets.get(vsubnet), response)


@router.patch("/{vsubnet}")
async def change_vsubnet(
    vsubnet: str,
    asked: VSubnetPatch,
    response: Response,
    services: ServicesDep,
    by: ActorDep,
    expected: RequiredDep,
) -> VSubnetOut:
    """Change a vSubnet; If-Match is required."""
    current = await services.vsubnets.get(vsubnet)
    change = _change(asked, current.value.policy)
    stored = await services.vsubnets.change(current.value.id, change, by, expected=expected)
    return await _out(services, stored, response)


@router.post("/{vsubnet}/rotate")
async def rotate_secret(
    vsubnet: str, services: ServicesDep, by: ActorDep, asked: RotationAsked | None = None
) -> RotationOut:
    """Start a new secret of the vSubnet; sessions go on, new ones use it."""
    revoke_now = asked is not None and asked.revoke_now
    epoch = await services.vsubnets.rotate_secret(vsubnet, by, revoke_now=revoke_now)
    return RotationOut(epoch=epoch)


@router.delete("/{vsubnet}", status_code=204)
async def delete_vsubnet(
    vsubnet: str, services: ServicesDep, by: ActorDep, expected: ExpectedDep
) -> None:
    """Delete a vSubnet that has no members."""
    await services.vsubnets.delete(vsubnet, by, expected=expected)


async def _out(services: Services, stored: Stored[VSubnet], response: Response) -> VSubnetOut:
    tagged(response, stored.revision)
    members = await services.members.list(vsubnet=stored.value.id)
    return vsubnet_out(stored.value, len(members))


def _order(asked: VSubnetAsked) -> VSubnetOrder:
    return VSubnetOrder(
        name=asked.name,
        prefixes=tuple(asked.prefixes),
        reserved=tuple(asked.reserved),
        mtu=asked.mtu,
        policy=Policy(**asked.policy.model_dump()),
    )


def _change(asked: VSubnetPatch, policy: Policy) -> VSubnetChange:
    changed = asked.policy.model_dump(exclude_none=True) if asked.policy else None
    return VSubnetChange(
        name=asked.name,
        prefixes=None if asked.prefixes is None else tuple(asked.prefixes),
        reserved=None if asked.reserved is None else tuple(asked.reserved),
        mtu=asked.mtu,
        policy=replace(policy, **changed) if changed else None,
    )
