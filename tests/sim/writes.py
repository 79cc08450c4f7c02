"""Which transactions an etcd was written by, as a watch of all of it shows them."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import aclosing

from cairn_appliance.store import keys
from cairn_appliance.store.port import Events, Item, Reset, Store

_CAUGHT_UP_S = 20.0
_PRESENCE = frozenset({"presence", "replicas"})  # in batches, whatever happens
_BACKUPS = (frozenset({"backups"}), frozenset({"backups", "events"}))  # now and then


class Writes:
    """The transactions since it began, by the kinds of keys that each has put.

    What only deletes is not counted.
    """

    def __init__(self) -> None:
        self._kinds: defaultdict[int, set[str]] = defaultdict(set)  # by revision
        self._revision = 0
        self._has_begun = asyncio.Event()

    @property
    def by_kinds(self) -> Counter[frozenset[str]]:
        """How many transactions there were of each sort."""
        return Counter(frozenset(kinds) for kinds in self._kinds.values())

    @property
    def background(self) -> int:
        """How many wrote presence or a backup only."""
        return sum(count for kinds, count in self.by_kinds.items() if _is_background(kinds))

    @property
    def others(self) -> int:
        """How many wrote anything else."""
        return self.by_kinds.total() - self.background

    def with_kind(self, kind: str) -> int:
        """How many put a key of this kind."""
        return sum(count for kinds, count in self.by_kinds.items() if kind in kinds)

    def told(self) -> str:
        """Return them in words, the most frequent first."""
        return ", ".join(
            f"{count} x {'+'.join(sorted(kinds))}" for kinds, count in self.by_kinds.most_common()
        )

    async def follow(self, store: Store) -> None:
        """Count until cancelled."""
        async with aclosing(store.follow(keys.ROOT)) as changes:
            async for change in changes:
                if isinstance(change, Events):
                    for write in change.puts_and_deletes:
                        if isinstance(write, Item):
                            self._kinds[write.revision].add(kind_of(write.key))
                elif isinstance(change, Reset):
                    self._has_begun.set()
                self._revision = change.revision

    async def begun(self) -> None:
        """Return once everything from now on is counted."""
        await self._has_begun.wait()

    async def caught_up(self, revision: int) -> None:
        """Return once everything up to a revision has been counted; raise TimeoutError."""
        async with asyncio.timeout(_CAUGHT_UP_S):
            while self._revision < revision:
                await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def counted(store: Store) -> AsyncIterator[Writes]:
    """Count what is written during the block; complete after it."""
    writes = Writes()
    following = asyncio.create_task(writes.follow(store), name="count writes")
    try:
        async with asyncio.timeout(_CAUGHT_UP_S):
            await writes.begun()
        yield writes
        await writes.caught_up((await store.list(keys.CLUSTER_INFO)).revision)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


def _is_background(kinds: frozenset[str]) -> bool:
    return kinds <= _PRESENCE or kinds in _BACKUPS


def kind_of(key: str) -> str:
    """Return what a key is of: its first part, of the map its second."""
    parts = key.removeprefix(keys.ROOT).split("/")
    return parts[1] if parts[0] == "map" else parts[0]
