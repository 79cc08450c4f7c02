"""A clock for bounds of what happens in this process: it stops while that stands still."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Final, Self

_TICK_S: Final = 0.005
_LATE_S: Final = 0.03  # what a tick may be late where the machine has time for this process


class AwakeClock:
    """Seconds that passed, but those in which no thread of this process could run.

    A machine that has no processor for a test would break each of its bounds, and say nothing of
    what is tested. What this process itself does, or waits for, counts.
    """

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._tick, name="awake clock", daemon=True)
        self._begun = self._ticked = time.monotonic()
        self._stood_still_s = 0.0

    def __enter__(self) -> Self:
        self._begun = self._ticked = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._thread.join()

    @property
    def passed_s(self) -> float:
        """Return the seconds since it was entered."""
        now = time.monotonic()
        return now - self._begun - self._stood_still_s - _late_s(now - self._ticked)

    def _tick(self) -> None:
        while not self._stopped.wait(_TICK_S):
            now = time.monotonic()
            self._stood_still_s += _late_s(now - self._ticked)
            self._ticked = now


def _late_s(since_s: float) -> float:
    late_s = since_s - _TICK_S
    return late_s if late_s > _LATE_S else 0.0
