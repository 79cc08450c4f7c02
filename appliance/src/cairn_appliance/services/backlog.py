"""The newest events in memory, for those who tell them on; older ones are read from the store."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from contextlib import aclosing

from cairn_appliance.domain.event import Event as Happened
from cairn_appliance.domain.event import Severity
from cairn_appliance.domain.output import Position
from cairn_appliance.services.events import in_order
from cairn_appliance.store import keys
from cairn_appliance.store.port import Events, Item, Reset, Store

KEPT = 1000
AT_ONCE = 100  # events that are given to one receiver before its position is written
LOOKED_AFTER_S = 30.0


class Backlog:
    """Follows the events of the cluster; `counts` is how many came while it did."""

    def __init__(self, store: Store, kept: int = KEPT) -> None:
        self._store = store
        self._kept = kept
        self._recent: deque[Happened] = deque()
        self._whole_after: Position | None = None  # None: nothing is known yet
        self.newest = Position(0)
        self._moved = asyncio.Condition()
        self.counts: Counter[Severity] = Counter()

    async def run(self) -> None:
        """Follow the store until cancelled."""
        async with aclosing(self._store.follow(keys.EVENTS)) as changes:
            async for change in changes:
                match change:
                    case Reset(items=items):
                        self._begin(items)
                    case Events(puts_and_deletes=writes):
                        self._add(in_order(each for each in writes if isinstance(each, Item)))
                    case _:
                        continue
                async with self._moved:
                    self._moved.notify_all()

    async def after(self, position: Position) -> list[Happened]:
        """Return the next events after this place; none where there are none yet."""
        if self._whole_after is not None and position >= self._whole_after:
            found = [each for each in self._recent if Position.of(each) > position]
        else:
            items = (await self._store.list(keys.EVENTS)).items
            near = [each for each in items if each.created >= position.sequence]
            found = [each for each in in_order(near) if Position.of(each) > position]
        return found[:AT_ONCE]

    async def wait(self, seen: Position, within_s: float) -> None:
        """Return when something newer than `seen` has come, or after that time."""
        try:
            async with asyncio.timeout(within_s), self._moved:
                await self._moved.wait_for(lambda: self.newest > seen)
        except TimeoutError:
            return

    def _begin(self, items: tuple[Item, ...]) -> None:
        """Take the newest of all there are; those that came meanwhile are counted as well."""
        ordered = sorted(items, key=lambda item: item.created)
        kept = ordered[-self._kept :]
        older = ordered[: len(ordered) - len(kept)]
        was_empty = self._whole_after is None
        self._recent = deque()
        # Of the change that is cut through some events are older: none of them counts as kept.
        self._whole_after = Position(older[-1].created, _LAST) if older else Position(0)
        events = in_order(kept)
        if was_empty:
            self.newest = max((Position.of(each) for each in events), default=Position(0))
        self._add(events)

    def _add(self, events: list[Happened]) -> None:
        for event in events:
            self._recent.append(event)
            if Position.of(event) > self.newest:
                self.newest = Position.of(event)
                self.counts[event.severity] += 1
        while len(self._recent) > self._kept:
            self._whole_after = Position.of(self._recent.popleft())


_LAST = "\U0010ffff"  # after every ID
