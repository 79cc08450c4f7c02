"""Lines that come up the connection of a netmap stream, from a node that may be hostile."""

from __future__ import annotations

import logging
from collections.abc import Callable

from cairn_agent.protocol.telemetry import LINE_MAX_OCTETS

from cairn_appliance.services.clock import Clock

log = logging.getLogger(__name__)

# An agent sends one line in ten seconds, and one a second while its sessions change. What comes
# faster is passed over unread; a node that goes on with it is cut off and comes back later.
BURST, PER_S = 10.0, 1.0
TOO_MANY = 100
OCTETS_BURST, OCTETS_PER_S = 1 << 20, 64 << 10


class Lines:
    """Cuts octets into lines and gives them to `take`, a bounded number of a bounded length."""

    def __init__(
        self, take: Callable[[bytes], None], abort: Callable[[], None], clock: Clock
    ) -> None:
        self._take = take
        self._abort = abort
        self._clock = clock
        self._kept = bytearray()
        self._at = clock()
        self._left = BURST
        self._octets_left = float(OCTETS_BURST)
        self._passed_over = 0
        self._is_over = False

    def feed(self, octets: bytes) -> None:
        """Take what has come."""
        if self._is_over:
            return
        self._refill()
        self._octets_left -= len(octets)
        self._kept += octets
        begin = 0
        while (end := self._kept.find(b"\n", begin)) >= 0:
            self._line(bytes(self._kept[begin:end]))
            begin = end + 1
        del self._kept[:begin]
        if len(self._kept) > LINE_MAX_OCTETS or self._octets_left < 0:
            self._end("too much")
        elif self._passed_over > TOO_MANY:
            self._end("too many lines")

    def _line(self, line: bytes) -> None:
        if self._left < 1.0:
            self._passed_over += 1
        elif line:
            self._left -= 1.0
            self._take(line)

    def _refill(self) -> None:
        now = self._clock()
        past_s = max(0.0, now - self._at)
        self._at = now
        self._left = min(BURST, self._left + past_s * PER_S)
        if self._left >= BURST:
            self._passed_over = 0
        self._octets_left = min(OCTETS_BURST, self._octets_left + past_s * OCTETS_PER_S)

    def _end(self, why: str) -> None:
        log.warning("a node reports %s: its connection is ended", why)
        self._is_over = True
        self._kept.clear()
        self._abort()
