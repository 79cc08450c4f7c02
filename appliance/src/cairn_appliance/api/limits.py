"""Limits on what strangers may ask: wrong secrets per source, and attempts at once."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cairn_appliance.domain.errors import CairnError, TokenRefused, TooMany
from cairn_appliance.services.clock import Clock

REFUSED_PER_SOURCE = 10
WINDOW_S = 60.0
_SOURCES_REMEMBERED = 10_000
_AT_ONCE = 16
_WAITING_MAX = 1_000
SLOT_WITHIN_S = 10.0


class StrangerLimit:
    """Ten refused secrets a minute from one source, then 429.

    Only refusals count: an office that rolls out behind one address is not held up, and
    one who guesses is. Few attempts run at once, so guesses made at once count all the same.
    """

    def __init__(
        self, refusal: type[CairnError] = TokenRefused, clock: Clock = time.monotonic
    ) -> None:
        self._clock = clock
        self._refusal = refusal
        self._refused: OrderedDict[str, deque[float]] = OrderedDict()
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._waiting = 0

    @asynccontextmanager
    async def attempt(self, address: str) -> AsyncIterator[None]:
        """Hold a slot for one attempt; raise TooMany."""
        if self._waiting >= _WAITING_MAX:
            raise TooMany("too many ask to be let in at once", retry_after_s=5.0)
        self._waiting += 1
        try:
            await self._slot()
            try:
                source = source_of(address)
                self._check(source)
                try:
                    yield
                except self._refusal:
                    self._count(source)
                    raise
            finally:
                self._slots.release()
        finally:
            self._waiting -= 1

    async def _slot(self) -> None:
        """Take a slot, while the one who asks still waits; raise TooMany."""
        try:
            async with asyncio.timeout(SLOT_WITHIN_S):
                await self._slots.acquire()
        except TimeoutError as error:
            raise TooMany("too many ask to be let in at once", retry_after_s=5.0) from error

    def _check(self, source: str) -> None:
        at = self._refused.get(source)
        now = self._clock()
        while at and now - at[0] >= WINDOW_S:
            at.popleft()
        if at and len(at) >= REFUSED_PER_SOURCE:
            raise TooMany(
                "too many wrong secrets from this address",
                retry_after_s=max(1.0, WINDOW_S - (now - at[0])),
            )

    def _count(self, source: str) -> None:
        self._refused.setdefault(source, deque()).append(self._clock())
        self._refused.move_to_end(source)
        while len(self._refused) > _SOURCES_REMEMBERED:
            self._refused.popitem(last=False)


def source_of(address: str) -> str:
    """Return what one stranger has: an IPv4 address or an IPv6 /64."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
