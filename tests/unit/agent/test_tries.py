"""The tries of a registration: counted, and told apart (docs/protocol.md 3.3)."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from cairn_agent.errors import StateUnusable
from cairn_agent.membership import Membership
from cairn_agent.protocol import enrolment
from cairn_agent.state import StateDir

from tests.unit.agent.test_identity import identity


def answer(generation: int) -> enrolment.RegisterAnswer:
    return enrolment.RegisterAnswer("approved", generation, "", [], 15.0)


@pytest.fixture
def state(tmp_path: Path) -> StateDir:
    state = StateDir(tmp_path / "state")
    state.prepare()
    state.keep_identity(identity())
    return state


def started(state: StateDir) -> Membership:
    kept = state.identity()
    assert kept is not None
    return Membership(kept, state, None, lambda: None)


def test_each_try_is_above_those_before_it_and_names_them(state: StateDir) -> None:
    membership = started(state)
    first, second, third = (membership.registration() for _ in range(3))
    assert first.attempt < second.attempt < third.attempt
    assert len({each.nonce for each in (first, second, third)}) == 3
    assert third.given_up == [first.nonce, second.nonce]
    membership.registered(answer(9))
    assert membership.registration().given_up == []


@pytest.mark.parametrize("has_new_generation", [False, True])
def test_a_restart_counts_on_above_what_was_used(state: StateDir, has_new_generation: bool) -> None:
    for _ in range(3):
        before = started(state)
        if has_new_generation:
            before.registration()
            before.registered(answer(before.identity().generation + 1))
        last = [before.registration() for _ in range(5)][-1]
        following = started(state).registration()
        assert following.generation == last.generation
        assert following.attempt >> 32 > last.attempt >> 32


def test_after_many_tries_it_counts_as_a_restart(state: StateDir) -> None:
    membership = started(state)
    tries = [membership.registration() for _ in range(200)]
    assert [each.attempt for each in tries] == sorted({each.attempt for each in tries})
    assert all(len(each.given_up) <= enrolment.GIVEN_UP_MAX for each in tries)
    for before, following in pairwise(tries):
        is_named = before.nonce in following.given_up
        assert is_named or following.attempt >> 32 > before.attempt >> 32


def test_what_can_not_be_kept_is_not_told(state: StateDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """A number that is used again after a restart would be that of a copy."""
    membership = started(state)

    def refuse(*_arguments: object) -> None:
        raise StateUnusable("the disk is full", "")

    with monkeypatch.context() as patched:
        patched.setattr(StateDir, "keep_identity", refuse)
        assert membership.registration().nonce == ""
    assert membership.registration().nonce
