"""API tokens: what programs sign in with, in the name of a user and never above them."""

from __future__ import annotations

import hashlib
import secrets
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from cairn_appliance.domain.access import (
    API_TOKEN_LIFE_MAX_S,
    API_TOKENS_PER_USER,
    ApiToken,
    Principal,
    Role,
    RoleTooLow,
    User,
)
from cairn_appliance.domain.cluster import ACCESS_FORMAT
from cairn_appliance.domain.errors import Clash, Invalid, NotFound
from cairn_appliance.domain.identity import Actor
from cairn_appliance.services import owned
from cairn_appliance.services.clock import Clock
from cairn_appliance.services.commit import until_committed
from cairn_appliance.services.events import Journal
from cairn_appliance.services.formats import check_writable
from cairn_appliance.services.stored import read
from cairn_appliance.store import keys, records
from cairn_appliance.store.port import Compare, Conflict, Delete, Put, Store

PREFIX = "ct1_"
KEPT_AFTER_S = 30 * 86_400.0
NAME_MAX = 64
_SECRET_OCTETS = 32
_KIND = owned.Kind(
    "API token",
    keys.API_TOKENS,
    records.api_tokens,
    "api_token_deleted",
    lambda token: f"API token {token.name} of {token.user} was deleted",
    "cairn api-token list",
)


@dataclass(frozen=True, slots=True)
class ApiTokenView:
    """A token by the ID that people use; its string is not known here."""

    id: str
    token: ApiToken


class ApiTokens:
    """Makes, lists and deletes them; `access.py` lets them in."""

    def __init__(self, store: Store, journal: Journal, now: Clock) -> None:
        self._store = store
        self._journal = journal
        self._now = now

    async def create(
        self, owner: Principal, name: str, scope: Role, life_s: float | None, by: Actor
    ) -> tuple[ApiTokenView, str]:
        """Return the token and its string, which is shown this once; `life_s` None: for ever."""
        _check_name(name)
        if not owner.role.includes(scope):
            raise RoleTooLow(
                f"{owner.name} is {owner.role}, and a token can't have the scope {scope}",
                "choose a scope that is no more than your role",
            )
        if life_s is not None and not 1.0 <= life_s <= API_TOKEN_LIFE_MAX_S:
            raise Invalid("an API token lives from 1 second to ten years, or for ever")
        await check_writable(self._store, ACCESS_FORMAT, "an API token")
        text = PREFIX + secrets.token_urlsafe(_SECRET_OCTETS)
        key = key_of(text)

        async def attempt() -> ApiToken:
            user = await read(self._store, records.users, keys.user(owner.name))
            if user is None:
                raise NotFound(f"there is no user {owner.name!r} any more")
            await self._check_room(owner.name, name)
            now = self._now()
            ends = now + life_s if life_s is not None else 0.0
            token = ApiToken(name, owner.name, user.value.created_at, scope, now, ends)
            said = f"API token {name} of {owner.name} was created: {scope}"
            entry = self._journal.entry("api_token_created", said, by)
            compares = [Compare(key, 0), Compare(keys.user(owner.name), user.revision)]
            await self._store.commit(compares, [Put(key, records.api_tokens.encode(token)), entry])
            return token

        return ApiTokenView(owned.id_of(key), await until_committed(attempt)), text

    async def list(self, owner: str | None = None) -> Sequence[ApiTokenView]:
        """Return the tokens of a user, or of all; expired ones too."""
        return [
            ApiTokenView(owned.id_of(item.key), token)
            for item in (await self._store.list(keys.API_TOKENS)).items
            for token in records.api_tokens.decode_all([item], records.quarantine)
            if owner is None or token.user == owner
        ]

    async def delete(self, token_id: str, by: Actor, *, owner: str | None = None) -> None:
        """Delete a token, of this owner if one is given; it opens nothing from then on."""
        await owned.delete(self._store, self._journal, _KIND, token_id, by, owner)

    async def sweep(self) -> int:
        """Forget tokens whose owner is gone or that expired long ago; return how many."""
        users = {
            user.name: user
            for item in (await self._store.list(keys.USERS)).items
            for user in records.users.decode_all([item], records.quarantine)
        }
        swept = 0
        for item in (await self._store.list(keys.API_TOKENS)).items:
            for token in records.api_tokens.decode_all([item], records.quarantine):
                if not self._is_over(token, users.get(token.user)):
                    continue
                try:
                    await self._store.commit([Compare(item.key, item.revision)], [Delete(item.key)])
                except Conflict:
                    continue  # it was used, or another replica was faster
                swept += 1
        return swept

    def _is_over(self, token: ApiToken, owner: User | None) -> bool:
        if owner is None or owner.created_at != token.user_since:
            return True
        return token.has_expired(self._now() - KEPT_AFTER_S)

    async def _check_room(self, owner: str, name: str) -> None:
        """Raise Clash for a name that is taken, or one token too many."""
        known = await self.list(owner)
        if any(each.token.name == name for each in known):
            raise Clash(
                f"{owner} has an API token {name!r} already",
                "choose another name, or delete the other one",
                code="api_token_exists",
            )
        if len(known) >= API_TOKENS_PER_USER:
            raise Clash(
                f"{owner} has {API_TOKENS_PER_USER} API tokens already",
                "delete those that nothing uses: `cairn api-token list` says when each was used",
                code="too_many_api_tokens",
            )


def key_of(text: str) -> str:
    """Return where the store has the token of this string."""
    return keys.api_token(hashlib.sha256(text.encode()).hexdigest())


def _check_name(name: str) -> None:
    draws = all(unicodedata.category(each)[0] not in "CZ" or each == " " for each in name)
    if not name.strip() or len(name) > NAME_MAX or name != name.strip() or not draws:
        raise Invalid(
            "this can't be the name of an API token",
            f"use 1 to {NAME_MAX} characters that can be seen, such as the name of the program",
        )
