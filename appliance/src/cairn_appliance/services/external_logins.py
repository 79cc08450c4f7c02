"""Lets in whom the identity provider vouches for.

Such a user has no password here. Who they are is issuer and subject; the name is only what they
are called: one that somebody else has already is given to nobody, whatever the provider says.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from cairn_appliance.domain.access import SignIn, User, UserDisabled
from cairn_appliance.domain.cluster import ACCESS_FORMAT
from cairn_appliance.domain.identity import Actor, ActorKind
from cairn_appliance.domain.oidc import Identity, OidcNotAllowed, OidcState
from cairn_appliance.services.access import Caller, OpenedSession, new_session
from cairn_appliance.services.clock import Clock
from cairn_appliance.services.commit import unchanged, until_committed
from cairn_appliance.services.events import Journal
from cairn_appliance.services.formats import check_writable
from cairn_appliance.services.second_factor import SecondFactor
from cairn_appliance.services.stored import Stored, read_all
from cairn_appliance.services.users import new_era
from cairn_appliance.store import keys, records
from cairn_appliance.store.port import Compare, Delete, Put, Store

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Entering:
    """The user as of this login; at revision 0 it is the first one."""

    user: User
    before: User | None
    revision: int


class ExternalLogins:
    """Opens sessions of users whom somebody else has checked."""

    def __init__(
        self, store: Store, second_factor: SecondFactor, journal: Journal, now: Clock
    ) -> None:
        self._store = store
        self._kept = second_factor
        self._journal = journal
        self._now = now

    async def open(self, identity: Identity, once: str, caller: Caller) -> OpenedSession:
        """Return a new session; `once` is the key that says that this login has been.

        Raise OidcState where it has, UserDisabled, and OidcNotAllowed where the name is taken.
        """
        await check_writable(self._store, ACCESS_FORMAT, "a user of the identity provider")
        opened = await until_committed(lambda: self._open(identity, once, caller))
        who = opened.principal
        log.info("login user=%s role=%s address=%s by=oidc", who.name, who.role, caller.address)
        return opened

    async def _open(self, identity: Identity, once: str, caller: Caller) -> OpenedSession:
        if await self._store.get(once) is not None:
            raise OidcState("this login was used already")
        entering = await self._entering(identity)
        user = entering.user
        item, known = await self._kept.read(user.name)
        now = self._now()
        fresh = new_session(user, caller, now, SignIn.OIDC)
        key, kept_key = keys.user(user.name), keys.credentials(user.name)
        compares = [
            Compare(once, 0),
            Compare(fresh.key, 0),
            Compare(key, entering.revision),
            unchanged(kept_key, item),
        ]
        writes: list[Put | Delete] = [
            Put(once, str(int(now)).encode()),
            fresh.put,
            Put(kept_key, records.credentials.encode(replace(known, last_login_at=now))),
            *self._entries(entering, caller),
        ]
        if user != entering.before:
            writes.append(Put(key, records.users.encode(user)))
        await self._store.commit(compares, writes)
        return fresh.opened(user)

    async def _entering(self, identity: Identity) -> _Entering:
        known = await read_all(self._store, records.users, keys.USERS)
        found = next((each for each in known if each.value.external == identity.external), None)
        if found is not None:
            return _again(found, identity)
        if any(each.value.name == identity.name for each in known):
            raise OidcNotAllowed(
                f"the name {identity.name} belongs to another user here",
                "an administrator deletes or renames one of the two, or sets another claim for "
                "names: `cairn oidc set`",
                code="oidc_name_taken",
            )
        user = User(
            identity.name,
            identity.role,
            "",
            self._now(),
            era=new_era(),
            external=identity.external,
        )
        return _Entering(user, None, 0)

    def _entries(self, entering: _Entering, caller: Caller) -> list[Put]:
        """Return the events of it."""
        user, before = entering.user, entering.before
        by = Actor(ActorKind.OPERATOR, user.name, caller.address)
        entries = []
        if before is None:
            text = f"user {user.name} came by the identity provider: {user.role}"
            entries.append(self._journal.entry("user_created", text, by))
        elif before.role is not user.role:
            text = (
                f"user {user.name} is {user.role} now, before {before.role}: so the identity "
                "provider says"
            )
            entries.append(self._journal.entry("user_changed", text, by))
        text = f"user {user.name} logged in by the identity provider"
        entries.append(self._journal.entry("logged_in", text, by))
        return entries


def _again(found: Stored[User], identity: Identity) -> _Entering:
    if found.value.disabled:
        raise UserDisabled(f"the user {found.value.name} is disabled")
    return _Entering(replace(found.value, role=identity.role), found.value, found.revision)
