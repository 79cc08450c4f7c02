"""How often one may do a thing."""

from __future__ import annotations

import pytest
from cairn_appliance.domain.errors import Refused, TooMany
from cairn_appliance.services import limits
from cairn_appliance.services.limits import Buckets

from tests.unit.appliance.replica import FakeClock


def test_so_many_at_once_and_then_so_many_a_second() -> None:
    clock = FakeClock(0.0)
    buckets = Buckets(0.5, 3, clock)
    for _ in range(3):
        buckets.take("n", "beats")
    with pytest.raises(TooMany) as caught:
        buckets.take("n", "beats")
    assert caught.value.retry_after_s == 2.0
    buckets.take("another", "beats")
    clock.now += caught.value.retry_after_s
    buckets.take("n", "beats")
    with pytest.raises(TooMany):
        buckets.take("n", "beats")


def test_what_was_refused_is_given_back() -> None:
    buckets = Buckets(0.5, 2, FakeClock(0.0))
    for _ in range(9):
        with pytest.raises(Refused), buckets.taken("n", "registrations"):
            raise Refused("it is a copy")
    buckets.take("n", "registrations")
    buckets.take("n", "registrations")
    with pytest.raises(TooMany):
        buckets.take("n", "registrations")


def test_only_those_that_are_not_full_are_remembered_and_not_too_many_of_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "_KEPT_MAX", 100)
    clock = FakeClock(0.0)
    buckets = Buckets(1.0, 5, clock)
    for number in range(1_000):
        buckets.take(f"n{number}", "beats")
    assert len(buckets._levels) == 100
    clock.now += 2.0
    buckets.take("n", "beats")
    assert list(buckets._levels) == ["n"]
