"""Who forwards for a segment: grants, releases, switch-overs, hold-down. Rules only.

docs/protocol.md section 5.2 has the argument why two never forward at once. In short: a
holder may forward for HOLD_S from before a beat was sent that was written to the store while
the record named it. Another is granted the segment only by a write that compares the record
and the holder's beat, after that beat was seen to stand for SILENCE_S. No wall clock decides
that; `now` below serves the hold-down alone, which is about peace and not about safety.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

HOLD_S = 1.5  # as cairn_agent.protocol.gateway has them; a test compares
SILENCE_S = 2.0
LIVE_S = 1.5  # since the last beat of one who is to be granted something
HURRY_S = 0.2  # between beats of one who knows that it is next
MOVES_MAX = 3  # automatic ones, within
MOVES_WINDOW_S = 600.0


class Reason(StrEnum):
    """Why the record changes."""

    FIRST = "first"  # nobody held it, or the same one before
    RESTARTED = "restarted"  # the holder's agent runs anew: a new term for the same gateway
    BEHIND = "behind"  # a gateway knows a higher term than the record: the store was restored
    SILENT = "silent"
    UNABLE = "unable"
    RELEASED = "released"
    SWITCHED = "switched"  # an operator's wish
    NEXT_LOST = "next_lost"  # the wish can't be fulfilled
    HELD_DOWN = "held_down"  # too many moves of late: it stays as it is
    VACATED = "vacated"  # nobody can take it
    STOPPED = "stopped"  # an operator stopped it, and the holder says so
    LEFT = "left"  # the holder was taken out of the segment, or doesn't ask for it any more


@dataclass(frozen=True, slots=True)
class Forwarding:
    """Who forwards for a segment; written with compares only."""

    segment: str
    term: int = 0  # rises with each grant, over all segments
    holder: str = ""  # node ID
    boot: str = ""  # the run of the holder's agent
    next: str = ""  # node ID: an operator wants it to forward
    last: str = ""  # who held it last; the holder while there is one
    rests: bool = False  # the last one didn't say that it stopped: wait for SILENCE_S
    is_held_down: bool = False  # since it was told; see `stays_down`
    moves: tuple[float, ...] = ()  # automatic ones, seconds since 1970
    since: float = 0.0  # of the grant, seconds since 1970: for people

    def stays_down(self, now: float) -> bool:
        """Return whether it moves by itself no more, for now."""
        return self.is_held_down and len(recent(self.moves, now)) >= MOVES_MAX

    def vacated(self, *, rests: bool) -> Forwarding:
        """Return the record without a holder."""
        return replace(self, holder="", boot="", rests=rests)


@dataclass(frozen=True, slots=True)
class Voice:
    """A gateway as its last beat has it, and how long ago that was seen here."""

    node: str
    boot: str
    is_able: bool
    term: int  # that it has, or had last
    silent_s: float  # for how long it could have been heard, and was not
    age_s: float  # since a beat of it was seen to come
    is_hurrying: bool = False
    asks: bool = True  # False: its beats don't name the segment (any more)

    @property
    def is_live(self) -> bool:
        """True for one that can use a grant at once."""
        return self.asks and self.age_s < LIVE_S


@dataclass(frozen=True, slots=True)
class Situation:
    """All that a decision needs."""

    record: Forwarding
    stands_s: float  # how long the record has been seen as it is
    gateways: tuple[str, ...]  # node IDs, of the segment
    voices: Mapping[str, Voice]  # of its gateways and its holder, as far as they were ever heard
    heard_s: float  # how long beats are listened to here: the silence of who was never heard
    speaker: str  # whose beat it is
    revision: int  # of the store, at that beat
    now: float  # wall clock

    def silent_s(self, node: str) -> float:
        """Return for how long a gateway has said nothing."""
        voice = self.voices.get(node)
        return voice.silent_s if voice else self.heard_s


@dataclass(frozen=True, slots=True)
class Change:
    """A new record; true only while the record and these gateways' beats are as they were."""

    record: Forwarding
    reason: Reason
    unmodified: frozenset[str] = field(default_factory=frozenset)  # node IDs


def holds(record: Forwarding, voice: Voice) -> bool:
    """Return whether the beat that says this confirms the holder's right."""
    return (
        record.holder == voice.node
        and voice.is_able
        and record.boot == voice.boot
        and voice.term <= record.term
    )


def yields_to(record: Forwarding, voices: Mapping[str, Voice]) -> str:
    """Return whom the holder is to make way for now; empty: nobody."""
    following = voices.get(record.next)
    if record.next in ("", record.holder) or following is None:
        return ""
    ready = following.is_live and following.is_able and following.is_hurrying
    return record.next if ready else ""


def decide(situation: Situation) -> Change | None:
    """Return what a beat changes; None: nothing."""
    record, holder = situation.record, situation.voices.get(situation.record.holder)
    if holder and situation.speaker == record.holder:
        own = _renewed(situation, holder)
        if own:
            return own
    if not record.holder:
        if record.rests and situation.stands_s < SILENCE_S:
            return None
        return _granted(situation, Reason.FIRST, vacant=record)
    if record.holder not in situation.gateways or _is_mute(holder):
        return Change(record.vacated(rests=True), Reason.LEFT)
    if holder and not holder.asks:
        return None  # its last beat with the segment may have been missed here: not yet
    if holder and not holder.is_able and holder.term == record.term:
        # It closed its gate before it said so, and never opens it again in that term.
        return _granted(situation, Reason.UNABLE, vacant=record.vacated(rests=False))
    if situation.silent_s(record.holder) >= SILENCE_S:
        change = _granted(situation, Reason.SILENT, vacant=None)
        return change and replace(change, unmodified=frozenset({record.holder}))
    return _without_lost_next(situation)


def released(situation: Situation, term: int) -> Change | None:
    """Return what the holder's word changes that its gate is closed; None: it is an old word."""
    record = situation.record
    if record.holder != situation.speaker or record.term != term:
        return None
    return _granted(situation, Reason.RELEASED, vacant=record.vacated(rests=False))


def stopped(situation: Situation) -> Change | None:
    """Return what a beat changes while an operator has stopped the segment; None: nothing.

    A holder that calls itself unable because of that gives its term up. Who is the first to be
    able after it gets the segment, and that is no move.
    """
    record, holder = situation.record, situation.voices.get(situation.record.holder)
    if holder is None or situation.speaker != record.holder:
        return None
    if holder.is_able or not holder.asks or holder.term != record.term:
        return None
    left = replace(record.vacated(rests=False), next="", last="", moves=(), is_held_down=False)
    return Change(left, Reason.STOPPED)


def weight(segment: str, node: str) -> int:
    """Return the rendezvous weight of a gateway: segments spread over them, each the same way."""
    return int.from_bytes(hashlib.sha256(f"cairn-df-1/{segment}/{node}".encode()).digest()[:8])


def recent(moves: Iterable[float], now: float) -> tuple[float, ...]:
    """Return the moves that count; one in the future was written by a clock that was wrong."""
    return tuple(at for at in moves if 0 <= now - at < MOVES_WINDOW_S)


def _renewed(situation: Situation, holder: Voice) -> Change | None:
    """Return a new term for the same holder, where the one on record isn't its own.

    What its former run has said, and may still be on its way, is of another term then.
    """
    record = situation.record
    if not _may_have(situation, holder.node):
        return None
    if _known_term(situation) > record.term:
        return Change(_grant(situation, holder.node), Reason.BEHIND)
    if holder.boot != record.boot:
        return Change(_grant(situation, holder.node), Reason.RESTARTED)
    return None


def _granted(situation: Situation, reason: Reason, vacant: Forwarding | None) -> Change | None:
    """Return a grant to whom it is due; without one, `vacant` where that is news."""
    record = situation.record
    wished = record.next if record.next != record.holder else ""
    if wished and _may_have(situation, wished):
        return Change(_grant(situation, wished), Reason.SWITCHED)
    able = [node for node in situation.gateways if _may_have(situation, node)]
    if reason is Reason.RELEASED:
        able = [node for node in able if node != record.holder]
    is_calm = len(recent(record.moves, situation.now)) < MOVES_MAX
    allowed = [node for node in able if is_calm or not _is_move(record, node)]
    if allowed:
        chosen = max(allowed, key=lambda node: weight(record.segment, node))
        return Change(_grant(situation, chosen), reason)
    if able and not record.is_held_down:
        return Change(replace(vacant or record, is_held_down=True), Reason.HELD_DOWN)
    if vacant is not None and vacant != record:
        return Change(vacant, Reason.VACATED)
    return None


def _grant(situation: Situation, node: str) -> Forwarding:
    """Return the record with a new holder, or a new term for the one that there is.

    The term is above the record's, all that gateways know of, and those of other segments: a
    node's gate serves whatever segment its port has, and takes no term that is not newer.
    """
    record = situation.record
    moves = recent(record.moves, situation.now)
    is_wished, is_move = record.next == node, _is_move(record, node)
    if is_wished:
        moves = ()
    elif is_move:
        moves = (*moves, situation.now)
    # Back with the last one it is held down as before: that has been told.
    stays_down = record.is_held_down and not is_move and len(moves) >= MOVES_MAX
    return replace(
        record,
        term=max(record.term + 1, _known_term(situation) + 1, situation.revision),
        holder=node,
        boot=situation.voices[node].boot,
        next="" if is_wished else record.next,
        last=node,
        rests=False,
        is_held_down=stays_down,
        moves=moves,
        since=situation.now,
    )


def _known_term(situation: Situation) -> int:
    return max((voice.term for voice in situation.voices.values()), default=0)


def _is_mute(holder: Voice | None) -> bool:
    """Return whether the holder beats, and has not named the segment for long enough.

    Between two beats that were seen there may be one that was not, and named it: so the record
    is given up and rests, which needs no certainty of that kind.
    """
    return holder is not None and not holder.asks and holder.silent_s >= SILENCE_S


def _is_move(record: Forwarding, node: str) -> bool:
    return record.last not in ("", node)


def _may_have(situation: Situation, node: str) -> bool:
    voice = situation.voices.get(node)
    return node in situation.gateways and voice is not None and voice.is_able and voice.is_live


def _without_lost_next(situation: Situation) -> Change | None:
    """Return the record without a wish that can't be fulfilled."""
    record = situation.record
    if not record.next:
        return None
    voice = situation.voices.get(record.next)
    is_lost = record.next not in situation.gateways or situation.silent_s(record.next) >= SILENCE_S
    if is_lost or (voice is not None and not voice.is_able):
        return Change(replace(record, next=""), Reason.NEXT_LOST)
    return None
