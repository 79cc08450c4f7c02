"""Logging in and out, and who is asking.

Passwords are kept as argon2id, session and API tokens as SHA-256: the store alone opens nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
import unicodedata
from collections import OrderedDict
from dataclasses import dataclass, replace

from cairn_appliance.domain.access import (
    SESSION_TOUCH_S,
    ApiToken,
    Credentials,
    PasswordChangeNeeded,
    Principal,
    Session,
    SessionEnded,
    SignIn,
    TotpRequired,
    User,
    UserDisabled,
    WrongCode,
    WrongLogin,
    WrongPassword,
    check_password,
    is_user_name,
    lower,
)
from cairn_appliance.domain.cluster import ACCESS_FORMAT
from cairn_appliance.domain.errors import Invalid
from cairn_appliance.domain.identity import Actor, ActorKind
from cairn_appliance.pki.sealing import Sealer
from cairn_appliance.services import api_tokens, owned
from cairn_appliance.services.api_tokens import ApiTokens
from cairn_appliance.services.clock import Clock, wall_clock
from cairn_appliance.services.commit import unchanged, until_committed
from cairn_appliance.services.events import Journal
from cairn_appliance.services.formats import check_writable
from cairn_appliance.services.guesses import Guesses
from cairn_appliance.services.passwords import Passwords
from cairn_appliance.services.second_factor import SecondFactor
from cairn_appliance.services.stored import Stored, read
from cairn_appliance.services.users import Users, new_era
from cairn_appliance.store import keys, records
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

log = logging.getLogger(__name__)


SESSION_TOKEN_PREFIX = "cs1_"
_SESSION_TOKEN_OCTETS = 32
_SEEN_MAX = 1000
_STORE_WITHIN_S = 1.0  # and a store call after it ends before the gate cuts it off
_CLIENT_MAX = 120  # characters of what a browser calls itself
_SESSION = owned.Kind(
    "session",
    keys.SESSIONS,
    records.sessions,
    "session_ended",
    lambda session: f"a session of user {session.user} was ended",
    "cairn session list",
)


@dataclass(frozen=True, slots=True)
class Caller:
    """Where a login comes from."""

    address: str
    client: str = ""  # as the browser or command names itself


@dataclass(frozen=True, slots=True)
class OpenedSession:
    """A new session with its token, which is told only once."""

    token: str
    principal: Principal


@dataclass(frozen=True, slots=True)
class NewSession:
    """A session that is about to be written."""

    token: str
    key: str
    session: Session

    @property
    def put(self) -> Put:
        """Return the write of it."""
        return Put(self.key, records.sessions.encode(self.session))

    def opened(self, user: User) -> OpenedSession:
        """Return it once it is written."""
        return OpenedSession(self.token, _principal(self.key, user, self.session))


@dataclass(frozen=True, slots=True)
class SessionView:
    """A session by the ID that people use."""

    id: str
    session: Session


class Access:
    """Logs in and out, and tells who is asking."""

    def __init__(self, store: Store, sealer: Sealer, *, now: Clock = wall_clock) -> None:
        self._store = store
        self._now = now
        self._journal = Journal(now)
        self._passwords = Passwords()
        self._guesses = Guesses(store, self._journal, now)
        self._seen: OrderedDict[str, Principal] = OrderedDict()
        self.second_factor = SecondFactor(store, sealer, self._journal, now)
        self.users = Users(store, self._passwords, self._guesses, self._journal, now)
        self.api_tokens = ApiTokens(store, self._journal, now)

    async def login(
        self, name: str, password: str, caller: Caller, code: str = ""
    ) -> OpenedSession:
        """Open a session; raise WrongLogin, TotpRequired, or TooMany after too many guesses."""
        self.limit_address(caller.address)
        user, failures = await self._proven(name, password, caller.address)
        if user.disabled:
            raise UserDisabled(f"the user {name} is disabled")
        try:
            opened = await until_committed(lambda: self._open(user, code, caller))
        except WrongCode:
            log.warning("login refused for its code user=%s address=%s", name, caller.address)
            await self._guesses.tell_if_locked(failures, name, caller.address)
            raise
        log.info("login user=%s role=%s address=%s", name, user.role, caller.address)
        return opened

    def limit_address(self, address: str) -> None:
        """Count an attempt to log in from an address; raise TooManyLogins."""
        self._guesses.limit_address(address)

    async def check_own_password(self, principal: Principal, password: str, address: str) -> User:
        """Return the user whose session it is if they know the password; raise WrongPassword."""
        try:
            user, _ = await self._proven(principal.name, password, address)
        except WrongLogin as error:
            raise WrongPassword("the password is wrong") from error
        await self._store.commit([], [Delete(keys.login_failures(user.name))])
        return user

    async def authenticate(self, token: str, *, touch: bool = True) -> Principal:
        """Return who holds the token; raise SessionEnded if it opens nothing (any more).

        While the store gives no answer, a session that was seen here before goes on: its
        holder must be able to see what is wrong. No write succeeds meanwhile anyhow.
        """
        is_api_token = token.startswith(api_tokens.PREFIX)
        key = api_tokens.key_of(token) if is_api_token else _session_key(token)
        known = self._seen.get(key)
        enter = self._enter_by_api_token if is_api_token else self._enter_by_session
        try:
            async with asyncio.timeout(_STORE_WITHIN_S if known else None):
                principal = await enter(key, touch)
        except (Unavailable, TimeoutError):
            if known is None or (known.ends_at and self._now() >= known.ends_at):
                raise
            return known
        except SessionEnded:
            self._seen.pop(key, None)
            raise
        self._remember(key, principal)
        return principal

    async def logout(self, token: str) -> None:
        """End the session; nothing happens where there is none."""
        key = _session_key(token)
        self._seen.pop(key, None)
        item = await self._store.get(key)
        if item is not None:
            await self._drop(item)

    async def change_password(
        self, token: str, principal: Principal, old: str, new: str, address: str
    ) -> None:
        """Change the own password; all other sessions of the user end."""
        await check_writable(self._store, ACCESS_FORMAT, "a new password")
        user = await self.check_own_password(principal, old, address)
        if check_password(new) == old:
            raise Invalid("the new password is the old one", "choose another one")
        password_hash = await self._passwords.hash(new)
        by = Actor(ActorKind.OPERATOR, user.name, address)

        async def attempt() -> None:
            stored = await self._same(user)
            session = await self._store.get(_session_key(token))
            if session is None:
                raise SessionEnded("the session has ended")
            era = new_era()
            changed = replace(
                stored.value, password_hash=password_hash, must_change_password=False, era=era
            )
            kept = replace(records.sessions.decode(session), era=era)
            key = keys.user(user.name)
            text = f"user {user.name} has changed the own password"
            writes = [
                Put(key, records.users.encode(changed)),
                Put(session.key, records.sessions.encode(kept)),
                self._journal.entry("password_changed", text, by),
            ]
            compares = [Compare(key, stored.revision), Compare(session.key, session.revision)]
            await self._store.commit(compares, writes)

        await until_committed(attempt)

    async def sessions(self, user: str | None = None) -> list[SessionView]:
        """Return the open sessions of a user, or of all."""
        users = {
            each.name: each
            for item in (await self._store.list(keys.USERS)).items
            for each in records.users.decode_all([item], records.quarantine)
        }
        return [
            SessionView(owned.id_of(item.key), session)
            for item in (await self._store.list(keys.SESSIONS)).items
            for session in records.sessions.decode_all([item], records.quarantine)
            if user in (None, session.user) and self._is_open(session, users.get(session.user))
        ]

    async def end_session(self, session_id: str, by: Actor, *, owner: str | None = None) -> None:
        """End a session, of this owner if one is given; raise NotFound."""
        await owned.delete(self._store, self._journal, _SESSION, session_id, by, owner)

    async def sweep(self) -> int:
        """Forget what has ended and failures that no longer count; return how many."""
        swept = 0
        for item in (await self._store.list(keys.SESSIONS)).items:
            for session in records.sessions.decode_all([item], records.quarantine):
                user = await self._user(session.user)
                is_open = self._is_open(session, user.value if user else None)
                swept += not is_open and await self._drop(item)
        return swept + await self._guesses.sweep() + await self.api_tokens.sweep()

    async def _proven(self, name: str, password: str, address: str) -> tuple[User, int]:
        """Return the user that the password is of, and the failures counted with this attempt."""
        stored = await self._user(name)
        user = stored.value if stored else None
        count = await self._guesses.count(name) if user else self._guesses.count_stranger(name)
        right = await self._passwords.is_right(user.password_hash if user else None, password)
        if user and right:
            return user, count
        log.warning("login refused user=%s address=%s", user.name if user else "?", address)
        if user:
            await self._guesses.tell_if_locked(count, user.name, address)
        raise WrongLogin("the name or the password is wrong")

    async def _open(self, user: User, code: str, caller: Caller) -> OpenedSession:
        """Write the session with the code that was used, and forget the failures with it."""
        stored = await self._same(user)
        item, known = await self.second_factor.read(user.name)
        now = self._now()
        kept = replace(self._accepted(user, known, code), last_login_at=now)
        fresh = new_session(user, caller, now)
        kept_key = keys.credentials(user.name)
        by = Actor(ActorKind.OPERATOR, user.name, caller.address)
        text = f"user {user.name} logged in"
        if len(kept.recovery) < len(known.recovery):
            text += f" with a recovery code; {len(kept.recovery)} are left"
        compares = [
            Compare(fresh.key, 0),
            Compare(keys.user(user.name), stored.revision),
            unchanged(kept_key, item),
        ]
        writes: list[Put | Delete] = [
            fresh.put,
            Put(kept_key, records.credentials.encode(kept)),
            Delete(keys.login_failures(user.name)),
            self._journal.entry("logged_in", text, by),
        ]
        await self._store.commit(compares, writes)
        return fresh.opened(stored.value)

    def _accepted(self, user: User, known: Credentials, code: str) -> Credentials:
        try:
            return self.second_factor.accept(user.name, known, code)
        except TotpRequired:
            log.info("login waits for a code user=%s", user.name)
            raise

    async def _same(self, user: User) -> Stored[User]:
        """Return the user as of now; raise WrongLogin if the password was changed meanwhile."""
        stored = await self._user(user.name)
        if stored is None or stored.value.password_hash != user.password_hash:
            raise WrongLogin("the name or the password is wrong")
        if stored.value.disabled:
            raise UserDisabled(f"the user {user.name} is disabled")
        return stored

    async def _enter_by_session(self, key: str, touch: bool) -> Principal:
        item = await self._store.get(key)
        if item is None:
            raise SessionEnded("the session is unknown or has ended")
        session = records.sessions.decode(item)
        stored = await self._user(session.user)
        if stored is None or not self._is_open(session, stored.value):
            await self._drop(item)
            raise SessionEnded("the session has ended")
        now = self._now()
        if touch and now - session.seen_at >= SESSION_TOUCH_S:
            session = replace(session, seen_at=now)
            await self._touch(item, records.sessions.encode(session), session.user)
        return _principal(key, stored.value, session)

    async def _enter_by_api_token(self, key: str, touch: bool) -> Principal:
        item = await self._store.get(key)
        if item is None:
            raise SessionEnded("the API token is unknown or was deleted", _NEW_API_TOKEN)
        token = records.api_tokens.decode(item)
        stored = await self._user(token.user)
        user = stored.value if stored else None
        now = self._now()
        if user is None or user.created_at != token.user_since or user.disabled:
            raise SessionEnded("the owner of the API token is gone or disabled", _NEW_API_TOKEN)
        if token.has_expired(now):
            raise SessionEnded("the API token has expired", _NEW_API_TOKEN)
        if touch and now - token.last_used_at >= SESSION_TOUCH_S:
            used = records.api_tokens.encode(replace(token, last_used_at=now))
            await self._touch(item, used, token.user)
        return _principal_of_token(key, user, token)

    def _is_open(self, session: Session, user: User | None) -> bool:
        if user is None or user.disabled or user.era != session.era:
            return False
        return self._now() < session.ends_at

    def _remember(self, key: str, principal: Principal) -> None:
        self._seen[key] = principal
        self._seen.move_to_end(key)
        while len(self._seen) > _SEEN_MAX:
            self._seen.popitem(last=False)

    async def _touch(self, item: Item, value: bytes, user: str) -> None:
        try:
            await self._store.commit([Compare(item.key, item.revision)], [Put(item.key, value)])
        except Conflict:  # another request did it, or ended it
            log.debug("touched meanwhile user=%s", user)
        except Full:  # what there is can be read all the same
            log.info("session not extended: the store is full user=%s", user)

    async def _drop(self, item: Item) -> bool:
        try:
            await self._store.commit([Compare(item.key, item.revision)], [Delete(item.key)])
        except Conflict:  # someone was faster, or it is in use again
            return False
        return True

    async def _user(self, name: str) -> Stored[User] | None:
        if not is_user_name(name):
            return None
        return await read(self._store, records.users, keys.user(name))


_NEW_API_TOKEN = "make a new one: `cairn api-token create`"


def new_session(
    user: User, caller: Caller, now: float, kind: SignIn = SignIn.PASSWORD
) -> NewSession:
    """Return a session of the user that is not written yet."""
    token = SESSION_TOKEN_PREFIX + secrets.token_urlsafe(_SESSION_TOKEN_OCTETS)
    session = Session(user.name, now, now, caller.address, _drawn(caller.client), user.era, kind)
    return NewSession(token, _session_key(token), session)


def check_password_changed(principal: Principal) -> None:
    """Raise PasswordChangeNeeded where someone else knows the password."""
    if principal.must_change_password:
        raise PasswordChangeNeeded(f"{principal.name} has to change the password first")


def _principal(key: str, user: User, session: Session) -> Principal:
    return Principal(
        user.name,
        user.role,
        owned.id_of(key),
        session.created_at,
        session.ends_at,
        session.kind,
        must_change_password=user.must_change_password and session.kind is SignIn.PASSWORD,
    )


def _principal_of_token(key: str, user: User, token: ApiToken) -> Principal:
    role = lower(user.role, token.scope)
    identifier = owned.id_of(key)
    return Principal(
        user.name,
        role,
        identifier,
        token.created_at,
        token.expires_at,
        SignIn.API_TOKEN,
        token.name,
    )


def _session_key(token: str) -> str:
    return keys.session(hashlib.sha256(token.encode()).hexdigest())


def _drawn(text: str) -> str:
    """Return what can be seen of a text that a stranger chose."""
    return "".join(each for each in text if unicodedata.category(each)[0] != "C")[:_CLIENT_MAX]
