"""Which appliances there are: each announces itself.

What an appliance says of itself stays while it is away, so that its crash changes no netmap;
that it runs, and what it notices of itself, is a key under its lease.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Callable

from cairn_appliance.domain.alarm import Alarm, Sign
from cairn_appliance.domain.cluster import Appliance, Replica
from cairn_appliance.services.clock import Clock, wall_clock
from cairn_appliance.store import keys, records
from cairn_appliance.store.port import (
    Compare,
    Conflict,
    Lease,
    LeaseLost,
    Put,
    Store,
    StoreError,
)

log = logging.getLogger(__name__)

LEASE_S = 10
_LOOKED_AT_EVERY_S = 2.0
_TWICE_TOLD_S = 60.0
_TWICE = Sign(Alarm.APPLIANCE_TWICE, "two processes run as this appliance", is_urgent=True)
_CLOSE_S = 1.0  # the end of the process does not wait for a store that hangs


class Announcement:
    """Announces this appliance to the others and to the nodes."""

    def __init__(
        self,
        store: Store,
        own: Appliance,
        clock: Clock = wall_clock,
        issuer: Callable[[], str] = lambda: "",
        signs: Callable[[], tuple[Sign, ...]] = tuple,
    ) -> None:
        self._store = store
        self._own = own
        self._clock = clock
        self._issuer = issuer  # key identifier of the authority whose certificate is shown
        self._signs = signs
        self._since = clock()
        self._process = os.getrandom(8).hex()
        self._twice_until = 0.0  # of the loop's clock

    @property
    def signs(self) -> tuple[Sign, ...]:
        """What is noticed of this appliance."""
        if not self._twice_until:
            return self._signs()
        return (*self._signs(), _TWICE)

    async def run(self) -> None:
        """Announce it until cancelled."""
        lease: Lease | None = None
        told: tuple[str, tuple[Sign, ...]] | None = None  # that was announced under this lease
        try:
            while True:
                try:
                    if lease is None or lease.is_lost:
                        lease, told = await self._store.lease(LEASE_S), None
                    if told is not None and await self._is_overwritten():
                        told = None
                    now = self._issuer(), self.signs
                    if told != now:
                        await self._put_replica(lease, *now)
                        await self.announce_once()
                        told = now
                except LeaseLost:
                    lease = None
                except StoreError as error:
                    log.warning("this appliance could not be announced reason=%s", error)
                await asyncio.sleep(_LOOKED_AT_EVERY_S * random.uniform(0.8, 1.2))
        finally:
            if lease is not None:
                await _close(lease)

    async def announce_once(self) -> None:
        """Write what this appliance is, where the store has something else or nothing."""
        key = keys.appliance(self._own.name)
        item = await self._store.get(key)
        value = records.appliances.encode(self._own)
        if item is not None and item.value == value:
            return
        try:
            compare = Compare(key, item.revision if item else 0)
            await self._store.commit([compare], [Put(key, value)])
        except Conflict:
            log.info("another process has announced this appliance meanwhile")

    async def _is_overwritten(self) -> bool:
        """Return whether another process has announced itself under this name, and note it."""
        now = asyncio.get_running_loop().time()
        if now > self._twice_until:
            self._twice_until = 0.0
        item = await self._store.get(keys.replica(self._own.name))
        found = records.replicas.decode(item).process if item else ""
        if found in ("", self._process):
            return False
        log.error("another process runs as this appliance name=%s", self._own.name)
        self._twice_until = now + _TWICE_TOLD_S
        return True

    async def _put_replica(self, lease: Lease, issuer: str, signs: tuple[Sign, ...]) -> None:
        own, since = self._own, self._since
        replica = Replica(own.name, own.version, since, signs, issuer, self._process)
        put = Put(keys.replica(self._own.name), records.replicas.encode(replica), lease.id)
        await self._store.commit([], [put])


async def _close(lease: Lease) -> None:
    try:
        async with asyncio.timeout(_CLOSE_S):
            await lease.close()
    except (StoreError, TimeoutError) as error:
        log.info("lease was not closed, it will expire reason=%s", error)
