"""API tokens: all for administrators, their own for others."""

from __future__ import annotations

from fastapi import APIRouter, Response

from cairn_appliance.api.ops_v1.context import ActorDep, OpsDep, PrincipalDep
from cairn_appliance.api.ops_v1.idempotent import IdempotentRoute
from cairn_appliance.api.ops_v1.models import Page
from cairn_appliance.api.ops_v1.models_access import (
    ApiTokenAsked,
    ApiTokenCreated,
    ApiTokenOut,
    api_token_out,
)
from cairn_appliance.api.ops_v1.paging import PagingDep, Part, has
from cairn_appliance.api.ops_v1.routes.sessions import owner_of

router = APIRouter(prefix="/api-tokens", tags=["API tokens"], route_class=IdempotentRoute)


@router.get("")
async def list_api_tokens(
    ops: OpsDep, paging: PagingDep, principal: PrincipalDep, user: Part = "", name: Part = ""
) -> Page[ApiTokenOut]:
    """The API tokens, newest first; expired ones too."""
    views = [
        view
        for view in await ops.access.api_tokens.list(owner_of(principal))
        if has(user, view.token.user) and has(name, view.token.name)
    ]
    page, following = paging.page(
        views, lambda view: f"{view.token.created_at:020.6f}/{view.id}", newest_first=True
    )
    return Page(items=[api_token_out(each) for each in page], next=following)


@router.post("", status_code=201)
async def create_api_token(
    asked: ApiTokenAsked, response: Response, ops: OpsDep, principal: PrincipalDep, by: ActorDep
) -> ApiTokenCreated:
    """Make a token of one's own; its string is in this answer and in no other."""
    tokens = ops.access.api_tokens
    view, text = await tokens.create(principal, asked.name, asked.scope, asked.life_s, by)
    response.headers["Location"] = f"/api/v1/api-tokens/{view.id}"
    return ApiTokenCreated(**api_token_out(view).model_dump(), token=text)


@router.delete("/{api_token}", status_code=204)
async def delete_api_token(
    api_token: str, ops: OpsDep, principal: PrincipalDep, by: ActorDep
) -> None:
    """Delete a token: it opens nothing from then on."""
    await ops.access.api_tokens.delete(api_token, by, owner=owner_of(principal))
