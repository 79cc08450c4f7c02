"""The history checker finds each violation that is planted, and nothing in a sound history."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sim import history
from tests.sim.history import History, Kind, Operation, Outcome, Seen


def op(
    kind: Kind,
    value: str,
    asked: float,
    answered: float,
    *,
    thing: str = "ip 10.7.0.4",
    outcome: Outcome = Outcome.DONE,
    client: str = "c1",
) -> Operation:
    return Operation(client, kind, thing, value, asked, answered, outcome)


def rules(*operations: Operation, **more: object) -> list[str]:
    return [each.rule for each in history.check(operations, **more)]  # type: ignore[arg-type]


def test_two_owners_at_once_are_found() -> None:
    assert rules(op(Kind.TAKE, "a", 0, 1), op(Kind.TAKE, "b", 0.5, 1.5)) == ["exclusive"]


def test_two_owners_who_never_let_go_are_found_however_far_apart() -> None:
    assert rules(op(Kind.TAKE, "a", 0, 1), op(Kind.TAKE, "b", 90, 91)) == ["exclusive"]


def test_an_owner_who_took_before_the_other_let_go_is_found() -> None:
    taken = op(Kind.TAKE, "a", 0, 1), op(Kind.RELEASE, "a", 5, 6), op(Kind.TAKE, "b", 3, 4)
    assert rules(*taken) == ["exclusive"]


def test_an_owner_after_the_other_let_go_is_sound() -> None:
    assert not rules(
        op(Kind.TAKE, "a", 0, 1), op(Kind.RELEASE, "a", 2, 3), op(Kind.TAKE, "b", 2.5, 4)
    )


def test_a_release_without_an_answer_may_have_happened() -> None:
    left = op(Kind.RELEASE, "a", 2, 3, outcome=Outcome.UNKNOWN)
    assert not rules(op(Kind.TAKE, "a", 0, 1), left, op(Kind.TAKE, "b", 8, 9))


def test_a_refused_release_did_not_happen() -> None:
    left = op(Kind.RELEASE, "a", 2, 3, outcome=Outcome.REFUSED)
    assert rules(op(Kind.TAKE, "a", 0, 1), left, op(Kind.TAKE, "b", 8, 9)) == ["exclusive"]


def test_a_release_of_an_earlier_tenure_does_not_excuse_a_later_one() -> None:
    assert rules(
        op(Kind.TAKE, "a", 0, 1),
        op(Kind.RELEASE, "a", 2, 3),
        op(Kind.TAKE, "a", 4, 5),
        op(Kind.TAKE, "b", 6, 7),
    ) == ["exclusive"]


def test_a_taking_that_was_refused_or_not_answered_owns_nothing_for_certain() -> None:
    assert not rules(
        op(Kind.TAKE, "a", 0, 1),
        op(Kind.TAKE, "b", 0, 1, outcome=Outcome.REFUSED),
        op(Kind.TAKE, "c", 0, 1, outcome=Outcome.UNKNOWN),
    )


def test_the_same_owner_asking_again_is_sound() -> None:
    assert not rules(op(Kind.TAKE, "a", 0, 1), op(Kind.TAKE, "a", 2, 3))


def test_an_owner_whom_the_end_does_not_show_is_found() -> None:
    taken = [op(Kind.TAKE, "a", 0, 1)]
    assert [each.rule for each in history.evicted(taken, {})] == ["evicted"]
    assert [each.rule for each in history.evicted(taken, {"ip 10.7.0.4": "b"})] == ["evicted"]
    assert not list(history.evicted(taken, {"ip 10.7.0.4": "a"}))
    taken.append(op(Kind.RELEASE, "a", 2, 3, outcome=Outcome.UNKNOWN))
    assert not list(history.evicted(taken, {}))


def test_a_use_too_many_is_found() -> None:
    used = [op(Kind.USE, who, 0, 1, thing="token t") for who in ("a", "b", "b")]
    assert rules(*used, uses={"token t": 1}) == ["overused"]
    assert not rules(*used, uses={"token t": 2})
    assert rules(used[0], uses={}) == ["overused"]


def test_an_acknowledged_write_that_is_gone_is_found() -> None:
    assert rules(op(Kind.WRITE, "x", 0, 1), final={}) == ["lost"]


def test_an_acknowledged_write_that_an_older_one_replaced_is_found() -> None:
    written = op(Kind.WRITE, "x", 0, 1), op(Kind.WRITE, "y", 2, 3)
    assert rules(*written, final={"ip 10.7.0.4": "x"}) == ["lost"]
    assert not rules(*written, final={"ip 10.7.0.4": "y"})


def test_of_writes_at_once_either_may_be_the_last() -> None:
    written = op(Kind.WRITE, "x", 0, 2), op(Kind.WRITE, "y", 1, 3)
    assert not rules(*written, final={"ip 10.7.0.4": "x"})
    assert not rules(*written, final={"ip 10.7.0.4": "y"})
    assert rules(*written, final={"ip 10.7.0.4": "z"}) == ["lost"]


def test_a_write_without_an_answer_may_be_the_last_or_none() -> None:
    written = op(Kind.WRITE, "x", 0, 1, outcome=Outcome.UNKNOWN), op(Kind.WRITE, "y", 2, 3)
    assert not rules(*written, final={"ip 10.7.0.4": "x"})
    assert not rules(*written, final={"ip 10.7.0.4": "y"})
    assert not rules(op(Kind.WRITE, "x", 0, 1, outcome=Outcome.UNKNOWN), final={})


def test_a_delete_that_was_acknowledged_and_undone_is_found() -> None:
    written = op(Kind.WRITE, "x", 0, 1), op(Kind.WRITE, "", 2, 3)
    assert rules(*written, final={"ip 10.7.0.4": "x"}) == ["lost"]
    assert not rules(*written, final={})


def test_a_stale_read_is_found() -> None:
    written = op(Kind.WRITE, "x", 0, 1), op(Kind.WRITE, "y", 2, 3)
    assert rules(*written, op(Kind.READ, "x", 4, 5)) == ["stale"]
    assert not rules(*written, op(Kind.READ, "x", 2.5, 5))
    assert not rules(*written, op(Kind.READ, "y", 2.5, 5))


def test_a_read_of_what_nobody_wrote_is_found() -> None:
    assert rules(op(Kind.WRITE, "x", 0, 1), op(Kind.READ, "z", 2, 3)) == ["stale"]
    assert rules(op(Kind.WRITE, "x", 0, 1), op(Kind.READ, "", 2, 3)) == ["stale"]
    assert rules(op(Kind.READ, "x", 0, 1), op(Kind.WRITE, "x", 2, 3)) == ["stale"]
    assert not rules(op(Kind.READ, "", 0, 1), op(Kind.WRITE, "x", 2, 3))


def test_a_client_that_goes_backwards_is_found() -> None:
    assert rules(seen=[Seen("c1", 5), Seen("c2", 4), Seen("c1", 4)]) == ["backwards"]
    assert not rules(seen=[Seen("c1", 5, 1), Seen("c1", 4, 2), Seen("c1", 4, 2)])
    assert rules(seen=[Seen("c1", 5, 2), Seen("c1", 9, 1)]) == ["backwards"]


def test_maps_that_differ_from_the_truth_are_found() -> None:
    truth = {"a": {"node": "1", "7": "2"}, "b": {"node": "3", "7": "2"}}
    assert not list(history.diverged(truth, truth))
    for held in (
        truth | {"b": {"node": "3", "7": "9"}},
        truth | {"b": {"node": "3"}},
        truth | {"c": {"node": "3"}},
        {"a": truth["a"]},
    ):
        assert [each.rule for each in history.diverged(held, truth)] == ["diverged"]


def test_a_block_that_ends_in_an_error_is_of_unknown_outcome() -> None:
    times = iter(range(100))
    recorded = History(clock=lambda: float(next(times)))
    with (
        pytest.raises(OSError),
        recorded.of("c1", Kind.TAKE, "ip", "a"),
    ):
        raise OSError
    with recorded.of("c1", Kind.READ, "ip", "?") as call:
        call.succeeded("b")
    with recorded.of("c2", Kind.TAKE, "ip", "c") as call:
        call.refused()
    assert [(each.value, each.outcome) for each in recorded.operations] == [
        ("a", Outcome.UNKNOWN),
        ("b", Outcome.DONE),
        ("c", Outcome.REFUSED),
    ]
    assert [(each.asked, each.answered) for each in recorded.operations] == [
        (0, 1),
        (2, 3),
        (4, 5),
    ]


@given(st.integers(0, 2**32))
def test_whatever_one_truth_produces_is_sound_and_a_second_owner_in_it_is_not(seed: int) -> None:
    dice = random.Random(seed)
    operations, owner, final, now = [], "", "", 0.0
    for number in range(30):
        at = now = now + 1.0  # it happens at `at`; asked before, answered after, in any overlap
        asked, answered = at - dice.uniform(0, 3), at + dice.uniform(0, 3)
        client = f"c{number}"
        match dice.choice(("take", "release", "write", "read")):
            case "take":
                outcome = Outcome.REFUSED if owner else Outcome.DONE
                owner = owner or client
                operations.append(op(Kind.TAKE, client, asked, answered, outcome=outcome))
            case "release" if owner:
                operations.append(op(Kind.RELEASE, owner, at, answered))
                owner = ""
            case "write":
                final = f"v{number}"
                operations.append(op(Kind.WRITE, final, asked, answered, thing="w"))
            case "read":
                operations.append(op(Kind.READ, final, asked, answered, thing="w"))
    assert not rules(*operations, final={"w": final} if final else {})

    if owner:
        thief = op(Kind.TAKE, "thief", now + 5, now + 6)
        assert "exclusive" in rules(*operations, thief)
