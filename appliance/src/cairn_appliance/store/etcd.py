"""The store on etcd: a small client on grpc.aio (docs/adr/0001).

The rules it keeps were measured against kills, stops, cut links and compaction: list at a
revision and watch from there; resume from the last event, never from a header; one watch per
connection, with a leader required; progress asked for every 2 s and 5 s of silence taken as
failure; the clean end of a stream is a failure, too; compaction means to list again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Any

import grpc
import grpc.aio

from cairn_appliance.store import rpc_pb2, rpc_pb2_grpc
from cairn_appliance.store.connection import (
    READ_S,
    REQUIRE_LEADER,
    Answer,
    Backoff,
    Caller,
    Compacted,
    Endpoints,
    Link,
    Tls,
    bounded,
    meaning,
)
from cairn_appliance.store.port import (
    Compare,
    Conflict,
    Delete,
    Events,
    Item,
    Listing,
    Progress,
    Put,
    Reset,
    StoreError,
    Unavailable,
    check_transaction,
)

log = logging.getLogger(__name__)

PAGE_KEYS = 500
SURPLUS_KEYS = 5_000  # in one answer: half a megabyte
PROGRESS_S = 2.0
SILENCE_S = 5.0
READ_AHEAD = 16  # messages of a watch that wait for whom they are for; each may have 1.5 MiB
LATE_S = 0.3  # a watch whose next message doesn't bring an own write of then is asked for anew
_ASK_PROGRESS = rpc_pb2.WatchRequest(progress_request=rpc_pb2.WatchProgressRequest())
_LIST_TRIES = 5  # each begins anew after a compaction of the revision being listed


class EtcdLease:
    """A lease renewed at a third of its life; lost at the local deadline, not before.

    The deadline counts from when the last successful renewal was sent, on a clock that
    goes on while the machine is suspended. So it never ends later here than at etcd.
    """

    def __init__(self, store: EtcdStore, lease_id: int, ttl_s: int, sent: float) -> None:
        self._store = store
        self._id = lease_id
        self._ttl_s = ttl_s
        self._deadline = sent + ttl_s
        self._is_over = False

    @property
    def id(self) -> int:
        """The number to give to `Put`."""
        return self._id

    @property
    def is_lost(self) -> bool:
        """True once it could not be renewed in time."""
        return self._is_over or _boot_time() >= self._deadline

    async def close(self) -> None:
        """Revoke it; where etcd can't be reached it ends by itself within its life."""
        self._is_over = True
        await self._store.end_lease(self)

    async def keep(self, endpoints: Endpoints) -> None:
        """Renew until lost; the store runs this in the background."""
        backoff = Backoff()
        while not self.is_lost:
            address = endpoints.pick()
            try:
                async with _connected(endpoints, address) as link:
                    await self._renew_on(link, endpoints, backoff)
            except StoreError as error:
                endpoints.mark_bad(address)
                self._store.counters["lease_retry"] += 1
                log.warning("lease not renewed lease=%x endpoint=%s reason=%s",
                            self._id, address, error)  # fmt: skip
                await backoff.wait()
        if not self._is_over:
            self._is_over = True
            self._store.counters["lease_lost"] += 1
            log.error("lease lost lease=%x ttl_s=%d", self._id, self._ttl_s)

    async def _renew_on(self, link: Link, endpoints: Endpoints, backoff: Backoff) -> None:
        call = rpc_pb2_grpc.LeaseStub(link.channel).LeaseKeepAlive(metadata=REQUIRE_LEADER)
        try:
            while not self._is_over and not endpoints.is_to_leave(link.address):
                sent = _boot_time()
                if not await self._renew_once(call):
                    self._deadline = 0.0
                    return
                self._deadline = sent + self._ttl_s
                backoff.reset()
                await asyncio.sleep(self._ttl_s / 3)
        finally:
            call.cancel()

    async def _renew_once(self, call: Any) -> bool:
        """Return whether etcd still has the lease; raise Unavailable."""

        async def exchange() -> Any:
            await call.write(rpc_pb2.LeaseKeepAliveRequest(ID=self._id))
            return await call.read()

        answer = await bounded(exchange(), min(READ_S, self._ttl_s / 3))
        if not isinstance(answer, rpc_pb2.LeaseKeepAliveResponse):  # grpc.aio.EOF
            raise Unavailable("etcd ended the stream")
        return answer.TTL > 0


class EtcdStore:
    """`Store` on etcd; `counters` tells resyncs, failovers, gaps and losses since the start."""

    def __init__(self, addresses: Sequence[str], tls: Tls | None = None) -> None:
        self.counters: Counter[str] = Counter()
        self._endpoints = Endpoints(addresses, tls)
        self._caller = Caller(self._endpoints, self.counters)
        self._cluster_id = 0  # as the last answer said
        self._leases: dict[EtcdLease, asyncio.Task[None]] = {}
        self._places: set[Place] = set()

    @property
    def endpoints(self) -> Endpoints:
        """Which members it speaks to; their set may be replaced at any time."""
        return self._endpoints

    async def get(self, key: str) -> Item | None:
        """Return the item as a linearizable read."""
        answer = await self._range(rpc_pb2.RangeRequest(key=key.encode()))
        return _item(answer.kvs[0]) if answer.kvs else None

    async def get_all(self, keys: Sequence[str]) -> tuple[Item | None, ...]:
        """Return the items of these keys as one linearizable read."""
        request = rpc_pb2.TxnRequest(success=[_read_of(key) for key in keys])
        answer = await self._caller.read(lambda c: rpc_pb2_grpc.KVStub(c).Txn, request)
        found = [each.response_range.kvs for each in answer.responses]
        return tuple(_item(kvs[0]) if kvs else None for kvs in found)

    async def list(self, prefix: str) -> Listing:
        """Return all items under the prefix at one revision, page by page."""
        for _ in range(_LIST_TRIES):
            try:
                return await self._list_at_one_revision(prefix)
            except Compacted:
                self.counters["list_restart"] += 1
        raise Unavailable(f"{prefix} was compacted faster than it could be listed")

    async def surplus(self, prefix: str, kept: int) -> tuple[str, ...]:
        """Return the first keys under the prefix, all but the last `kept`; see the port."""
        start, end = prefix.encode(), _prefix_end(prefix)
        count = rpc_pb2.RangeRequest(key=start, range_end=end, limit=1, keys_only=True)
        limit = min((await self._range(count)).count - kept, SURPLUS_KEYS)
        if limit <= 0:
            return ()
        first = rpc_pb2.RangeRequest(key=start, range_end=end, limit=limit, keys_only=True)
        return tuple(each.key.decode() for each in (await self._range(first)).kvs)

    async def newest(self, prefix: str) -> int:
        """Return the revision of the last write under the prefix; see the port."""
        request = rpc_pb2.RangeRequest(
            key=prefix.encode(),
            range_end=_prefix_end(prefix),
            limit=1,
            sort_order=rpc_pb2.RangeRequest.DESCEND,
            sort_target=rpc_pb2.RangeRequest.MOD,
            keys_only=True,
        )
        return max((each.mod_revision for each in (await self._range(request)).kvs), default=0)

    async def commit(self, compares: Sequence[Compare], writes: Sequence[Put | Delete]) -> int:
        """Do all writes at one revision; Unavailable leaves open whether it happened."""
        check_transaction(compares, writes)
        request = rpc_pb2.TxnRequest(
            compare=[_compare(compare) for compare in compares],
            success=[_operation(write) for write in writes],
        )
        answer = await self._caller.write(lambda c: rpc_pb2_grpc.KVStub(c).Txn, request)
        if not answer.succeeded:
            raise Conflict(", ".join(compare.key for compare in compares))
        revision = int(answer.header.revision)
        for place in self._places:
            if any(write.key.startswith(place.prefix) for write in writes):
                place.expect(revision)
        return revision

    async def write_and_read(self, writes: Sequence[Put], read: Sequence[str]) -> Listing:
        """Do all writes and return these keys as they are with them; see the port."""
        check_transaction((), writes)
        request = rpc_pb2.TxnRequest(success=[*map(_operation, writes), *map(_read_of, read)])
        answer = await self._caller.write(lambda c: rpc_pb2_grpc.KVStub(c).Txn, request)
        ranges = [each.response_range for each in answer.responses[len(writes) :]]
        items = tuple(_item(kv) for each in ranges for kv in each.kvs)
        return Listing(int(answer.header.revision), items)

    async def follow(self, prefix: str) -> AsyncGenerator[Reset | Events | Progress, None]:
        """Yield a Reset, then what changes; see the port."""
        place = Place(prefix)
        self._places.add(place)
        try:
            async with contextlib.aclosing(self._follow(place)) as messages:
                async for message in messages:
                    yield message
        finally:
            self._places.discard(place)

    async def _follow(self, place: Place) -> AsyncGenerator[Reset | Events | Progress, None]:
        after: int | None = None  # revision of the last event (or list) delivered
        prefix, cluster_id = place.prefix, 0
        backoff = Backoff()
        is_broken = False
        while True:
            address = ""
            try:
                if after is None:
                    listing = await self.list(prefix)
                    after, cluster_id = listing.revision, self._cluster_id
                    place.told(after)
                    self.counters["resync"] += 1
                    log.info("listed prefix=%s items=%d revision=%d",
                             prefix, len(listing.items), after)  # fmt: skip
                    yield Reset(listing.revision, listing.items)
                address = self._endpoints.pick()
                async with (
                    _connected(self._endpoints, address) as link,
                    contextlib.aclosing(_watch(link, prefix, after, cluster_id)) as messages,
                ):
                    async for message in messages:
                        if isinstance(message, Events):
                            after = message.revision
                        place.told(message.revision)
                        is_late = place.is_late()  # before the consumer takes its time
                        if is_broken:
                            log.info("watch works again prefix=%s endpoint=%s", prefix, address)
                        is_broken = False
                        backoff.reset()
                        yield message
                        if is_late:
                            self.counters["late"] += 1
                            log.debug("watch is late prefix=%s after=%s", prefix, after)
                        if is_late or self._endpoints.is_to_leave(address):
                            break
            except Compacted as error:
                log.warning("watch lost its place prefix=%s reason=%s", prefix, error)
                after = None
            except StoreError as error:
                self.counters["gap"] += 1
                if address:
                    self._endpoints.mark_bad(address)
                # Once at WARNING: etcd may be away for hours, with a try each second.
                log.log(logging.DEBUG if is_broken else logging.WARNING,
                        "watch broke prefix=%s endpoint=%s after=%s reason=%s",
                        prefix, address, after, error)  # fmt: skip
                is_broken = True
            await backoff.wait()

    async def lease(self, ttl_s: int) -> EtcdLease:
        """Return a new lease, renewed in the background until closed or lost."""
        sent = _boot_time()
        request = rpc_pb2.LeaseGrantRequest(TTL=ttl_s)
        # Asked for twice in doubt: a lease that nobody knows of ends by itself.
        answer = await self._caller.read(lambda c: rpc_pb2_grpc.LeaseStub(c).LeaseGrant, request)
        lease = EtcdLease(self, answer.ID, min(ttl_s, answer.TTL), sent)
        task = asyncio.create_task(lease.keep(self._endpoints), name=f"keep lease {answer.ID:x}")
        self._leases[lease] = task
        task.add_done_callback(lambda _: self._leases.pop(lease, None))
        return lease

    async def end_lease(self, lease: EtcdLease) -> None:
        """Stop renewing and revoke."""
        await _stop(self._leases.pop(lease, None))
        request = rpc_pb2.LeaseRevokeRequest(ID=lease.id)
        try:
            await self._caller.read(lambda c: rpc_pb2_grpc.LeaseStub(c).LeaseRevoke, request)
        except StoreError as error:
            log.info("lease not revoked, ends by itself lease=%x reason=%s", lease.id, error)

    async def close(self) -> None:
        """End all background work; leases are not revoked, they end by themselves."""
        for task in list(self._leases.values()):
            await _stop(task)
        await self._caller.close()

    async def _list_at_one_revision(self, prefix: str) -> Listing:
        start, end = prefix.encode(), _prefix_end(prefix)
        items: list[Item] = []
        revision = 0
        while True:
            answer = await self._range(
                rpc_pb2.RangeRequest(key=start, range_end=end, limit=PAGE_KEYS, revision=revision)
            )
            revision = revision or answer.header.revision
            items += map(_item, answer.kvs)
            if not answer.more:
                return Listing(revision, tuple(items))
            start = answer.kvs[-1].key + b"\0"

    async def _range(self, request: rpc_pb2.RangeRequest) -> rpc_pb2.RangeResponse:
        answer = await self._caller.read(lambda c: rpc_pb2_grpc.KVStub(c).Range, request)
        assert isinstance(answer, rpc_pb2.RangeResponse)
        self._cluster_id = answer.header.cluster_id
        return answer


class Place:
    """How far a watch is, and should be: what was written here is known, told or not.

    etcd sends a message for each revision, and where all processors are busy a message takes
    milliseconds through the threads that it passes. Who asks anew gets all that there is at once.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self._told = 0
        self._expected = 0  # one that was written here and had not been told then
        self._since = 0.0

    def expect(self, revision: int) -> None:
        """Note what was written; a watch may have told it before its writer was answered."""
        if revision > self._told and not self._expected:
            self._expected, self._since = revision, time.monotonic()

    def told(self, revision: int) -> None:
        """Note how far it is; an etcd that was made anew begins lower."""
        self._told = revision
        if revision >= self._expected:
            self._expected = 0

    def is_late(self) -> bool:
        """Return whether to ask anew; once, until something else is written."""
        if not self._expected or time.monotonic() - self._since < LATE_S:
            return False
        self._expected = 0
        return True


async def _watch(
    link: Link, prefix: str, after: int, cluster_id: int
) -> AsyncGenerator[Events | Progress, None]:
    """Yield what happened after `after` until the stream fails; raise Compacted, Unavailable."""
    # Opened one revision lower than needed and filtered: an etcd before 3.5.18 misses a
    # deletion where the watch opens at the revision of the last compaction.
    create = rpc_pb2.WatchCreateRequest(
        key=prefix.encode(), range_end=_prefix_end(prefix), start_revision=after, fragment=True
    )
    pending: list[rpc_pb2.Event] = []
    async with contextlib.aclosing(_responses(link, create)) as came:
        async for responses in came:
            changes: list[Item | Delete] = []
            progress = 0
            for response in responses:
                _check(response, after, cluster_id)
                pending += response.events
                if response.created or response.fragment:
                    continue
                fresh = [_change(e) for e in pending if e.kv.mod_revision > after]
                if fresh:
                    changes += fresh
                    after = pending[-1].kv.mod_revision
                elif not pending:
                    progress = response.header.revision
                pending.clear()
            if changes:
                yield Events(after, tuple(changes))
            if progress >= after:
                yield Progress(progress)


def _check(response: rpc_pb2.WatchResponse, after: int, cluster_id: int) -> None:
    if response.compact_revision:
        raise Compacted(f"compacted at {response.compact_revision}, wanted {after}")
    if response.canceled:
        raise Unavailable(f"watch cancelled: {response.cancel_reason}")
    # Restored from a backup, made anew, or a member that is behind: what we hold may never
    # have been, and a watch on a future revision would wait in silence.
    if response.created and response.header.revision < after:
        raise Compacted(f"etcd is at {response.header.revision}, before {after}")
    if response.header.cluster_id != cluster_id:
        raise Compacted("another etcd cluster answers")


async def _responses(
    link: Link, create: rpc_pb2.WatchCreateRequest
) -> AsyncGenerator[list[rpc_pb2.WatchResponse], None]:
    """Yield the stream's responses, those together that came while the consumer was busy.

    Raises Unavailable when the stream ends or falls silent.
    """
    call = rpc_pb2_grpc.WatchStub(link.channel).Watch(metadata=REQUIRE_LEADER)
    came: asyncio.Queue[rpc_pb2.WatchResponse | StoreError] = asyncio.Queue(READ_AHEAD)
    reading = asyncio.create_task(_read_ahead(call, came), name="read watch")
    try:
        await bounded(call.write(rpc_pb2.WatchRequest(create_request=create)), READ_S)
        while True:
            # Silence counts from here: a consumer that took its time is not etcd's failure.
            silent_at = time.monotonic() + SILENCE_S
            wait_s = PROGRESS_S
            while (first := await _within(wait_s, came)) is None:
                if reading.done():
                    reading.result()  # what nobody has foreseen
                wait_s = min(PROGRESS_S, silent_at - time.monotonic())
                if wait_s <= 0:
                    raise Unavailable(f"silent for {SILENCE_S:.0f} s")
                await bounded(call.write(_ASK_PROGRESS), READ_S)
            yield [_answered(first), *(_answered(came.get_nowait()) for _ in range(came.qsize()))]
    finally:
        call.cancel()
        await _stop(reading)


async def _within(wait_s: float, queue: asyncio.Queue[Answer]) -> Answer | None:
    try:
        async with asyncio.timeout(wait_s):
            return await queue.get()
    except TimeoutError:
        return None


async def _read_ahead(call: Any, came: asyncio.Queue[rpc_pb2.WatchResponse | StoreError]) -> None:
    """Read until the stream ends, the reason being the last in the queue.

    A message takes a pass of the loop at least: what is made of it must not take more of them.
    A full queue holds etcd back, which sends many revisions in a message then.
    """
    try:
        while True:
            await came.put(await _read(call))
    except StoreError as error:
        await came.put(error)


def _answered(response: rpc_pb2.WatchResponse | StoreError) -> rpc_pb2.WatchResponse:
    if isinstance(response, StoreError):
        raise response
    return response


async def _read(call: Any) -> rpc_pb2.WatchResponse:
    try:
        response = await call.read()
    except grpc.aio.AioRpcError as error:
        raise meaning(error) from error
    if not isinstance(response, rpc_pb2.WatchResponse):  # grpc.aio.EOF
        raise Unavailable("etcd ended the stream")
    return response


@contextlib.asynccontextmanager
async def _connected(endpoints: Endpoints, address: str) -> AsyncIterator[Link]:
    """Yield a connection of its own to the address; raise NotConnected."""
    link = Link(address, endpoints.open(address))
    try:
        await link.ready(READ_S)
        yield link
    finally:
        await link.channel.close(None)


async def _stop(task: asyncio.Task[Any] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _item(kv: rpc_pb2.KeyValue) -> Item:
    return Item(kv.key.decode(), kv.value, kv.mod_revision, kv.create_revision)


def _change(event: rpc_pb2.Event) -> Item | Delete:
    if event.type == rpc_pb2.Event.DELETE:
        return Delete(event.kv.key.decode())
    return _item(event.kv)


def _compare(compare: Compare) -> rpc_pb2.Compare:
    return rpc_pb2.Compare(
        result=rpc_pb2.Compare.EQUAL,
        target=rpc_pb2.Compare.MOD,
        key=compare.key.encode(),
        mod_revision=compare.revision,
    )


def _operation(write: Put | Delete) -> rpc_pb2.RequestOp:
    key = write.key.encode()
    if isinstance(write, Delete):
        return rpc_pb2.RequestOp(request_delete_range=rpc_pb2.DeleteRangeRequest(key=key))
    put = rpc_pb2.PutRequest(key=key, value=write.value, lease=write.lease)
    return rpc_pb2.RequestOp(request_put=put)


def _read_of(key: str) -> rpc_pb2.RequestOp:
    return rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=key.encode()))


def _prefix_end(prefix: str) -> bytes:
    """Return the first key after all that begin with the prefix, for etcd's ranges."""
    octets = prefix.encode().rstrip(b"\xff")
    return octets[:-1] + bytes([octets[-1] + 1]) if octets else b"\0"


def _boot_time() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)
