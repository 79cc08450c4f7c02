"""What is wrong with a cluster, in words, with what to do."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cairn_appliance.domain import joining
from cairn_appliance.domain.cluster import (
    QUOTA_OCTETS,
    EtcdAlarm,
    EtcdMember,
    EtcdState,
    Replica,
    quorum_of,
)
from cairn_appliance.domain.cluster_health import ClusterView, Seen, problems_of
from cairn_appliance.domain.errors import Invalid

STATE = EtcdState("3.6.0", 1, 9000, 9000, 1 << 20, 1 << 20)


def seen(number: int, state: EtcdState | None = STATE, *, is_learner: bool = False) -> Seen:
    name = f"m{number}"
    member = EtcdMember(number, name, (f"https://192.0.2.{number}:2380",), (), is_learner)
    return Seen(member, state, None, Replica(name, "0.1.0", 0.0))


def causes(*members: Seen, alarms: tuple[EtcdAlarm, ...] = ()) -> list[str]:
    problems = problems_of(ClusterView(members, alarms))
    assert all(problem.remedy for problem in problems)
    return [problem.cause for problem in problems]


def test_three_healthy_ones_are_well() -> None:
    assert causes(seen(1), seen(2), seen(3)) == []
    assert causes(seen(1)) == []


@pytest.mark.parametrize(
    ("members", "cause"),
    [
        pytest.param((seen(1), seen(2), seen(3, None)), "m3: its etcd gives no answer", id="dead"),
        pytest.param(
            (seen(1), seen(2), seen(3, replace(STATE, leader=0))),
            "m3: its etcd sees no leader",
            id="cut off",
        ),
        pytest.param(
            (seen(1), seen(2, is_learner=True)),
            "m2 has joined but has no vote yet",
            id="learner",
        ),
        pytest.param((seen(1), seen(2)), "2 appliances stand no more failures than 1", id="two"),
        pytest.param(
            (seen(1), seen(2), seen(3, replace(STATE, raft_applied=1))),
            "m3 is 8999 entries behind the leader",
            id="behind",
        ),
        pytest.param(
            (seen(1), seen(2), replace(seen(3), replica=None)),
            "m3: its etcd runs, its APIs don't",
            id="APIs down",
        ),
        pytest.param(
            (seen(1, replace(STATE, db_octets=QUOTA_OCTETS * 3 // 4)),),
            "m1: the store has 1536 MiB of 2048 MiB, 1 in use",
            id="nearly full",
        ),
    ],
)
def test_each_thing_is_named(members: tuple[Seen, ...], cause: str) -> None:
    assert cause in causes(*members)


def test_what_stops_changes_comes_first() -> None:
    found = causes(seen(1, replace(STATE, leader=0)), seen(2, None), seen(3, None))
    assert found[0].startswith("no quorum: 2 of 3 appliances must run")
    full = causes(seen(1), seen(2, None), seen(3), alarms=(EtcdAlarm(3, "NOSPACE"),))
    assert full[0] == "m3: the store is full, changes are refused"
    damaged = causes(seen(1), alarms=(EtcdAlarm(1, "CORRUPT"),))
    assert damaged == ["m1: its copy of the store is damaged (CORRUPT)"]


def test_a_quorum_is_more_than_half() -> None:
    assert [quorum_of(voters) for voters in (1, 2, 3, 4, 5)] == [1, 2, 2, 3, 3]


def test_a_join_string_comes_back_and_a_damaged_one_says_so() -> None:
    join = joining.JoinString(("192.0.2.1:8443",), "ab" * 32, "0" * 16, "s" * 43)
    text = joining.encode(join)
    assert joining.decode(f" {text[:30]}\n{text[30:]} ") == join
    for broken in (text[:-3], text[:-9] + "AAAAAAAAA", "cairn1." + text, "", "cairn-join1.%"):
        with pytest.raises(Invalid):
            joining.decode(broken)
