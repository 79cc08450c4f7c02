"""Keeps etcd well: its databases small, open again after they were full, and all alike.

The replica beside etcd's leader does it, so that no lease is needed, which could not be had
while the store is full. Before each step it asks again whether its etcd still leads: one that
was paused in between stops there. The step itself harms nobody if two should ever do it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from cairn_appliance.domain.alarm import Alarm
from cairn_appliance.domain.cluster import Digest, EtcdAlarm, EtcdMember, EtcdState, odd_ones
from cairn_appliance.domain.cluster_health import ClusterView, Seen
from cairn_appliance.domain.errors import CairnError
from cairn_appliance.domain.event import Severity
from cairn_appliance.domain.identity import SYSTEM
from cairn_appliance.domain.store_space import (
    has_room,
    in_order,
    is_crowded,
    is_safe,
    is_wasteful,
)
from cairn_appliance.services.events import Journal
from cairn_appliance.services.stored import read_all
from cairn_appliance.store import keys, records
from cairn_appliance.store.port import Store, StoreError

log = logging.getLogger(__name__)

LOOKED_AT_EVERY_S = 5.0
COMPARED_FROM = 3  # voters: of two nobody knows which is right
COMPARED_EVERY_S = 30.0  # a difference is found within two minutes
NOT_HANDED_OVER_AGAIN_S = 300.0
TRIED_AGAIN_S = 10.0
_SLOW_ONES_WITHIN_S = 2.0
NOT_AGAIN_S = 600.0  # for giving up history early where that brought too little


class Etcd(Protocol):
    """What is asked of etcd; what it can't do now raises `port.StoreError`."""

    async def members(self) -> tuple[EtcdMember, ...]:
        """Return all members."""

    async def state(self, member: EtcdMember) -> EtcdState | None:
        """Ask a member how it is; None where it gives no answer."""

    async def states(self, members: tuple[EtcdMember, ...]) -> dict[int, EtcdState | None]:
        """Ask members how they are; None for those that give no answer."""

    async def alarms(self) -> tuple[EtcdAlarm, ...]:
        """Return what etcd complains of."""

    async def compact(self, leader: EtcdMember) -> None:
        """Forget the history."""

    async def defragment(self, member: EtcdMember) -> None:
        """Give what a database doesn't use back to the disk."""

    async def disarm(self, alarm: EtcdAlarm) -> None:
        """Take back an alarm."""

    async def revision(self) -> int:
        """Return the revision of now."""

    async def digest(self, member: EtcdMember, revision: int) -> Digest | None:
        """Return what a member's content at a revision comes to; None where it can't say."""

    async def hand_over(self, leader: EtcdMember, to: EtcdMember) -> None:
        """Make another member the leader."""


class NotLeading(Exception):
    """Another member leads by now: its replica goes on."""


class Upkeep:
    """The upkeep of the store by one replica."""

    def __init__(
        self,
        store: Store,
        etcd: Etcd,
        name: str,
        fence: Callable[[EtcdMember], Awaitable[None]],
        is_slow: Callable[[], bool] = lambda: False,
    ) -> None:
        """`name` is the own member's; `is_slow` says whether its disk is, `fence` takes one out."""
        self._store = store
        self._etcd = etcd
        self._name = name
        self._fence = fence
        self._is_slow = is_slow
        self._journal = Journal()
        self._crowded_again_at = 0.0
        self._compared_again_at = 0.0
        self._handed_over_again_at = 0.0

    async def run(self) -> None:
        """Do it until cancelled; what can't be done now is done later."""
        while True:
            try:
                await self.look()
            except NotLeading:
                log.info("upkeep is left to the replica beside the new leader")
            except (StoreError, CairnError) as error:
                log.warning("upkeep of the store was put off reason=%s", error)
            await asyncio.sleep(LOOKED_AT_EVERY_S * random.uniform(0.8, 1.2))

    async def look(self) -> None:
        """Look once, and do what is due."""
        members = await self._etcd.members()
        own = next((each for each in members if each.name == self._name), None)
        state = await self._etcd.state(own) if own else None
        if own is None or state is None or state.leader != own.id:
            return
        if await self._gave_up_lead(own):
            return
        if state.is_full:
            await self._let_changes_in(own)
        elif is_crowded(state) and self._may_give_up_history():
            await self._make_room(own)
        else:
            await self._shrink_one(own)
            await self._compare(own)

    async def _let_changes_in(self, own: EtcdMember) -> None:
        log.warning("the store is full: room is made")
        await self._make_room(own)
        view = await self._view()
        tight = [seen.name for seen in view.seen if seen.state and not has_room(seen.state)]
        if tight:
            log.error("the store is full of what is in use members=%s; what to do: raise "
                      "etcd_quota_mib in settings.toml", ",".join(tight))  # fmt: skip
            return
        await self._check_leads(own)
        for alarm in await self._etcd.alarms():
            if alarm.kind == "NOSPACE":
                await self._etcd.disarm(alarm)
        text = "the store was full; room was made, and changes are let in again"
        entry = self._journal.entry("store_freed", text, SYSTEM, severity=Severity.WARNING)
        await self._store.commit([], [entry])
        log.warning("changes are let in again")

    async def _make_room(self, own: EtcdMember) -> None:
        """Give up the history and defragment all that answer."""
        await self._check_leads(own)
        await self._etcd.compact(own)
        for seen in in_order(await self._view()):
            await self._defragment(seen, own)

    async def _shrink_one(self, own: EtcdMember) -> None:
        """Defragment the first member that is worth it; the next one has its turn later."""
        view = await self._view()
        worth = [seen for seen in in_order(view) if seen.state and is_wasteful(seen.state)]
        if worth and is_safe(view):
            await self._defragment(worth[0], own)

    async def _defragment(self, seen: Seen, own: EtcdMember) -> None:
        await self._check_leads(own)
        before = seen.state.db_octets if seen.state else 0
        await self._etcd.defragment(seen.member)
        after = await self._etcd.state(seen.member)
        log.info("defragmented member=%s octets_before=%d octets_after=%d",
                 seen.name, before, after.db_octets if after else -1)  # fmt: skip

    async def _compare(self, own: EtcdMember) -> None:
        """Compare what the voters have, and take out one that differs from the majority."""
        clock = asyncio.get_running_loop().time
        if clock() < self._compared_again_at:
            return
        begun = clock()
        members = tuple(each for each in await self._etcd.members() if not each.is_learner)
        if len(members) < COMPARED_FROM:
            return
        odd = await self._odd_ones(members)
        if odd:
            odd &= await self._odd_ones(members)  # once more: nobody is taken out by an accident
        took_s = clock() - begun
        self._compared_again_at = clock() + min(max(COMPARED_EVERY_S, 20 * took_s), 90.0)
        if self._name in odd:
            log.error("this appliance's copy of the store is damaged: another one is to lead")
            await self._hand_over(own, without=odd)
        for member in members:
            if member.name in odd - {self._name}:
                log.error("its copy of the store is damaged: it is taken out name=%s", member.name)
                await self._check_leads(own)
                await self._fence(member)

    async def _odd_ones(self, members: tuple[EtcdMember, ...]) -> set[str]:
        revision = await self._etcd.revision()
        digests = [await self._etcd.digest(each, revision) for each in members]
        by_id = dict(zip((each.id for each in members), digests, strict=True))
        found = odd_ones(by_id, len(members))
        return {each.name for each in members if each.id in found}

    async def _gave_up_lead(self, own: EtcdMember) -> bool:
        """Let another lead where the own disk is slow: the leader's disk sets the pace of all."""
        now = asyncio.get_running_loop().time()
        if not self._is_slow() or now < self._handed_over_again_at:
            return False
        self._handed_over_again_at = now + TRIED_AGAIN_S
        if not await self._hand_over(own, without=await self._slow_ones()):
            return False
        self._handed_over_again_at = now + NOT_HANDED_OVER_AGAIN_S
        log.warning("the disk here is slow: another appliance leads from now on")
        return True

    async def _slow_ones(self) -> set[str]:
        """Return whose disk is slow as well; nobody's where the store is too slow to tell."""
        try:
            async with asyncio.timeout(_SLOW_ONES_WITHIN_S):
                running = await read_all(self._store, records.replicas, keys.REPLICAS)
        except (StoreError, TimeoutError) as error:
            log.info("whose disk is slow isn't known reason=%s", error)
            return set()
        return {
            each.value.name
            for each in running
            if any(sign.name == Alarm.SLOW_DISK for sign in each.value.signs)
        }

    async def _hand_over(self, own: EtcdMember, *, without: set[str]) -> bool:
        heirs = [
            each
            for each in await self._etcd.members()
            if not each.is_learner and each.name not in without | {own.name}
        ]
        waits_s = dict(zip(heirs, await asyncio.gather(*map(self._wait_s, heirs)), strict=True))
        # One that waits for its disk is late with any answer: the first is the best that there is.
        heir = min(heirs, key=lambda each: waits_s[each], default=None)
        if heir is None or waits_s[heir] == math.inf:
            log.info("there is no other appliance that could lead")
            return False
        await self._etcd.hand_over(own, heir)
        log.warning("the lead was handed over to=%s", heir.name)
        return True

    async def _wait_s(self, member: EtcdMember) -> float:
        """Return how long a member takes to say how it is; infinity where it says nothing."""
        begun = time.monotonic()
        state = await self._etcd.state(member)
        return math.inf if state is None else time.monotonic() - begun

    async def _check_leads(self, own: EtcdMember) -> None:
        state = await self._etcd.state(own)
        if state is None or state.leader != own.id:
            raise NotLeading

    def _may_give_up_history(self) -> bool:
        now = asyncio.get_running_loop().time()
        if now < self._crowded_again_at:
            return False
        self._crowded_again_at = now + NOT_AGAIN_S
        return True

    async def _view(self) -> ClusterView:
        members = await self._etcd.members()
        states = await self._etcd.states(members)
        return ClusterView(tuple(Seen(each, states.get(each.id)) for each in members))
