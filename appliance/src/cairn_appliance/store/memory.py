"""A store in memory, for unit tests: the same promises, held to the same contract suite."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Sequence

from cairn_appliance.store.port import (
    Compare,
    Conflict,
    Delete,
    Events,
    Item,
    LeaseLost,
    Listing,
    Progress,
    Put,
    Reset,
    Unavailable,
    check_transaction,
)

_QUEUE_REVISIONS = 1000  # a follower that is further behind gets a Reset instead


class MemoryLease:
    """A lease that lasts until it is closed or `MemoryStore.lose` is called."""

    def __init__(self, store: MemoryStore, lease_id: int) -> None:
        self._store = store
        self._id = lease_id
        self._is_lost = False

    @property
    def id(self) -> int:
        """The number to give to `Put`."""
        return self._id

    @property
    def is_lost(self) -> bool:
        """True once the lease is gone."""
        return self._is_lost

    def mark_lost(self) -> None:
        """Make `is_lost` true."""
        self._is_lost = True

    async def close(self) -> None:
        """Revoke it; its keys go at once."""
        self._store.lose(self)


class MemoryStore:
    """Keys with revisions, in one event loop."""

    def __init__(self, *, progress_s: float = 2.0) -> None:
        self._available = asyncio.Event()
        self._available.set()
        self._progress_s = progress_s
        self._revision = 1
        self._items: dict[str, Item] = {}
        self._leases: dict[int, set[str]] = {}
        self._lease_ids = itertools.count(1)
        self._followers: set[_Follower] = set()

    def fail(self) -> None:
        """Make every call raise Unavailable, as a loss of quorum does, until `recover`."""
        self._available.clear()

    def recover(self) -> None:
        """End what `fail` began."""
        self._available.set()

    async def get(self, key: str) -> Item | None:
        """Return the item."""
        self._check_available()
        return self._items.get(key)

    async def get_all(self, keys: Sequence[str]) -> tuple[Item | None, ...]:
        """Return the items of these keys."""
        self._check_available()
        return tuple(map(self._items.get, keys))

    async def list(self, prefix: str) -> Listing:
        """Return all items under the prefix."""
        self._check_available()
        return self._listing(prefix)

    async def surplus(self, prefix: str, kept: int) -> tuple[str, ...]:
        """Return the first keys under the prefix, all but the last `kept`."""
        self._check_available()
        items = self._listing(prefix).items
        return tuple(item.key for item in items[: max(0, len(items) - kept)])

    async def newest(self, prefix: str) -> int:
        """Return the revision of the last write under the prefix, of the keys that are there."""
        self._check_available()
        return max((item.revision for item in self._listing(prefix).items), default=0)

    async def commit(self, compares: Sequence[Compare], writes: Sequence[Put | Delete]) -> int:
        """Do all writes at one revision if every compare holds."""
        check_transaction(compares, writes)
        self._check_available()
        for compare in compares:
            found = self._items.get(compare.key)
            if (found.revision if found else 0) != compare.revision:
                raise Conflict(compare.key)
        for write in writes:
            if isinstance(write, Put) and write.lease and write.lease not in self._leases:
                raise LeaseLost(f"lease {write.lease} is gone")
        return self._write(writes)

    async def write_and_read(self, writes: Sequence[Put], read: Sequence[str]) -> Listing:
        """Do all writes and return these keys as they are with them."""
        revision = await self.commit((), writes)
        return Listing(revision, tuple(self._items[key] for key in read if key in self._items))

    async def follow(self, prefix: str) -> AsyncGenerator[Reset | Events | Progress, None]:
        """Yield a Reset, then what changes; a Reset again after an overflow of the queue."""
        follower = _Follower(prefix)
        self._followers.add(follower)
        try:
            while True:
                await self._available.wait()
                follower.restart()
                listing = self._listing(prefix)
                yield Reset(listing.revision, listing.items)
                while not follower.is_overrun:
                    try:
                        async with asyncio.timeout(self._progress_s):
                            change = await follower.queue.get()
                    except TimeoutError:
                        if self._available.is_set() and follower.queue.empty():
                            yield Progress(self._revision)
                    else:
                        yield change
        finally:
            self._followers.discard(follower)

    async def lease(self, ttl_s: int) -> MemoryLease:
        """Return a new lease."""
        self._check_available()
        lease = MemoryLease(self, next(self._lease_ids))
        self._leases[lease.id] = set()
        return lease

    def lose(self, lease: MemoryLease) -> None:
        """End a lease as its expiry does."""
        lease.mark_lost()
        keys = self._leases.pop(lease.id, set())
        self._write([Delete(key) for key in sorted(keys)])

    async def close(self) -> None:
        """Nothing runs in the background."""

    def _check_available(self) -> None:
        if not self._available.is_set():
            raise Unavailable("the store was made unavailable")

    def _listing(self, prefix: str) -> Listing:
        found = sorted((k, i) for k, i in self._items.items() if k.startswith(prefix))
        return Listing(self._revision, tuple(item for _, item in found))

    def _write(self, writes: Sequence[Put | Delete]) -> int:
        effective = [w for w in writes if isinstance(w, Put) or w.key in self._items]
        if not effective:
            return self._revision  # as in etcd: nothing changed, no new revision
        self._revision += 1
        changes: list[Item | Delete] = [self._apply(write) for write in effective]
        for follower in self._followers:
            follower.offer(self._revision, changes)
        return self._revision

    def _apply(self, write: Put | Delete) -> Item | Delete:
        for keys in self._leases.values():
            keys.discard(write.key)
        if isinstance(write, Delete):
            del self._items[write.key]
            return write
        old = self._items.get(write.key)
        created = old.created if old else self._revision
        item = Item(write.key, write.value, self._revision, created)
        self._items[write.key] = item
        if write.lease:
            self._leases[write.lease].add(write.key)
        return item


class _Follower:
    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.restart()

    def restart(self) -> None:
        self.queue: asyncio.Queue[Events] = asyncio.Queue(_QUEUE_REVISIONS)
        self.is_overrun = False

    def offer(self, revision: int, changes: Sequence[Item | Delete]) -> None:
        mine = tuple(change for change in changes if change.key.startswith(self.prefix))
        if not mine:
            return
        if self.queue.full():
            self.is_overrun = True
        else:
            self.queue.put_nowait(Events(revision, mine))
