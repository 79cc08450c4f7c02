"""Counts guesses at passwords and codes, and says when there were too many.

A guess is counted before it is checked, so that guesses made at once count all the same.
"""

from __future__ import annotations

import ipaddress
import math
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial

from cairn_appliance.domain.access import (
    ATTEMPTS_PER_ADDRESS,
    ATTEMPTS_WINDOW_S,
    FAILURES_ALLOWED,
    FAILURES_WINDOW_S,
    AccountLocked,
    TooManyLogins,
    recent,
    wait_s,
)
from cairn_appliance.domain.errors import TooMany
from cairn_appliance.domain.event import Severity
from cairn_appliance.domain.identity import Actor, ActorKind
from cairn_appliance.services.clock import Clock
from cairn_appliance.services.commit import unchanged, until_committed
from cairn_appliance.services.events import Journal
from cairn_appliance.store import keys
from cairn_appliance.store.codec import Codec
from cairn_appliance.store.port import Compare, Conflict, Delete, Put, Store
from cairn_appliance.store.records import quarantine

_ADDRESSES_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class _Failures:
    at: tuple[float, ...] = ()


_failures = Codec(_Failures)


class Guesses:
    """Five wrong ones in 15 minutes for a user, 20 attempts a minute for an address."""

    def __init__(self, store: Store, journal: Journal, now: Clock) -> None:
        self._store = store
        self._journal = journal
        self._now = now
        self._addresses = Attempts(ATTEMPTS_PER_ADDRESS, ATTEMPTS_WINDOW_S)
        # Names of nobody are counted here: the store must not grow by guesses.
        self._strangers = Attempts(FAILURES_ALLOWED, FAILURES_WINDOW_S)

    def limit_address(self, address: str) -> None:
        """Count an attempt from an address; raise TooManyLogins."""
        wait = self._addresses.add(network(address), self._now())
        if wait:
            raise _later(TooManyLogins("too many logins from this address", retry_after_s=wait))

    def count_stranger(self, name: str) -> int:
        """Count a guess at a user that there is none of; raise AccountLocked all the same."""
        wait = self._strangers.add(name, self._now())
        if wait:
            raise _locked(wait)
        return 0

    async def count(self, name: str) -> int:
        """Count a failure in advance and return how many there are now; raise AccountLocked."""
        return await until_committed(partial(self._count, keys.login_failures(name)))

    async def _count(self, key: str) -> int:
        now = self._now()
        item = await self._store.get(key)
        failures = _failures.decode(item) if item else _Failures()
        at = recent(failures.at, now=now, window_s=FAILURES_WINDOW_S)
        if len(at) >= FAILURES_ALLOWED:
            raise _locked(wait_s(at, now=now, window_s=FAILURES_WINDOW_S))
        at = (*at, now)
        value = _failures.encode(_Failures(at))
        await self._store.commit([unchanged(key, item)], [Put(key, value)])
        return len(at)

    async def tell_if_locked(self, failures: int, name: str, address: str) -> None:
        """Write an event where the failure just counted has locked the account."""
        if failures != FAILURES_ALLOWED:
            return
        actor = Actor(ActorKind.OPERATOR, name, address)
        text = (
            f"user {name} is locked for 15 minutes after {FAILURES_ALLOWED} wrong passwords or "
            "codes"
        )
        entry = self._journal.entry("account_locked", text, actor, severity=Severity.WARNING)
        await self._store.commit([], [entry])

    async def locked_until(self) -> dict[str, float]:
        """Return the users that are locked, and until when."""
        now = self._now()
        locked = {}
        for item in (await self._store.list(keys.LOGIN_FAILURES)).items:
            for failures in _failures.decode_all([item], quarantine):
                at = recent(failures.at, now=now, window_s=FAILURES_WINDOW_S)
                if len(at) >= FAILURES_ALLOWED:
                    locked[keys.last_part(item.key)] = min(at) + FAILURES_WINDOW_S
        return locked

    async def sweep(self) -> int:
        """Forget failures that no longer count; return how many."""
        now = self._now()
        swept = 0
        for item in (await self._store.list(keys.LOGIN_FAILURES)).items:
            for failures in _failures.decode_all([item], quarantine):
                if recent(failures.at, now=now, window_s=FAILURES_WINDOW_S):
                    continue
                try:
                    await self._store.commit([Compare(item.key, item.revision)], [Delete(item.key)])
                except Conflict:
                    continue  # a guess was counted meanwhile
                swept += 1
        return swept


class Attempts:
    """Counts attempts by key in memory, for the last `window_s`; forgets the oldest keys."""

    def __init__(self, allowed: int, window_s: float) -> None:
        self._allowed = allowed
        self._window_s = window_s
        self._at: OrderedDict[str, tuple[float, ...]] = OrderedDict()

    def add(self, key: str, now: float) -> float:
        """Count one and return 0, or return how many seconds to wait."""
        at = recent(self._at.pop(key, ()), now=now, window_s=self._window_s)
        if len(at) >= self._allowed:
            self._at[key] = at
            return wait_s(at, now=now, window_s=self._window_s)
        self._at[key] = (*at, now)
        while len(self._at) > _ADDRESSES_REMEMBERED:
            self._at.popitem(last=False)
        return 0.0


def network(address: str) -> str:
    """Return what one person has: an IPv4 address, or an IPv6 /64."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)


def _locked(wait: float) -> TooMany:
    return _later(
        AccountLocked(
            "the account is locked after too many wrong passwords or codes", retry_after_s=wait
        )
    )


def _later(error: TooMany) -> TooMany:
    """Say in the remedy how long to wait."""
    seconds = max(1, math.ceil(error.retry_after_s))
    spoken = f"{seconds} seconds" if seconds < 120 else f"{math.ceil(seconds / 60)} minutes"
    error.remedy = f"try again in {spoken}"
    return error
