"""Nodes: see them, let them in, turn them away, cut them off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

from fastapi import APIRouter, Query, Response

from cairn_appliance.api.ops_v1.context import ActorDep, ExpectedDep, ServicesDep, tagged
from cairn_appliance.api.ops_v1.idempotent import IdempotentRoute
from cairn_appliance.api.ops_v1.models import NodeOut, Page, ReasonAsked
from cairn_appliance.api.ops_v1.paging import PagingDep
from cairn_appliance.api.ops_v1.shown import Names, all_names, node_out, vsubnet_names
from cairn_appliance.domain.node import NodeState
from cairn_appliance.services.nodes import NodeView
from cairn_appliance.services.services import Services
from cairn_appliance.services.stored import Stored

router = APIRouter(prefix="/nodes", tags=["nodes"], route_class=IdempotentRoute)


@router.get("")
async def list_nodes(
    services: ServicesDep,
    paging: PagingDep,
    state: NodeState | None = None,
    site: Annotated[str | None, Query(max_length=63)] = None,
) -> Page[NodeOut]:
    """Nodes by name; removed ones only where `state` asks for them."""
    views = [each.value for each in await services.nodes.list(state)]
    wanted = [view for view in views if site is None or view.node.site == site]
    page, following = paging.page(wanted, lambda view: f"{view.node.name}\0{view.node.id}")
    names = await _names(services, page)
    return Page(items=[node_out(each, names) for each in page], next=following)


@router.get("/{node}")
async def get_node(node: str, response: Response, services: ServicesDep) -> NodeOut:
    """One node, by ID or name; 409 `ambiguous` if several have the name."""
    return await _out(services, await services.nodes.get(node), response)


@router.post("/{node}/approve")
async def approve_node(
    node: str, response: Response, services: ServicesDep, by: ActorDep, expected: ExpectedDep
) -> NodeOut:
    """Let a pending node in."""
    return await _out(services, await services.nodes.approve(node, by, expected=expected), response)


@router.post("/{node}/claim")
async def claim_node(
    node: str, response: Response, services: ServicesDep, by: ActorDep, expected: ExpectedDep
) -> NodeOut:
    """Say that a waiting copy is the node that it is a copy of; the answer is that node."""
    original = await services.duplicates.claim(node, by, expected=expected)
    return await _out(services, await services.nodes.get(original), response)


@router.post("/{node}/unfreeze")
async def unfreeze_node(
    node: str, response: Response, services: ServicesDep, by: ActorDep, expected: ExpectedDep
) -> NodeOut:
    """Let a node register again that machines took from each other too often."""
    await services.duplicates.unfreeze(node, by, expected=expected)
    return await _out(services, await services.nodes.get(node), response)


@router.post("/{node}/reject", status_code=204)
async def reject_node(
    node: str, services: ServicesDep, by: ActorDep, asked: ReasonAsked | None = None
) -> None:
    """Turn a pending node away."""
    await services.nodes.reject(node, by, asked.reason if asked else "")


@router.delete("/{node}", status_code=204)
async def delete_node(
    node: str,
    services: ServicesDep,
    by: ActorDep,
    expected: ExpectedDep,
    reason: Annotated[str, Query(max_length=200)] = "",
    revoke_now: bool = False,
) -> None:
    """Cut a node off: out of every netmap, within a second."""
    await services.nodes.remove(node, by, reason=reason, revoke_now=revoke_now, expected=expected)


async def _out(services: Services, stored: Stored[NodeView], response: Response) -> NodeOut:
    tagged(response, stored.revision)
    return node_out(stored.value, await _names(services, [stored.value]))


async def _names(services: Services, views: Sequence[NodeView]) -> Names:
    """Return the names of all vSubnets, and of nodes where a copy has to name its original."""
    if any(view.node.copy_of for view in views):
        return await all_names(services)
    return await vsubnet_names(services)
