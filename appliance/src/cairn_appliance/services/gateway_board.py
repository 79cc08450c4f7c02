"""What gateways say, as this replica sees it in the store: in memory, with when it was seen.

Times are on a monotonic clock of this replica: how long a beat stands is what a grant to
another gateway depends on, and nobody's wall clock may have a say in that.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import TypeVar

from cairn_appliance.domain.forwarding import Forwarding, Voice
from cairn_appliance.domain.gateway import Asked, Beat, GatewayState, Station, StationBatch, Trouble
from cairn_appliance.services.clock import Clock
from cairn_appliance.services.stored import Stored
from cairn_appliance.store import keys, records
from cairn_appliance.store.codec import Codec
from cairn_appliance.store.port import Delete, Events, Item, Reset, Store

log = logging.getLogger(__name__)
T = TypeVar("T")

# Beats come twice a second from each gateway. Where none came for so long, the store had no
# quorum or this replica stood still: nobody could be heard, and silence is counted anew.
GAP_S = 1.2


@dataclass(frozen=True, slots=True)
class Sighted:
    """A beat, and since when it is seen as the last one."""

    beat: Beat
    revision: int
    at: float
    came: bool  # while this replica listened; else it may be old
    named: Mapping[str, float]  # segment -> when a beat was last seen that named it


class GatewayBoard:
    """The last beat, state and reports of every gateway, and who forwards."""

    def __init__(
        self,
        store: Store,
        clock: Clock = time.monotonic,
        told: Callable[[object], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._told = told  # of each change, once it is here
        self._clock = clock
        self._beats: dict[str, Sighted] = {}
        self._states: dict[str, GatewayState] = {}
        self._records: dict[str, tuple[Stored[Forwarding], float]] = {}
        self._troubles: dict[str, dict[str, Trouble]] = {}
        self._stations: dict[str, dict[str, StationBatch]] = {}
        self._frozen: dict[str, dict[str, tuple[Station, ...]]] = {}  # as `_stations`
        self._revision = 0
        self._begun_at = math.inf
        self._last_heard = -math.inf
        self._silence_from = math.inf

    async def run(self) -> None:
        """Follow the store until cancelled."""
        async with aclosing(self._store.follow(keys.GATEWAYS)) as changes:
            async for change in changes:
                self.take(change)
                self._told(change)

    def take(self, change: object) -> None:
        """Apply what the store's watch yields."""
        match change:
            case Reset(items=items):
                self._reset(items)
            case Events(puts_and_deletes=writes):
                for write in writes:
                    if isinstance(write, Delete):
                        self._forget(write.key)
                    else:
                        self._put(write, came=True)
            case _:
                return  # a word of the watch is no word of a gateway

    @property
    def revision(self) -> int:
        """The newest revision that a gateway's beat or a record was seen at."""
        return self._revision

    @property
    def listens_s(self) -> float:
        """For how long the store is followed; 0 before that."""
        return max(0.0, self._clock() - self._begun_at)

    @property
    def could_hear_s(self) -> float:
        """For how long whoever beats would have been heard."""
        return max(0.0, self._clock() - self._silence_from)

    def heard(self, beat: Beat, revision: int) -> None:
        """Note a beat that this replica has written itself."""
        self._put_beat(beat, revision, came=True)

    def beat_revision(self, node: str) -> int:
        """Return the revision of the gateway's last beat that was seen; 0: none was."""
        known = self._beats.get(node)
        return known.revision if known else 0

    def voices(self, segment: str, nodes: Iterable[str]) -> dict[str, Voice]:
        """Return what these gateways say of a segment; those never heard are left out."""
        now = self._clock()
        found = {}
        for node in nodes:
            sighted = self._beats.get(node)
            if sighted is None:
                continue
            asked = sighted.beat.of(segment)
            last = sighted.at if asked else sighted.named.get(segment, -math.inf)
            asked = asked or Asked(segment, is_able=False, term=0)
            found[node] = Voice(
                node,
                sighted.beat.boot,
                asked.is_able,
                asked.term,
                silent_s=max(0.0, now - max(last, self._silence_from)),
                age_s=now - sighted.at if sighted.came else math.inf,
                is_hurrying=asked.is_hurrying,
                asks=sighted.beat.of(segment) is not None,
            )
        return found

    def record(self, segment: str) -> Forwarding:
        """Return who forwards, as far as it was seen."""
        known = self._records.get(segment)
        return known[0].value if known else Forwarding(segment)

    def stands_s(self, segment: str, revision: int) -> float:
        """Return for how long the record has been seen to be of this revision."""
        known = self._records.get(segment)
        if known is None or known[0].revision != revision:
            return 0.0
        return self._clock() - known[1]

    def note_record(self, segment: str, stored: Stored[Forwarding]) -> None:
        """Note a record that was read or written here."""
        self._revision = max(self._revision, stored.revision)
        known = self._records.get(segment)
        if known is None or known[0].revision < stored.revision:
            self._records[segment] = stored, self._clock()

    def age_s(self, node: str) -> float:
        """Return how long ago a gateway was heard; infinite where it never was."""
        known = self._beats.get(node)
        return self._clock() - known.at if known and known.came else math.inf

    def state(self, node: str) -> GatewayState | None:
        """Return what a gateway said of its segments last."""
        return self._states.get(node)

    def note_state(self, state: GatewayState) -> None:
        """Note what a gateway said here."""
        self._states[state.node] = state

    def troubles(self, segment: str) -> list[Trouble]:
        """Return what the gateways of a segment have reported."""
        return list(self._troubles.get(segment, {}).values())

    def stations(self, segment: str) -> dict[str, Station]:
        """Return the machines on the LAN of a segment by MAC."""
        batches = self._stations.get(segment, {}).values()
        return {station.mac: station for batch in batches for station in batch.stations}

    def frozen(self, segment: str, now: float) -> list[Station]:
        """Return the machines that are held to be on the LAN of a segment, as of a wall clock."""
        batches = self._frozen.get(segment, {}).values()
        return [each for batch in batches for each in batch if each.is_frozen(now)]

    def _reset(self, items: tuple[Item, ...]) -> None:
        now = self._clock()
        self._begun_at = min(self._begun_at, now)
        self._silence_from = now
        present = {item.key for item in items}
        gone = [keys.beat(node) for node in self._beats]
        gone += [keys.forwarding(segment) for segment in self._records]
        gone += [keys.gateway_state(node) for node in self._states]
        for key in gone:
            if key not in present:
                self._forget(key)
        self._troubles.clear()
        self._stations.clear()
        self._frozen.clear()
        for item in items:
            self._put(item, came=False)

    def _put(self, item: Item, *, came: bool) -> None:
        if item.key.startswith(keys.BEATS):
            for beat in _decoded(records.beats, item):
                self._put_beat(beat, item.revision, came=came)
        elif item.key.startswith(keys.FORWARDINGS):
            for record in _decoded(records.forwardings, item):
                self.note_record(record.segment, Stored(record, item.revision))
        elif item.key.startswith(keys.GATEWAY_STATES):
            for state in _decoded(records.gateway_states, item):
                self.note_state(state)
        elif item.key.startswith(keys.TROUBLES):
            for trouble in _decoded(records.troubles, item):
                self._troubles.setdefault(trouble.segment, {})[trouble.code] = trouble
        elif item.key.startswith(keys.STATIONS):
            segment, batch = _parts(item.key)
            for stations in _decoded(records.station_batches, item):
                self._stations.setdefault(segment, {})[batch] = stations
                frozen = tuple(each for each in stations.stations if each.frozen_at)
                self._frozen.setdefault(segment, {})[batch] = frozen

    def _put_beat(self, beat: Beat, revision: int, *, came: bool) -> None:
        self._revision = max(self._revision, revision)
        known, now = self._beats.get(beat.node), self._clock()
        named = dict(known.named) if known else {}
        named.update((asked.segment, now) for asked in beat.asked)
        if known is not None and known.revision >= revision:
            # What was written here came before the watch had told of this one.
            self._beats[beat.node] = replace(known, named=named)
            return
        if came:
            self._note_heard()
        self._beats[beat.node] = Sighted(beat, revision, now, came, named)

    def _note_heard(self) -> None:
        now = self._clock()
        if now - self._last_heard > GAP_S:
            self._silence_from = now
        self._last_heard = now

    def _forget(self, key: str) -> None:
        name = keys.last_part(key)
        if key.startswith(keys.BEATS):
            self._beats.pop(name, None)
        elif key.startswith(keys.FORWARDINGS):
            self._records.pop(name, None)
        elif key.startswith(keys.GATEWAY_STATES):
            self._states.pop(name, None)
        elif key.startswith((keys.TROUBLES, keys.STATIONS)):
            segment, part = _parts(key)
            holder: Mapping[str, dict[str, object]] = (
                self._troubles if key.startswith(keys.TROUBLES) else self._stations  # type: ignore[assignment]
            )
            holder.get(segment, {}).pop(part, None)
            if key.startswith(keys.STATIONS):
                self._frozen.get(segment, {}).pop(part, None)


def _parts(key: str) -> tuple[str, str]:
    """Return the last two parts of a key."""
    head, _, last = key.rpartition("/")
    return keys.last_part(head), last


def _decoded(codec: Codec[T], item: Item) -> list[T]:
    return list(codec.decode_all([item], records.quarantine))
