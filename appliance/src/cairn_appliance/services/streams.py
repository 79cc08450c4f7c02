"""Netmap streams: the asyncio around `netmap`, which does no I/O."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import aclosing, suppress

from cairn_agent.protocol import netmap as wire
from prometheus_client import Histogram

from cairn_appliance.domain.errors import Unavailable
from cairn_appliance.netmap.feed import Feed
from cairn_appliance.netmap.netmaps import Netmaps
from cairn_appliance.services.presence import PresenceBoard
from cairn_appliance.services.words import Words
from cairn_appliance.store.keys import MAP
from cairn_appliance.store.port import Events, Progress, Reset, Store

log = logging.getLogger(__name__)

COALESCE_S = 0.05  # how long a change waits for others to come with it, at least
PER_STREAM_S = 0.0004  # between two rounds, for each stream that the former had news for
ROUNDS_APART_S = 0.5  # at most: a removed node is cut off within a second, whatever else changes
OVERLOADED_S = 1.0  # and at most so much where the machine can't keep up
REST = 2.0  # between two rounds, of the time that the former took to serve
SHORT_OCTETS = 2048  # of a line
SERVED_AT_ONCE = 50  # streams; then other work has its turn
SAID_OCTETS = 32 * 1024  # news of a stream; more waits for its reader in between
LOOKED_AT_EVERY_S = 60.0  # each stream, whether or not anything was touched
CATCH_UP_S = 5.0  # how long a stream from a replica that is ahead waits for this one
# Full jitter, so that not everybody comes to the next replica at once: it lets in several
# hundred a second. Few have no reason to wait long.
GO_AWAY_MS, GO_AWAY_PER_STREAM_MS, GO_AWAY_MAX_MS = 250, 3, 3000
IN_A_HURRY_MAX_MS = 1500  # where this replica is cut off: elsewhere within 5 s of the cut
_BATCH_MAX = 1000
ANSWER_S = 1.5  # a machine that lives has acknowledged a heartbeat by then
_LOOK_S = 0.02
_FAN_OUT_BUCKETS = (0.06, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)

HeardS = Callable[[], float]
Say = Callable[[bytes], bool]  # sends it at once, or says that the reader is slow
Change = Reset | Events | Progress


class _Stream:
    """A stream as rounds see it: while it waits its news are said without its task.

    To wake a task, and to go through all the layers of HTTP, costs several times what the news do.
    """

    def __init__(self, feed: Feed, say: Say, is_believed: Callable[[], bool]) -> None:
        self.feed = feed
        self.wake = asyncio.Event()
        self.is_waiting = False
        self._say = say
        self._is_believed = is_believed
        self._unsaid: list[bytes] = []

    def serve(self, *, is_touched: bool) -> None:
        """Say what is new, or have the task do it where that isn't done at once."""
        if self.is_waiting and self._is_believed():
            lines = list(self.feed.pull(is_touched=is_touched))
            octets = b"".join(lines)
            is_short = len(octets) <= SAID_OCTETS and not self.feed.is_finished
            if is_short and self._say(octets):
                return
            self._unsaid, self.is_waiting = lines, False
        self.wake.set()

    def pull(self) -> list[bytes]:
        """Return what the task has to send."""
        lines, self._unsaid = self._unsaid, []
        return lines if self.feed.is_finished else [*lines, *self.feed.pull()]

    def repeat(self) -> None:
        """Say the last word again: the node holds this, and all is well."""
        if self.is_waiting:
            self._say(self.feed.last_word())


class Streams:
    """Feeds the netmaps from the store and every open stream from the netmaps."""

    def __init__(
        self,
        store: Store,
        netmaps: Netmaps,
        presence: PresenceBoard,
        told: Callable[[Change], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._told = told  # of each change, once the netmaps have it
        self._netmaps = netmaps
        self._presence = presence
        self._waiting: defaultdict[str, set[_Stream]] = defaultdict(set)
        self._heard: defaultdict[str, list[HeardS]] = defaultdict(list)
        self._moved = asyncio.Condition()
        self._words = Words(lambda: self._netmaps.word_every_s)
        self._is_closing = False
        self._sent_away = 0  # how often
        self._spread_ms = GO_AWAY_MAX_MS  # over which those who are sent away come elsewhere
        self.count = 0
        self.fan_out = Histogram(
            "cairn_netmap_fan_out_seconds",
            "From a change of the store, as seen here, until every stream concerned was served",
            buckets=_FAN_OUT_BUCKETS,
            registry=None,
        )

    @property
    def is_loaded(self) -> bool:
        """True once there is something to serve."""
        return self._netmaps.revision > 0

    async def run(self) -> None:
        """Follow the store until cancelled.

        Changes are taken together for a moment: a burst of registrations becomes one
        version of each vSubnet. A change after a quiet time waits for `COALESCE_S`; under
        steady change the rounds are as far apart as it takes to serve the streams concerned,
        so that serving one round never uses up what the next one needs.
        """
        changes: asyncio.Queue[Change] = asyncio.Queue(_BATCH_MAX)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._read(changes), name="follow the store")
            tasks.create_task(self._serve(changes), name="make netmaps")
            tasks.create_task(self._words.run(), name="say a word")

    async def lines(
        self,
        node_id: str,
        incarnation: int,
        after: int,
        *,
        known_at: int = 0,
        heard_s: HeardS = lambda: math.inf,
        say: Say = lambda _: False,
        trust: str = "",
        is_believed: Callable[[], bool] = lambda: True,
    ) -> AsyncGenerator[bytes, None]:
        """Yield the lines of a node's stream until it is removed or this replica closes.

        `heard_s` says how long ago the node's machine acknowledged what was sent; `say` sends
        lines while this yields none; `trust` is what the node keeps of whom to trust,
        `is_believed` says whether its certificate still proves anything.
        Short lines that are due together come as one, since each costs a write on its own.
        Raises Unavailable before the first line if this replica has not got as far as the
        node has, or as `known_at`, at which the node is known to be there, and while it closes.
        """
        self.check_open()
        is_same = incarnation == self._netmaps.cluster.incarnation
        await self._catch_up(max(known_at, after if is_same else 0))
        feed = Feed(self._netmaps, node_id, incarnation, after, trust)
        stream = _Stream(feed, say, is_believed)
        self._waiting[node_id].add(stream)
        self._heard[node_id].append(heard_s)
        self._presence.connected(node_id)
        self.count += 1
        begun = self._sent_away
        try:
            while not self._is_closing and self._sent_away == begun and is_believed():
                stream.wake.clear()
                for lines in _together(stream.pull()):
                    yield lines
                if feed.is_finished:
                    return
                await self._next(stream)
            after_ms = random.randrange(self._spread_ms)
            yield wire.encode(wire.GoAway(after_ms)) + b"\n"
        finally:
            self.count -= 1
            self._presence.disconnected(node_id)
            self._heard[node_id].remove(heard_s)
            if not self._heard[node_id]:
                del self._heard[node_id]
            waiting = self._waiting[node_id]
            waiting.discard(stream)
            if not waiting:
                del self._waiting[node_id]

    def send_away(self) -> None:
        """End the streams of now with the advice to go elsewhere; others may come."""
        self._send_away(IN_A_HURRY_MAX_MS)

    async def answers(self, node_id: str) -> bool | None:
        """Return whether a stream of the node lives: its machine acknowledges what is sent now.

        None where no stream of it is open here: another replica may have one.
        """
        heard = list(self._heard.get(node_id, ()))
        if not heard:
            return None
        begun = time.monotonic()
        self._wake({node_id})
        while time.monotonic() - begun < ANSWER_S:
            await asyncio.sleep(_LOOK_S)
            if any(heard_s() < time.monotonic() - begun for heard_s in heard):
                return True
        return False

    def check_open(self) -> None:
        """Raise Unavailable where this replica closes: nothing new begins here any more."""
        if self._is_closing:
            raise Unavailable("this appliance is about to stop", "use another appliance")

    def close(self) -> None:
        """Tell every stream to go to another replica, and end it; take no new ones."""
        self._is_closing = True
        self._send_away(GO_AWAY_MAX_MS)

    def _send_away(self, most_ms: int) -> None:
        self._spread_ms = min(GO_AWAY_MS + GO_AWAY_PER_STREAM_MS * self.count, most_ms)
        self._sent_away += 1
        self._wake(set(self._waiting))

    async def _next(self, stream: _Stream) -> None:
        """Wait until the task has something to say, or to look; until then others speak for it."""
        with self._words.repeated(stream.repeat), suppress(TimeoutError):
            stream.is_waiting = not stream.wake.is_set()
            try:
                async with asyncio.timeout(LOOKED_AT_EVERY_S):
                    await stream.wake.wait()
            finally:
                stream.is_waiting = False

    async def _catch_up(self, revision: int) -> None:
        try:
            async with asyncio.timeout(CATCH_UP_S), self._moved:
                await self._moved.wait_for(lambda: self._netmaps.revision >= max(1, revision))
        except TimeoutError as error:
            raise Unavailable("this appliance is behind what the node has already") from error

    async def _read(self, changes: asyncio.Queue[Change]) -> None:
        async with aclosing(self._store.follow(MAP)) as source:
            async for change in source:
                await changes.put(change)

    async def _serve(self, changes: asyncio.Queue[Change]) -> None:
        clock = asyncio.get_running_loop().time
        not_before = 0.0  # the next round with news
        while True:
            batch = [await changes.get()]
            came = clock()
            if not isinstance(batch[0], Progress):
                await asyncio.sleep(max(COALESCE_S, not_before - clock()))
            while not changes.empty():
                batch.append(changes.get_nowait())
            concerned = self._netmaps.take(batch) & self._waiting.keys()
            for change in batch:
                self._told(change)
            async with self._moved:
                self._moved.notify_all()
            begun = clock()
            await self._serve_in_turns(concerned, self._netmaps.touched)
            if concerned:
                self.fan_out.observe(clock() - came)
                not_before = clock() + _rest_s(len(concerned), clock() - begun)

    async def _serve_in_turns(self, node_ids: set[str], touched: AbstractSet[str]) -> None:
        """Serve the streams in a random order, and let others have the loop in between."""
        in_turn = random.sample(sorted(node_ids), len(node_ids))
        for begin in range(0, len(in_turn), SERVED_AT_ONCE):
            for node_id in in_turn[begin : begin + SERVED_AT_ONCE]:
                for stream in self._waiting.get(node_id, ()):
                    stream.serve(is_touched=node_id in touched)
            await asyncio.sleep(0)

    def _wake(self, node_ids: Iterable[str]) -> None:
        for node_id in node_ids:
            for stream in self._waiting.get(node_id, ()):
                stream.wake.set()


def _rest_s(streams: int, took_s: float) -> float:
    """Return how long the next round waits; registrations and newcomers have their turn then."""
    planned_s = min(streams * PER_STREAM_S, ROUNDS_APART_S)
    return min(max(planned_s, took_s * REST), OVERLOADED_S)


def _together(lines: list[bytes]) -> Iterator[bytes]:
    """Yield the lines, short ones joined; long ones are shared by streams and not copied."""
    short: list[bytes] = []
    for line in lines:
        if len(line) > SHORT_OCTETS:
            if short:
                yield b"".join(short)
                short = []
            yield line
        else:
            short.append(line)
    if short:
        yield b"".join(short)
