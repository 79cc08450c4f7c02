"""Users: who may log in, and what they may."""

from __future__ import annotations

from fastapi import APIRouter, Response

from cairn_appliance.api.ops_v1.context import (
    ActorDep,
    ExpectedDep,
    OpsDep,
    PrincipalDep,
    RequiredDep,
    tagged,
)
from cairn_appliance.api.ops_v1.idempotent import SecretRoute
from cairn_appliance.api.ops_v1.models import Page
from cairn_appliance.api.ops_v1.models_access import (
    UserAsked,
    UserOut,
    UserPatch,
    UserWithPassword,
    user_out,
)
from cairn_appliance.api.ops_v1.paging import PagingDep, Part, has
from cairn_appliance.domain.access import Role
from cairn_appliance.domain.errors import Invalid
from cairn_appliance.services.users import UserChange

router = APIRouter(prefix="/users", tags=["users"], route_class=SecretRoute)


@router.get("", response_model=Page[UserOut])
async def list_users(
    ops: OpsDep, paging: PagingDep, name: Part = "", role: Role | None = None
) -> Page[UserOut]:
    """All users, by name."""
    wanted = [
        view
        for view in await ops.access.users.list()
        if has(name, view.user.name) and role in (None, view.user.role)
    ]
    page, following = paging.page(wanted, lambda view: view.user.name)
    return Page(items=[user_out(each) for each in page], next=following)


@router.post("", status_code=201)
async def create_user(
    asked: UserAsked, response: Response, ops: OpsDep, by: ActorDep
) -> UserWithPassword:
    """Make a user; a password that was drawn is in this answer and in no other."""
    drawn = await ops.access.users.create(
        asked.name, asked.role, asked.password, by, must_change=asked.must_change_password
    )
    response.headers["Location"] = f"/api/v1/users/{asked.name}"
    view = await ops.access.users.get(asked.name)
    tagged(response, view.revision)
    return user_out(view, drawn)


@router.get("/{user}", response_model=UserOut)
async def get_user(user: str, response: Response, ops: OpsDep) -> UserOut:
    """One user."""
    view = await ops.access.users.get(user)
    tagged(response, view.revision)
    return user_out(view)


@router.patch("/{user}")
async def change_user(
    user: str,
    asked: UserPatch,
    response: Response,
    ops: OpsDep,
    principal: PrincipalDep,
    by: ActorDep,
    expected: RequiredDep,
) -> UserWithPassword:
    """Change role, disable, set another password, or take the code away; If-Match is required."""
    if asked.password is not None and user == principal.name:
        raise Invalid(
            "the own password is changed by who knows the old one",
            "use `cairn user password`, or POST /api/v1/session/password",
        )
    change = UserChange(asked.role, asked.disabled, asked.password)
    drawn = await ops.access.users.change(user, change, by, expected=expected)
    if asked.totp is False:
        await ops.access.second_factor.remove(user, by)
    view = await ops.access.users.get(user)
    tagged(response, view.revision)
    return user_out(view, drawn)


@router.delete("/{user}", status_code=204)
async def delete_user(user: str, ops: OpsDep, by: ActorDep, expected: ExpectedDep) -> None:
    """Delete a user: sessions and API tokens open nothing from then on."""
    await ops.access.users.delete(user, by, expected=expected)
