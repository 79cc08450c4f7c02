"""Lines that come up the connection of a netmap stream, from a node that may be hostile."""

from __future__ import annotations

import logging
from collections.abc import Callable

from cairn_agent.protocol import acks
from cairn_agent.protocol.telemetry import LINE_MAX_OCTETS

from cairn_appliance.services.clock import Clock

log = logging.getLogger(__name__)

# An agent reports once in ten seconds, and once a second while its sessions change. What comes
# faster is passed over unread; a node that goes on with it is cut off and comes back later.
BURST, PER_S = 10.0, 1.0
# It acknowledges what it has loaded at most twice a second, and each word counts.
ACKS_BURST, ACKS_PER_S = 60.0, 4.0
TOO_MANY = 100
OCTETS_BURST, OCTETS_PER_S = 1 << 20, 64 << 10


class _Budget:
    """So many at once, so many a second."""

    __slots__ = ("_burst", "_left", "_per_s")

    def __init__(self, burst: float, per_s: float) -> None:
        self._burst = burst
        self._per_s = per_s
        self._left = burst

    @property
    def is_whole(self) -> bool:
        """True where nothing was used of late."""
        return self._left >= self._burst

    @property
    def is_overdrawn(self) -> bool:
        """True where more was used than there was."""
        return self._left < 0

    def refill(self, past_s: float) -> None:
        """Have more, for time that has passed."""
        self._left = min(self._burst, self._left + past_s * self._per_s)

    def use(self, amount: float) -> None:
        """Use some, whether there is so much or not."""
        self._left -= amount

    def take_one(self) -> bool:
        """Use one where there is one."""
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


class Lines:
    """Cuts octets into lines and gives them to `take`, a bounded number of a bounded length."""

    __slots__ = (
        "_abort",
        "_acks",
        "_at",
        "_clock",
        "_is_over",
        "_kept",
        "_octets",
        "_passed_over",
        "_reports",
        "_take",
    )

    def __init__(
        self, take: Callable[[bytes], None], abort: Callable[[], None], clock: Clock
    ) -> None:
        self._take = take
        self._abort = abort
        self._clock = clock
        self._kept = bytearray()
        self._at = clock()
        self._reports = _Budget(BURST, PER_S)
        self._acks = _Budget(ACKS_BURST, ACKS_PER_S)
        self._octets = _Budget(OCTETS_BURST, OCTETS_PER_S)
        self._passed_over = 0
        self._is_over = False

    def feed(self, octets: bytes) -> None:
        """Take what has come."""
        if self._is_over:
            return
        self._refill()
        self._octets.use(len(octets))
        self._kept += octets
        begin = 0
        while (end := self._kept.find(b"\n", begin)) >= 0:
            self._line(bytes(self._kept[begin:end]))
            begin = end + 1
        del self._kept[:begin]
        if len(self._kept) > LINE_MAX_OCTETS or self._octets.is_overdrawn:
            self._end("too much")
        elif self._passed_over > TOO_MANY:
            self._end("too many lines")

    def _line(self, line: bytes) -> None:
        budget = self._acks if line.startswith(acks.BEGINS) else self._reports
        if not budget.take_one():
            self._passed_over += 1
        elif line:
            self._take(line)

    def _refill(self) -> None:
        now = self._clock()
        past_s = max(0.0, now - self._at)
        self._at = now
        for budget in (self._reports, self._acks, self._octets):
            budget.refill(past_s)
        if self._reports.is_whole and self._acks.is_whole:
            self._passed_over = 0

    def _end(self, why: str) -> None:
        log.warning("a node reports %s: its connection is ended", why)
        self._is_over = True
        self._kept.clear()
        self._abort()
