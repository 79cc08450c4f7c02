"""Who forwards: never two gates open at one instant, whatever happens in between."""

from __future__ import annotations

import pytest
from cairn_agent.gateway.probe import Heard, Probe, Side
from cairn_agent.gateway.standing import (
    NS,
    Output,
    Release,
    SetGate,
    SetPort,
    Standing,
    Tell,
)
from cairn_agent.protocol.gateway import GatewayDuty, Grant, Guards, Preference
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.agent.gateway_world import SEGMENT, Faults, World

_SEEDS = st.integers(0, 2**32)
_quick = settings(max_examples=40, suppress_health_check=list(HealthCheck))


@_quick
@given(_SEEDS, st.integers(2, 4), st.sampled_from(["safety", "availability"]))
def test_two_gates_are_never_open_at_once_and_one_is_in_the_end(
    seed: int, count: int, preference: Preference
) -> None:
    world = World(seed, count=count, preference=preference)
    world.run(60, calm_s=12)
    assert world.opened > 0
    assert len(world.open_gates()) == 1, "when all is well again, one forwards"


@pytest.mark.parametrize(
    ("preference", "faults"),
    [
        ("safety", Faults(silence_s=0.7)),
        ("safety", Faults(is_counted_from_answer=True)),
        ("availability", Faults(is_promise_kept=False)),
    ],
)
def test_a_rule_that_is_not_kept_is_found(preference: Preference, faults: Faults) -> None:
    def is_found(seed: int) -> bool:
        try:
            World(seed, count=3, preference=preference, faults=faults).run(120)
        except AssertionError:
            return True
        return False

    assert any(is_found(seed) for seed in range(60))


ME, OTHER, THIRD = (f"00000000-0000-4000-8000-00000000000{n}" for n in (1, 2, 3))
START = 100 * NS


def _standing(preference: Preference = "safety", **changes: object) -> Standing:
    duty = GatewayDuty(
        SEGMENT, "office", 7, "eth1", 0, "", [ME, OTHER], preference, Guards(), **changes
    )
    standing = Standing(ME, duty, 7, START - 10 * NS, chance=lambda: 0.0, name_of=_name)
    standing.trouble(START, "", "")
    return standing


def _name(node: str) -> str:
    return {ME: "g1", OTHER: "g2"}.get(node, node)


def _grant(term: int, holder: str = ME, **more: object) -> Grant:
    return Grant(SEGMENT, term, holder, 1.5 if holder == ME else 0.0, **more)  # type: ignore[arg-type]


def _gates(outputs: list[Output]) -> list[SetGate]:
    return [each for each in outputs if isinstance(each, SetGate)]


def _opened(standing: Standing, term: int = 1) -> SetGate:
    """Let it open its gate at START."""
    (gate,) = _gates(standing.answered(START, START, _grant(term)))
    standing.gate_set(START, gate)
    return gate


def _probe(side: Side, node: str = OTHER, **more: object) -> Probe:
    what = {"segment": SEGMENT, "boot": 9, "sequence": 1, "term": 1, "role": "standby", **more}
    return Probe(side, node=node, **what)  # type: ignore[arg-type]


def test_a_grant_counts_from_before_its_beat_was_sent() -> None:
    standing = _standing()
    (gate,) = _gates(standing.answered(START, START - NS, _grant(1)))
    assert gate == SetGate(1, START + NS // 2)


def test_an_answer_that_comes_too_late_opens_nothing() -> None:
    standing = _standing()
    assert not _gates(standing.answered(START, START - 2 * NS, _grant(1)))


def test_another_holder_closes_it_at_once() -> None:
    standing = _standing()
    _opened(standing)
    assert SetGate(1, 0) in standing.answered(START + 1, START + 1, _grant(2, OTHER))


def test_who_is_to_yield_closes_then_releases_and_never_forwards_in_that_term_again() -> None:
    standing = _standing()
    _opened(standing)
    outputs = standing.answered(START + 1, START + 1, _grant(1, yield_to=OTHER))
    assert outputs == [SetGate(1, 0)], "it is released when the data plane has closed, not before"
    outputs = standing.gate_set(START + 2, _gates(outputs)[0])
    assert Release(1) in outputs
    again = standing.answered(START + 3, START + 3, _grant(1))
    assert again == [Release(1)], "the word of it may still be on its way"
    assert _gates(standing.answered(START + 4, START + 4, _grant(3)))


def test_a_data_plane_that_does_not_answer_has_closed_when_its_time_is_over() -> None:
    standing = _standing()
    gate = _opened(standing)
    standing.answered(START + 1, START + 1, _grant(1, yield_to=OTHER))
    assert not standing.tick(gate.until_ns - 1)
    assert standing.tick(gate.until_ns) == [Release(1)]


def test_being_unable_is_said_when_the_gate_is_closed() -> None:
    standing = _standing()
    _opened(standing)
    (close,) = _gates(standing.trouble(START + 1, "port_down", "eth1 has no carrier"))
    state = standing.beat(START + 2, 0, {})
    assert state is not None and state.is_able and state.is_forwarding
    standing.gate_set(START + 3, close)
    state = standing.beat(START + 4, 0, {})
    assert state is not None and not state.is_able and not state.is_forwarding
    assert (state.code, state.why_not) == ("port_down", "eth1 has no carrier")
    standing.trouble(START + 5, "", "")
    assert standing.answered(START + 6, START + 6, _grant(1)) == [Release(1)]


def test_a_higher_term_than_its_own_closes_it() -> None:
    standing = _standing()
    _opened(standing)
    heard = standing.heard(START + 1, "overlay", _probe("overlay", term=2))
    assert heard == [SetGate(1, 0)]


@pytest.mark.parametrize(
    ("place", "probe", "words"),
    [
        ("lan", _probe("overlay"), ["g2", "eth1", "a machine on this LAN bridges it"]),
        ("overlay", _probe("lan"), ["g2", "eth1", "a member of the vSubnet bridges it"]),
        ("lan", _probe("lan", segment=THIRD), ["g2", "eth1", "on one LAN"]),
    ],
)
def test_a_probe_where_it_must_not_be_blocks_the_port(
    place: Side, probe: Probe, words: list[str]
) -> None:
    standing = _standing()
    _opened(standing)
    close, block, tell = standing.heard(START + 1, place, probe)
    assert close == SetGate(1, 0) and block == SetPort(is_blocked=True)
    assert isinstance(tell, Tell) and tell.code == "loop_blocked"
    assert all(word in tell.detail for word in words), tell.detail
    assert standing.why_not()[0] == "loop"


def test_its_own_probe_back_on_the_lan_port_is_a_loop_and_a_recorded_one_is_not() -> None:
    standing = _standing()
    own = standing.probe(START, "lan")
    assert own is not None
    assert not standing.heard(START + 3 * NS, "lan", own), "too old to be a loop of now"
    fresh = standing.probe(START + 3 * NS, "lan")
    assert fresh is not None and SetPort(is_blocked=True) in standing.heard(
        START + 3 * NS + 1, "lan", fresh
    )


def test_a_storm_of_its_own_old_probes_keeps_a_blocked_port_blocked() -> None:
    standing = _standing()
    own = standing.probe(START, "lan")
    assert own is not None
    standing.heard(START + 1, "lan", own)
    standing.heard(START + 9 * NS, "lan", own)
    assert not standing.tick(START + 11 * NS) and standing.tick(START + 19 * NS)
    assert not standing.heard(START + 20 * NS, "lan", own), "a recording blocks nothing anew"


def test_what_is_heard_a_second_time_has_no_effect() -> None:
    standing = _standing()
    probe = _probe("lan", segment=THIRD)
    assert standing.heard(START, "lan", probe)
    standing.tick(START + 11 * NS)
    assert not standing.is_blocked()
    assert not standing.heard(START + 12 * NS, "lan", probe)


def test_a_port_forwards_again_ten_seconds_after_the_loop_and_later_when_it_recurs() -> None:
    standing = _standing()
    standing.heard(START, "lan", _probe("overlay", sequence=1))
    standing.heard(START + 5 * NS, "lan", _probe("overlay", sequence=2))
    assert not standing.tick(START + 15 * NS - 1)
    unblock, tell = standing.tick(START + 15 * NS)
    assert unblock == SetPort(is_blocked=False) and isinstance(tell, Tell)
    begun = START + 16 * NS
    for number, seconds in enumerate((20, 40, 80, 160, 300, 300), start=3):
        standing.heard(begun, "lan", _probe("overlay", sequence=number))
        freed = begun + seconds * NS
        assert not standing.tick(freed - 1), seconds
        assert standing.tick(freed), seconds
        begun = freed + NS


def test_with_availability_it_goes_on_while_all_others_acknowledge() -> None:
    standing = _standing("availability")
    _opened(standing)
    now = START + NS
    own = standing.probe(now, "lan")
    assert own is not None and own.role == "forwarder"
    heard = (Heard(ME, 7, own.sequence),)
    (gate,) = _gates(standing.heard(now + 1, "lan", _probe("lan", acknowledged=heard)))
    assert gate == SetGate(1, now + 3 * NS // 2)


@pytest.mark.parametrize("change", [{"term": 2}, {"role": "forwarder"}, {"node": THIRD}])
def test_nothing_less_than_that_lets_it_go_on(change: dict[str, object]) -> None:
    standing = _standing("availability")
    _opened(standing)
    own = standing.probe(START + NS, "lan")
    assert own is not None
    heard = (Heard(ME, 7, own.sequence),)
    probe = _probe("lan", **{"acknowledged": heard, **change})
    outputs = standing.heard(START + NS + 1, "lan", probe)
    assert all(gate.until_ns == 0 for gate in _gates(outputs))


def test_with_safety_no_acknowledgement_counts() -> None:
    standing = _standing()
    _opened(standing)
    own = standing.probe(START + NS, "lan")
    assert own is not None
    heard = (Heard(ME, 7, own.sequence),)
    assert not standing.heard(START + NS + 1, "lan", _probe("lan", acknowledged=heard))


def test_who_acknowledged_opens_two_seconds_later_or_when_the_forwarder_stands_by() -> None:
    def acknowledged() -> Standing:
        standing = _standing("availability")
        forwarder = _probe("lan", role="forwarder", sequence=5)
        standing.answered(START, START, _grant(1, OTHER))
        standing.heard(START, "lan", forwarder)
        said = standing.probe(START + 1, "lan")
        assert said is not None and said.acknowledged == (Heard(OTHER, 9, 5),)
        assert not _gates(standing.answered(START + NS, START + NS, _grant(2)))
        return standing

    assert _gates(acknowledged().tick(START + 2 * NS))
    stood_by = _probe("overlay", sequence=6)
    assert _gates(acknowledged().heard(START + NS + 1, "overlay", stood_by))
    overtaken = _probe("overlay", sequence=4)
    assert not _gates(acknowledged().heard(START + NS + 1, "overlay", overtaken))


def test_a_new_agent_says_nothing_before_it_knows_that_its_gate_is_closed() -> None:
    duty = GatewayDuty(SEGMENT, "o", 7, "eth1", 0, "", [ME, OTHER], "safety", Guards())
    standing = Standing(ME, duty, 7, START, chance=lambda: 0.0)
    assert standing.probe(START, "lan") is None and standing.beat(START, 0, {}) is None
    standing.trouble(START, "port_missing", "there is no eth1")
    assert standing.beat(START + 3 * NS // 2 - 1, 0, {}) is None
    assert standing.beat(START + 3 * NS // 2, 0, {}) is not None


def test_where_bridging_was_stopped_it_is_not_able() -> None:
    standing = _standing(is_bridging=False)
    assert standing.why_not()[0] == "stopped"
    assert not _gates(standing.answered(START, START, _grant(1)))
