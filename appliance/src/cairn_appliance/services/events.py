"""Events: written with the change they tell of, kept in bounded number.

There is no counter that all writers would fight for: an event is a key of its own, made in
the transaction of the change, and its sequence is the revision of that transaction.

How an event's ID begins says how much it weighs, so that a node which makes events without
end (another endpoint each second) pushes out none that an operator needs: of those that are
kept, a half is for ordinary ones, and a quarter each for what is audited and for alarms. What
one doesn't use is the others'.
"""

from __future__ import annotations

import logging
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import replace

from cairn_appliance.domain.event import Event, Severity
from cairn_appliance.domain.identity import Actor, ActorKind
from cairn_appliance.services.clock import Clock, wall_clock
from cairn_appliance.store import keys, records
from cairn_appliance.store.port import Compare, Delete, Full, Item, Progress, Put, Reset, Store

log = logging.getLogger(__name__)

KEPT = 10_000
_LATE_MAX = 1000  # events of deletions that wait for room
_PRUNED_AT_ONCE = 100
_ORDINARY, _AUDITED, _ALARM = "0", "a", "s"  # milliseconds begin with a zero until 2286
_SHARES = ((_ORDINARY, 1 / 2), (_AUDITED, 1 / 4), (_ALARM, 1 / 4))
_USES_OF_TOKENS = frozenset({"node_enrolled", "copy_enrolled"})
_BY_STRANGERS = frozenset({"account_locked"})  # in an operator's name


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
        # Those of one weight sort by time, so that the oldest can be found; the order of events
        # is `sequence`.
        moment = f"{max(0, int(now * 1000)):014d}-{secrets.token_hex(6)}"
        event_id = _weight(kind, severity, by) + moment
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
        """Delete the oldest events above the number kept; return how many.

        Each weight keeps its share: ordinary ones go first, and alarms last.
        """
        left = len(await self._store.surplus(keys.EVENTS, self._kept))
        count = 0
        for begins, share in _SHARES if left else ():
            kept = int(self._kept * share)
            surplus = await self._store.surplus(keys.EVENTS + begins, kept)
            count += await self._delete(surplus[: left - count])
        return count

    async def _delete(self, places: Sequence[str]) -> int:
        deletes = [Delete(key) for key in places]
        for start in range(0, len(deletes), _PRUNED_AT_ONCE):
            await self._store.commit([], deletes[start : start + _PRUNED_AT_ONCE])
        return len(deletes)


def _weight(kind: str, severity: Severity, by: Actor) -> str:
    """Return what the ID begins with: nothing for an ordinary event."""
    if severity is Severity.ALARM:
        return _ALARM + "-"
    is_operators = by.kind is ActorKind.OPERATOR and kind not in _BY_STRANGERS
    if is_operators or kind in _USES_OF_TOKENS:
        return _AUDITED + "-"
    return ""


def in_order(items: Iterable[Item]) -> list[Event]:
    """Return the events that the items are; broken ones are left out and reported."""
    found = [
        replace(event, sequence=item.created)
        for item in items
        for event in records.events.decode_all([item], records.quarantine)
    ]
    return sorted(found, key=lambda event: (event.sequence, event.id))
