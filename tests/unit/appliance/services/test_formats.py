"""The format of the store rises when all are upgraded, and who can't read it doesn't start."""

from __future__ import annotations

import pytest
from cairn_appliance.domain.cluster import Appliance
from cairn_appliance.domain.errors import Clash, VersionTooOld
from cairn_appliance.domain.identity import SYSTEM
from cairn_appliance.services import formats
from cairn_appliance.services.events import Events, Journal
from cairn_appliance.store import keys, records
from cairn_appliance.store.memory import MemoryStore
from cairn_appliance.store.port import Compare, Delete, Put

from tests.unit.appliance.replica import FakeClock


class World:
    def __init__(self) -> None:
        self.store, self.journal = MemoryStore(), Journal(FakeClock())

    async def announce(self, name: str, reads: int) -> None:
        known = Appliance(name, (f"{name}:8002",), (), f"0.{reads}.0", 1, reads)
        await self.store.commit([], [Put(keys.appliance(name), records.appliances.encode(known))])

    async def finish(self, wanted: int = 2) -> formats.Raised:
        return await formats.raise_level(self.store, self.journal, SYSTEM, wanted)


async def test_it_rises_once_all_can_read_it_and_not_before() -> None:
    world = World()
    await world.announce("m1", 2)
    await world.announce("m2", 1)
    assert await formats.level_of(world.store) == 1
    with pytest.raises(Clash, match=r"not all appliances are upgraded: m2 \(0.1.0\)") as caught:
        await world.finish()
    assert caught.value.code == "upgrade_unfinished"
    await formats.check_readable(world.store, 1)

    await world.announce("m2", 2)
    assert await world.finish() == formats.Raised(1, 2)
    assert await world.finish() == formats.Raised(2, 2)
    assert [each.kind for each in await Events(world.store).list()] == ["format_raised"]


async def test_a_version_that_cannot_read_it_does_not_start() -> None:
    world = World()
    await world.announce("m1", 2)
    await world.finish()
    await formats.check_readable(world.store, 2)
    await formats.check_readable(world.store, 3)
    with pytest.raises(VersionTooOld, match="is of format 2, this version reads up to 1") as error:
        await formats.check_readable(world.store, 1)
    assert "install the version" in error.value.remedy


async def test_an_appliance_of_before_says_nothing_of_its_format() -> None:
    world = World()
    old = b'{"v": 1, "name": "m1", "agents": ["m1:8002"], "version": "0.0.9"}'
    await world.store.commit([], [Put(keys.appliance("m1"), old)])
    with pytest.raises(Clash, match="m1"):
        await world.finish()


async def test_who_comes_back_with_the_version_before_meanwhile_is_seen() -> None:
    world = World()
    await world.announce("m1", 2)
    await world.announce("m2", 2)
    commit = world.store.commit

    async def overtaken(compares: list[Compare], writes: list[Put | Delete]) -> int:
        world.store.commit = commit  # type: ignore[method-assign]
        await world.announce("m2", 1)
        return await commit(compares, writes)

    world.store.commit = overtaken  # type: ignore[method-assign, assignment]
    with pytest.raises(Clash, match="m2"):
        await world.finish()
    assert await formats.level_of(world.store) == 1
