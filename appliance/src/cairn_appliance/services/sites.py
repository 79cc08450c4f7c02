"""Sites: those that were named, with the nodes that are there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cairn_appliance.domain.site import Site
from cairn_appliance.services.nodes import NodeView
from cairn_appliance.store import keys, records
from cairn_appliance.store.codec import Codec
from cairn_appliance.store.port import Store

_sites = Codec(Site)


@dataclass(frozen=True, slots=True)
class SiteView:
    """A site with how many nodes it has, and how many of them are connected."""

    site: Site
    nodes: int
    nodes_connected: int


async def sites_of(store: Store, views: Sequence[NodeView]) -> list[SiteView]:
    """Return the sites in the store and those that only nodes name, by name."""
    items = (await store.list(keys.SITES)).items
    known = {site.name: site for site in _sites.decode_all(items, records.quarantine)}
    named = {view.node.site for view in views if view.node.site}
    return [_view(known.get(name, Site(name, 0.0)), views) for name in sorted(named | known.keys())]


def _view(site: Site, views: Sequence[NodeView]) -> SiteView:
    here = [view for view in views if view.node.site == site.name]
    connected = sum(view.presence is not None and view.presence.connected for view in here)
    return SiteView(site, len(here), connected)
