"""For how long an appliance may say nothing."""

from __future__ import annotations

import pytest
from cairn_agent.control.patience import Patience


def _patience(heartbeat_s: float = 1.4) -> Patience:
    patience = Patience()
    patience.heartbeat_s = heartbeat_s
    return patience


def test_one_silence_after_the_other_makes_patient() -> None:
    patience, now = _patience(), 100.0
    seen = [patience.limit_s(now)]
    for _ in range(5):
        patience.fell_silent(now)
        seen.append(patience.limit_s(now))
    assert seen == pytest.approx([3.5, 7.0, 14.0, 28.0, 35.0, 35.0])
    assert patience.limit_s(now + 31.0) == pytest.approx(3.5)


def test_it_is_as_it_was_where_the_next_one_speaks_in_time() -> None:
    """One appliance was paused, and another is cut off soon after: both are left in time."""
    patience, now = _patience(), 100.0
    patience.fell_silent(now)
    patience.came_to_another(now)
    for beat in range(1, 3):
        patience.heard(now + beat * 1.4)
    assert patience.limit_s(now + 2.8) == pytest.approx(7.0)
    patience.heard(now + 3 * 1.4 + 0.01)
    assert patience.limit_s(now + 4.3) == pytest.approx(3.5)


def test_it_stays_where_the_next_one_is_late_too() -> None:
    patience, now = _patience(), 100.0
    patience.fell_silent(now)
    patience.came_to_another(now)
    for beat in range(1, 9):
        patience.heard(now + beat * 2.5)
    assert patience.limit_s(now + 20.0) == pytest.approx(7.0)


def test_many_words_at_once_are_no_proof() -> None:
    patience, now = _patience(), 100.0
    patience.fell_silent(now)
    patience.came_to_another(now)
    for word in range(100):
        patience.heard(now + word * 0.01)
    assert patience.limit_s(now + 1.0) == pytest.approx(7.0)
