"""Waiting for conditions with a deadline, instead of sleeping."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from tests.lab.errors import NotInTimeError

T = TypeVar("T")
POLL_S = 0.05


def until(what: str, condition: Callable[[], T | None], *, within_s: float) -> T:
    """Return the first true value of `condition`; raise NotInTimeError after `within_s`."""
    deadline = time.monotonic() + within_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise NotInTimeError(f"after {within_s:g} s still not so: {what}")
        time.sleep(POLL_S)
