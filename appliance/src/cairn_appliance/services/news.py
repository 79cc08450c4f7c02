"""What has changed, for people who look on: events, and which lists to read anew.

Fed by what this replica follows anyway (netmaps, presence, gateways, reports), so that a
console costs no watch of the store but the one of its events.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from typing import Final, Literal

from cairn_appliance.domain.event import Event
from cairn_appliance.services.events import Events
from cairn_appliance.store import keys
from cairn_appliance.store.port import Events as Writes
from cairn_appliance.store.port import Progress, Reset

What = Literal[
    "nodes", "vsubnets", "members", "segments", "tokens", "cluster", "topology", "latency"
]
EVERY: Final[tuple[What, ...]] = (
    "nodes",
    "vsubnets",
    "members",
    "segments",
    "tokens",
    "cluster",
    "topology",
    "latency",
)
BEAT_S = 2.0
# Between two words of one kind. Round-trip times change all the time.
APART_S, LATENCY_APART_S = 0.5, 10.0
IDS_MAX = 100  # beyond it, whoever looks on reads everything
_EVENTS_MAX = 256

_WHAT_OF: Final[dict[str, tuple[What, ...]]] = {
    keys.NODES: ("nodes", "topology"),
    keys.REGISTRATIONS: ("nodes",),
    keys.VSUBNETS: ("vsubnets",),
    keys.MEMBERS: ("members", "topology"),
    keys.SEGMENTS: ("segments", "topology"),
    keys.APPLIANCES: ("cluster",),
    keys.TRUST: ("cluster",),
    keys.FORWARDINGS: ("segments", "topology"),
    keys.GATEWAY_STATES: ("segments",),
    keys.STATIONS: ("segments",),
    keys.TROUBLES: ("segments",),
}


@dataclass(frozen=True, slots=True)
class Changed:
    """Something is another one; without IDs, anything of it may be."""

    what: What
    ids: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Beat:
    """Nothing has happened, and this appliance lives."""


@dataclass(eq=False)
class _Listener:
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    changes: dict[What, set[str]] = field(default_factory=dict)
    told_at: dict[What, float] = field(default_factory=dict)
    events: asyncio.Queue[Event] = field(default_factory=lambda: asyncio.Queue(_EVENTS_MAX))

    def note(self, what: What, ids: Iterable[str]) -> None:
        known = self.changes.setdefault(what, set())
        if len(known) <= IDS_MAX:
            known.update(ids)
        self.wake.set()

    def due(self, now: float) -> list[Changed]:
        """Return what may be told now; forget it."""
        found = []
        for what in [each for each in self.changes if self._due_at(each) <= now]:
            ids = self.changes.pop(what)
            is_all = not ids or len(ids) > IDS_MAX or "" in ids
            found.append(Changed(what, () if is_all else tuple(sorted(ids))))
            self.told_at[what] = now
        return found

    def next_s(self, now: float) -> float:
        """Return when there is something to tell, if nothing comes before."""
        waits = [self._due_at(each) - now for each in self.changes]
        return max(0.0, min([*waits, BEAT_S]))

    def _due_at(self, what: What) -> float:
        apart_s = LATENCY_APART_S if what == "latency" else APART_S
        return self.told_at.get(what, float("-inf")) + apart_s


class News:
    """Passes on what changes to whoever follows."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._listeners: set[_Listener] = set()

    @property
    def is_followed(self) -> bool:
        """True while anybody looks on."""
        return bool(self._listeners)

    def changed(self, what: What, ids: Iterable[str] = ("",)) -> None:
        """Note a change; an empty ID means that anything may have changed."""
        named = list(ids)
        for listener in self._listeners:
            listener.note(what, named)

    def stored(self, change: object) -> None:
        """Note what a watch of the store yields."""
        if not self._listeners or isinstance(change, Progress):
            return
        if isinstance(change, Reset):
            for what in EVERY:
                self.changed(what)
        elif isinstance(change, Writes):
            for write in change.puts_and_deletes:
                self._written(write.key)

    def _written(self, key: str) -> None:
        for prefix, whats in _WHAT_OF.items():
            if key.startswith(prefix):
                for what in whats:
                    self.changed(what, [_subject(prefix, key)])

    async def follow(self, after: int | None) -> AsyncGenerator[Event | Changed | Beat, None]:
        """Yield what happens; events after `after` first (None: from now on).

        Whoever comes back is told that everything may have changed meanwhile.
        """
        with self._listening() as listener:
            if after is not None:
                for what in EVERY:
                    listener.note(what, [""])
            reading = asyncio.create_task(self._read(listener, after), name="read events")
            try:
                clock = asyncio.get_running_loop().time
                beat_at = clock() + BEAT_S
                while not reading.done():
                    listener.wake.clear()
                    while not listener.events.empty():
                        yield listener.events.get_nowait()
                    for changed in listener.due(clock()):
                        yield changed
                    if clock() >= beat_at:
                        beat_at = clock() + BEAT_S
                        yield Beat()
                    wait_s = min(listener.next_s(clock()), max(0.0, beat_at - clock()))
                    await _woken(listener.wake, wait_s)
                reading.result()
            finally:
                reading.cancel()
                await asyncio.wait([reading])

    async def _read(self, listener: _Listener, after: int | None) -> None:
        async with aclosing(self._events.follow(after)) as events:
            async for event in events:
                await listener.events.put(event)
                if "token" in event.kind or event.kind.startswith("node_"):
                    listener.note("tokens", [""])  # nobody follows them: each use is an event
                listener.wake.set()

    @contextmanager
    def _listening(self) -> Iterator[_Listener]:
        listener = _Listener()
        self._listeners.add(listener)
        try:
            yield listener
        finally:
            self._listeners.discard(listener)


async def _woken(wake: asyncio.Event, within_s: float) -> None:
    try:
        async with asyncio.timeout(within_s):
            await wake.wait()
    except TimeoutError:
        return


def _subject(prefix: str, key: str) -> str:
    """Return whom a key is about: the vSubnet for members, the segment for stations."""
    return key.removeprefix(prefix).partition("/")[0]
