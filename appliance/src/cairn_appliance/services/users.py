"""Users: made, changed and deleted by administrators."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

from cairn_appliance.domain.access import (
    Credentials,
    LastAdmin,
    Role,
    User,
    UserExists,
    check_password,
    check_user_name,
    is_user_name,
)
from cairn_appliance.domain.cluster import ACCESS_FORMAT
from cairn_appliance.domain.errors import Changed, NotFound
from cairn_appliance.domain.identity import Actor
from cairn_appliance.domain.oidc import ExternalUser
from cairn_appliance.services.clock import Clock, wall_clock
from cairn_appliance.services.commit import until_committed
from cairn_appliance.services.events import Journal
from cairn_appliance.services.formats import check_writable
from cairn_appliance.services.guesses import Guesses
from cairn_appliance.services.passwords import Passwords, hash_password, new_password
from cairn_appliance.services.stored import Stored, read, read_all
from cairn_appliance.store import keys, records
from cairn_appliance.store.port import Compare, Conflict, Delete, Put, Store

log = logging.getLogger(__name__)

_ERA_OCTETS = 8


@dataclass(frozen=True, slots=True)
class UserView:
    """A user with what was noticed of them."""

    user: User
    credentials: Credentials
    locked_until: float  # 0: is not locked
    revision: int


@dataclass(frozen=True, slots=True)
class UserChange:
    """What is to change; None: stays. An empty password is drawn."""

    role: Role | None = None
    disabled: bool | None = None
    password: str | None = None


class Users:
    """All there is to do with users but logging in (see access.py)."""

    def __init__(
        self,
        store: Store,
        passwords: Passwords,
        guesses: Guesses,
        journal: Journal,
        now: Clock = wall_clock,
    ) -> None:
        self._store = store
        self._passwords = passwords
        self._guesses = guesses
        self._journal = journal
        self._now = now

    async def list(self) -> Sequence[UserView]:
        """Return all users, by name."""
        locked = await self._guesses.locked_until()
        kept = {
            keys.last_part(item.key): each
            for item in (await self._store.list(keys.CREDENTIALS)).items
            for each in records.credentials.decode_all([item], records.quarantine)
        }
        found = await read_all(self._store, records.users, keys.USERS)
        return [_view(each, kept.get(each.value.name), locked) for each in found]

    async def get(self, name: str) -> UserView:
        """Return a user; raise NotFound."""
        stored = await self._stored(name)
        kept = await read(self._store, records.credentials, keys.credentials(name))
        return _view(stored, kept.value if kept else None, await self._guesses.locked_until())

    async def create(
        self, name: str, role: Role, password: str, by: Actor, *, must_change: bool | None = None
    ) -> str:
        """Make a user; return the password that was drawn, "" where one was given.

        A drawn password has to be changed at the first login unless `must_change` says not.
        """
        check_user_name(name)
        await check_writable(self._store, ACCESS_FORMAT, "a new user")
        drawn = "" if password else new_password()
        kept = await self._passwords.hash(check_password(drawn or password))
        change = bool(drawn) if must_change is None else must_change
        user = User(name, role, kept, self._now(), must_change_password=change, era=new_era())
        entry = self._journal.entry("user_created", f"user {name} was created: {role}", by)
        key = keys.user(name)
        try:
            await self._store.commit(
                [Compare(key, 0)], [Put(key, records.users.encode(user)), entry]
            )
        except Conflict as error:
            raise UserExists(f"there is a user {name!r} already") from error
        return drawn

    async def change(
        self,
        name: str,
        change: UserChange,
        by: Actor,
        *,
        expected: int | None = None,
        also: Put | None = None,
    ) -> str:
        """Change a user; return the password that was drawn. Raise NotFound, LastAdmin, Changed.

        A new password ends the sessions, opens a lock, and has to be changed at the next login.
        `also` is written with the change.
        """
        await check_writable(self._store, ACCESS_FORMAT, "a change of a user")
        drawn = new_password() if change.password == "" else ""
        kept = ""
        if change.password is not None:
            kept = await self._passwords.hash(check_password(drawn or change.password))

        async def attempt() -> None:
            old = await self._stored(name)
            _check_expected(old, expected)
            _check_own(old.value, change)
            new = _changed(old.value, change, kept)
            if new == old.value:
                return
            writes: list[Put | Delete] = [
                Put(keys.user(name), records.users.encode(new)),
                self._journal.entry("user_changed", _told(old.value, new), by),
            ]
            if also:
                writes.append(also)
            if kept:
                writes.append(Delete(keys.login_failures(name)))
            await self._store.commit(await self._compares(old, new), writes)

        await until_committed(attempt)
        return drawn

    async def delete(self, name: str, by: Actor, *, expected: int | None = None) -> None:
        """Delete a user; sessions and API tokens open nothing from then on."""

        async def attempt() -> None:
            old = await self._stored(name)
            _check_expected(old, expected)
            entry = self._journal.entry("user_deleted", f"user {name} was deleted", by)
            deletes = [
                Delete(keys.user(name)),
                Delete(keys.credentials(name)),
                Delete(keys.login_failures(name)),
            ]
            await self._journal.delete(self._store, await self._compares(old, None), deletes, entry)

        await until_committed(attempt)

    async def _compares(self, old: Stored[User], new: User | None) -> Sequence[Compare]:
        """Return what must hold: an administrator stays, whatever others do meanwhile."""
        compares = [Compare(keys.user(old.value.name), old.revision)]
        if not old.value.is_admin or (new is not None and new.is_admin):
            return compares
        users = await read_all(self._store, records.users, keys.USERS)
        others = [
            each for each in users if each.value.is_admin and each.value.name != old.value.name
        ]
        if not others:
            raise LastAdmin(f"{old.value.name} is the last administrator")
        return [*compares, Compare(keys.user(others[0].value.name), others[0].revision)]

    async def _stored(self, name: str) -> Stored[User]:
        found = None
        if is_user_name(name):
            found = await read(self._store, records.users, keys.user(name))
        if found is None:
            raise NotFound(f"there is no user {name[:80]!r}", "look at `cairn user list`")
        return found


async def create_user(
    store: Store,
    name: str,
    password: str,
    role: Role,
    *,
    password_hash: str = "",
    now: Clock = wall_clock,
) -> User:
    """Create a user of a cluster that is being made; raise UserExists.

    A hash takes the place of the password: then nobody here knows it.
    """
    check_user_name(name)
    if not password_hash:
        password_hash = await asyncio.to_thread(hash_password, check_password(password))
    user = User(name, role, password_hash, now(), era=new_era())
    key = keys.user(name)
    try:
        await store.commit([Compare(key, 0)], [Put(key, records.users.encode(user))])
    except Conflict as error:
        raise UserExists(f"there is a user {name!r} already") from error
    log.info("user created user=%s role=%s", name, role)
    return user


def new_era() -> str:
    """Return what marks the sessions that were opened with one password."""
    return secrets.token_hex(_ERA_OCTETS)


def _view(stored: Stored[User], kept: Credentials | None, locked: dict[str, float]) -> UserView:
    until = locked.get(stored.value.name, 0.0)
    return UserView(stored.value, kept or Credentials(), until, stored.revision)


def _changed(user: User, change: UserChange, password_hash: str) -> User:
    changed = replace(
        user,
        role=user.role if change.role is None else change.role,
        disabled=user.disabled if change.disabled is None else change.disabled,
    )
    if password_hash:
        changed = replace(
            changed, password_hash=password_hash, must_change_password=True, era=new_era()
        )
    if changed.disabled and not user.disabled:  # enabled again, sessions of before stay ended
        changed = replace(changed, era=new_era())
    return changed


def _check_own(user: User, change: UserChange) -> None:
    """Raise ExternalUser for what the identity provider decides."""
    if not user.external:
        return
    if change.password is not None:
        raise ExternalUser(f"{user.name} logs in by way of the identity provider")
    if change.role not in (None, user.role):
        raise ExternalUser(f"the role of {user.name} comes from the identity provider")


def _told(old: User, new: User) -> str:
    told = []
    if new.role != old.role:
        told.append(f"is {new.role} now, before {old.role}")
    if new.disabled != old.disabled:
        told.append("is disabled" if new.disabled else "is enabled again")
    if new.password_hash != old.password_hash:
        told.append("has a new password")
    return f"user {old.name} {', '.join(told)}"


def _check_expected(old: Stored[User], expected: int | None) -> None:
    if expected is not None and old.revision != expected:
        raise Changed(f"user {old.value.name} was changed meanwhile")
