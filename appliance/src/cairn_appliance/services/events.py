"""Events: written with the change they tell of, kept in bounded number.

There is no counter that all writers would fight for: an event is a key of its own, made in
the transaction of the change, and its sequence is the revision of that transaction.
"""

from __future__ import annotations

import logging
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import replace

from cairn_appliance.domain.event import Event, Severity
from cairn_appliance.domain.identity import Actor
from cairn_appliance.services.clock import Clock, wall_clock
from cairn_appliance.store import keys, records
from cairn_appliance.store.port import Compare, Delete, Full, Item, Progress, Put, Reset, Store

log = logging.getLogger(__name__)

KEPT = 10_000
_LATE_MAX = 1000  # events of deletions that wait for room
_PRUNED_AT_ONCE = 100


class Journal:
    """Makes events; a change that can't be recorded does not happen.

    Deletions do, while the store is full: etcd lets them through and refuses every event. What
    had to wait is written when there is room, and is in the log meanwhile.
    """

    def __init__(self, clock: Clock = wall_clock) -> None:
        self._clock = clock
        self._late: deque[Put] = deque(maxlen=_LATE_MAX)

    def entry(
        self,
        kind: str,
        text: str,
        by: Actor,
        *,
        severity: Severity = Severity.INFO,
        node: str = "",
        vsubnet: str = "",
        **details: str,
    ) -> Put:
        """Return the write that belongs into the transaction of the change."""
        now = self._clock()
        # Sorts by time, so that the oldest can be found; the order of events is `sequence`.
        event_id = f"{max(0, int(now * 1000)):014d}-{secrets.token_hex(6)}"
        event = Event(event_id, kind, text, now, by, severity, node, vsubnet, details)
        return Put(keys.event(event_id), records.events.encode(event))

    async def delete(
        self, store: Store, compares: Sequence[Compare], deletes: Sequence[Delete], entry: Put
    ) -> None:
        """Do deletions with their event, or before it where the store is full."""
        try:
            await store.commit(compares, [*deletes, entry])
        except Full:
            await store.commit(compares, deletes)
            log.warning(
                "deleted while the store is full, an event follows: %s", entry.value.decode()
            )
            self._late.append(entry)

    async def catch_up(self, store: Store) -> None:
        """Write the events that had to wait; each has a key of its own and is there once."""
        while self._late:
            await store.commit([], [self._late[0]])
            self._late.popleft()


class Events:
    """What happened, in order."""

    def __init__(self, store: Store, kept: int = KEPT) -> None:
        self._store = store
        self._kept = kept

    async def list(self, *, after: int = 0, limit: int = 100) -> tuple[Event, ...]:
        """Return the oldest `limit` events with a sequence above `after`."""
        events = in_order((await self._store.list(keys.EVENTS)).items)
        return tuple(event for event in events if event.sequence > after)[:limit]

    async def latest(self, limit: int = 100) -> tuple[Event, ...]:
        """Return the newest events, oldest of them first."""
        events = in_order((await self._store.list(keys.EVENTS)).items)
        return tuple(events[-limit:]) if limit > 0 else ()

    async def follow(self, after: int | None = None) -> AsyncGenerator[Event, None]:
        """Yield events as they happen, those after `after` (None: from now on) first."""
        async with aclosing(self._store.follow(keys.EVENTS)) as changes:
            async for change in changes:
                if isinstance(change, Progress):
                    continue
                if after is None:
                    after = change.revision if isinstance(change, Reset) else change.revision - 1
                items = (
                    change.items
                    if isinstance(change, Reset)
                    else [item for item in change.puts_and_deletes if isinstance(item, Item)]
                )
                for event in in_order(items):
                    if event.sequence > after:
                        yield event
                after = max(after, change.revision)

    async def prune(self) -> int:
        """Delete the oldest events above the number kept; return how many."""
        surplus = [Delete(key) for key in await self._store.surplus(keys.EVENTS, self._kept)]
        for start in range(0, len(surplus), _PRUNED_AT_ONCE):
            await self._store.commit([], surplus[start : start + _PRUNED_AT_ONCE])
        return len(surplus)


def in_order(items: Iterable[Item]) -> list[Event]:
    """Return the events that the items are; broken ones are left out and reported."""
    found = [
        replace(event, sequence=item.created)
        for item in items
        for event in records.events.decode_all([item], records.quarantine)
    ]
    return sorted(found, key=lambda event: (event.sequence, event.id))
