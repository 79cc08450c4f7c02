"""A follower that records all it is told and keeps the copy that follows from it."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Self

from cairn_appliance.store.port import Delete, Events, Item, Progress, Put, Reset, Store

_WAIT_S = 20.0


class Follower:
    """Follows a prefix in the background, inside an `async with`."""

    def __init__(self, store: Store, prefix: str) -> None:
        self.messages: list[Reset | Events | Progress] = []
        self.items: dict[str, Item] = {}
        self._store = store
        self._prefix = prefix
        self._changed = asyncio.Condition()
        self._task: asyncio.Task[None] | None = None

    @property
    def events(self) -> list[Events]:
        """Return all events so far."""
        return [message for message in self.messages if isinstance(message, Events)]

    @property
    def reset_revisions(self) -> list[int]:
        """Return the revision of each reset."""
        return [message.revision for message in self.messages if isinstance(message, Reset)]

    @property
    def changes(self) -> list[tuple[int, Item | Delete]]:
        """Return each change; a put with its own revision, a delete with that of its events."""
        return [
            (change.revision if isinstance(change, Item) else events.revision, change)
            for events in self.events
            for change in events.puts_and_deletes
        ]

    async def reset_count_is(self, count: int, wait_s: float = _WAIT_S) -> None:
        """Return once so many resets have come."""
        await self._until(lambda: len(self.reset_revisions) >= count, wait_s)

    async def has_revision(self, revision: int, wait_s: float = _WAIT_S) -> None:
        """Return once a reset or events of that revision or a later one have come."""
        await self._until(lambda: self._revision() >= revision, wait_s)

    async def has_change(self, change: Item | Delete, wait_s: float = _WAIT_S) -> None:
        """Return once that change has come."""
        await self._until(lambda: any(change == told for _, told in self.changes), wait_s)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        async with contextlib.aclosing(self._store.follow(self._prefix)) as messages:
            async for message in messages:
                self._apply(message)
                async with self._changed:
                    self.messages.append(message)
                    self._changed.notify_all()

    def _apply(self, message: Reset | Events | Progress) -> None:
        if isinstance(message, Reset):
            self.items = {item.key: item for item in message.items}
        elif isinstance(message, Events):
            for change in message.puts_and_deletes:
                if isinstance(change, Item):
                    self.items[change.key] = change
                else:
                    self.items.pop(change.key, None)

    def _revision(self) -> int:
        return max((m.revision for m in self.messages if not isinstance(m, Progress)), default=0)

    async def _until(self, condition, wait_s: float) -> None:  # type: ignore[no-untyped-def]
        async with asyncio.timeout(wait_s), self._changed:
            await self._changed.wait_for(condition)


async def write_from_many(
    store: Store, prefix: str, *, writers: int, writes: int
) -> tuple[list[int], list[int]]:
    """Put and delete from several tasks; return the revisions of all puts and all deletes."""

    async def write(name: str) -> tuple[list[int], list[int]]:
        puts, deletes = [], []
        for number in range(writes):
            key = f"{prefix}{name}/{number % 7}"
            puts.append(await store.commit([], [Put(key, b"%d" % number)]))
            if number % 5 == 0:
                deletes.append(await store.commit([], [Delete(key)]))
            await asyncio.sleep(0)
        return puts, deletes

    done = await asyncio.gather(*(write(f"w{number}") for number in range(writers)))
    return [r for puts, _ in done for r in puts], [r for _, deletes in done for r in deletes]
