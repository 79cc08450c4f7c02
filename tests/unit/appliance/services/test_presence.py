"""What a replica writes of its nodes' links: in batches, whose cost is that of what changed."""

from __future__ import annotations

import pytest
from cairn_appliance.services import presence as module
from cairn_appliance.services.presence import PresenceBoard
from cairn_appliance.store import keys
from cairn_appliance.store.memory import MemoryStore

NODES = [f"node-{number}" for number in range(1000)]


class World:
    def __init__(self) -> None:
        self.now = 1000.0
        self.store = MemoryStore()
        self.board = PresenceBoard(self.store, "m1", lambda: self.now)

    async def write(self) -> None:
        lease = await self.store.lease(30)
        await self.board._write_dirty(lease.id)

    async def written(self) -> list[str]:
        items = (await self.store.list(keys.PRESENCE)).items
        batches = [module._batches.decode(item) for item in items]
        return sorted(each.node for batch in batches for each in batch.presences)


async def test_each_node_is_in_one_batch_and_leaves_it_when_it_is_forgotten() -> None:
    world = World()
    for node in NODES:
        world.board.connected(node)
    await world.write()
    assert await world.written() == sorted(NODES)

    for node in NODES[:10]:
        world.board.disconnected(node)
    await world.write()
    world.now += module._GONE_KEPT_S + 1
    for node in NODES[10:]:
        world.board.connected(node)  # all batches are written once more
    await world.write()
    assert await world.written() == sorted(NODES[10:])


async def test_a_write_costs_what_its_batch_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ten thousand nodes each of 64 batches had all of them looked through."""
    world, asked = World(), list[str]()
    batch_of = module._batch_of
    for node in NODES:
        world.board.connected(node)

    def counted(node: str) -> str:
        asked.append(node)
        return batch_of(node)

    monkeypatch.setattr(module, "_batch_of", counted)
    await world.write()
    assert asked == []
