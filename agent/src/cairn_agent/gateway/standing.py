"""Whether this gateway forwards for one segment: the rules, without I/O and without a clock.

Theory of operation. All times are CLOCK_BOOTTIME in nanoseconds: nobody can set it, and it
goes on in suspend. The appliances grant a segment to one gateway under a term. A grant lets
forward until HOLD_S after its beat *was sent*, and nobody else is granted the segment before
SILENCE_S after that beat was written; so late answers, lost ones and pauses only ever close
the gate. The gate is the data plane's: it compares the clock itself, with each batch.

Every event comes in by a method, and what is to be done comes out as a list, in its order.
A term that was given up (released, or said to be unable under) is never forwarded under
again: the word of it may still be on its way. Whoever hears of a higher term than its own
closes. With `availability`, a forwarder without appliances goes on while every other gateway
acknowledges its probes; who acknowledged opens its own gate no sooner than 2 s after, unless
the forwarder itself says meanwhile that it stands by.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from cairn_agent.gateway.probe import MAX_ACKNOWLEDGED, Heard, Probe, Side
from cairn_agent.protocol.gateway import (
    HOLD_S,
    SILENCE_S,
    GatewayDuty,
    Grant,
    SegmentState,
)

NS: Final = 1_000_000_000
_HOLD_NS: Final = int(HOLD_S * NS)
_STAND_BY_NS: Final = int(SILENCE_S * NS)  # after an acknowledgement
_HEARD_NS: Final = NS  # a forwarder heard longer ago is not acknowledged
_OWN_FRESH_NS: Final = 2 * NS  # an own probe that comes back later is an old one
_OWN_KEPT: Final = 64
_EXTEND_NS: Final = NS // 10  # a later end than asked for by less than this is not asked for
_MAX_SENDERS: Final = 256
_MAX_BOOTS: Final = 8
_BLOCK_NS: Final = 10 * NS  # without a loop's probe
_BLOCK_MAX_NS: Final = 300 * NS
_RECURS_NS: Final = 60 * NS  # a loop again so soon after the last one is the same


@dataclass(frozen=True, slots=True)
class SetGate:
    """Tell the data plane; 0 closes. `gate_set` is to be called when it has answered."""

    term: int
    until_ns: int


@dataclass(frozen=True, slots=True)
class Release:
    """Tell the appliances that this gateway's gate is closed for this term, for good."""

    term: int


@dataclass(frozen=True, slots=True)
class Announce:
    """The gate has opened: say on both sides where the stations are now."""


@dataclass(frozen=True, slots=True)
class Speak:
    """Send the loop probes now: what they say has changed."""


@dataclass(frozen=True, slots=True)
class SetPort:
    """Block the LAN port, or let it forward again."""

    is_blocked: bool


@dataclass(frozen=True, slots=True)
class Tell:
    """Something for the operators' event log."""

    code: str
    detail: str


Output = SetGate | Release | Announce | Speak | SetPort | Tell


@dataclass(slots=True)
class _Sender:
    """What was heard last of one node's probes, at one place and of one side."""

    boot: int
    sequence: int
    former: deque[int]


class Standing:
    """One segment's state from `started` on: what the data plane's gate is by then isn't known.

    `chance` returns 0..1 and `name_of` a node's name for people.
    """

    def __init__(
        self,
        node_id: str,
        duty: GatewayDuty,
        boot: int,
        started: int,
        *,
        chance: Callable[[], float],
        name_of: Callable[[str], str] = str,
    ) -> None:
        self.duty = duty
        self.holder = ""
        self.is_next = False
        self._node = node_id
        self._boot = boot
        self._chance = chance
        self._name_of = name_of
        self._trouble = ("bridge_failed", "the bridge isn't made yet")
        self._answered_for = -1  # when the beat of the newest answer was sent
        self._known_term = 0  # the highest that anybody was granted, as far as known
        self._own_term = 0  # of the last grant to this node
        self._right = (0, 0)  # term, until
        self._given_up = 0
        self._release_due = False
        self._announce_due = False
        self._asked = SetGate(0, 0)
        # The data plane's gate is closed from then on at the latest. An agent that was here
        # before may have opened it right before it ended.
        self._open_until = started + _HOLD_NS
        self._started = started
        self._sequence = 0
        self._sent: deque[tuple[int, int]] = deque(maxlen=_OWN_KEPT)
        self._senders: dict[tuple[str, str, Side], _Sender] = {}
        self._forwarders: dict[str, tuple[int, Heard, int]] = {}  # node -> heard at, what, term
        self._latest: dict[str, tuple[int, int]] = {}  # node -> boot, sequence: whichever way
        self._acknowledged: dict[str, int] = {}  # node -> when the probe was sent that it heard
        self._blocked_until = 0
        self._block_for = 0
        self._unblocked_at = -_RECURS_NS
        self._loop = ""

    # What people and the appliances are told

    def is_closed(self, now: int) -> bool:
        """Whether the data plane's gate is closed for certain."""
        return now >= self._open_until

    @property
    def own_term(self) -> int:
        """The term of the last grant to this node."""
        return self._own_term

    def is_blocked(self) -> bool:
        """Whether the port is blocked by a loop."""
        return self._blocked_until > 0

    def why_not(self) -> tuple[str, str]:
        """Return code and sentence of what keeps it from forwarding; ("", "") nothing does."""
        if self.is_blocked():
            return "loop", self._loop
        if self._trouble[0]:
            return self._trouble
        if not self.duty.is_bridging:
            return "stopped", "an operator stopped bridging; cairn gateway resume lets it go on"
        return "", ""

    def is_forwarding(self, now: int) -> bool:
        """Whether the data plane's gate may be open by what this agent asked of it."""
        return not self.is_closed(now) and self._asked.term > 0

    def beat(self, now: int, stations: int, counters: dict[str, int]) -> SegmentState | None:
        """Return what to say with a beat that is sent now; None: nothing yet.

        Being unable gives the term up, so it is said only when the gate is closed.
        """
        code, why = self.why_not()
        is_closed = self.is_closed(now)
        if code and self._is_unknown(now):
            return None
        is_able = not code or not is_closed
        if not is_able:
            self._given_up = max(self._given_up, self._known_term)
        return SegmentState(
            self.duty.segment,
            is_able,
            "" if is_able else why,
            "" if is_able else code,
            self.is_forwarding(now),
            self._known_term,
            stations,
            counters,
        )

    def probe(self, now: int, side: Side) -> Probe | None:
        """Return the next probe to send on a side; None while it can't say what it is."""
        if self._is_unknown(now):
            return None
        self._sequence += 1
        self._sent.append((self._sequence, now))
        is_closed = self.is_closed(now)
        return Probe(
            side,
            self.duty.segment,
            self._node,
            self._boot,
            self._sequence,
            self._known_term if is_closed else self._asked.term,
            "standby" if is_closed else "forwarder",
            self._acknowledges(now) if is_closed else (),
        )

    def _is_unknown(self, now: int) -> bool:
        """Whether the gate may still be open by the word of an agent that was here before."""
        return not self._asked.term and not self.is_closed(now)

    def _acknowledges(self, now: int) -> tuple[Heard, ...]:
        if self.duty.preference != "availability":
            return ()
        heard = [
            what
            for at, what, term in self._forwarders.values()
            if now - at < _HEARD_NS and term >= self._known_term
        ]
        return tuple(heard[-MAX_ACKNOWLEDGED:])

    # What happens

    def answered(self, now: int, sent: int, grant: Grant) -> list[Output]:
        """An appliance answered the beat that was sent at `sent`."""
        if grant.term < self._known_term or sent <= self._answered_for:
            return []  # a later beat was answered before
        outputs: list[Output] = [Speak()] if grant.term > self._known_term else []
        self._answered_for, self._known_term = sent, grant.term
        self.holder, self.is_next = grant.holder, grant.is_next
        if grant.holder != self._node:
            self._right, self._release_due = (0, 0), False
            return outputs + self._decide(now)
        self._own_term = grant.term
        if grant.yield_to:
            self._given_up = max(self._given_up, grant.term)
        if grant.term <= self._given_up:
            self._right = (0, 0)
            self._release_due = self._can_serve() or bool(grant.yield_to)
        elif grant.hold_s > 0:
            hold_ns = min(int(grant.hold_s * NS), _HOLD_NS)
            self._right = (grant.term, sent + hold_ns)
        return outputs + self._decide(now)

    def heard(self, now: int, place: Side, probe: Probe) -> list[Output]:
        """A probe was heard on the LAN port (`lan`) or on the TAP (`overlay`)."""
        if probe.node == self._node:
            return self._own_heard(now, place, probe)
        if not self._is_fresh(place, probe):
            return []
        if place != probe.side:
            return self._loop_found(now, self._crossed(place, probe))
        if probe.segment != self.duty.segment:
            if place == "overlay":
                return []  # another LAN of the vSubnet: as it should be
            return self._loop_found(now, self._same_lan(probe))
        self._note(now, probe)
        return self._decide(now)

    def is_news(self, probe: Probe) -> bool:
        """Whether the forwarder of this segment says this now, and it is no recording."""
        is_ours = probe.segment == self.duty.segment and probe.node != self._node
        return is_ours and probe.role == "forwarder" and self._is_fresh("stations", probe)

    def trouble(self, now: int, code: str, why: str) -> list[Output]:
        """Port, bridge or data plane can't be used now (a code and a sentence), or can ("")."""
        self._trouble = (code, why)
        return self._decide(now)

    def duty_changed(self, now: int, duty: GatewayDuty) -> list[Output]:
        """The appliances changed something of the segment."""
        self.duty = duty
        return self._decide(now)

    def gate_set(self, now: int, done: SetGate) -> list[Output]:
        """The data plane has done it."""
        if done.until_ns == 0 and done is self._asked and self._open_until:
            self._open_until = 0
            return [Speak(), *self._decide(now)]
        if done.until_ns > now and self._announce_due:
            self._announce_due = False
            return [Announce(), Speak(), *self._decide(now)]
        return self._decide(now)

    def term_seen(self, now: int, term: int) -> list[Output]:
        """The data plane's gate had this term: it takes none below, and neither may anybody."""
        self._known_term = max(self._known_term, term)
        return self._decide(now)

    def gate_refused(self) -> None:
        """The data plane did not do it: it is asked again after the next answered beat."""
        self._asked = SetGate(self._asked.term, 0)

    def gate_lost(self, now: int) -> list[Output]:
        """There is another data plane, whose gate is closed: it is asked for the same."""
        self.gate_refused()
        return self._decide(now)

    def tick(self, now: int) -> list[Output]:
        """Time has passed."""
        outputs: list[Output] = []
        if self.is_blocked() and now >= self._blocked_until:
            self._blocked_until, self._unblocked_at = 0, now
            detail = f"no sign of the loop any more: {self.duty.port} forwards again"
            outputs += [SetPort(is_blocked=False), Tell("loop_gone", detail)]
        return outputs + self._decide(now)

    # The rules

    def _can_serve(self) -> bool:
        return not self.why_not()[0]

    def _wanted(self, now: int) -> SetGate:
        """Return what the gate should be by all that is known now."""
        term, until = self._right
        if not self._can_serve() or term <= self._given_up or term < self._known_term:
            return SetGate(term, 0)
        if self._must_stand_by(now):
            return SetGate(term, 0)
        if self.duty.preference == "availability" and self._asked.until_ns > now:
            until = max(until, self._acknowledged_until(now))
        return SetGate(term, until)

    def _must_stand_by(self, now: int) -> bool:
        """Whether another gateway may still forward by what this one acknowledged.

        An agent that was here before may have acknowledged something right before it ended.
        """
        heard_at = [at for at, _, _ in self._forwarders.values()]
        if self.duty.preference == "availability":
            heard_at.append(self._started)
        return any(now < at + _STAND_BY_NS for at in heard_at)

    def _acknowledged_until(self, now: int) -> int:
        """Return until when the others' acknowledgements alone let it forward."""
        others = [node for node in self.duty.gateways if node != self._node]
        return min((self._acknowledged.get(node, 0) for node in others), default=now) + _HOLD_NS

    def _decide(self, now: int) -> list[Output]:
        wanted, asked = self._wanted(now), self._asked
        outputs: list[Output] = []
        if wanted.until_ns > now:
            is_new = asked.until_ns <= now or wanted.term != asked.term
            if is_new or wanted.until_ns - asked.until_ns >= _EXTEND_NS:
                self._asked = wanted
                self._open_until = max(self._open_until, wanted.until_ns)
                outputs.append(wanted)
            self._announce_due |= is_new
        elif asked.until_ns > now:
            self._asked = SetGate(asked.term, 0)
            outputs.append(self._asked)
        if self._release_due and self.is_closed(now):
            self._release_due = False
            outputs.append(Release(self._own_term))
        return outputs

    def _note(self, now: int, probe: Probe) -> None:
        """Take in what a gateway of the same segment says of itself."""
        self._known_term = max(self._known_term, probe.term)
        boot, sequence = self._latest.get(probe.node, (probe.boot, -1))
        if boot == probe.boot and sequence > probe.sequence:
            return  # on the other side a later one was faster
        self._latest[probe.node] = (probe.boot, probe.sequence)
        if probe.role == "standby":
            self._forwarders.pop(probe.node, None)
            self._take_acknowledgement(probe)
        elif self.duty.preference == "availability":
            what = Heard(probe.node, probe.boot, probe.sequence)
            self._forwarders[probe.node] = (now, what, probe.term)

    def _take_acknowledgement(self, probe: Probe) -> None:
        if probe.term > self._asked.term:
            return
        for each in probe.acknowledged:
            if each.node == self._node and each.boot == self._boot:
                sent = next((at for number, at in self._sent if number == each.sequence), 0)
                before = self._acknowledged.get(probe.node, 0)
                self._acknowledged[probe.node] = max(before, sent)

    def _is_fresh(self, place: Side | Literal["stations"], probe: Probe) -> bool:
        """Whether it is newer than what was heard of its sender there, and not a recording."""
        key = (probe.node, place, probe.side)
        known = self._senders.get(key)
        if known is None:
            if len(self._senders) >= _MAX_SENDERS:
                self._senders.pop(next(iter(self._senders)))
            former: deque[int] = deque(maxlen=_MAX_BOOTS)
            self._senders[key] = _Sender(probe.boot, probe.sequence, former)
            return True
        if probe.boot == known.boot:
            is_newer = probe.sequence > known.sequence
            known.sequence = max(known.sequence, probe.sequence)
            return is_newer
        if probe.boot in known.former:
            return False
        known.former.append(known.boot)
        known.boot, known.sequence = probe.boot, probe.sequence
        return True

    def _own_heard(self, now: int, place: Side, probe: Probe) -> list[Output]:
        is_recent = any(
            number == probe.sequence and now - at < _OWN_FRESH_NS for number, at in self._sent
        )
        is_own = probe.segment == self.duty.segment and probe.boot == self._boot
        # In a storm the old ones go round, and leave hardly any room for new ones.
        is_this = is_own and (is_recent or self.is_blocked())
        if place != probe.side:
            # Of another segment of this node its own duty knows whether it is fresh.
            fresh = is_this or (probe.segment != self.duty.segment and self._is_fresh(place, probe))
            return self._loop_found(now, self._crossed(place, probe)) if fresh else []
        if place == "overlay":
            return []
        if is_this:
            came = f"what {self.duty.port} sends comes back in on {self.duty.port}"
            return self._loop_found(now, f"{came}: two ports of this LAN are joined")
        if probe.segment != self.duty.segment and self._is_fresh(place, probe):
            return self._loop_found(now, self._same_lan(probe))
        return []

    def _crossed(self, place: Side, probe: Probe) -> str:
        who = "this gateway" if probe.node == self._node else self._name_of(probe.node)
        if place == "lan":
            return (
                f"what {who} sends into the overlay comes out of {self.duty.port}: "
                "a machine on this LAN bridges it to the vSubnet"
            )
        return (
            f"what {who} sends out of its LAN port comes back from the overlay, beside "
            f"{self.duty.port}: a member of the vSubnet bridges it to a LAN"
        )

    def _same_lan(self, probe: Probe) -> str:
        return (
            f"{self.duty.port} and the LAN port of {self._name_of(probe.node)} for another "
            "segment of this vSubnet are on one LAN"
        )

    def _loop_found(self, now: int, what: str) -> list[Output]:
        was_blocked = self.is_blocked()
        if not was_blocked:
            recurs = now - self._unblocked_at < _RECURS_NS and self._block_for
            longer = min(self._block_for * 2, _BLOCK_MAX_NS)
            self._block_for = longer if recurs else _BLOCK_NS
            self._loop = f"{what}; part them"
        self._blocked_until = now + int(self._block_for * (1 + self._chance() / 4))
        if was_blocked:
            return []
        closing = self._decide(now)
        return [*closing, SetPort(is_blocked=True), Tell("loop_blocked", self._loop)]
