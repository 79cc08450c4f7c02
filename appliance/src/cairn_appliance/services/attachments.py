"""Which segments a node serves, and which a vSubnet has: for who must not pull them away."""

from __future__ import annotations

from cairn_appliance.domain.segment import Segment
from cairn_appliance.services.stored import read_all
from cairn_appliance.store import keys, records
from cairn_appliance.store.port import Store


async def segments_of(store: Store, node: str) -> tuple[Segment, ...]:
    """Return the segments that the node is a gateway of."""
    segments = await read_all(store, records.segments, keys.SEGMENTS)
    return tuple(each.value for each in segments if each.value.gateway(node))


async def segments_on(store: Store, vsubnet: str) -> tuple[Segment, ...]:
    """Return the segments of a vSubnet."""
    segments = await read_all(store, records.segments, keys.SEGMENTS)
    return tuple(each.value for each in segments if each.value.vsubnet == vsubnet)


async def serving_nodes(store: Store) -> set[str]:
    """Return the nodes that are a gateway of any segment."""
    segments = await read_all(store, records.segments, keys.SEGMENTS)
    return {node for each in segments for node in each.value.nodes}
