"""The wall clock, passed in so that tests have their own."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], float]  # seconds since 1970

wall_clock: Clock = time.time
