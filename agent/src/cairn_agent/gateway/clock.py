"""The clock of gateway mode: the one that the data plane's gate compares."""

from __future__ import annotations

import time


def now_ns() -> int:
    """Return CLOCK_BOOTTIME in nanoseconds: goes on in suspend, and nobody can set it."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
