"""What the store on etcd keeps when members die, stop, fall silent or forget."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import grpc.aio
import pytest
from cairn_appliance.cluster.members import EtcdMembers
from cairn_appliance.pki.authority import Authority
from cairn_appliance.store import rpc_pb2, rpc_pb2_grpc
from cairn_appliance.store.connection import Caller, Endpoints, Tls
from cairn_appliance.store.etcd import LATE_S, PROGRESS_S, EtcdStore, Place
from cairn_appliance.store.port import (
    Compare,
    Conflict,
    Delete,
    Full,
    Item,
    Progress,
    Put,
    Unavailable,
)
from cairn_appliance.store.snapshots import Snapshots

from tests.awake import AwakeClock
from tests.contract.etcd_server import EtcdServer, client
from tests.contract.follower import Follower, write_from_many
from tests.ports import free_port

pytestmark = [pytest.mark.etcd, pytest.mark.timeout(120)]

P = "/test/"
PROMISED_S = 10.0  # every call of the port ends within this
# From an endpoint's return to the next event: 1 to 3 s, more beside tests that take both cores.
RECOVERED_S = 30.0


def connections(address: str) -> int:
    """Return how many connections of this process to the address's port are open (proc(5))."""
    port = f":{int(address.rpartition(':')[2]):04X}"
    ours = {str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if os.path.lexists(fd)}
    tables = (Path(f"/proc/self/net/{name}").read_text() for name in ("tcp", "tcp6"))
    lines = [line.split() for table in tables for line in table.splitlines()[1:]]
    opened = [line for line in lines if line[2].endswith(port) and line[3] == "01"]
    return sum(f"socket:[{line[9]}]" in ours for line in opened)


async def write_until_it_works(store: EtcdStore, key: str) -> int:
    """Return the revision of the first write that was answered."""
    async with asyncio.timeout(RECOVERED_S):
        while True:
            with contextlib.suppress(Unavailable):
                return await store.commit([], [Put(key, b"")])


async def seconds_until_apart(etcd: EtcdMembers) -> float:
    """Return how long it took to know that not all members answer."""
    begun = time.monotonic()
    assert not await etcd.are_together()
    return time.monotonic() - begun


async def until_together(etcd: EtcdMembers) -> None:
    """Wait until all members answer."""
    async with asyncio.timeout(RECOVERED_S):
        while not await etcd.are_together():
            await asyncio.sleep(0.1)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path)
    server.start()
    yield server
    server.kill()


@pytest.fixture
async def store(server: EtcdServer) -> AsyncIterator[EtcdStore]:
    async with client(server.address) as store:
        yield store


async def test_a_watch_that_is_late_is_asked_for_anew_and_misses_nothing(
    store: EtcdStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Place, "is_late", lambda _: True)  # after each message
    async with Follower(store, P) as follower:
        await follower.reset_count_is(1)
        puts, deletes = await write_from_many(store, P, writers=5, writes=60)
        await follower.has_revision(max(puts + deletes))
    told_puts = [change.revision for _, change in follower.changes if isinstance(change, Item)]
    assert told_puts == sorted(puts)
    assert len(follower.changes) == len(puts) + len(deletes)
    assert len(follower.reset_revisions) == 1
    assert store.counters["late"] > 0


async def test_where_all_members_failed_of_late_it_is_known_which_is_used() -> None:
    """Else nobody would see that it isn't home, and it would never go back there."""
    endpoints = Endpoints(["home:1", "other:1", "third:1"], None)
    for address in ("other:1", "home:1", "third:1"):
        endpoints.mark_bad(address)
        await asyncio.sleep(0.01)
    assert endpoints.pick() == "other:1"
    assert endpoints.is_away


def test_a_watch_is_late_where_a_message_does_not_bring_what_was_written_a_while_ago() -> None:
    place = Place(P)
    place.told(7)
    place.expect(7)  # told before its writer was answered
    time.sleep(1.1 * LATE_S)
    assert not place.is_late()
    place.expect(10)
    place.expect(12)
    assert not place.is_late(), "a moment ago"
    time.sleep(1.1 * LATE_S)
    place.told(9)
    assert place.is_late()
    assert not place.is_late(), "once, until something else is written"
    place.expect(13)
    time.sleep(1.1 * LATE_S)
    place.told(13)
    assert not place.is_late()


async def test_a_watch_that_is_not_late_is_kept(store: EtcdStore) -> None:
    """A watch may tell a write before its writer is answered."""
    async with Follower(store, P) as follower:
        await follower.reset_count_is(1)
        for number in range(20):
            revision = await store.commit([], [Put(f"{P}{number}", b""), Delete(f"{P}not there")])
        await store.commit([], [Delete(f"{P}not there")])
        await follower.has_revision(revision)
        await asyncio.sleep(PROGRESS_S * 1.5)
    assert store.counters["late"] == 0


async def test_a_follower_keeps_up_where_the_loop_has_much_to_do(store: EtcdStore) -> None:
    """Each pass of it takes milliseconds, and a message some passes."""
    passes, done = 0, asyncio.Event()

    async def write(writer: int) -> None:
        for number in itertools.count():
            if done.is_set():
                return
            await store.commit([], [Put(f"{P}{writer}/{number % 100}", b"")])

    async def work() -> None:
        nonlocal passes
        while True:
            time.sleep(0.003)  # noqa: ASYNC251 - that is what is tested
            passes += 1
            await asyncio.sleep(0)

    async with Follower(store, P) as follower:
        await follower.reset_count_is(1)
        working = asyncio.create_task(work())
        async with asyncio.TaskGroup() as tasks:
            for writer in range(50):
                tasks.create_task(write(writer))
            await asyncio.sleep(5)
            done.set()
        newest, written = await store.newest(P), passes
        await follower.has_revision(newest, wait_s=60)
        behind = passes - written
        working.cancel()
    assert behind < written / 5, f"{behind} passes later; all was written in {written}"


async def test_a_follower_resumes_after_etcd_was_killed_and_misses_nothing(
    server: EtcdServer, store: EtcdStore
) -> None:
    """Writes of another client go on through three kills; each that was acknowledged arrives."""
    acknowledged: list[int] = []
    doubtful = 0
    is_done = asyncio.Event()

    async def write() -> None:
        nonlocal doubtful
        number = 0
        async with client(server.address) as writer:
            while not is_done.is_set():
                number += 1
                try:
                    revision = await writer.commit([], [Put(f"{P}{number % 50}", b"%d" % number)])
                    acknowledged.append(revision)
                except Unavailable:
                    doubtful += 1
                await asyncio.sleep(0.002)

    async with Follower(store, P) as follower, asyncio.TaskGroup() as tasks:
        await follower.reset_count_is(1)
        writing = tasks.create_task(write())
        for _ in range(3):
            await asyncio.sleep(0.7)
            server.kill()
            before = len(acknowledged)
            await asyncio.sleep(0.5)
            server.start()
            async with asyncio.timeout(RECOVERED_S):
                while len(acknowledged) < before + 20:
                    await asyncio.sleep(0.05)
        is_done.set()
        await writing
        await follower.has_revision(max(acknowledged), RECOVERED_S)
    told = [revision for revision, _ in follower.changes]
    assert told == sorted(set(told))
    assert set(acknowledged) <= set(told)
    assert len(told) <= len(acknowledged) + doubtful
    assert len(follower.reset_revisions) == 1
    assert store.counters["gap"] >= 3


async def test_a_follower_past_a_compaction_is_reset(server: EtcdServer, store: EtcdStore) -> None:
    async with Follower(store, P) as follower:
        await store.commit([], [Put(P + "a", b"1"), Put(P + "gone", b"1")])
        await follower.reset_count_is(1)
        server.kill()
        # On another port, where the follower doesn't look for it.
        elsewhere = f"127.0.0.1:{(port := free_port())}"
        server.start(port=port)
        async with client(elsewhere) as other:
            await other.commit([], [Put(P + "a", b"2")])
            gone = await other.get(P + "gone")
            assert gone is not None
            await _delete(other, gone)
            last = await other.commit([], [Put(P + "b", b"1")])
            await _compact(elsewhere, last)
        server.kill()
        server.start()
        await follower.reset_count_is(2, RECOVERED_S)
        assert follower.items == {i.key: i for i in (await store.list(P)).items}
        assert set(follower.items) == {P + "a", P + "b"}
        after = await store.commit([], [Put(P + "c", b"1")])
        await follower.has_revision(after)
    assert follower.changes[-1][1] == Item(P + "c", b"1", after, after)


async def test_a_follower_of_an_etcd_that_was_made_anew_is_reset(
    server: EtcdServer, store: EtcdStore
) -> None:
    """What was watched never was: the new etcd's revisions begin again, in another cluster."""
    async with Follower(store, P) as follower:
        for number in range(5):
            last = await store.commit([], [Put(P + "old", b"%d" % number)])
        await follower.has_revision(last)
        server.kill()
        server.forget()
        server.start()
        await follower.reset_count_is(2, RECOVERED_S)
        assert follower.items == {}
        after = await store.commit([], [Put(P + "new", b"1")])
        await follower.has_change(Item(P + "new", b"1", after, after))


async def test_a_list_goes_on_when_its_revision_is_compacted_between_pages(
    server: EtcdServer, store: EtcdStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cairn_appliance.store.etcd.PAGE_KEYS", 10)
    await store.commit([], [Put(f"{P}{number:03}", b"") for number in range(100)])
    real = store._range
    calls = 0

    async def compacting(request: rpc_pb2.RangeRequest) -> rpc_pb2.RangeResponse:
        nonlocal calls
        calls += 1
        if calls == 4:
            await _compact(server.address, await store.commit([], [Put(P + "new", b"")]))
        return await real(request)

    monkeypatch.setattr(store, "_range", compacting)
    listing = await store.list(P)
    assert len(listing.items) == 101
    assert store.counters["list_restart"] == 1


async def test_a_write_to_a_paused_etcd_is_unavailable_in_time_and_works_again(
    server: EtcdServer, store: EtcdStore
) -> None:
    revision = await store.commit([], [Put(P + "a", b"1")])
    async with Follower(store, P) as follower:
        await follower.reset_count_is(1)
        with server.paused():
            begun = time.monotonic()
            with pytest.raises(Unavailable):
                await store.commit([Compare(P + "a", revision)], [Put(P + "a", b"2")])
            assert time.monotonic() - begun < PROMISED_S
            await asyncio.sleep(max(0.0, begun + 6 - time.monotonic()))
        assert store.counters["gap"] >= 1  # six seconds of silence were noticed
        # It may have happened, or happen now: then a second try conflicts, and the value is ours.
        try:
            last = await store.commit([Compare(P + "a", revision)], [Put(P + "a", b"2")])
        except Conflict:
            item = await store.get(P + "a")
            assert item is not None
            last = item.revision
        await follower.has_revision(last, RECOVERED_S)
        assert follower.items[P + "a"].value == b"2"
    assert len(follower.reset_revisions) == 1


async def test_reads_of_a_paused_etcd_are_unavailable_within_the_bound(
    server: EtcdServer, store: EtcdStore
) -> None:
    await store.commit([], [Put(P + "a", b"")])
    with server.paused():
        begun = time.monotonic()
        results = await asyncio.gather(
            store.get(P + "a"), store.list(P), store.lease(10), return_exceptions=True
        )
        assert time.monotonic() - begun < PROMISED_S
    assert all(isinstance(result, Unavailable) for result in results), results
    assert await store.get(P + "a") is not None


async def test_calls_before_etcd_runs_fail_in_time_and_a_follower_waits_for_it(
    server: EtcdServer, store: EtcdStore
) -> None:
    server.kill()
    async with Follower(store, P) as follower:
        begun = time.monotonic()
        with pytest.raises(Unavailable):
            await store.get(P + "a")
        assert time.monotonic() - begun < PROMISED_S
        assert follower.messages == []
        server.start()
        await follower.reset_count_is(1, RECOVERED_S)


async def test_a_healthy_follower_is_never_silent_for_long(store: EtcdStore) -> None:
    heard: list[float] = []
    async with asyncio.timeout(30), contextlib.aclosing(store.follow(P)) as messages:
        async for message in messages:
            heard.append(time.monotonic())
            if isinstance(message, Progress) and len(heard) > 4:
                break
    assert max(b - a for a, b in itertools.pairwise(heard)) < 4


async def test_a_slow_consumer_is_no_failure_of_etcd(store: EtcdStore) -> None:
    async with contextlib.aclosing(store.follow(P)) as messages:
        await anext(messages)
        await asyncio.sleep(7)
        last = await store.commit([], [Put(P + "a", b"")])
        async with asyncio.timeout(5):
            async for message in messages:
                if message.revision >= last and not isinstance(message, Progress):
                    break
    assert store.counters["gap"] == 0


async def test_events_larger_than_a_message_of_etcd_arrive_whole(store: EtcdStore) -> None:
    """Fragments: etcd splits a response at about 1.5 MiB; many revisions are sent in one."""
    async with contextlib.aclosing(store.follow(P)) as messages:
        await anext(messages)
        for number in range(8):
            last = await store.commit(
                [], [Put(f"{P}{number}/{part}", bytes(300_000)) for part in range(3)]
            )
        by_revision: dict[int, int] = {}
        async with asyncio.timeout(20):
            async for message in messages:
                if not isinstance(message, Progress):
                    assert message.revision == message.puts_and_deletes[-1].revision
                    for change in message.puts_and_deletes:
                        by_revision[change.revision] = by_revision.get(change.revision, 0) + 1
                if message.revision >= last and last in by_revision:
                    break
    assert len(by_revision) == 8
    assert set(by_revision.values()) == {3}


async def test_a_lease_is_renewed_past_its_life(store: EtcdStore) -> None:
    lease = await store.lease(6)  # seconds that this process may stand still in between
    await store.commit([], [Put(P + "a", b"", lease.id)])
    await asyncio.sleep(13)
    assert not lease.is_lost
    assert await store.get(P + "a") is not None


async def test_a_lease_that_cannot_be_renewed_is_lost_no_later_than_its_life(
    server: EtcdServer, store: EtcdStore
) -> None:
    lease = await store.lease(3)
    await store.commit([], [Put(P + "a", b"", lease.id)])
    with server.paused():
        begun = held = time.monotonic()
        async with asyncio.timeout(RECOVERED_S):
            while True:
                looked = time.monotonic()
                if lease.is_lost:
                    break
                held = looked  # not when it was seen to be lost: that may be late
                await asyncio.sleep(0.01)
        assert held - begun < 3.1
        await asyncio.sleep(3)
    assert lease.is_lost  # for good, whatever etcd says later
    async with asyncio.timeout(RECOVERED_S):
        while await store.get(P + "a") is not None:
            await asyncio.sleep(0.1)
    assert lease.is_lost


async def test_a_lease_survives_a_restart_of_etcd_within_its_life(
    server: EtcdServer, store: EtcdStore
) -> None:
    lease = await store.lease(10)
    await store.commit([], [Put(P + "a", b"", lease.id)])
    server.kill()
    await asyncio.sleep(1)
    server.start()
    await asyncio.sleep(11)
    assert not lease.is_lost
    assert await store.get(P + "a") is not None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_lease_whose_stream_ended_between_two_renewals_is_renewed_on_another(
    store: EtcdStore, server: EtcdServer, number: int
) -> None:
    lease = await store.lease(9)  # etcd begins again meanwhile
    await store.commit([], [Put(P + "a", b"", lease.id)])
    await asyncio.sleep(0.3)  # the next renewal is due after 3 s
    await asyncio.to_thread(server.end, number)
    await asyncio.to_thread(server.start)
    await asyncio.sleep(11.0)
    assert not lease.is_lost
    assert await store.get(P + "a") is not None


async def test_a_lease_that_was_revoked_elsewhere_is_lost_at_its_next_renewal(
    server: EtcdServer, store: EtcdStore
) -> None:
    lease = await store.lease(6)
    async with _channel(server.address) as channel:
        await rpc_pb2_grpc.LeaseStub(channel).LeaseRevoke(rpc_pb2.LeaseRevokeRequest(ID=lease.id))
    async with asyncio.timeout(3):
        while not lease.is_lost:
            await asyncio.sleep(0.05)


async def test_one_dead_endpoint_costs_little(server: EtcdServer) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.socket() as refusing:
        refusing.bind(("127.0.0.1", 0))
        # One accepts and never answers, one refuses; the third works.
        dead = [f"127.0.0.1:{sock.getsockname()[1]}" for sock in (silent, refusing)]
        async with client(*dead, server.address) as store, Follower(store, P) as follower:
            begun = time.monotonic()
            last = await store.commit([], [Put(P + "a", b"")])
            assert time.monotonic() - begun < 4
            await follower.has_revision(last, 4)
            with AwakeClock() as clock:
                for _ in range(20):
                    await store.get(P + "a")
                assert clock.passed_s < 1  # it stays on the one that works


async def test_a_snapshot_is_taken_of_another_member_where_one_does_not_run_yet(
    server: EtcdServer, store: EtcdStore
) -> None:
    """So is a member that was just added, whose etcd is yet to begin."""
    written = await store.commit([], [Put(P + "a", b"")])
    with socket.socket() as refusing:
        refusing.bind(("127.0.0.1", 0))
        added = f"127.0.0.1:{refusing.getsockname()[1]}"
        async with Snapshots(Endpoints([added, server.address], None)).take() as snapshot:
            octets = sum([len(chunk) async for chunk in snapshot.chunks])
    assert snapshot.revision >= written
    assert octets > 0


async def test_a_snapshot_that_no_member_gives_is_given_up_in_time() -> None:
    with socket.socket() as refusing:
        refusing.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{refusing.getsockname()[1]}"
        begun = time.monotonic()
        with pytest.raises(Unavailable, match="refuses the connection"):
            async with Snapshots(Endpoints([nobody], None)).take():
                pytest.fail("nobody gives one")
    assert time.monotonic() - begun < PROMISED_S


async def test_when_the_endpoint_in_use_dies_the_next_takes_over(tmp_path: Path) -> None:
    """Three members; the one that is spoken to is killed again and again, no event is missed."""
    servers = EtcdServer.cluster(tmp_path, 3)
    try:
        async with (
            client(*(server.address for server in servers)) as store,
            Follower(store, P) as follower,
        ):
            await follower.reset_count_is(1)
            longest = 0.0
            puts: list[int] = []
            deletes: list[int] = []
            for victim in servers:
                victim.kill()
                begun = time.monotonic()
                puts.append(await write_until_it_works(store, P + "a"))
                longest = max(longest, time.monotonic() - begun)
                written = await write_from_many(store, P, writers=3, writes=20)
                puts += written[0]
                deletes += written[1]
                await follower.has_revision(max(puts + deletes), RECOVERED_S)
                victim.start()
                await asyncio.sleep(1)
    finally:
        for server in servers:
            server.kill()
    told = [change.revision for _, change in follower.changes if isinstance(change, Item)]
    told_deletes = [change for _, change in follower.changes if isinstance(change, Delete)]
    assert told == sorted(set(told))
    assert set(puts) <= set(told)
    assert len(told_deletes) == len(deletes)
    assert len(follower.reset_revisions) == 1
    assert longest < PROMISED_S


async def test_back_at_home_no_event_is_missed_and_a_lease_lives_on(tmp_path: Path) -> None:
    """The first member dies and comes back; once that is told, all connections go to it."""
    servers = EtcdServer.cluster(tmp_path, 3)
    home = servers[0]
    try:
        async with (
            client(*(server.address for server in servers)) as store,
            Follower(store, P) as follower,
        ):
            lease = await store.lease(5)
            await store.commit([], [Put(P + "l", b"", lease.id)])
            for server in servers:  # one that hasn't applied it yet would send the watch back
                async with client(server.address) as one:
                    assert await one.get(P + "l")
            home.kill()
            await write_until_it_works(store, P + "a")  # some leader's term is known from here on
            puts, _ = await write_from_many(store, P, writers=3, writes=20)
            # Past the election: the watch, and after two of its renewals the lease.
            await follower.has_revision(max(puts), RECOVERED_S)
            await asyncio.sleep(4)
            assert sum(connections(server.address) for server in servers[1:]) >= 3
            home.start()
            await asyncio.sleep(1)
            assert connections(home.address) == 0 and store.endpoints.is_away

            store.endpoints.go_home()
            more, _ = await write_from_many(store, P, writers=3, writes=20)
            await follower.has_revision(max(puts + more), RECOVERED_S)
            async with asyncio.timeout(10):  # calls, watch, lease
                while connections(home.address) < 3:
                    await store.commit([], [Put(P + "a", b"")])
                    await asyncio.sleep(0.2)
            away = [connections(server.address) for server in servers[1:]]
            await asyncio.sleep(6)
            assert not lease.is_lost and await store.get(P + "l")
    finally:
        for server in servers:
            server.kill()
    told = [change.revision for _, change in follower.changes if isinstance(change, Item)]
    assert told == sorted(set(told))
    assert set(puts + more) <= set(told)
    assert len(follower.reset_revisions) == 1
    assert away == [0, 0]


async def test_a_member_that_tells_of_another_leader_is_not_left(server: EtcdServer) -> None:
    """The others would be no better, and may be the dead one: that cost two seconds more."""
    answers = iter([_leader_changed(), None])

    def method(channel: grpc.aio.Channel) -> Callable[..., Awaitable[object]]:
        async def call(request: rpc_pb2.RangeRequest) -> object:
            if error := next(answers):
                raise error
            return await rpc_pb2_grpc.KVStub(channel).Range(request)

        return call

    counters: Counter[str] = Counter()
    endpoints = Endpoints([server.address, f"127.0.0.1:{free_port()}"], None)
    caller = Caller(endpoints, counters)
    try:
        answer = await caller.read(method, rpc_pb2.RangeRequest(key=b"a"))
        assert answer.header.revision
        assert counters["failover"] == 0 and not endpoints.is_away
    finally:
        await caller.close()


def _leader_changed() -> grpc.aio.AioRpcError:
    nothing = grpc.aio.Metadata()
    text = "etcdserver: leader changed"
    return grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, nothing, nothing, text)


async def test_members_are_together_while_all_of_them_answer(tmp_path: Path) -> None:
    servers = EtcdServer.cluster(tmp_path, 3)
    try:
        async with client(servers[0].address) as store:
            etcd = EtcdMembers(store.endpoints)
            await until_together(etcd)
            for server in servers:
                with server.paused():
                    # The best of some: this process may stand still.
                    assert min([await seconds_until_apart(etcd) for _ in range(3)]) < 1.5
            await write_until_it_works(store, P + "a")
            await until_together(etcd)
            await etcd.close()
    finally:
        for server in servers:
            server.kill()


async def test_without_a_leader_a_watch_does_not_stay_silent(tmp_path: Path) -> None:
    """Two of three members die: the watch on the third breaks, and comes back with the quorum."""
    servers = EtcdServer.cluster(tmp_path, 3)
    try:
        async with client(servers[0].address) as store, Follower(store, P) as follower:
            await follower.reset_count_is(1)
            last = await store.commit([], [Put(P + "a", b"1")])
            await follower.has_revision(last)
            servers[1].kill()
            servers[2].kill()
            async with asyncio.timeout(15):
                while store.counters["gap"] == 0:
                    await asyncio.sleep(0.05)
            with pytest.raises(Unavailable):
                await store.commit([], [Put(P + "a", b"2")])
            servers[1].start()
            last = await write_until_it_works(store, P + "a")
            await follower.has_revision(last, RECOVERED_S)
    finally:
        for server in servers:
            server.kill()
    assert len(follower.reset_revisions) == 1


async def test_mutual_tls_is_required_both_ways(tmp_path: Path) -> None:
    ours, theirs = (_certificates(tmp_path / name) for name in ("ours", "theirs"))
    server = EtcdServer(tmp_path, tls=ours["server"])
    server.start()
    try:
        good = _tls(ours["client"])
        async with client(server.address, tls=good) as store, Follower(store, P) as follower:
            last = await store.commit([], [Put(P + "a", b"")])
            await follower.has_revision(last)
        foreign_client = Tls(good.ca, theirs["client"]["certificate"], theirs["client"]["key"])
        foreign_server = Tls(theirs["client"]["ca"], good.certificate, good.key)

        async def is_refused(tls: Tls | None) -> None:
            async with client(server.address, tls=tls) as store:
                begun = time.monotonic()
                with pytest.raises(Unavailable):
                    await store.get(P + "a")
                assert time.monotonic() - begun < PROMISED_S

        await asyncio.gather(*map(is_refused, (None, foreign_client, foreign_server)))
    finally:
        server.kill()


async def test_a_full_etcd_says_so_and_works_again_when_freed(tmp_path: Path) -> None:
    server = EtcdServer(tmp_path, options=("--quota-backend-bytes=4194304",))
    server.start()
    try:
        async with client(server.address) as store:
            keys = [f"{P}{number}" for number in range(20)]
            # etcd counts what its backend has committed, up to 100 ms later: writes may be faster.
            with pytest.raises(Full):
                async with asyncio.timeout(20):
                    for key in itertools.cycle(keys):
                        await store.commit([], [Put(key, bytes(900_000))])
            assert (await store.list(P)).items
            last = await store.commit([], [Delete(key) for key in keys])
            async with _channel(server.address) as channel:
                await _compact(server.address, last)
                maintenance = rpc_pb2_grpc.MaintenanceStub(channel)
                await maintenance.Defragment(rpc_pb2.DefragmentRequest())
                alarms = await maintenance.Alarm(rpc_pb2.AlarmRequest())
                assert [alarm.alarm for alarm in alarms.alarms] == [rpc_pb2.NOSPACE]
                await maintenance.Alarm(
                    rpc_pb2.AlarmRequest(
                        action=rpc_pb2.AlarmRequest.DEACTIVATE,
                        memberID=alarms.alarms[0].memberID,
                        alarm=rpc_pb2.NOSPACE,
                    )
                )
            await store.commit([], [Put(P + "a", b"")])
    finally:
        server.kill()


async def _delete(store: EtcdStore, item: Item) -> None:
    await store.commit([Compare(item.key, item.revision)], [Delete(item.key)])


async def _compact(address: str, revision: int) -> None:
    async with _channel(address) as channel:
        request = rpc_pb2.CompactionRequest(revision=revision, physical=True)
        await rpc_pb2_grpc.KVStub(channel).Compact(request)


@contextlib.asynccontextmanager
async def _channel(address: str) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(address) as channel:
        yield channel


def _certificates(directory: Path) -> dict[str, dict[str, Path]]:
    directory.mkdir()
    now = datetime.now(UTC)
    authority = Authority.create(directory.name, now)
    (directory / "ca.pem").write_bytes(authority.certificate)
    made = {}
    for name, purpose in (("server", "peer"), ("client", "client")):
        pair = authority.issue_pair(name, purpose, ["127.0.0.1"], now)  # type: ignore[arg-type]
        (directory / f"{name}.pem").write_bytes(pair.certificate)
        (directory / f"{name}-key.pem").write_bytes(pair.private_key)
        made[name] = {
            "ca": directory / "ca.pem",
            "certificate": directory / f"{name}.pem",
            "key": directory / f"{name}-key.pem",
        }
    return made


def _tls(paths: dict[str, Path]) -> Tls:
    return Tls(**paths)
