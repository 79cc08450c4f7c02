"""Enrolment tokens."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Response

from cairn_appliance.api.ops_v1.context import ActorDep, ExpectedDep, OpsDep, ServicesDep, tagged
from cairn_appliance.api.ops_v1.idempotent import IdempotentRoute
from cairn_appliance.api.ops_v1.models import Page, TokenAsked, TokenCreated, TokenOut
from cairn_appliance.api.ops_v1.paging import PagingDep, Part, Reference, has
from cairn_appliance.api.ops_v1.shown import token_out, vsubnet_names
from cairn_appliance.services.tokens import TokenOrder

router = APIRouter(prefix="/tokens", tags=["tokens"], route_class=IdempotentRoute)


@router.get("")
async def list_tokens(
    ops: OpsDep, paging: PagingDep, vsubnet: Reference = "", site: Part = ""
) -> Page[TokenOut]:
    """All tokens, newest first; expired and used-up ones too."""
    place = (await ops.services.vsubnets.get(vsubnet)).value.id if vsubnet else ""
    tokens = [
        each.value
        for each in await ops.services.tokens.list()
        if (not place or place in each.value.vsubnets) and has(site, each.value.site)
    ]
    page, following = paging.page(
        tokens, lambda token: f"{token.created_at:020.6f}/{token.id}", newest_first=True
    )
    names = await vsubnet_names(ops.services)
    return Page(items=[token_out(each, names, ops.now()) for each in page], next=following)


@router.post("", status_code=201)
async def create_token(
    asked: TokenAsked, response: Response, ops: OpsDep, by: ActorDep
) -> TokenCreated:
    """Make a token; its string is in this answer and in no other."""
    several = ("vsubnets", "sources", "instances")
    tuples = {name: tuple(getattr(asked, name)) for name in several}
    order = TokenOrder(**{**asked.model_dump(), **tuples})
    stored, text = await ops.services.tokens.create(order, by)
    tagged(response, stored.revision)
    response.headers["Location"] = f"/api/v1/tokens/{stored.value.id}"
    shown = token_out(stored.value, await vsubnet_names(ops.services), ops.now())
    install = await asyncio.to_thread(ops.install)
    return TokenCreated(**shown.model_dump(), token=text, install=install)


@router.get("/{token}")
async def get_token(token: str, response: Response, ops: OpsDep) -> TokenOut:
    """One token, without its secret."""
    stored = await ops.services.tokens.get(token)
    tagged(response, stored.revision)
    return token_out(stored.value, await vsubnet_names(ops.services), ops.now())


@router.delete("/{token}", status_code=204)
async def delete_token(
    token: str, services: ServicesDep, by: ActorDep, expected: ExpectedDep
) -> None:
    """Delete a token: nobody joins with it any more; nodes that did stay."""
    await services.tokens.delete(token, by, expected=expected)
