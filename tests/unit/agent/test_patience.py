"""For how long an appliance may say nothing."""

from __future__ import annotations

import pytest
from cairn_agent.control.patience import Patience

NOW = 100.0


@pytest.fixture
def patience() -> Patience:
    """An agent's, with an appliance that speaks every 1.4 s."""
    made = Patience()
    made.heartbeat_s = 1.4
    return made


@pytest.fixture
def tried(patience: Patience) -> Patience:
    """The same: that appliance fell silent, and another one answered."""
    patience.fell_silent(NOW)
    patience.came_to_another(NOW)
    return patience


def test_one_silence_after_the_other_makes_patient(patience: Patience) -> None:
    seen = [patience.limit_s(NOW)]
    for _ in range(5):
        patience.fell_silent(NOW)
        seen.append(patience.limit_s(NOW))
    assert seen == pytest.approx([3.5, 7.0, 14.0, 28.0, 35.0, 35.0])
    assert patience.limit_s(NOW + 31.0) == pytest.approx(3.5)


def test_it_is_as_it_was_where_the_next_one_speaks_in_time(tried: Patience) -> None:
    """One appliance was paused, and another is cut off soon after: both are left in time."""
    for beat in range(1, 3):
        tried.heard(NOW + beat * 1.4)
    assert tried.limit_s(NOW + 2.8) == pytest.approx(7.0)
    tried.heard(NOW + 3 * 1.4 + 0.01)
    assert tried.limit_s(NOW + 4.3) == pytest.approx(3.5)


def test_it_stays_where_the_next_one_is_late_too(tried: Patience) -> None:
    for beat in range(1, 9):
        tried.heard(NOW + beat * 2.5)
    assert tried.limit_s(NOW + 20.0) == pytest.approx(7.0)


def test_many_words_at_once_are_no_proof(tried: Patience) -> None:
    for word in range(100):
        tried.heard(NOW + word * 0.01)
    assert tried.limit_s(NOW + 1.0) == pytest.approx(7.0)
