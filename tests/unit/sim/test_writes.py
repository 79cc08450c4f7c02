"""Which transactions there were, as a watch of the store shows them."""

from __future__ import annotations

from cairn_appliance.store import keys
from cairn_appliance.store.memory import MemoryStore
from cairn_appliance.store.port import Delete, Put

from tests.sim.writes import counted, kind_of


async def test_transactions_are_counted_by_what_they_put() -> None:
    store = MemoryStore()
    node, event = keys.registration("n1"), keys.event("e1")
    await store.commit([], [Put(node, b"before")])
    async with counted(store) as writes:
        await store.commit([], [Put(node, b"1"), Put(event, b"1")])
        await store.commit([], [Put(node, b"2")])
        await store.commit([], [Put(keys.presence("r1", "00"), b"1")])
        await store.commit([], [Put(keys.BACKUPS + "b1", b"1"), Put(keys.event("e2"), b"1")])
        await store.commit([], [Put(keys.BACKUPS + "b1", b"2")])
        await store.commit([], [Put(keys.event("e3"), b"1"), Delete(node)])
    assert writes.by_kinds == {
        frozenset({"registrations", "events"}): 1,
        frozenset({"registrations"}): 1,
        frozenset({"presence"}): 1,
        frozenset({"backups", "events"}): 1,
        frozenset({"backups"}): 1,
        frozenset({"events"}): 1,
    }
    assert (writes.background, writes.others, writes.with_kind("registrations")) == (3, 3, 2)


def test_a_key_of_the_map_is_of_the_kind_below() -> None:
    assert kind_of(keys.registration("n1")) == "registrations"
    assert kind_of(keys.event("e1")) == "events"
