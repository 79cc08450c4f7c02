"""The decision table of control-plane.md, and the two phases."""

from __future__ import annotations

import pytest
from cairn_agent.host import machine
from cairn_agent.protocol import enrolment as wire
from cairn_appliance.domain.generation import (
    TAKEOVERS_MAX,
    TAKEOVERS_WINDOW_S,
    Decision,
    Generation,
    Other,
    counted,
    decide,
)
from cairn_appliance.domain.identity import Facts
from hypothesis import given
from hypothesis import strategies as st

CURRENT = Generation(current=5, offered=6)
NONE, UNSURE, ALIVE = Other.NONE, Other.UNSURE, Other.ALIVE


@pytest.mark.parametrize(
    ("presented", "same_machine", "other", "meaning"),
    [
        pytest.param(6, True, NONE, Decision.GO_ON, id="the offer is taken up"),
        pytest.param(5, True, NONE, Decision.GO_ON, id="restart before the offer was used"),
        pytest.param(5, True, ALIVE, Decision.GO_ON, id="registers again over its own stream"),
        pytest.param(5, False, NONE, Decision.MOVED, id="moved to another host"),
        pytest.param(6, False, NONE, Decision.MOVED, id="moved, with the newest value"),
        pytest.param(5, False, UNSURE, Decision.WAIT, id="moved, or the second of two clones"),
        pytest.param(4, True, NONE, Decision.RESTORED, id="snapshot restored"),
        pytest.param(4, True, UNSURE, Decision.WAIT, id="restored, and the old link looks alive"),
        pytest.param(4, True, ALIVE, Decision.DUPLICATE, id="old value beside a living newer one"),
        pytest.param(5, False, ALIVE, Decision.DUPLICATE, id="clone with the current value"),
        pytest.param(6, False, ALIVE, Decision.DUPLICATE, id="clone with the newest value"),
        pytest.param(4, False, ALIVE, Decision.DUPLICATE, id="clone with an old value"),
        pytest.param(4, False, NONE, Decision.DUPLICATE, id="clone that came second"),
        pytest.param(4, False, UNSURE, Decision.DUPLICATE, id="clone whatever the other is"),
    ],
)
def test_each_row_of_the_table_is_decided_as_written(
    presented: int, same_machine: bool, other: Other, meaning: Decision
) -> None:
    assert decide(presented, CURRENT, same_machine=same_machine, other=other) is meaning


@given(
    st.integers(0, 20),
    st.integers(0, 20),
    st.integers(1, 3),
    st.booleans(),
    st.sampled_from(Other),
)
def test_whatever_is_presented_the_original_that_lives_is_safe(
    presented: int, current: int, ahead: int, same_machine: bool, other: Other
) -> None:
    decision = decide(
        presented, Generation(current, current + ahead), same_machine=same_machine, other=other
    )
    if not same_machine and other is not Other.NONE:
        assert decision in (Decision.DUPLICATE, Decision.WAIT)
    if decision.is_takeover:
        assert other is Other.NONE
    if same_machine and presented >= current:
        assert decision is Decision.GO_ON, "a restart is never turned away"


@given(st.lists(st.tuples(st.floats(0, 400), st.sampled_from(Decision)), max_size=60))
def test_nobody_is_taken_over_five_times_in_180_seconds(
    steps: list[tuple[float, Decision]],
) -> None:
    now, taken, kept = 0.0, list[float](), tuple[float, ...]()
    for pause, wanted in steps:
        now += pause
        decision, kept = counted(wanted, kept, now)
        if decision is Decision.FREEZE:
            recent = [at for at in taken if now - at < TAKEOVERS_WINDOW_S]
            assert wanted.is_takeover or wanted is Decision.FREEZE
            assert wanted is Decision.FREEZE or len(recent) == TAKEOVERS_MAX - 1
        elif decision.is_takeover:
            taken.append(now)
    for first, last in zip(taken, taken[TAKEOVERS_MAX - 1 :], strict=False):
        assert last - first >= TAKEOVERS_WINDOW_S


def test_an_offer_becomes_current_only_when_it_is_presented() -> None:
    assert CURRENT.presented(5) == CURRENT
    assert CURRENT.presented(6) == Generation(6, 7)


@pytest.mark.parametrize("value", [0, 4, 7, 100])
def test_a_value_from_elsewhere_is_left_behind_by_a_new_offer(value: int) -> None:
    after = CURRENT.presented(value)
    assert after.current >= max(value, CURRENT.offered)
    assert after.offered == after.current + 1


def test_a_reboot_and_a_restored_snapshot_are_the_same_machine() -> None:
    before = Facts(dmi_uuid="d", machine_id="m", boot_id="1", first_mac="a")
    after = Facts(dmi_uuid="d", machine_id="m", boot_id="2", first_mac="b")
    assert before.same_machine(after)


@pytest.mark.parametrize("name", ["dmi_uuid", "machine_id", "cloud_instance_id", "root_disk_id"])
def test_another_identity_of_the_machine_is_another_machine(name: str) -> None:
    assert not Facts(**{name: "a"}).same_machine(Facts(**{name: "b"}))


def test_a_fact_that_only_one_side_has_says_nothing() -> None:
    assert Facts(dmi_uuid="d").same_machine(Facts(dmi_uuid="d", cloud_instance_id="i"))


def test_without_better_facts_the_first_mac_decides() -> None:
    assert not Facts(first_mac="02:00:00:00:00:01").same_machine(
        Facts(first_mac="02:00:00:00:00:02")
    )


_FACTS = st.builds(
    Facts,
    **{
        name: st.sampled_from(["", "a", "b"])
        for name in (
            "dmi_uuid",
            "machine_id",
            "cloud_instance_id",
            "root_disk_id",
            "boot_id",
            "first_mac",
        )
    },
)


def test_a_copied_disk_without_facts_of_the_hardware_is_told_by_its_mac() -> None:
    mine = Facts(machine_id="m", root_disk_id="d", first_mac="02:00:00:00:00:01")
    assert not mine.same_machine(Facts("", "m", root_disk_id="d", first_mac="02:00:00:00:00:02"))


@given(_FACTS, _FACTS)
def test_agent_and_appliance_agree_on_which_machine_is_which(one: Facts, two: Facts) -> None:
    names = Facts.__slots__
    ours, theirs = (
        wire.Facts(**{name: getattr(facts, name) for name in names}) for facts in (one, two)
    )
    assert machine.same_machine(ours, theirs) == one.same_machine(two)
    assert one.same_machine(two) == two.same_machine(one)
