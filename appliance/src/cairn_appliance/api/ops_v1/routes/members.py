"""Members: nodes attached to vSubnets."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from cairn_appliance.api.ops_v1.context import (
    ActorDep,
    ExpectedDep,
    RequiredDep,
    ServicesDep,
    tagged,
)
from cairn_appliance.api.ops_v1.idempotent import IdempotentRoute
from cairn_appliance.api.ops_v1.models import MemberAsked, MemberOut, MemberPatch, Page
from cairn_appliance.api.ops_v1.paging import Paging, PagingDep
from cairn_appliance.api.ops_v1.shown import all_names, member_out
from cairn_appliance.domain.member import Member, MemberRole
from cairn_appliance.services.members import MemberChange, MemberOrder
from cairn_appliance.services.services import Services
from cairn_appliance.services.stored import Stored

router = APIRouter(tags=["members"], route_class=IdempotentRoute)
ONE = "/vsubnets/{vsubnet}/members/{node}"
Filter = Annotated[str, Query(max_length=128)]


@router.get("/members")
async def list_members(
    services: ServicesDep, paging: PagingDep, vsubnet: Filter = "", node: Filter = ""
) -> Page[MemberOut]:
    """Members of all vSubnets, or of one vSubnet or node."""
    return await _page(services, paging, vsubnet, node)


@router.get("/vsubnets/{vsubnet}/members")
async def list_members_of(
    vsubnet: str, services: ServicesDep, paging: PagingDep, node: Filter = ""
) -> Page[MemberOut]:
    """Members of one vSubnet."""
    return await _page(services, paging, vsubnet, node)


@router.post("/vsubnets/{vsubnet}/members", status_code=201)
async def create_member(
    vsubnet: str, asked: MemberAsked, response: Response, services: ServicesDep, by: ActorDep
) -> MemberOut:
    """Attach a node to a vSubnet."""
    order = MemberOrder(vsubnet, asked.node, tuple(asked.ips), MemberRole(asked.role))
    stored = await services.members.create(order, by)
    at = f"/api/v1/vsubnets/{stored.value.vsubnet}/members/{stored.value.node}"
    response.headers["Location"] = at
    return await _out(services, stored, response)


@router.get(ONE)
async def get_member(
    vsubnet: str, node: str, response: Response, services: ServicesDep
) -> MemberOut:
    """One member."""
    return await _out(services, await services.members.get(vsubnet, node), response)


@router.patch(ONE)
async def change_member(
    vsubnet: str,
    node: str,
    asked: MemberPatch,
    response: Response,
    services: ServicesDep,
    by: ActorDep,
    expected: RequiredDep,
) -> MemberOut:
    """Change a member's addresses or role; If-Match is required."""
    ips = None if asked.ips is None else tuple(asked.ips)
    change = MemberChange(ips, None if asked.role is None else MemberRole(asked.role))
    stored = await services.members.change(vsubnet, node, change, by, expected=expected)
    return await _out(services, stored, response)


@router.delete(ONE, status_code=204)
async def delete_member(
    vsubnet: str,
    node: str,
    services: ServicesDep,
    by: ActorDep,
    expected: ExpectedDep,
    revoke_now: bool = False,
) -> None:
    """Detach a node; `revoke_now` ends the old secret of the vSubnet at once."""
    await services.members.delete(vsubnet, node, by, revoke_now=revoke_now, expected=expected)


async def _page(services: Services, paging: Paging, vsubnet: str, node: str) -> Page[MemberOut]:
    members = [each.value for each in await services.members.list(vsubnet, node)]
    page, following = paging.page(members, lambda member: f"{member.vsubnet}/{member.node}")
    names = await all_names(services)
    return Page(items=[member_out(each, names) for each in page], next=following)


async def _out(services: Services, stored: Stored[Member], response: Response) -> MemberOut:
    tagged(response, stored.revision)
    return member_out(stored.value, await all_names(services))
