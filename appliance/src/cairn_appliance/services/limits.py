"""How often one may do a thing: a bucket for each, filled by time."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager

from cairn_appliance.domain.errors import CairnError, TooMany
from cairn_appliance.services.clock import Clock

_KEPT_MAX = 10_000


class Buckets:
    """So many at once, and so many a second after that, for each name."""

    def __init__(self, per_s: float, at_once: float, clock: Clock = time.monotonic) -> None:
        self._per_s = per_s
        self._at_once = at_once
        self._clock = clock
        # What is left, and when it was; who took one last is the last.
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()

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
        self._levels[name] = left - 1, now
        self._levels.move_to_end(name)
        self._forget(now)

    @contextmanager
    def taken(self, name: str, what: str) -> Iterator[None]:
        """Take one for what is done inside, and give it back where that was refused."""
        self.take(name, what)
        try:
            yield
        except CairnError:
            if name in self._levels:
                left, at = self._levels[name]
                self._levels[name] = left + 1, at
            raise

    def _forget(self, now: float) -> None:
        """Forget those that are full again, as those are that nobody asked for the longest."""
        while self._levels:
            name, (left, at) = next(iter(self._levels.items()))
            is_full = left + (now - at) * self._per_s >= self._at_once
            if not is_full and len(self._levels) <= _KEPT_MAX:
                return
            del self._levels[name]
