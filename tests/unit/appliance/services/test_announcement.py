"""What an appliance says of itself, and who else says it."""

from __future__ import annotations

import asyncio

import pytest
from cairn_appliance.domain.alarm import Alarm, Sign
from cairn_appliance.domain.cluster import Appliance, Replica
from cairn_appliance.services import announcement as module
from cairn_appliance.services.announcement import Announcement
from cairn_appliance.store import keys, records
from cairn_appliance.store.memory import MemoryStore

OWN = Appliance("m1", ("192.0.2.1:8002",))
FULL = Sign(Alarm.DISK_FULL, "the disk of /data is full", is_urgent=True)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LOOKED_AT_EVERY_S", 0.01)
    monkeypatch.setattr(module, "_TWICE_TOLD_S", 0.3)


async def told(store: MemoryStore) -> Replica | None:
    item = await store.get(keys.replica("m1"))
    return records.replicas.decode(item) if item else None


async def until_told(store: MemoryStore, names: set[str]) -> None:
    async with asyncio.timeout(5):
        while (found := await told(store)) is None or {s.name for s in found.signs} != names:
            await asyncio.sleep(0.005)


async def test_signs_are_told_when_they_change_and_else_nothing_is_written() -> None:
    store, signs = MemoryStore(), [()]
    running = asyncio.create_task(Announcement(store, OWN, signs=lambda: signs[0]).run())
    await until_told(store, set())
    before = (await store.list(keys.ROOT)).revision
    await asyncio.sleep(0.1)
    assert (await store.list(keys.ROOT)).revision == before
    signs[0] = (FULL,)  # type: ignore[assignment]
    await until_told(store, {Alarm.DISK_FULL})
    signs[0] = ()
    await until_told(store, set())
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert await told(store) is None


async def test_two_processes_with_one_name_are_told_by_both() -> None:
    store = MemoryStore()
    one, other = Announcement(store, OWN), Announcement(store, OWN)
    first = asyncio.create_task(one.run())
    await until_told(store, set())
    second = asyncio.create_task(other.run())
    await until_told(store, {Alarm.APPLIANCE_TWICE})
    async with asyncio.timeout(5):
        while not (one.signs and other.signs):
            await asyncio.sleep(0.005)
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    await until_told(store, set())
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)


async def test_who_was_started_again_is_no_second_one() -> None:
    store = MemoryStore()
    left = Replica("m1", "0.1.0", 0.0, (), "of the process before")
    await store.commit([], [module.Put(keys.replica("m1"), records.replicas.encode(left))])
    announcement = Announcement(store, OWN)
    running = asyncio.create_task(announcement.run())
    await asyncio.sleep(0.1)
    assert announcement.signs == ()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
