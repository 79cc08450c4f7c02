"""The right to forward: rules one by one, then a world of slow clocks, pauses and old messages."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from cairn_agent.protocol import gateway as wire
from cairn_appliance.domain import forwarding
from cairn_appliance.domain.forwarding import (
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
    weight,
    yields_to,
)
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

A, B, C = "node-a", "node-b", "node-c"
HELD = Forwarding("s", term=7, holder=A, boot="a1", last=A, since=50.0)


def voice(node: str, **changes: object) -> Voice:
    fields: dict[str, object] = {
        "boot": f"{node[-1]}1",
        "is_able": True,
        "term": 7,
        "silent_s": 0.1,
    }
    fields["age_s"] = changes.get("silent_s", 0.1)
    return Voice(node, **{**fields, **changes})  # type: ignore[arg-type]


def situation(record: Forwarding, *voices: Voice, speaker: str = B, **changes: object) -> Situation:
    fields: dict[str, object] = {
        "stands_s": 100.0,
        "gateways": (A, B, C),
        "voices": {each.node: each for each in voices},
        "heard_s": 100.0,
        "speaker": speaker,
        "revision": 40,
        "now": 1000.0,
    }
    return Situation(record, **{**fields, **changes})  # type: ignore[arg-type]


def changed(change: Change | None) -> tuple[Reason, str]:
    assert change is not None
    return change.reason, change.record.holder


def test_the_figures_are_those_that_agents_go_by() -> None:
    assert (forwarding.HOLD_S, forwarding.SILENCE_S) == (wire.HOLD_S, wire.SILENCE_S)
    assert forwarding.HOLD_S * 1.25 < forwarding.SILENCE_S


def test_nobody_holds_it_the_live_able_one_with_the_highest_weight_gets_it_at_once() -> None:
    empty = Forwarding("s")
    best = max((A, B), key=lambda node: weight("s", node))
    everybody = voice(A, term=0), voice(B, term=0), voice(C, term=0, is_able=False)
    change = decide(situation(empty, *everybody))
    assert changed(change) == (Reason.FIRST, best)
    assert change is not None
    assert change.record.term == 40
    assert not change.record.moves
    late = voice(A, term=0, silent_s=1.6), voice(B, term=0)
    assert changed(decide(situation(empty, *late))) == (Reason.FIRST, B)


def test_segments_spread_over_gateways() -> None:
    first = [max((A, B, C), key=lambda node: weight(f"s{n}", node)) for n in range(300)]
    assert min(map(first.count, (A, B, C))) > 70


def test_whoever_holds_it_keeps_it() -> None:
    for speaker in (A, B, C):
        everybody = voice(A), voice(B), voice(C)
        assert decide(situation(HELD, *everybody, speaker=speaker)) is None
    assert holds(HELD, voice(A))
    assert not holds(HELD, voice(B))
    assert not holds(HELD, voice(A, is_able=False))
    assert not holds(HELD, voice(A, boot="a2"))


@pytest.mark.parametrize(("silent_s", "is_taken"), [(1.99, False), (2.0, True)])
def test_a_silent_holder_is_replaced_after_two_seconds_and_not_before(
    silent_s: float, is_taken: bool
) -> None:
    change = decide(situation(HELD, voice(A, silent_s=silent_s), voice(B)))
    if not is_taken:
        assert change is None
        return
    assert changed(change) == (Reason.SILENT, B)
    assert change is not None
    assert change.unmodified == {A}
    assert change.record.moves == (1000.0,)


def test_a_holder_that_was_never_heard_here_is_silent_since_listening_began() -> None:
    assert decide(situation(HELD, voice(B), heard_s=1.9)) is None
    assert changed(decide(situation(HELD, voice(B), heard_s=2.0))) == (Reason.SILENT, B)


def test_a_holder_that_says_in_its_term_that_it_is_unable_is_replaced_at_once() -> None:
    unable = voice(A, is_able=False)
    assert changed(decide(situation(HELD, unable, voice(B), speaker=A))) == (Reason.UNABLE, B)
    alone = decide(situation(HELD, unable, speaker=A))
    assert changed(alone) == (Reason.VACATED, "")
    assert alone is not None
    assert not alone.record.rests
    old_word = voice(A, is_able=False, term=6)
    assert decide(situation(HELD, old_word, voice(B), speaker=A)) is None


def test_an_agent_that_runs_anew_gets_a_new_term_and_no_move_is_counted() -> None:
    change = decide(situation(HELD, voice(A, boot="a2"), voice(B), speaker=A))
    assert changed(change) == (Reason.RESTARTED, A)
    assert change is not None
    assert (change.record.term, change.record.boot, change.record.moves) == (40, "a2", ())


def test_a_term_is_above_all_that_gateways_know_of() -> None:
    """A store that was restored knows lower ones, and gates refuse them."""
    change = decide(situation(HELD, voice(A), voice(B, term=90), speaker=A))
    assert changed(change) == (Reason.BEHIND, A)
    assert change is not None
    assert change.record.term == 91


def test_one_that_was_taken_out_while_it_held_it_is_waited_for() -> None:
    out = decide(situation(HELD, voice(A), voice(B), gateways=(B, C)))
    assert changed(out) == (Reason.LEFT, "")
    assert out is not None
    assert out.record == HELD.vacated(rests=True)
    left = HELD.vacated(rests=True)
    assert decide(situation(left, voice(B), stands_s=1.9)) is None
    assert changed(decide(situation(left, voice(B), stands_s=2.0))) == (Reason.FIRST, B)


def test_a_holder_that_beats_without_naming_the_segment_leaves_it_to_rest() -> None:
    mute = voice(A, asks=False, is_able=False, term=0, silent_s=1.9)
    assert decide(situation(HELD, mute, voice(B))) is None
    left = decide(situation(HELD, replace(mute, silent_s=2.0), voice(B)))
    assert changed(left) == (Reason.LEFT, "")
    assert left is not None
    assert left.record.rests


def test_a_release_counts_in_its_term_only_and_goes_to_another() -> None:
    everybody = voice(A), voice(B)
    assert released(situation(HELD, *everybody, speaker=A), 6) is None
    assert released(situation(HELD, *everybody, speaker=B), 7) is None
    assert changed(released(situation(HELD, *everybody, speaker=A), 7)) == (Reason.RELEASED, B)
    assert changed(released(situation(HELD, voice(A), speaker=A), 7)) == (Reason.VACATED, "")


def test_a_switch_over_waits_until_the_next_one_hurries_and_is_no_automatic_move() -> None:
    wished = replace(HELD, next=B, moves=(900.0, 950.0, 990.0))
    slow, quick = voice(B), voice(B, is_hurrying=True)
    assert yields_to(wished, {A: voice(A), B: slow}) == ""
    assert yields_to(wished, {A: voice(A), B: quick}) == B
    assert yields_to(HELD, {A: voice(A), B: quick}) == ""
    assert decide(situation(wished, voice(A), quick)) is None
    change = released(situation(wished, voice(A), quick, speaker=A), 7)
    assert changed(change) == (Reason.SWITCHED, B)
    assert change is not None
    assert (change.record.next, change.record.moves) == ("", ())


@pytest.mark.parametrize("lost", [voice(B, silent_s=2.0), voice(B, is_able=False)])
def test_a_switch_over_to_one_that_can_t_ends_by_itself(lost: Voice) -> None:
    wished = replace(HELD, next=B)
    change = decide(situation(wished, voice(A), lost, speaker=A))
    assert changed(change) == (Reason.NEXT_LOST, A)
    assert change is not None
    assert change.record == HELD


def test_a_holder_that_is_stopped_gives_its_term_up_and_no_move_is_counted() -> None:
    moved = replace(HELD, moves=(900.0,))
    unable = voice(A, is_able=False)
    assert stopped(situation(moved, voice(A), voice(B), speaker=A)) is None
    assert stopped(situation(moved, unable, voice(B), speaker=B)) is None
    assert stopped(situation(moved, replace(unable, term=6), voice(B), speaker=A)) is None
    change = stopped(situation(moved, unable, voice(B), speaker=A))
    assert changed(change) == (Reason.STOPPED, "")
    assert change is not None
    after = decide(situation(change.record, voice(B), speaker=B))
    assert changed(after) == (Reason.FIRST, B)
    assert after is not None
    assert not after.record.moves


def test_three_moves_in_ten_minutes_then_it_stays_until_they_are_past_or_somebody_acts() -> None:
    moved = replace(HELD, moves=(500.0, 700.0, 900.0))
    silent = voice(A, silent_s=9.0)
    change = decide(situation(moved, silent, voice(B)))
    assert changed(change) == (Reason.HELD_DOWN, A)
    assert change is not None
    assert change.unmodified == {A}
    told = change.record
    assert decide(situation(told, silent, voice(B))) is None  # told once
    assert changed(decide(situation(told, silent, voice(B), now=500.0 + MOVES_WINDOW_S))) == (
        Reason.SILENT,
        B,
    )
    by_wish = replace(told, next=B)
    assert changed(decide(situation(by_wish, silent, voice(B)))) == (Reason.SWITCHED, B)


def test_held_down_the_last_one_may_have_it_back() -> None:
    moved = replace(HELD, moves=(500.0, 700.0, 900.0))
    change = decide(situation(moved, voice(A, is_able=False), voice(B), speaker=A))
    assert changed(change) == (Reason.HELD_DOWN, "")
    assert change is not None
    back = decide(situation(change.record, voice(A), voice(B), speaker=A))
    assert changed(back) == (Reason.FIRST, A)
    assert back is not None
    assert back.record.term > 7
    again = decide(situation(back.record, voice(A, is_able=False, term=40), voice(B), speaker=A))
    assert changed(again) == (Reason.VACATED, "")  # held down still: told once
    assert back.record.stays_down(1000.0)
    assert not back.record.stays_down(500.0 + MOVES_WINDOW_S)


def test_moves_of_a_clock_that_was_ahead_don_t_hold_it_down_for_ever() -> None:
    moved = replace(HELD, moves=(5000.0, 6000.0, 7000.0))
    assert changed(decide(situation(moved, voice(A, silent_s=9.0), voice(B)))) == (
        Reason.SILENT,
        B,
    )


# The world: a store, replicas that see it late, gateways with clocks of their own.

NODES = (A, B, C)
RATES = (0.9, 1.0, 1.1)


@dataclass
class SimGateway:
    """A gateway as the protocol asks it to be."""

    node: str
    rate: float
    boot: int = 1
    is_able: bool = True
    term: int = 0  # the highest that it knows
    gate_until: float = 0.0  # on its own clock
    given_up: set[int] = field(default_factory=set)

    def close(self) -> None:
        """Close the gate, and never open it again in this term."""
        self.gate_until = 0.0
        self.given_up.add(self.term)


@dataclass
class SimReplica:
    """What a replica has seen, and when by its own clock."""

    rate: float
    beats: dict[str, tuple[int, Voice, float]] = field(default_factory=dict)
    record: tuple[int, float] = (0, 0.0)
    gateways: tuple[str, ...] = NODES


@dataclass
class Message:
    """A request on its way, in the replica, or its answer on the way back."""

    gateway: SimGateway
    replica: SimReplica
    boot: int
    sent: float  # on the gateway's clock
    voice: Voice
    releases: int = 0  # the term, for a release
    step: int = 0
    read: tuple[int, Forwarding] | None = None
    answer: tuple[int, bool] = (0, False)  # term, whether it may forward


class World(RuleBasedStateMachine):
    """Everything may be late, lost, repeated by a new run, or out of order."""

    def __init__(self) -> None:
        super().__init__()
        self.time = 0.0
        self.revision = 1
        self.record = (1, Forwarding("s"))
        self.beats: dict[str, tuple[int, Voice]] = {}
        self.members: tuple[str, ...] = NODES
        self.gateways = [SimGateway(n, r) for n, r in zip(NODES, RATES, strict=True)]
        self.replicas = [SimReplica(0.9), SimReplica(1.1)]
        self.messages: list[Message] = []

    @rule(seconds=st.sampled_from([0.01, 0.05, 0.3, 0.5, 0.9, 1.4, 2.3, 5.0]))
    def wait(self, seconds: float) -> None:
        self.time += seconds

    @rule(n=st.integers(0, 2), r=st.integers(0, 1))
    def send(self, n: int, r: int) -> None:
        self.messages.append(self._beat(n, r))

    @rule(n=st.integers(0, 2), r=st.integers(0, 1))
    def exchange(self, n: int, r: int) -> None:
        self.look(r)
        self._whole(self._beat(n, r))

    @rule(n=st.integers(0, 2), r=st.integers(0, 1))
    def blind_exchange(self, n: int, r: int) -> None:
        self._whole(self._beat(n, r))

    @rule(n=st.integers(0, 2), r=st.integers(0, 1))
    def beat_without_the_segment(self, n: int, r: int) -> None:
        """As a replica writes it that doesn't know of the duty (yet, or any more)."""
        message = self._beat(n, r)
        message.voice = replace(message.voice, asks=False, is_able=False, term=0)
        message.step = 0
        self._advance(message)

    @rule(data=st.data())
    def go_on(self, data: st.DataObject) -> None:
        if not self.messages:
            return
        message = data.draw(st.sampled_from(self.messages))
        if self._advance(message):
            self.messages.remove(message)

    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        if self.messages:
            self.messages.remove(data.draw(st.sampled_from(self.messages)))

    @rule(r=st.integers(0, 1))
    def look(self, r: int) -> None:
        replica = self.replicas[r]
        now = self.time * replica.rate
        for node, (revision, said) in self.beats.items():
            if replica.beats.get(node, (0,))[0] != revision:
                self._sight(replica, node, revision, said)
        if replica.record[0] != self.record[0]:
            replica.record = self.record[0], now
        replica.gateways = self.members

    @rule(n=st.integers(0, 2))
    def become_unable(self, n: int) -> None:
        self.gateways[n].is_able = False
        self.gateways[n].close()

    @rule(n=st.integers(0, 2))
    def become_able(self, n: int) -> None:
        self.gateways[n].is_able = True

    @rule(n=st.integers(0, 2), r=st.integers(0, 1))
    def release(self, n: int, r: int) -> None:
        gateway = self.gateways[n]
        gateway.close()
        message = self._beat(n, r)
        message.releases, message.step = gateway.term, 1
        self.messages.append(message)

    @rule(n=st.integers(0, 2))
    def restart_agent(self, n: int) -> None:
        """The data plane goes on with its gate; what the agent gave up is forgotten."""
        self.gateways[n].boot += 1
        self.gateways[n].given_up.clear()

    @rule(n=st.integers(0, 2))
    def wish(self, n: int) -> None:
        self._write(replace(self.record[1], next=NODES[n]))

    @rule(n=st.integers(0, 2))
    def detach_or_attach(self, n: int) -> None:
        node = NODES[n]
        if node not in self.members:
            self.members = (*self.members, node)
            return
        self.members = tuple(each for each in self.members if each != node)

    @invariant()
    def never_two(self) -> None:
        holders = [g.node for g in self.gateways if self.time * g.rate < g.gate_until]
        assert len(holders) <= 1, (holders, self.time, self.record)

    def _beat(self, n: int, r: int) -> Message:
        gateway = self.gateways[n]
        said = Voice(
            gateway.node,
            str(gateway.boot),
            gateway.is_able,
            gateway.term,
            silent_s=0.0,
            age_s=0.0,
            is_hurrying=True,
        )
        sent = self.time * gateway.rate
        return Message(gateway, self.replicas[r], gateway.boot, sent, said)

    def _whole(self, message: Message) -> None:
        while not self._advance(message):
            pass

    def _advance(self, message: Message) -> bool:
        """Do the next step of a request; True after its last."""
        message.step += 1
        if message.step == 1:  # the transaction of the beat
            self.revision += 1
            self.beats[message.gateway.node] = self.revision, message.voice
            self._sight(message.replica, message.gateway.node, self.revision, message.voice)
            message.read = self.record
        elif message.step == 2:  # what follows from it, by compare-and-swap
            self._decide(message)
        else:
            self._take_answer(message)
        return message.step >= 3

    def _sight(self, replica: SimReplica, node: str, revision: int, said: Voice) -> None:
        """Note a beat; one without the segment leaves the time of the last one with it."""
        known = replica.beats.get(node)
        now = self.time * replica.rate
        named = now if said.asks or known is None else known[2]
        replica.beats[node] = revision, said, named

    def _decide(self, message: Message) -> None:
        replica, now = message.replica, self.time * message.replica.rate
        revision, record = message.read or self.record
        if replica.record[0] != revision:
            replica.record = revision, now
        seen = {
            node: replace(said, silent_s=now - at, age_s=now - at)
            for node, (_, said, at) in replica.beats.items()
        }
        view = Situation(
            record=record,
            stands_s=now - replica.record[1],
            gateways=replica.gateways,
            voices=seen,
            heard_s=now,
            speaker=message.gateway.node,
            revision=self.revision,
            now=self.time,
        )
        change = released(view, message.releases) if message.releases else decide(view)
        if change is not None:
            sighted = {node: replica.beats[node][0] for node in change.unmodified & seen.keys()}
            as_seen = self.record[0] == revision and all(
                self.beats.get(node, (0,))[0] == at for node, at in sighted.items()
            )
            unheard = change.unmodified - seen.keys()
            if not as_seen or any(node in self.beats for node in unheard):
                return
            record = change.record
            self._write(record)
        message.answer = record.term, not message.releases and holds(record, message.voice)

    def _take_answer(self, message: Message) -> None:
        gateway, (term, may) = message.gateway, message.answer
        if message.boot != gateway.boot or not term:
            return
        is_old = term < gateway.term
        gateway.term = max(gateway.term, term)
        if may and not is_old and term not in gateway.given_up and gateway.is_able:
            gateway.gate_until = max(gateway.gate_until, message.sent + forwarding.HOLD_S)
        elif not may and not is_old:
            gateway.gate_until = 0.0

    def _write(self, record: Forwarding) -> None:
        self.revision += 1
        self.record = self.revision, record


RUNS = settings(
    max_examples=int(os.environ.get("CAIRN_FORWARDING_RUNS", "100")),
    stateful_step_count=50,
    suppress_health_check=list(HealthCheck),
    database=None,
    derandomize=True,
)


def test_two_never_forward_at_once() -> None:
    run_state_machine_as_test(World, settings=RUNS)  # type: ignore[no-untyped-call]


def without_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarding, "SILENCE_S", 0.4)


def without_comparing_beats(monkeypatch: pytest.MonkeyPatch) -> None:
    def decide_blindly(view: Situation) -> Change | None:
        change = forwarding.decide(view)
        return change and replace(change, unmodified=frozenset())

    monkeypatch.setitem(globals(), "decide", decide_blindly)


def without_looking_at_terms(monkeypatch: pytest.MonkeyPatch) -> None:
    def release_any(view: Situation, term: int) -> Change | None:
        return forwarding.released(view, view.record.term)

    monkeypatch.setitem(globals(), "released", release_any)


def without_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    def vacated(record: Forwarding, *, rests: bool) -> Forwarding:
        return replace(record, holder="", boot="", rests=False)

    monkeypatch.setattr(Forwarding, "vacated", vacated)


@pytest.mark.parametrize("spoil", [without_comparing_beats, without_rest])
def test_the_world_finds_what_is_wrong(
    spoil: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch)
    many = settings(RUNS, max_examples=3000, phases=[Phase.generate])
    with pytest.raises(AssertionError):
        run_state_machine_as_test(World, settings=many)  # type: ignore[no-untyped-call]


def test_a_silence_that_is_too_short_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    without_silence(monkeypatch)
    world = World()
    for n, seconds in ((1, 0.5), (0, 0.0)):
        world.exchange(n, 0)
        world.wait(seconds)
    with pytest.raises(AssertionError):
        world.never_two()


def test_a_release_that_comes_late_takes_nothing_from_whoever_holds_it_again() -> None:
    assert not is_fooled_by_a_late_release()


def test_without_terms_it_would(monkeypatch: pytest.MonkeyPatch) -> None:
    without_looking_at_terms(monkeypatch)
    assert is_fooled_by_a_late_release()


def is_fooled_by_a_late_release() -> bool:
    """Let both gateways release and get it again, and an old release come after all that."""
    world = World()
    world.detach_or_attach(2)
    for n in (0, 1, 0, 1):
        world.exchange(n, 0)
    first = next(n for n in (0, 1) if NODES[n] == world.record[1].holder)
    other = 1 - first
    world.release(first, 0)
    late = world.messages.pop()
    for holder, following in ((first, other), (other, first)):
        world.release(holder, 0)
        world._whole(world.messages.pop())
        world.exchange(following, 0)
    assert world.record[1].holder == NODES[first]
    world._advance(late)  # its answer is lost
    world.exchange(other, 0)
    try:
        world.never_two()
    except AssertionError:
        return True
    return False
