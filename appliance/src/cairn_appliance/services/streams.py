"""Netmap streams: the asyncio around `netmap`, which does no I/O."""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing
from typing import Protocol

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
OVERLOADED_S = 3.0  # at most where serving takes long, but for what is pressing
REST = 2.0  # between two rounds, of the time that the former took to serve
SERVED_AT_ONCE = 50  # streams; then other work has its turn
LOOKED_AT_EVERY_S = 60.0  # each stream, whether or not anything was touched
_LOOKS = 60
CATCH_UP_S = 5.0  # how long a stream from a replica that is ahead waits for this one
# Full jitter, so that not everybody comes to the next replica at once: it lets in several
# hundred a second. Few have no reason to wait long.
GO_AWAY_MS, GO_AWAY_PER_STREAM_MS, GO_AWAY_MAX_MS = 250, 3, 3000
IN_A_HURRY_MAX_MS = 1500  # where this replica is cut off: elsewhere within 5 s of the cut
_BATCH_MAX = 1000
ANSWER_S = 1.5  # a machine that lives has acknowledged a heartbeat by then
_LOOK_S, _LEAST_LOOKS = 0.02, 25  # where this process stands still meanwhile, it looks on
_GRAIN_S = 0.01  # of the kernel's clock, at most: it counts in ticks of 1 to 10 ms
_FAN_OUT_BUCKETS = (0.06, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)

Change = Reset | Events | Progress


class Reader(Protocol):
    """Who reads a stream, and how fast."""

    @property
    def is_slow(self) -> bool:
        """True while what was said before is unread."""

    def say(self, lines: Sequence[bytes]) -> None:
        """Send lines, as fast as they are read."""

    def end(self) -> None:
        """Send no more after what was said."""

    def heard_s(self) -> float:
        """Return how long ago the node's machine acknowledged what was sent."""


class Stream:
    """A node's stream. It has no task of its own, since it has nothing to say nearly all the time.

    What it has to say is said at once where its reader keeps up, else when the reader has caught
    up: `resumed`.
    """

    __slots__ = ("_begun", "_feed", "_is_behind", "_is_believed", "_reader", "_streams", "node_id")

    def __init__(
        self, streams: Streams, node_id: str, feed: Feed, is_believed: Callable[[], bool]
    ) -> None:
        self.node_id = node_id
        self._streams = streams
        self._feed = feed
        self._is_believed = is_believed
        self._begun = streams.sent_away  # how often, until then
        self._reader: Reader | None = None
        self._is_behind = False

    def begin(self, reader: Reader) -> None:
        """Say what is to be said, and from now on what is new."""
        self._reader = reader
        before = self._streams.replaced_by(self)
        self._streams.enter(self)
        self.serve(is_touched=True)
        for stream in before:
            stream.send_away()

    def serve(self, *, is_touched: bool) -> None:
        """Say what is new; all of it where the node has to be looked at anyway."""
        reader = self._reader
        if reader is None:
            return
        if reader.is_slow:
            self._is_behind = True
        elif self._streams.sent_away != self._begun or not self._is_believed():
            self.send_away()
        else:
            reader.say(list(self._feed.pull(is_touched=is_touched)))
            if self._feed.is_finished:
                self._end(reader)

    def resumed(self) -> None:
        """The reader has caught up."""
        if self._is_behind:
            self._is_behind = False
            self.serve(is_touched=True)

    def repeat(self) -> None:
        """Say the last word again: the node holds this, and all is well."""
        if self._reader is not None and not self._reader.is_slow:
            self._reader.say((self._feed.last_word(),))

    def send_away(self) -> None:
        """End it with the advice to go elsewhere."""
        if self._reader is not None:
            self._reader.say((wire.encode(wire.GoAway(self._streams.after_ms())) + b"\n",))
            self._end(self._reader)

    def heard_s(self) -> float:
        """Return how long ago the node's machine acknowledged what was sent."""
        return math.inf if self._reader is None else self._reader.heard_s()

    def over(self) -> None:
        """The connection has ended, or is about to."""
        if self._reader is not None:
            self._reader = None
            self._streams.leave(self)

    def _end(self, reader: Reader) -> None:
        self.over()
        reader.end()


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
        self._open: dict[str, tuple[Stream, ...]] = {}  # by node
        self._due: dict[str, bool] = {}  # nodes to be served, and whether they were touched
        self._is_pressing = False  # some of it must not wait
        self._moved = asyncio.Condition()
        self._words = Words(lambda: self._netmaps.word_every_s)
        self._is_closing = False
        self.sent_away = 0  # how often
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
        so that serving one round never uses up what the next one needs. What comes within a long
        round is taken before its end: a newcomer needs what it has just registered.
        """
        changes: asyncio.Queue[Change] = asyncio.Queue(_BATCH_MAX)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._read(changes), name="follow the store")
            tasks.create_task(self._serve(changes), name="make netmaps")
            tasks.create_task(self._words.run(), name="say a word")
            tasks.create_task(self._look(), name="look at each stream")

    async def open(
        self,
        node_id: str,
        incarnation: int,
        after: int,
        *,
        known_at: int = 0,
        trust: str = "",
        is_believed: Callable[[], bool] = lambda: True,
    ) -> Stream:
        """Return a node's stream, to be begun: it lasts until the node is removed or this closes.

        `trust` is what the node keeps of whom to trust, `is_believed` says whether its certificate
        still proves anything. Raises Unavailable if this replica has not got as far as the
        node has, or as `known_at`, at which the node is known to be there, and while it closes.
        """
        self.check_open()
        is_same = incarnation == self._netmaps.cluster.incarnation
        await self._catch_up(max(known_at, after if is_same else 0))
        feed = Feed(self._netmaps, node_id, incarnation, after, trust)
        return Stream(self, node_id, feed, is_believed)

    def replaced_by(self, stream: Stream) -> tuple[Stream, ...]:
        """Return the streams that end as this one of the same node begins.

        An agent has one at a time. Behind one from before is nobody, or a machine with the same
        memory, which is found to be one when it registers. Two of which that can't be told (they
        send no nonces) would send each other away for ever: those stay beside each other.
        """
        registration = self._netmaps.snapshot.registrations.get(stream.node_id)
        is_told_apart = registration is not None and registration.generation.attempt.nonce
        return self._open.get(stream.node_id, ()) if is_told_apart else ()

    def enter(self, stream: Stream) -> None:
        """Have rounds and words reach a stream."""
        self._open[stream.node_id] = (*self._open.get(stream.node_id, ()), stream)
        self._words.enter(stream)
        self._presence.connected(stream.node_id)
        self.count += 1

    def leave(self, stream: Stream) -> None:
        """Forget a stream that was entered."""
        left = tuple(each for each in self._open[stream.node_id] if each is not stream)
        if left:
            self._open[stream.node_id] = left
        else:
            del self._open[stream.node_id]
        self._words.leave(stream)
        self._presence.disconnected(stream.node_id)
        self.count -= 1

    def after_ms(self) -> int:
        """Draw when who is sent away is to come elsewhere."""
        return random.randrange(self._spread_ms)

    def send_away(self) -> None:
        """End the streams of now with the advice to go elsewhere; others may come."""
        self._send_away(IN_A_HURRY_MAX_MS)

    async def answers(self, node_id: str) -> bool | None:
        """Return whether a stream of the node lives: its machine acknowledges what is sent now.

        None where no stream of it is open here: another replica may have one.
        """
        streams = self._open.get(node_id, ())
        if not streams:
            return None
        begun = time.monotonic()
        for stream in streams:
            stream.repeat()
        looks = 0
        while looks < _LEAST_LOOKS or time.monotonic() - begun < ANSWER_S:
            await asyncio.sleep(_LOOK_S)
            if any(each.heard_s() < time.monotonic() - begun + _GRAIN_S for each in streams):
                return True
            looks += 1
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
        self.sent_away += 1
        for stream in self._streams():
            stream.send_away()

    def _streams(self) -> list[Stream]:
        return [each for streams in self._open.values() for each in streams]

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
        not_before = since = 0.0  # the next round with news; when what the last one left had come
        while True:
            if self._due:
                batch, came = [], since
            else:
                batch, came = [await changes.get()], clock()
            if not batch or not isinstance(batch[0], Progress):
                # Who comes waits for what it has changed: never for as long as a rest may be.
                while clock() + ROUNDS_APART_S < not_before and not self._is_pressing:
                    await asyncio.sleep(ROUNDS_APART_S)
                    await self._take(changes, batch)
                    batch = []
                if not self._is_pressing:
                    await asyncio.sleep(max(COALESCE_S, not_before - clock()))
            await self._take(changes, batch)
            self._is_pressing = False
            if self._due:
                begun, count = clock(), len(self._due)
                since = await self._serve_due(changes)
                self.fan_out.observe(clock() - came)
                not_before = clock() + _rest_s(count, clock() - begun)

    async def _take(self, changes: asyncio.Queue[Change], batch: list[Change]) -> None:
        """Have the netmaps take what came, and note whom it concerns."""
        while not changes.empty():
            batch.append(changes.get_nowait())
        if not batch:
            return
        concerned = self._netmaps.take(batch) & self._open.keys()
        self._is_pressing |= self._netmaps.is_pressing
        for node_id in concerned:
            is_touched = node_id in self._netmaps.touched
            self._due[node_id] = is_touched or self._due.get(node_id, False)
        for change in batch:
            self._told(change)
        async with self._moved:
            self._moved.notify_all()

    async def _serve_due(self, changes: asyncio.Queue[Change]) -> float:
        """Serve whom there is news for, in a random order, with all that there is by then.

        What comes meanwhile is taken now and then, for newcomers, and for who has yet to be served.
        Who was served already is due again then: returns since when.
        """
        clock = asyncio.get_running_loop().time
        taken, since = clock(), math.inf
        async for node_ids in _in_turns(self._due):
            for node_id in node_ids:
                self._serve_one(node_id, is_touched=self._due.pop(node_id))
            if clock() - taken >= ROUNDS_APART_S:
                since = min(since, taken)
                await self._take(changes, [])
                taken = clock()
        return since

    def _serve_one(self, node_id: str, *, is_touched: bool) -> None:
        for stream in self._open.get(node_id, ()):
            stream.serve(is_touched=is_touched)

    async def _look(self) -> None:
        """Look at each stream now and then, whether or not anything was touched, in turns."""
        turn = 0
        while True:
            await asyncio.sleep(LOOKED_AT_EVERY_S / _LOOKS)
            turn = (turn + 1) % _LOOKS
            async for node_ids in _in_turns(n for n in self._open if hash(n) % _LOOKS == turn):
                for node_id in node_ids:
                    self._serve_one(node_id, is_touched=True)


async def _in_turns(node_ids: Iterable[str]) -> AsyncIterator[list[str]]:
    """Yield nodes in a random order, some at once, and let others have the loop in between."""
    known = sorted(node_ids)
    in_turn = random.sample(known, len(known))
    for begin in range(0, len(in_turn), SERVED_AT_ONCE):
        yield in_turn[begin : begin + SERVED_AT_ONCE]
        await asyncio.sleep(0)


def _rest_s(streams: int, took_s: float) -> float:
    """Return how long the next round waits; registrations and newcomers have their turn then."""
    planned_s = min(streams * PER_STREAM_S, ROUNDS_APART_S)
    return min(max(planned_s, took_s * REST), OVERLOADED_S)
