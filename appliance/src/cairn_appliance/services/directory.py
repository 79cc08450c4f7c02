"""Finds nodes by what people call them."""

from __future__ import annotations

from cairn_appliance.domain.errors import (
    Ambiguous,
    DuplicateNode,
    NodeBecame,
    NodeRemoved,
    NotFound,
)
from cairn_appliance.domain.node import Node, NodeState
from cairn_appliance.services.stored import Stored, read, read_all
from cairn_appliance.store import keys, records
from cairn_appliance.store.port import Item, Store


async def find_node(store: Store, reference: str) -> Stored[Node]:
    """Return the node with this ID, or this name if only one has it; NotFound, Ambiguous.

    A removed node is found by its ID alone: its name is free for others.
    """
    try:
        found = await read(store, records.nodes, keys.node(reference))
    except ValueError:
        found = None
    if found:
        return found
    named = [
        stored
        for stored in await read_all(store, records.nodes, keys.NODES)
        if stored.value.name == reference and stored.value.state is not NodeState.REMOVED
    ]
    if len(named) > 1:
        ids = ", ".join(stored.value.id for stored in named[:5])
        raise Ambiguous(f"{len(named)} nodes are called {reference!r}: {ids}")
    if not named:
        raise NotFound(f"there is no node {reference[:80]!r}", "look at `cairn node list`")
    return named[0]


async def living_node(store: Store, node_id: str) -> Stored[Node]:
    """Return the node that asks for itself; raise NodeRemoved if it is none any more."""
    return living(await store.get(keys.node(node_id)))


def living(item: Item | None) -> Stored[Node]:
    """Return the node that a key holds; raise NodeRemoved if it is none any more."""
    if item is None:
        raise NodeRemoved("this cluster does not know the node")
    node = Stored(records.nodes.decode(item), item.revision)
    check_not_removed(node.value)
    return node


def check_not_removed(node: Node) -> None:
    """Raise NodeRemoved, or NodeBecame where an operator said which other node it is."""
    if node.became:
        raise NodeBecame(f"this machine is node {node.became} by an operator's word")
    if node.state is NodeState.REMOVED:
        raise NodeRemoved(f"the node was removed: {node.removed_why or 'no reason given'}")


def check_key(node: Node, control_key: str) -> None:
    """Raise DuplicateNode for the key of a machine that was this node until an operator
    gave the identity to another one."""
    if control_key in node.lost_keys:
        raise DuplicateNode(f"another machine is node {node.name} by an operator's word")
