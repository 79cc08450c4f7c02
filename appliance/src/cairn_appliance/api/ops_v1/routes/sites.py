"""Sites."""

from __future__ import annotations

from fastapi import APIRouter

from cairn_appliance.api.ops_v1.context import ServicesDep
from cairn_appliance.api.ops_v1.models import Page, SiteOut
from cairn_appliance.api.ops_v1.paging import PagingDep, Part, has
from cairn_appliance.services.sites import sites_of

router = APIRouter(prefix="/sites", tags=["sites"])


@router.get("")
async def list_sites(services: ServicesDep, paging: PagingDep, name: Part = "") -> Page[SiteOut]:
    """Sites by name, with their nodes."""
    views = [each.value for each in await services.nodes.list()]
    found = await sites_of(services.store, views)
    sites = [each for each in found if has(name, each.site.name)]
    page, following = paging.page(sites, lambda each: each.site.name)
    items = [
        SiteOut(
            name=each.site.name,
            description=each.site.description,
            nodes=each.nodes,
            nodes_connected=each.nodes_connected,
        )
        for each in page
    ]
    return Page(items=items, next=following)
