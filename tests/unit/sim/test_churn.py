"""How old changes are is worked out of the lines alone; and how fast something rises."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from tests.sim.churn import BUCKET_S, Arrivals, age_s, asked_in, endpoint_at, slope


@pytest.mark.parametrize("asked", [0.0, 0.001, 0.999, 1.0, 255.5, 256.25, 599.123, 40_000.001])
def test_an_endpoint_says_when_it_was_asked_for(asked: float) -> None:
    line = json.dumps({"endpoints": ["198.18.0.9:8002", endpoint_at(asked)]}).encode()
    assert asked_in(line) == pytest.approx([asked], abs=0.001)


def test_each_agent_counts_and_each_change_of_a_line() -> None:
    arrivals = Arrivals(began=100.0)
    both = f'["{endpoint_at(1.0)}","{endpoint_at(1.2)}"]'.encode()
    one = f'["{endpoint_at(1.0)}"]'.encode()
    for at in (101.5, 101.5, 102.0):
        arrivals.note(both, at)
    arrivals.note(one, 101.25)
    arrivals.note(b"nothing", 101.25)
    ages = arrivals.taken()
    assert ages.total() == 7
    assert sum(bucket * count for bucket, count in ages.items()) * BUCKET_S == pytest.approx(
        0.5 * 2 + 0.3 * 2 + 1.0 + 0.8 + 0.25, abs=7 * BUCKET_S
    )
    assert not arrivals.taken()


def test_a_share_of_ages() -> None:
    ages = Counter({10: 98, 200: 1, 500: 1})
    assert [age_s(ages, share) for share in (0.5, 0.98, 0.99)] == [0.1, 2.0, 5.0]
    assert age_s(Counter(), 0.5) == float("inf")


def test_a_slope_is_that_of_the_line_in_the_noise() -> None:
    points = [(float(x), 7.0 + 3.0 * x + (-1) ** x) for x in range(100)]
    assert slope(points) == pytest.approx(3.0, abs=0.01)
    assert slope([(1.0, 5.0)]) == 0.0
