"""What is wrong, as it is told to operators."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong; `is_urgent` where changes wait because of it."""

    name: str  # an Alarm
    cause: str
    remedy: str
    is_urgent: bool = False
