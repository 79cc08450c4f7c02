"""Whether the store has a quorum as far as this replica can tell, known before anybody asks.

Without it nothing can be read for certain or written: requests are refused at once instead
of each finding out by waiting, and agents are sent to other appliances, one of which may
have the quorum that this one is cut off from. A store that is only slow (disks) is waited for:
there all members still answer, and know the same term.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterator

from cairn_appliance.domain.alarm import Sign
from cairn_appliance.domain.cluster_health import REMEDIES
from cairn_appliance.domain.errors import Unavailable
from cairn_appliance.services.clock import Clock
from cairn_appliance.store import keys
from cairn_appliance.store.port import Store, StoreError

log = logging.getLogger(__name__)

ASKED_EVERY_S = 0.4
# An election takes 1 to 2 s; a minority must refuse within 2 s (trust.md A2).
LOST_S = 1.7
SLOW_S = 8.0  # so long where all members answer; longer than two slow writes of etcd's
AWAY_S = 2.5  # then agents are told to look elsewhere
TOGETHER_ASKED_AFTER_S = 0.6  # of silence
_TOGETHER_ASKED_EVERY_S = 0.3
_TOGETHER_HOLDS_S = 1.2  # from when it was asked; an answer takes 0.6 s at most
_LOOKED_AT_EVERY_S = 0.1
_STOOD_STILL_S = 0.3  # later than this, the appliance itself had no processor, or was paused
_ANSWERED_WITHIN_S = 0.5  # after that, before the store is held to be silent


class NoQuorum(Unavailable):
    """This appliance is cut off from the others, or too few of them run."""

    code = "unavailable"
    remedy = "try again in a few seconds, or at another appliance; see `cairn cluster status`"
    retry_after_s = 1.0


class Quorum:
    """Asks the store again and again, and ends what waits for a store that is lost."""

    def __init__(
        self,
        store: Store,
        has_others: Callable[[], bool],
        on_away: Callable[[], None],
        are_together: Callable[[], Awaitable[bool]],
        clock: Clock = time.monotonic,
        signs: Callable[[], tuple[Sign, ...]] = tuple,
    ) -> None:
        self._store = store
        self._has_others = has_others
        self._on_away = on_away
        self._are_together = are_together
        self._clock = clock
        self._signs = signs
        self._confirmed = clock()
        self._together: float | None = None  # when the members were asked, and all answered
        self._deadlines: set[asyncio.Timeout] = set()
        self._is_lost = False
        self._is_away = False

    @property
    def is_lost(self) -> bool:
        """True where the store has given no certain answer for too long."""
        return self._is_lost

    def check(self) -> None:
        """Raise NoQuorum while it is lost."""
        if not self._is_lost:
            return
        for sign in self._signs():
            if sign.is_urgent:
                raise NoQuorum(f"the store gives no answer: {sign.detail}", REMEDIES.get(sign.name))
        if self._has_others():
            raise NoQuorum("this appliance has no quorum: too few others run or can be reached")
        raise NoQuorum(
            "the store gives no answer in time",
            "try again in a few seconds; if it lasts, look into etcd.log on the appliance",
        )

    @contextlib.contextmanager
    def ending(self, deadline: asyncio.Timeout) -> Iterator[None]:
        """Let the deadline come at once when the quorum is lost inside the block."""
        self._deadlines.add(deadline)
        try:
            yield
        finally:
            self._deadlines.discard(deadline)

    async def run(self) -> None:
        """Watch over it until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._ask(), name="ask for a quorum")
            tasks.create_task(self._ask_the_members(), name="ask whether it is only slow")
            tasks.create_task(self._judge(), name="judge the quorum")

    async def _ask(self) -> None:
        while True:
            try:
                await self._store.get(keys.CLUSTER_INFO)
            except StoreError as error:
                log.debug("no quorum reason=%s", error)
            else:
                self._confirmed = self._clock()
            await asyncio.sleep(ASKED_EVERY_S)

    async def _ask_the_members(self) -> None:
        while True:
            asked = self._clock()
            if asked - self._confirmed >= TOGETHER_ASKED_AFTER_S:
                try:
                    if await self._are_together():
                        self._together = asked
                except StoreError as error:
                    log.debug("the members say nothing reason=%s", error)
            await asyncio.sleep(_TOGETHER_ASKED_EVERY_S)

    async def _judge(self) -> None:
        looked_at = self._clock()
        while True:
            now = self._clock()
            if now - looked_at > _LOOKED_AT_EVERY_S + _STOOD_STILL_S and not self._is_lost:
                # An answer may lie there: what came first when it went on is chance.
                self._confirmed = max(self._confirmed, now - LOST_S + _ANSWERED_WITHIN_S)
            looked_at = now
            silent_s = now - self._confirmed
            is_slow = self._together is not None and now - self._together < _TOGETHER_HOLDS_S
            self._set_lost(silent_s >= (SLOW_S if is_slow else LOST_S))
            if silent_s < AWAY_S or not self._is_lost:
                self._is_away = False
            elif not self._is_away:
                self._is_away = True
                if self._has_others():
                    self._on_away()
            await asyncio.sleep(_LOOKED_AT_EVERY_S)

    def _set_lost(self, is_lost: bool) -> None:
        if is_lost == self._is_lost:
            return
        self._is_lost = is_lost
        if not is_lost:
            log.warning("quorum is back")
            return
        log.warning("quorum lost: requests are refused until it is back")
        now = asyncio.get_running_loop().time()
        for deadline in self._deadlines:
            # An answer that has begun may end; one whose time is over is ended already.
            if deadline.when() is not None and not deadline.expired():
                deadline.reschedule(now)
