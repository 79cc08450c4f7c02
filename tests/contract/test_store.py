"""What every store promises (store/port.py), held to by both of ours."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import tracemalloc
from collections.abc import AsyncIterator, Iterator

import pytest
from cairn_appliance.services.events import Events as JournalEvents
from cairn_appliance.store import keys
from cairn_appliance.store.etcd import PAGE_KEYS
from cairn_appliance.store.memory import MemoryStore
from cairn_appliance.store.port import (
    MAX_TRANSACTION_OCTETS,
    MAX_WRITES,
    Compare,
    Conflict,
    Delete,
    Events,
    Item,
    LeaseLost,
    Progress,
    Put,
    Reset,
    Store,
)

from tests.contract.etcd_server import EtcdServer, client
from tests.contract.follower import Follower, write_from_many

_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path_factory.mktemp("etcd"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(params=["memory", pytest.param("etcd", marks=pytest.mark.etcd)])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
        return
    server: EtcdServer = request.getfixturevalue("etcd")
    async with client(server.address) as etcd_store:
        yield etcd_store


@pytest.fixture
def prefix() -> str:
    return f"/test/{next(_numbers)}/"


async def test_what_is_written_and_read_is_of_one_moment(store: Store, prefix: str) -> None:
    await store.commit([], [Put(prefix + "r", b"1")])
    puts = [Put(prefix + "b", b"x"), Put(prefix + "c", b"y")]
    listing = await store.write_and_read(puts, [prefix + "r", prefix + "missing", prefix + "b"])
    assert [(item.key, item.value) for item in listing.items] == [
        (prefix + "r", b"1"),
        (prefix + "b", b"x"),
    ]
    record, own = listing.items
    assert own.revision == listing.revision > record.revision
    assert (await store.get(prefix + "c")) == Item(
        prefix + "c", b"y", listing.revision, listing.revision
    )


async def test_writing_and_reading_races_with_writers(store: Store, prefix: str) -> None:
    """Each sees the record as it was when its own write took place."""
    key = prefix + "record"

    async def writer() -> None:
        for number in range(20):
            await store.commit([], [Put(key, b"%d" % number)])

    async def reader(name: str) -> list[tuple[int, int]]:
        seen = []
        for number in range(20):
            listing = await store.write_and_read([Put(prefix + name, b"%d" % number)], [key])
            seen += [(item.revision, listing.revision) for item in listing.items]
        return seen

    _, *seen = await asyncio.gather(writer(), reader("a"), reader("b"))
    for pairs in seen:
        assert pairs == sorted(pairs)
        assert all(record < own for record, own in pairs)


async def test_keys_are_read_together_in_the_order_asked_for(store: Store, prefix: str) -> None:
    await store.commit([], [Put(prefix + "a", b"1"), Put(prefix + "b", b"2")])
    keys = [prefix + "b", prefix + "missing", prefix + "a"]
    assert await store.get_all(keys) == tuple([await store.get(key) for key in keys])


async def test_what_is_read_together_is_of_one_moment(store: Store, prefix: str) -> None:
    pair = [prefix + "a", prefix + "b"]

    async def writer() -> None:
        for number in range(20):
            await store.commit([], [Put(key, b"%d" % number) for key in pair])

    async def reader() -> None:
        for _ in range(20):
            a, b = await store.get_all(pair)
            assert (a and a.revision) == (b and b.revision)

    await asyncio.gather(writer(), reader(), reader())


async def test_a_missing_key_is_none(store: Store, prefix: str) -> None:
    assert await store.get(prefix + "a") is None


async def test_an_item_tells_when_it_was_created_and_last_written(
    store: Store, prefix: str
) -> None:
    first = await store.commit([Compare(prefix + "a", 0)], [Put(prefix + "a", b"1")])
    second = await store.commit([Compare(prefix + "a", first)], [Put(prefix + "a", b"\x00\xff")])
    assert second > first
    assert await store.get(prefix + "a") == Item(prefix + "a", b"\x00\xff", second, first)


async def test_a_key_can_be_created_only_once(store: Store, prefix: str) -> None:
    await store.commit([Compare(prefix + "a", 0)], [Put(prefix + "a", b"mine")])
    with pytest.raises(Conflict):
        await store.commit(
            [Compare(prefix + "a", 0)], [Put(prefix + "a", b"yours"), Put(prefix + "b", b"")]
        )
    listing = await store.list(prefix)
    assert [(item.key, item.value) for item in listing.items] == [(prefix + "a", b"mine")]


async def test_a_write_that_compares_an_old_revision_conflicts(store: Store, prefix: str) -> None:
    key = prefix + "a"
    old = await store.commit([], [Put(key, b"1")])
    new = await store.commit([Compare(key, old)], [Put(key, b"2")])
    with pytest.raises(Conflict):
        await store.commit([Compare(key, old)], [Delete(key)])
    await store.commit([Compare(key, new)], [Delete(key)])
    assert await store.get(key) is None


async def test_writers_that_compare_lose_no_increment(store: Store, prefix: str) -> None:
    key = prefix + "counter"
    await store.commit([], [Put(key, b"0")])

    async def increment(times: int) -> None:
        done = 0
        while done < times:
            item = await store.get(key)
            assert item is not None
            with contextlib.suppress(Conflict):
                value = str(int(item.value) + 1).encode()
                await store.commit([Compare(key, item.revision)], [Put(key, value)])
                done += 1
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(6):
            tasks.create_task(increment(15))
    item = await store.get(key)
    assert item is not None
    assert item.value == b"90"


async def test_of_many_who_create_the_same_key_exactly_one_succeeds(
    store: Store, prefix: str
) -> None:
    async def create(name: bytes) -> bool:
        try:
            await store.commit([Compare(prefix + "ip", 0)], [Put(prefix + "ip", name)])
        except Conflict:
            return False
        return True

    created = await asyncio.gather(*(create(b"%d" % number) for number in range(50)))
    assert sum(created) == 1


async def test_a_listing_has_only_what_is_under_the_prefix_in_key_order(
    store: Store, prefix: str
) -> None:
    names = ["b", "a", "a/1", "ab"]
    await store.commit([], [Put(prefix + "x/" + name, b"") for name in names])
    await store.commit([], [Put(prefix + "x0", b""), Put(prefix + "w", b"")])
    listing = await store.list(prefix + "x/")
    assert [item.key for item in listing.items] == sorted(prefix + "x/" + name for name in names)


async def test_the_first_keys_beyond_a_number_come_in_order(store: Store, prefix: str) -> None:
    names = [f"{prefix}x/{number}" for number in range(5)]
    await store.commit([], [Put(name, b"value") for name in reversed(names)])
    await store.commit([], [Put(prefix + "x0", b""), Put(prefix + "w", b"")])
    assert await store.surplus(prefix + "x/", 3) == tuple(names[:2])
    assert await store.surplus(prefix + "x/", 0) == tuple(names)
    assert await store.surplus(prefix + "x/", 5) == ()
    assert await store.surplus(prefix + "y/", 0) == ()


async def test_the_newest_write_under_a_prefix_is_known_by_its_revision(
    store: Store, prefix: str
) -> None:
    """Whatever the order of the keys, and how often each was written."""
    assert await store.newest(prefix + "x/") == 0
    for name in ("c", "a", "b", "c", "a"):
        written = await store.commit([], [Put(f"{prefix}x/{name}", b"value")])
        await store.commit([], [Put(prefix + "x0", b""), Put(prefix + "w", b"")])
        assert await store.newest(prefix + "x/") == written
    await store.commit([], [Delete(prefix + "x/a")])
    item = await store.get(prefix + "x/c")
    assert item is not None and await store.newest(prefix + "x/") == item.revision


async def test_events_are_pruned_without_reading_them(store: Store) -> None:
    """Each half minute: ten thousand of them, read with their values, take megabytes for it."""
    for begin in range(0, 3_000, MAX_WRITES):
        numbers = range(begin, min(begin + MAX_WRITES, 3_000))
        puts = [Put(keys.event(f"{number:014}-ab"), b"x" * 1_000) for number in numbers]
        await store.commit([], puts)
    tracemalloc.start()
    try:
        assert await JournalEvents(store, kept=2_990).prune() == 10
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
    left = (await store.list(keys.EVENTS)).items
    assert (len(left), left[0].key) == (2_990, keys.event(f"{10:014}-ab"))


async def test_a_listing_of_many_pages_is_of_one_revision(store: Store, prefix: str) -> None:
    """Two keys at both ends are always written alike; a listing that mixes revisions shows it."""
    count = PAGE_KEYS * 2 + 300
    keys = [f"{prefix}{number:05}" for number in range(count)]
    for begin in range(0, count, MAX_WRITES):
        await store.commit([], [Put(key, b"0") for key in keys[begin : begin + MAX_WRITES]])
    ends = (keys[0], keys[-1])
    is_done = False

    async def rewrite() -> None:
        for number in itertools.count(1):
            if is_done:
                return
            await store.commit([], [Put(key, b"%d" % number) for key in ends])
            await asyncio.sleep(0)

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(rewrite())
        revisions = []
        for _ in range(10):
            listing = await store.list(prefix)
            assert len(listing.items) == count
            assert listing.items[0].value == listing.items[-1].value
            assert max(item.revision for item in listing.items) <= listing.revision
            revisions.append(listing.revision)
            await asyncio.sleep(0)
        is_done = True
    assert revisions == sorted(revisions)
    assert revisions[-1] > revisions[0]  # the writer really wrote meanwhile


async def test_deleting_what_is_not_there_changes_nothing(store: Store, prefix: str) -> None:
    revision = await store.commit([], [Put(prefix + "a", b"")])
    assert await store.commit([], [Delete(prefix + "b")]) == revision


@pytest.mark.parametrize(
    "writes",
    [
        pytest.param([Put("/k", b"1"), Put("/k", b"2")], id="one key put twice"),
        pytest.param([Put("/k", b"1"), Delete("/k")], id="one key put and deleted"),
        pytest.param([Put(f"/k{n}", b"") for n in range(MAX_WRITES + 1)], id="too many writes"),
        pytest.param([Put("/k", bytes(MAX_TRANSACTION_OCTETS))], id="too many octets"),
        pytest.param([Put("", b"")], id="no key"),
    ],
)
async def test_a_transaction_that_can_never_work_is_a_value_error(
    store: Store, writes: list[Put | Delete]
) -> None:
    with pytest.raises(ValueError, match=r"transaction|key"):
        await store.commit([], writes)
    assert await store.get("/k") is None


async def test_the_largest_transaction_is_accepted(store: Store, prefix: str) -> None:
    room = MAX_TRANSACTION_OCTETS // MAX_WRITES - len(prefix) - 3
    writes = [Put(f"{prefix}{number:03}", bytes(room)) for number in range(MAX_WRITES)]
    compares = [Compare(write.key, 0) for write in writes]
    await store.commit(compares, writes)
    assert len((await store.list(prefix)).items) == MAX_WRITES


async def test_follow_begins_with_a_reset(store: Store, prefix: str) -> None:
    revision = await store.commit([], [Put(prefix + "a", b"1")])
    async with contextlib.aclosing(store.follow(prefix)) as messages:
        first = await anext(messages)
    assert first == Reset(first.revision, (Item(prefix + "a", b"1", revision, revision),))


async def test_follow_tells_each_put_and_delete_in_order(store: Store, prefix: str) -> None:
    async with Follower(store, prefix) as follower:
        await follower.reset_count_is(1)
        created = await store.commit([], [Put(prefix + "a", b"1")])
        written = await store.commit([], [Put(prefix + "a", b"2"), Put(prefix + "b", b"")])
        deleted = await store.commit([], [Delete(prefix + "a")])
        await follower.has_revision(deleted)
    assert follower.changes == [
        (created, Item(prefix + "a", b"1", created, created)),
        (written, Item(prefix + "a", b"2", written, created)),
        (written, Item(prefix + "b", b"", written, written)),
        (deleted, Delete(prefix + "a")),
    ]


async def test_followers_miss_no_event_of_concurrent_writers(store: Store, prefix: str) -> None:
    async with Follower(store, prefix) as follower:
        await follower.reset_count_is(1)
        puts, deletes = await write_from_many(store, prefix, writers=5, writes=60)
        await follower.has_revision(max(puts + deletes))
        assert follower.items == {i.key: i for i in (await store.list(prefix)).items}
    told_puts = [change.revision for _, change in follower.changes if isinstance(change, Item)]
    assert told_puts == sorted(puts)
    assert len(follower.changes) == len(puts) + len(deletes)
    assert len(follower.reset_revisions) == 1


async def test_a_follower_that_comes_late_has_the_same_copy(store: Store, prefix: str) -> None:
    async with asyncio.TaskGroup() as tasks, Follower(store, prefix) as early:
        writing = tasks.create_task(write_from_many(store, prefix, writers=3, writes=40))
        await early.has_revision(1 + (await store.commit([], [Put(prefix + "x", b"")])))
        async with Follower(store, prefix) as late:
            puts, deletes = await writing
            for follower in (early, late):
                await follower.has_revision(max(puts + deletes))
    assert early.items == late.items == {i.key: i for i in (await store.list(prefix)).items}


async def test_a_transaction_arrives_whole(store: Store, prefix: str) -> None:
    async with Follower(store, prefix) as follower:
        await follower.reset_count_is(1)
        keys = [f"{prefix}{number}" for number in range(40)]
        for number in range(20):
            last = await store.commit([], [Put(key, b"%d" % number) for key in keys])
        await follower.has_revision(last)
    for events in follower.events:
        by_value: dict[bytes, int] = {}
        for change in events.puts_and_deletes:
            assert isinstance(change, Item)
            by_value[change.value] = by_value.get(change.value, 0) + 1
        assert set(by_value.values()) == {len(keys)}


async def test_follow_sees_nothing_beside_its_prefix(store: Store, prefix: str) -> None:
    async with Follower(store, prefix + "x/") as follower:
        await follower.reset_count_is(1)
        await store.commit([], [Put(prefix + "x0", b""), Put(prefix + "w", b"")])
        last = await store.commit([], [Put(prefix + "x/a", b"")])
        await follower.has_revision(last)
    assert [change for _, change in follower.changes] == [Item(prefix + "x/a", b"", last, last)]


async def test_a_quiet_follow_shows_that_it_is_alive(store: Store, prefix: str) -> None:
    revision = await store.commit([], [Put(prefix + "a", b"")])
    async with asyncio.timeout(5), contextlib.aclosing(store.follow(prefix)) as messages:
        assert isinstance(await anext(messages), Reset)
        message = await anext(messages)
    assert isinstance(message, Progress)
    assert message.revision >= revision


async def test_events_are_never_older_than_progress(store: Store, prefix: str) -> None:
    async with Follower(store, prefix) as follower:
        last = 0
        for number in range(4):
            last = await store.commit([], [Put(f"{prefix}{number}", b"")])
            await asyncio.sleep(1)
        await follower.has_revision(last)
    seen = 0
    for message in follower.messages:
        if isinstance(message, Events):
            assert message.revision > seen
        seen = max(seen, message.revision)


async def test_keys_of_a_closed_lease_go_at_once(store: Store, prefix: str) -> None:
    lease = await store.lease(30)
    await store.commit([], [Put(prefix + "a", b"", lease.id), Put(prefix + "b", b"")])
    assert not lease.is_lost
    async with Follower(store, prefix) as follower:
        await follower.reset_count_is(1)
        await lease.close()
        await follower.has_change(Delete(prefix + "a"))
    assert lease.is_lost
    assert [item.key for item in (await store.list(prefix)).items] == [prefix + "b"]


async def test_a_put_under_a_closed_lease_is_refused(store: Store, prefix: str) -> None:
    lease = await store.lease(30)
    await lease.close()
    with pytest.raises(LeaseLost):
        await store.commit([], [Put(prefix + "a", b"", lease.id)])
    assert await store.get(prefix + "a") is None


async def test_closing_a_store_ends_its_background_work(store: Store, prefix: str) -> None:
    before = asyncio.all_tasks()
    await store.lease(30)
    await store.get(prefix)
    await store.close()
    # gRPC's own tasks need a few turns of the loop to end.
    left = asyncio.all_tasks() - before
    if left:
        _, left = await asyncio.wait(left, timeout=2)
    assert left == set()
