"""How long to wait before the next try."""

from __future__ import annotations

import random
from typing import Final

_FIRST_S: Final = 3.0
_MAX_S: Final = 30.0  # a cold cluster must have everybody back within 60 s (SC-5)
# An appliance that turns newcomers away has a line of seconds: who comes back about then keeps it
# from being without work while others wait. To turn one away costs it next to nothing.
_TURNED_AWAY_FIRST_S: Final = 2.0
_TURNED_AWAY_MAX_S: Final = 8.0


class Backoff:
    """Exponential with full jitter, so that thousands of agents don't come at once."""

    def __init__(self, first_s: float = _FIRST_S, max_s: float = _MAX_S) -> None:
        self._first_s = first_s
        self._max_s = max_s
        self._ceiling_s = first_s
        self._random = random.SystemRandom()

    def next_s(self, at_least_s: float = 0.0) -> float:
        """Return the wait in seconds, at least what the other side asked for."""
        wait = self._random.uniform(0.0, self._ceiling_s)
        self._ceiling_s = min(self._max_s, self._ceiling_s * 2)
        return at_least_s + wait

    def reset(self) -> None:
        """Begin again after a success."""
        self._ceiling_s = self._first_s


def turned_away_backoff() -> Backoff:
    """Return one for who is turned away by a busy appliance: it lives, and has room soon."""
    return Backoff(_TURNED_AWAY_FIRST_S, _TURNED_AWAY_MAX_S)
