"""The decision table of control-plane.md, and the two phases."""

from __future__ import annotations

import pytest
from cairn_appliance.domain.generation import Decision, Generation, decide
from cairn_appliance.domain.identity import Facts

CURRENT = Generation(current=5, offered=6)


@pytest.mark.parametrize(
    ("presented", "same_machine", "other_alive", "meaning"),
    [
        pytest.param(6, True, False, Decision.GO_ON, id="the offer is taken up"),
        pytest.param(5, True, False, Decision.GO_ON, id="restart before the offer was used"),
        pytest.param(5, True, True, Decision.GO_ON, id="registers again over its own stream"),
        pytest.param(5, False, False, Decision.MOVED, id="moved to another host"),
        pytest.param(6, False, False, Decision.MOVED, id="moved, with the newest value"),
        pytest.param(4, True, False, Decision.RESTORED, id="snapshot restored"),
        pytest.param(4, True, True, Decision.DUPLICATE, id="old value beside a living newer one"),
        pytest.param(5, False, True, Decision.DUPLICATE, id="clone with the current value"),
        pytest.param(4, False, True, Decision.DUPLICATE, id="clone with an old value"),
        pytest.param(4, False, False, Decision.DUPLICATE, id="clone that came second"),
    ],
)
def test_each_row_of_the_table_is_decided_as_written(
    presented: int, same_machine: bool, other_alive: bool, meaning: Decision
) -> None:
    assert decide(presented, CURRENT, same_machine=same_machine, other_alive=other_alive) is meaning


def test_an_offer_becomes_current_only_when_it_is_presented() -> None:
    assert CURRENT.presented(5) == CURRENT
    assert CURRENT.presented(6) == Generation(6, 7)


@pytest.mark.parametrize("value", [0, 4, 7, 100])
def test_a_value_from_elsewhere_is_left_behind_by_a_new_offer(value: int) -> None:
    after = CURRENT.presented(value)
    assert after.current >= max(value, CURRENT.offered)
    assert after.offered == after.current + 1


def test_a_reboot_and_a_restored_snapshot_are_the_same_machine() -> None:
    before = Facts(dmi_uuid="d", machine_id="m", boot_id="1", vm_generation_id="1", first_mac="a")
    after = Facts(dmi_uuid="d", machine_id="m", boot_id="2", vm_generation_id="2", first_mac="b")
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
