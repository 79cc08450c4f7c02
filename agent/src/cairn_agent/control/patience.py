"""For how long an appliance may say nothing before its agents leave it.

Who lost an appliance to its silence has twice the patience, and so on: where all are slow since
they have too much to do, leaving them makes it worse. Where the next one speaks in time it was
that one's own fault, and the patience is the usual again: the next silence is as bad as the first.
"""

from __future__ import annotations

import math
from typing import Final

FIRST_HEARTBEAT_S: Final = 15.0  # until an appliance says how often it speaks
_MISSED_HEARTBEATS: Final = 2.5
_MAX: Final = 10.0
_LASTS_S: Final = 30.0
_IN_TIME: Final = 1.5  # heartbeats between two words
_PROOF: Final = 3.0  # heartbeats for which one has to speak in time


class Patience:
    """Times are of one clock, in seconds."""

    def __init__(self) -> None:
        self.heartbeat_s = FIRST_HEARTBEAT_S
        self._times = 1.0
        self._silent_at = -math.inf
        self._heard_at = -math.inf
        self._in_time_since = -math.inf

    def fell_silent(self, now: float) -> None:
        """Note that an appliance was left because it said nothing."""
        self._times = min(self._times_at(now) * 2, _MAX)
        self._silent_at = now

    def came_to_another(self, now: float) -> None:
        """Note that an appliance has let this node in; what it says is still to come."""
        self._heard_at = self._in_time_since = now

    def heard(self, now: float) -> None:
        """Note that the appliance spoke."""
        if now - self._heard_at > _IN_TIME * self.heartbeat_s:
            self._in_time_since = now
        self._heard_at = now
        if now - self._in_time_since >= _PROOF * self.heartbeat_s:
            self._times = 1.0

    def limit_s(self, now: float) -> float:
        """Return for how long an appliance may say nothing."""
        own_s = self.heartbeat_s * _MISSED_HEARTBEATS
        most_s = FIRST_HEARTBEAT_S * _MISSED_HEARTBEATS
        return max(own_s, min(own_s * self._times_at(now), most_s))

    def _times_at(self, now: float) -> float:
        return self._times if now - self._silent_at < _LASTS_S else 1.0
