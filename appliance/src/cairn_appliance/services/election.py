"""Who forwards for each segment: the rules of domain/forwarding.py on the store.

A beat is one transaction: it writes the gateway's beat and reads the records of its segments.
That it went through is what confirms the holder, so there is no lease and nothing to renew
without a quorum (docs/adr/0011). A change is a second transaction, and there is seldom one.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from cairn_agent.protocol import gateway as wire

from cairn_appliance.domain.errors import Clash, Invalid, NotFound, Refused, Unavailable
from cairn_appliance.domain.event import Severity
from cairn_appliance.domain.forwarding import (
    HURRY_S,
    MOVES_MAX,
    MOVES_WINDOW_S,
    Change,
    Forwarding,
    Reason,
    Situation,
    Voice,
    decide,
    holds,
    released,
    stopped,
    yields_to,
)
from cairn_appliance.domain.gateway import Asked, Beat, GatewayState, Said
from cairn_appliance.domain.identity import SYSTEM, Actor
from cairn_appliance.domain.segment import DUTIES_MAX, Segment
from cairn_appliance.netmap.netmaps import Netmaps
from cairn_appliance.netmap.render import serving
from cairn_appliance.services.clock import Clock, wall_clock
from cairn_appliance.services.commit import until_committed
from cairn_appliance.services.directory import find_node
from cairn_appliance.services.events import Journal
from cairn_appliance.services.gateway_board import GatewayBoard
from cairn_appliance.services.limits import Buckets
from cairn_appliance.services.segments import Segments
from cairn_appliance.services.stored import Stored, read
from cairn_appliance.store import keys, records
from cairn_appliance.store.port import Compare, Conflict, Delete, Listing, Put, Store

log = logging.getLogger(__name__)

BEAT_WITHIN_S = 1.2  # a grant is of no use after HOLD_S; the agent tries another appliance then
STATE_EVERY_S = 5.0  # what only counts up is written no more often
_BEATS_PER_S, _BEATS_AT_ONCE = 40.0, 60.0
_COUNTERS_MAX = 32
_TERM_MAX = 1 << 53  # a number that any JSON reader takes as it is
_TIDIED_AFTER_S = 3600.0


@dataclass(frozen=True, slots=True)
class GatewayStatus:
    """A gateway of a segment as it is seen now."""

    node: str
    age_s: float  # since its last beat; infinite: never heard here
    is_able: bool
    said: Said | None  # what it said of the segment; None: nothing yet


@dataclass(frozen=True, slots=True)
class SegmentStatus:
    """Who forwards for a segment, and how its gateways are."""

    record: Forwarding
    gateways: tuple[GatewayStatus, ...]
    stays_down: bool = False  # it moves by itself no more, for now

    def of(self, node: str) -> GatewayStatus:
        """Return the status of one that is in it."""
        return next(each for each in self.gateways if each.node == node)


class Election:
    """Takes beats and releases, and does what follows from them."""

    def __init__(
        self,
        store: Store,
        netmaps: Netmaps,
        segments: Segments,
        board: GatewayBoard,
        journal: Journal,
        clock: Clock = wall_clock,
        monotonic: Clock = time.monotonic,
    ) -> None:
        self._store = store
        self._netmaps = netmaps
        self._segments = segments
        self._board = board
        self._journal = journal
        self._clock = clock
        self._monotonic = monotonic
        self._limit = Buckets(_BEATS_PER_S, _BEATS_AT_ONCE, monotonic)
        self._told_next: dict[tuple[str, str], float] = {}  # node, segment -> when it beat
        self._written: dict[str, tuple[tuple[Said, ...], float]] = {}  # by node

    def duties(self, node: str) -> dict[str, Segment]:
        """Return the segments that the node serves, as this replica knows the map."""
        snapshot = self._netmaps.snapshot
        return {
            segment.id: segment
            for segment in snapshot.segments_of(node)
            if node in serving(snapshot, segment)
        }

    def duty(self, node: str, segment: str) -> Segment:
        """Return a segment that the node serves; raise Refused for any other."""
        found = self.duties(node).get(segment)
        if found is None:
            raise Refused(
                "the node is no gateway of that segment",
                "nothing, where it was just taken out; else see `cairn gateway segment show`",
                code="not_your_duty",
            )
        return found

    async def beat(self, node: str, body: wire.GatewayBeat) -> wire.BeatAnswer:
        """Return what the gateway may do; raise Unavailable, TooMany, Invalid."""
        _check(body)
        self._limit.take(node, "beats")
        duties = self.duties(node)
        mine = [each for each in body.segments if each.segment in duties]
        if not mine:
            return wire.BeatAnswer([])  # and no write: it is no gateway
        beat = self._beat(node, body)
        listing = await self._write(beat, mine, [keys.forwarding(each.segment) for each in mine])
        found = {
            record.segment: Stored(record, item.revision)
            for item in listing.items
            for record in records.forwardings.decode_all([item], records.quarantine)
        }
        grants = []
        for each in mine:
            segment = duties[each.segment]
            stored = found.get(segment.id) or Stored(Forwarding(segment.id), 0)
            self._board.note_record(segment.id, stored)
            grants.append(await self._grant(node, segment, stored, listing.revision))
        return wire.BeatAnswer(grants)

    async def release(self, node: str, segment_id: str, term: int) -> None:
        """Take the holder's word that its gate is closed; an old word changes nothing.

        Raise Refused for one that is no gateway of the segment (any more): the record that
        names it rests by itself.
        """

        async def attempt() -> None:
            segment = self.duty(node, segment_id)
            stored = await read(self._store, records.forwardings, keys.forwarding(segment_id))
            if stored is None:
                return
            # The newest revision that was heard of: a term is above those of other segments.
            revision = max(stored.revision, self._board.revision)
            change = released(self._situation(node, segment, stored, revision), term)
            if change is not None:
                await self._commit(segment, stored, change)

        self._limit.take(node, "beats")
        await until_committed(attempt)

    async def switch_over(self, reference: str, node_reference: str, by: Actor) -> Stored[Segment]:
        """Have another gateway forward; it happens within a second where both are well.

        Raise NotFound, Clash where it can't. A segment that was held down moves again after.
        """
        stored = await self._segments.get(reference)
        node = (await find_node(self._store, node_reference)).value
        segment = stored.value
        if segment.gateway(node.id) is None:
            raise NotFound(
                f"node {node.name} is no gateway of segment {segment.name}",
                f"attach it first (`cairn gateway attach {segment.name} {node.name}`)",
            )
        if not segment.is_bridging:
            raise Clash(
                f"bridging of segment {segment.name} is stopped",
                f"`cairn gateway resume {segment.name}` first",
                code="bridging_stopped",
            )
        voice = self._board.voices(segment.id, [node.id]).get(node.id)
        if voice is None or not voice.is_live or not voice.is_able:
            raise Clash(
                f"node {node.name} can't forward for segment {segment.name}: "
                f"{self._why_not(segment.id, node.id, voice)}",
                "see `cairn gateway list`; what is there goes on as it is",
                code="gateway_unable",
            )

        async def attempt() -> None:
            key = keys.forwarding(segment.id)
            found = await read(self._store, records.forwardings, key)
            old = found or Stored(Forwarding(segment.id), 0)
            wish = "" if old.value.holder == node.id else node.id
            new = replace(old.value, next=wish, moves=(), is_held_down=False)
            if new == old.value:
                return
            text = f"segment {segment.name} is to be forwarded by {node.name}"
            entry = self._entry("switch_over_asked", text, by, segment, node=node.id)
            put = Put(key, records.forwardings.encode(new))
            revision = await self._store.commit([Compare(key, old.revision)], [put, entry])
            self._board.note_record(segment.id, Stored(new, revision))

        await until_committed(attempt)
        return stored

    def status(self, segment: Segment) -> SegmentStatus:
        """Return who forwards for a segment and how its gateways are, as it is seen here."""
        voices = self._board.voices(segment.id, segment.nodes)
        gateways = []
        for node in segment.nodes:
            state, voice = self._board.state(node), voices.get(node)
            is_able = voice is not None and voice.is_able and voice.is_live
            said = state.of(segment.id) if state else None
            gateways.append(GatewayStatus(node, self._board.age_s(node), is_able, said))
        record = self._board.record(segment.id)
        return SegmentStatus(record, tuple(gateways), record.stays_down(self._clock()))

    async def tidy(self) -> None:
        """Forget what gateways said that are none any more."""
        serving_nodes = {node for each in await self._segments.list() for node in each.value.nodes}
        for prefix in (keys.BEATS, keys.GATEWAY_STATES):
            for item in (await self._store.list(prefix)).items:
                node = keys.last_part(item.key)
                if node in serving_nodes or self._board.age_s(node) < _TIDIED_AFTER_S:
                    continue
                await self._store.commit([Compare(item.key, item.revision)], [Delete(item.key)])
        self._told_next = {
            (node, segment): at
            for (node, segment), at in self._told_next.items()
            if node in serving_nodes
        }
        self._written = {n: each for n, each in self._written.items() if n in serving_nodes}

    def _beat(self, node: str, body: wire.GatewayBeat) -> Beat:
        """Return what others have to know; it names what the gateway names, known here or not:
        a segment that is left out would look given up to a replica that knows it."""
        now = self._monotonic()
        asked = []
        for each in body.segments:
            at = self._told_next.get((node, each.segment))
            is_hurrying = at is not None and now - at <= HURRY_S
            asked.append(Asked(each.segment, each.is_able, each.term, is_hurrying))
        return Beat(node, body.boot, tuple(asked))

    async def _write(
        self, beat: Beat, mine: Iterable[wire.SegmentState], read_keys: list[str]
    ) -> Listing:
        writes = [Put(keys.beat(beat.node), records.beats.encode(beat))]
        said = tuple(_said(each) for each in mine)
        state = GatewayState(beat.node, self._clock(), said)
        is_due = self._is_state_due(beat.node, said)
        if is_due:
            writes.append(Put(keys.gateway_state(beat.node), records.gateway_states.encode(state)))
        try:
            async with asyncio.timeout(BEAT_WITHIN_S):
                listing = await self._store.write_and_read(writes, read_keys)
        except TimeoutError as error:
            raise Unavailable("the store gives no answer in time") from error
        if is_due:
            self._written[beat.node] = said, self._monotonic()
            self._board.note_state(state)
        self._board.heard(beat, listing.revision)
        return listing

    def _is_state_due(self, node: str, said: tuple[Said, ...]) -> bool:
        known = self._written.get(node)
        if known is None:
            return True
        old, at = known
        if said == old:
            return False
        calm = [replace(each, counters={}, stations=0) for each in said]
        is_news = calm != [replace(each, counters={}, stations=0) for each in old]
        return is_news or self._monotonic() - at >= STATE_EVERY_S

    async def _grant(
        self, node: str, segment: Segment, stored: Stored[Forwarding], revision: int
    ) -> wire.Grant:
        situation = self._situation(node, segment, stored, revision)
        record = stored.value
        change = decide(situation) if segment.is_bridging else stopped(situation)
        if change is not None:
            try:
                record = await self._commit(segment, stored, change)
            except Conflict:
                log.debug("grant was overtaken segment=%s node=%s", segment.id, node)
        if not segment.is_bridging:
            return wire.Grant(segment.id, record.term, "")
        frozen = self._frozen_elsewhere(segment)
        voice = situation.voices[node]
        is_next = record.next == node and record.holder != node
        if is_next:
            self._told_next[node, segment.id] = self._monotonic()
        else:
            self._told_next.pop((node, segment.id), None)
        return wire.Grant(
            segment=segment.id,
            term=record.term,
            holder=record.holder,
            hold_s=wire.HOLD_S if holds(record, voice) else 0.0,
            is_next=is_next,
            yield_to=yields_to(record, situation.voices) if record.holder == node else "",
            frozen=frozen,
        )

    def _frozen_elsewhere(self, segment: Segment) -> list[wire.FrozenStation]:
        """Return the stations that are held to be on other LANs of the vSubnet, the newest first.

        Who stands by is told too: it may forward with the next beat.
        """
        now = self._clock()
        found = [
            wire.FrozenStation(station.mac, round(station.frozen_for_s(now), 1))
            for other in self._netmaps.snapshot.segments.values()
            if other.vsubnet == segment.vsubnet and other.id != segment.id
            for station in self._board.frozen(other.id, now)
        ]
        return sorted(found, key=lambda each: (-each.left_s, each.mac))[: wire.MAX_FROZEN]

    def _situation(
        self, speaker: str, segment: Segment, stored: Stored[Forwarding], revision: int
    ) -> Situation:
        record, gateways = stored.value, serving(self._netmaps.snapshot, segment)
        everyone = {*gateways, speaker, record.holder} - {""}
        return Situation(
            record=record,
            stands_s=self._board.stands_s(segment.id, stored.revision),
            gateways=gateways,
            voices=self._board.voices(segment.id, everyone),
            heard_s=self._board.could_hear_s,
            speaker=speaker,
            revision=revision,
            now=self._clock(),
        )

    async def _commit(
        self, segment: Segment, stored: Stored[Forwarding], change: Change
    ) -> Forwarding:
        """Write the change while record and beats are as they were seen; raise Conflict."""
        key = keys.forwarding(segment.id)
        compares = [Compare(key, stored.revision)]
        compares += [
            Compare(keys.beat(node), self._board.beat_revision(node))
            for node in sorted(change.unmodified)
        ]
        writes = [Put(key, records.forwardings.encode(change.record))]
        told = self._told(segment, stored.value, change)
        revision = await self._store.commit(compares, [*writes, *told])
        self._board.note_record(segment.id, Stored(change.record, revision))
        log.info(
            "forwarding segment=%s reason=%s holder=%s term=%d",
            segment.id,
            change.reason,
            change.record.holder,
            change.record.term,
        )
        return change.record

    def _told(self, segment: Segment, old: Forwarding, change: Change) -> list[Put]:
        """Return the event of a change that people want to know of."""
        new, name = change.record, segment.name
        holder, before = self._name(new.holder), self._name(old.holder or old.last)
        moved = f"{holder} forwards for segment {name}"
        texts: Mapping[Reason, tuple[str, str, Severity, str]] = {
            Reason.FIRST: ("forwarder_chosen", moved, Severity.INFO, ""),
            Reason.SWITCHED: (
                "forwarder_switched",
                f"{moved}, by an operator's wish",
                Severity.INFO,
                "",
            ),
            Reason.RELEASED: (
                "forwarder_changed",
                f"{moved}: {before} gave it up",
                Severity.INFO,
                "",
            ),
            Reason.SILENT: (
                "forwarder_changed",
                f"{moved}: {before} was not heard for 2 seconds",
                Severity.WARNING,
                f"look at {before}: its agent, its links, its power",
            ),
            Reason.UNABLE: (
                "forwarder_changed",
                f"{moved}: {before} can't: {self._why_not(segment.id, old.holder, None)}",
                Severity.WARNING,
                f"see `cairn gateway list`, and look at {before}",
            ),
            Reason.NEXT_LOST: (
                "switch_over_failed",
                f"segment {name} stays with {holder}: {self._name(old.next)} can't take it",
                Severity.WARNING,
                "see `cairn gateway list` for why, then ask again",
            ),
            Reason.HELD_DOWN: (
                "forwarder_held_down",
                f"segment {name} has changed its gateway {MOVES_MAX} times in "
                f"{MOVES_WINDOW_S / 60:.0f} minutes and does so no more by itself",
                Severity.ALARM,
                f"look why its gateways come and go, then `cairn gateway switch-over {name} --to "
                "NODE`; else it moves again when ten minutes have passed",
            ),
            Reason.VACATED: (
                "forwarder_lost",
                f"no gateway forwards for segment {name}: {before} stopped and no other can",
                Severity.ALARM,
                "see `cairn gateway list` for why each of them can't",
            ),
            Reason.LEFT: (
                "forwarder_left",
                f"{before} is no gateway of segment {name} any more; another takes over",
                Severity.INFO,
                "",
            ),
        }
        if change.reason not in texts:
            return []
        kind, text, severity, remedy = texts[change.reason]
        details = {"term": str(new.term), "reason": str(change.reason)}
        if remedy:
            details["remedy"] = remedy
        entry = self._entry(
            kind, text, SYSTEM, segment, node=new.holder, severity=severity, **details
        )
        return [entry]

    def _why_not(self, segment: str, node: str, voice: Voice | None) -> str:
        state = self._board.state(node)
        said = state.of(segment) if state else None
        if voice is None and said is None:
            return "it was not heard"
        if voice is not None and not voice.is_live:
            return "it was not heard of late"
        return said.why_not if said and said.why_not else "it doesn't say why"

    def _name(self, node: str) -> str:
        known = self._netmaps.snapshot.nodes.get(node)
        return known.name if known else node or "nobody"

    def _entry(
        self,
        kind: str,
        text: str,
        by: Actor,
        segment: Segment,
        *,
        node: str,
        severity: Severity = Severity.INFO,
        **details: str,
    ) -> Put:
        details["segment"] = segment.id
        return self._journal.entry(
            kind, text, by, severity=severity, node=node, vsubnet=segment.vsubnet, **details
        )


def _check(body: wire.GatewayBeat) -> None:
    """Raise Invalid for what no agent of ours says."""
    segments = [each.segment for each in body.segments]
    fits = (
        len(segments) <= DUTIES_MAX
        and len(set(segments)) == len(segments)
        and len(body.boot) <= 64
        and all(0 < len(each) <= 64 for each in segments)
        and all(0 <= each.term < _TERM_MAX for each in body.segments)
    )
    if not fits:
        raise Invalid("the beat names what is no segment of a gateway", code="invalid_body")


def _said(state: wire.SegmentState) -> Said:
    counters = sorted(state.counters.items())[:_COUNTERS_MAX]
    return Said(
        segment=state.segment,
        is_able=state.is_able,
        why_not=state.why_not[:200],
        code=state.code[:32],
        is_forwarding=state.is_forwarding,
        term=state.term,
        stations=max(0, min(state.stations, 1 << 31)),
        counters={name[:32]: count for name, count in counters if 0 <= count < _TERM_MAX},
    )
