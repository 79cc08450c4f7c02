"""How often one may do a thing: a bucket for each, filled by time."""

from __future__ import annotations

import time

from cairn_appliance.domain.errors import TooMany
from cairn_appliance.services.clock import Clock

_KEPT_MAX = 10_000


class Buckets:
    """So many at once, and so many a second after that, for each name."""

    def __init__(self, per_s: float, at_once: float, clock: Clock = time.monotonic) -> None:
        self._per_s = per_s
        self._at_once = at_once
        self._clock = clock
        self._levels: dict[str, tuple[float, float]] = {}  # what is left, and when it was

    def take(self, name: str, what: str) -> None:
        """Take one; raise TooMany where none is left."""
        now = self._clock()
        left, at = self._levels.get(name, (self._at_once, now))
        left = min(self._at_once, left + (now - at) * self._per_s)
        if left < 1:
            raise TooMany(
                f"too many {what} from this node",
                "nothing: the agent tells the rest in one with the next",
                retry_after_s=(1 - left) / self._per_s,
            )
        if len(self._levels) >= _KEPT_MAX:
            self.tidy()
        self._levels[name] = left - 1, now

    def tidy(self) -> None:
        """Forget those that are full again."""
        now = self._clock()
        full = [
            name
            for name, (left, at) in self._levels.items()
            if left + (now - at) * self._per_s >= self._at_once
        ]
        for name in full:
            del self._levels[name]
