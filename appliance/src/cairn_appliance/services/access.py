"""Users, passwords and sessions.

Passwords are kept as argon2id, session tokens as SHA-256: the store alone opens nothing.
A guess is counted before it is checked, so that guesses made at once count all the same.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import logging
import math
import secrets
from collections import OrderedDict
from dataclasses import dataclass, replace
from functools import partial

import argon2

from cairn_appliance.domain.access import (
    ATTEMPTS_PER_ADDRESS,
    ATTEMPTS_WINDOW_S,
    FAILURES_ALLOWED,
    FAILURES_WINDOW_S,
    SESSION_TOUCH_S,
    AccountLocked,
    Principal,
    Role,
    Session,
    SessionEnded,
    TooManyLogins,
    User,
    UserExists,
    WrongLogin,
    check_password,
    check_user_name,
    is_user_name,
    recent,
    wait_s,
)
from cairn_appliance.domain.errors import TooMany
from cairn_appliance.domain.event import Severity
from cairn_appliance.domain.identity import Actor, ActorKind
from cairn_appliance.services.clock import Clock, wall_clock
from cairn_appliance.services.events import Journal
from cairn_appliance.store import keys
from cairn_appliance.store.codec import Codec
from cairn_appliance.store.port import (
    Compare,
    Conflict,
    Delete,
    Full,
    Item,
    Put,
    Store,
    Unavailable,
)
from cairn_appliance.store.records import quarantine

log = logging.getLogger(__name__)


SESSION_TOKEN_PREFIX = "cs1_"
_SESSION_TOKEN_OCTETS = 32
# Each takes 64 MiB and a core for about 0.1 s: more at once would starve the agents' API.
_HASHES_AT_ONCE = 2
_HASHES_WAITING = 16
_ADDRESSES_REMEMBERED = 10_000
_TRIES = 20
_SESSIONS_SEEN = 1000
_STORE_WITHIN_S = 1.0  # and a store call after it ends before the gate cuts it off
# No 0, 1, i, l, o: a person may have to type it from a screen.
_PASSWORD_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"
# Of a random password nobody has: an unknown user takes as long as a wrong password.
_NOBODY = (
    "$argon2id$v=19$m=65536,t=3,p=1$fRPKXBZJpUKh2yvPFqYcsw$"
    "Pny8ztUKzadqS8QvSxbjYqclD6YJU/bZDVMoYPv0HfA"
)

_hasher = argon2.PasswordHasher(time_cost=3, memory_cost=65_536, parallelism=1)


@dataclass(frozen=True, slots=True)
class OpenedSession:
    """A new session with its token, which is told only once."""

    token: str
    principal: Principal


@dataclass(frozen=True, slots=True)
class _Failures:
    at: tuple[float, ...] = ()


_users = Codec(User)
_sessions = Codec(Session)
_failures = Codec(_Failures)


def new_password() -> str:
    """Return a random password of 99 bits, made to be typed."""
    parts = ("".join(secrets.choice(_PASSWORD_ALPHABET) for _ in range(5)) for _ in range(4))
    return "-".join(parts)


def hash_password(password: str) -> str:
    """Return the argon2id string (64 MiB, 3 passes, 1 lane); takes about 0.1 s."""
    return _hasher.hash(password)


async def create_user(
    store: Store, name: str, password: str, role: Role, *, now: Clock = wall_clock
) -> User:
    """Create a user; raise UserExists where there is one of that name."""
    check_user_name(name)
    password_hash = await asyncio.to_thread(hash_password, check_password(password))
    user = User(name, role, password_hash, now())
    key = keys.user(name)
    try:
        await store.commit([Compare(key, 0)], [Put(key, _users.encode(user))])
    except Conflict as error:
        raise UserExists(f"there is a user {name!r} already") from error
    log.info("user created user=%s role=%s", name, role)
    return user


class Access:
    """Logs in and out, and tells who is asking."""

    def __init__(self, store: Store, *, now: Clock = wall_clock) -> None:
        self._store = store
        self._now = now
        self._journal = Journal(now)
        self._hashing = asyncio.Semaphore(_HASHES_AT_ONCE)
        self._waiting = 0
        self._addresses = _Attempts(ATTEMPTS_PER_ADDRESS, ATTEMPTS_WINDOW_S)
        self._seen: OrderedDict[str, Principal] = OrderedDict()
        # Names of nobody are counted here: the store must not grow by guesses.
        self._strangers = _Attempts(FAILURES_ALLOWED, FAILURES_WINDOW_S)

    async def login(self, name: str, password: str, address: str) -> OpenedSession:
        """Open a session; raise WrongLogin, or TooMany after too many guesses."""
        self._limit_address(address)
        user = await self._user(name)
        failures = await self._count_failure(name) if user else self._count_stranger(name)
        if not await self._verify(user.password_hash if user else _NOBODY, password) or not user:
            log.warning("login refused user=%s address=%s", user.name if user else "?", address)
            if user and failures == FAILURES_ALLOWED:
                await self._tell_locked(user.name, address)
            raise WrongLogin("the name or the password is wrong")
        opened = await self._open(user, address)
        log.info("login user=%s role=%s address=%s", name, user.role, address)
        return opened

    async def authenticate(self, token: str) -> Principal:
        """Return who holds the token; raise SessionEnded if it opens nothing (any more).

        While the store gives no answer, a session that was seen here before goes on: its
        holder must be able to see what is wrong. No write succeeds meanwhile anyhow.
        """
        key = _session_key(token)
        known = self._seen.get(key)
        try:
            async with asyncio.timeout(_STORE_WITHIN_S if known else None):
                principal = await self._authenticate(key)
        except (Unavailable, TimeoutError):
            if known is None or self._now() >= known.session.ends_at:
                raise
            return known
        except SessionEnded:
            self._seen.pop(key, None)
            raise
        self._remember(key, principal)
        return principal

    async def _authenticate(self, key: str) -> Principal:
        item = await self._store.get(key)
        if item is None:
            raise SessionEnded("the session is unknown or has ended")
        session = _sessions.decode(item)
        now = self._now()
        user = await self._user(session.user)
        if user is None or now >= session.ends_at:
            await self._drop(item)
            raise SessionEnded("the session has ended")
        if now - session.seen_at >= SESSION_TOUCH_S:
            session = replace(session, seen_at=now)
            await self._touch(item, session)
        return Principal(user.name, user.role, session)

    async def logout(self, token: str) -> None:
        """End the session; nothing happens where there is none."""
        self._seen.pop(_session_key(token), None)
        item = await self._store.get(_session_key(token))
        if item is not None:
            await self._drop(item)

    async def sweep(self) -> int:
        """Forget sessions that have ended and failures that no longer count; return how many."""
        now = self._now()
        swept = 0
        for item in (await self._store.list(keys.SESSIONS)).items:
            for session in _sessions.decode_all([item], quarantine):
                swept += now >= session.ends_at and await self._drop(item)
        for item in (await self._store.list(keys.LOGIN_FAILURES)).items:
            for failures in _failures.decode_all([item], quarantine):
                counts = recent(failures.at, now=now, window_s=FAILURES_WINDOW_S)
                swept += not counts and await self._drop(item)
        return swept

    def _remember(self, key: str, principal: Principal) -> None:
        self._seen[key] = principal
        self._seen.move_to_end(key)
        while len(self._seen) > _SESSIONS_SEEN:
            self._seen.popitem(last=False)

    def _limit_address(self, address: str) -> None:
        wait = self._addresses.add(_network(address), self._now())
        if wait:
            raise _later(TooManyLogins("too many logins from this address", retry_after_s=wait))

    def _count_stranger(self, name: str) -> int:
        wait = self._strangers.add(name, self._now())
        if wait:
            raise _locked(wait)
        return 0

    async def _count_failure(self, name: str) -> int:
        """Count a failure in advance and return how many there are now.

        The loop ends because each conflict is a guess counted too.
        """
        key = keys.login_failures(name)
        for _ in range(_TRIES):
            now = self._now()
            item = await self._store.get(key)
            failures = _failures.decode(item) if item else _Failures()
            at = recent(failures.at, now=now, window_s=FAILURES_WINDOW_S)
            if len(at) >= FAILURES_ALLOWED:
                raise _locked(wait_s(at, now=now, window_s=FAILURES_WINDOW_S))
            at = (*at, now)
            value = _failures.encode(_Failures(at))
            try:
                await self._store.commit([_unchanged(key, item)], [Put(key, value)])
            except Conflict:
                continue
            return len(at)
        raise _later(TooManyLogins("too many logins at once", retry_after_s=1.0))

    async def _verify(self, password_hash: str, password: str) -> bool:
        if self._waiting >= _HASHES_WAITING:
            raise _later(TooManyLogins("too many logins at once", retry_after_s=1.0))
        self._waiting += 1
        try:
            async with self._hashing:
                return await asyncio.to_thread(partial(_is_right, password_hash, password))
        finally:
            self._waiting -= 1

    async def _tell_locked(self, name: str, address: str) -> None:
        actor = Actor(ActorKind.OPERATOR, name, address)
        text = f"user {name} is locked for 15 minutes after {FAILURES_ALLOWED} wrong passwords"
        entry = self._journal.entry("account_locked", text, actor, severity=Severity.WARNING)
        await self._store.commit([], [entry])

    async def _open(self, user: User, address: str) -> OpenedSession:
        """Write the session, and forget the failures with it."""
        token = SESSION_TOKEN_PREFIX + secrets.token_urlsafe(_SESSION_TOKEN_OCTETS)
        now = self._now()
        session = Session(user.name, now, now)
        key = _session_key(token)
        forget = Delete(keys.login_failures(user.name))
        actor = Actor(ActorKind.OPERATOR, user.name, address)
        entry = self._journal.entry("logged_in", f"user {user.name} logged in", actor)
        put = Put(key, _sessions.encode(session))
        await self._store.commit([Compare(key, 0)], [put, forget, entry])
        return OpenedSession(token, Principal(user.name, user.role, session))

    async def _touch(self, item: Item, session: Session) -> None:
        try:
            await self._store.commit(
                [Compare(item.key, item.revision)],
                [Put(item.key, _sessions.encode(session))],
            )
        except Conflict:  # another request of the session did it, or ended it
            log.debug("session touched meanwhile user=%s", session.user)
        except Full:  # what there is can be read all the same
            log.info("session not extended: the store is full user=%s", session.user)

    async def _drop(self, item: Item) -> bool:
        try:
            await self._store.commit([Compare(item.key, item.revision)], [Delete(item.key)])
        except Conflict:  # someone was faster, or it is in use again
            return False
        return True

    async def _user(self, name: str) -> User | None:
        if not is_user_name(name):
            return None
        item = await self._store.get(keys.user(name))
        return None if item is None else _users.decode(item)


class _Attempts:
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


def _is_right(password_hash: str, password: str) -> bool:
    try:
        return _hasher.verify(password_hash, password)
    except argon2.exceptions.VerifyMismatchError:
        return False


def _session_key(token: str) -> str:
    return keys.session(hashlib.sha256(token.encode()).hexdigest())


def _unchanged(key: str, item: Item | None) -> Compare:
    return Compare(key, item.revision if item else 0)


def _network(address: str) -> str:
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
        AccountLocked("the account is locked after too many wrong passwords", retry_after_s=wait)
    )


def _later(error: TooMany) -> TooMany:
    """Say in the remedy how long to wait."""
    seconds = max(1, math.ceil(error.retry_after_s))
    spoken = f"{seconds} seconds" if seconds < 120 else f"{math.ceil(seconds / 60)} minutes"
    error.remedy = f"try again in {spoken}"
    return error
