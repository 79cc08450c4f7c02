"""Enrolment tokens: made and deleted by operators, used by new nodes."""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from dataclasses import dataclass, field

from cairn_agent.protocol import token as pasteable

from cairn_appliance.domain.cluster import BOUND_TOKENS_FORMAT
from cairn_appliance.domain.errors import Changed, Invalid, NotFound
from cairn_appliance.domain.identity import Actor, checked_labels, checked_name
from cairn_appliance.domain.token import Token, checked_instances, checked_sources, secret_hash
from cairn_appliance.services.clock import Clock, wall_clock
from cairn_appliance.services.commit import until_committed
from cairn_appliance.services.events import Journal
from cairn_appliance.services.formats import check_writable
from cairn_appliance.services.stored import Stored, read, read_all
from cairn_appliance.services.vsubnets import VSubnets
from cairn_appliance.store import keys, records
from cairn_appliance.store.port import Compare, Conflict, Delete, Put, Store

LIFE_MIN_S, LIFE_MAX_S = 1.0, 366 * 86_400.0
USES_MAX = 100_000
_ID_OCTETS = 8
_SECRET_OCTETS = 32


@dataclass(frozen=True, slots=True)
class TokenOrder:
    """What a token is to allow; `vsubnets` are names, IDs or VNIs."""

    vsubnets: tuple[str, ...] = ()
    max_uses: int = 1
    life_s: float = 86_400.0
    site: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    needs_approval: bool = False
    sources: tuple[str, ...] = ()  # networks; none: nodes may come from anywhere
    instances: tuple[str, ...] = ()  # instance IDs; none: any machine may use it


@dataclass(frozen=True, slots=True)
class Issuer:
    """What every token of the cluster says beside its own ID and secret."""

    appliances: Callable[[], tuple[str, ...]]  # host:port of the agent APIs of now
    pin: Callable[[], str]  # hex SHA-256 of the certificate of the cluster CA that issues now


class Tokens:
    """All there is to do with tokens but enrolling (see enrolment.py)."""

    def __init__(
        self,
        store: Store,
        vsubnets: VSubnets,
        journal: Journal,
        issuer: Issuer,
        clock: Clock = wall_clock,
    ) -> None:
        self._store = store
        self._vsubnets = vsubnets
        self._journal = journal
        self._issuer = issuer
        self._clock = clock

    async def create(self, order: TokenOrder, by: Actor) -> tuple[Stored[Token], str]:
        """Return the token and its pasteable string, which is shown this once only."""
        _check(order)
        sources = checked_sources(order.sources)
        instances = checked_instances(order.instances)
        if sources or instances:
            await check_writable(self._store, BOUND_TOKENS_FORMAT, "a token for some nodes only")
        vsubnets = [(await self._vsubnets.get(name)).value.id for name in order.vsubnets]
        token_id = os.getrandom(_ID_OCTETS).hex()
        secret = base64.urlsafe_b64encode(os.getrandom(_SECRET_OCTETS)).rstrip(b"=").decode()
        now = self._clock()
        token = Token(
            id=token_id,
            secret_hash=secret_hash(token_id, secret),
            created_at=now,
            created_by=by.name,
            expires_at=now + order.life_s,
            max_uses=order.max_uses,
            site=order.site,
            labels=order.labels,
            vsubnets=tuple(dict.fromkeys(vsubnets)),
            needs_approval=order.needs_approval,
            pin=self._issuer.pin(),
            sources=sources,
            instances=instances,
        )
        key = keys.token(token_id)
        entry = self._journal.entry(
            "token_created", f"token {token_id} was created", by, token=token_id
        )
        put = Put(key, records.tokens.encode(token))
        revision = await self._store.commit([Compare(key, 0)], [put, entry])
        text = pasteable.Token(list(self._issuer.appliances()), token.pin, token_id, secret)
        return Stored(token, revision), pasteable.encode_token(text)

    async def list(self) -> tuple[Stored[Token], ...]:
        """Return all tokens, newest first, expired and used-up ones too."""
        found = await read_all(self._store, records.tokens, keys.TOKENS)
        return tuple(sorted(found, key=lambda stored: stored.value.created_at, reverse=True))

    async def get(self, token_id: str) -> Stored[Token]:
        """Return a token; raise NotFound."""
        try:
            found = await read(self._store, records.tokens, keys.token(token_id))
        except ValueError:
            found = None
        if found is None:
            raise NotFound(f"there is no token {token_id[:80]!r}", "look at `cairn token list`")
        return found

    async def delete(self, token_id: str, by: Actor, *, expected: int | None = None) -> None:
        """Delete a token: nobody can enrol with it any more. Raise NotFound, Changed."""

        async def attempt() -> None:
            old = await self.get(token_id)
            if expected is not None and old.revision != expected:
                raise Changed(f"token {token_id} was changed or used meanwhile")
            key = keys.token(token_id)
            entry = self._journal.entry(
                "token_deleted", f"token {token_id} was deleted", by, token=token_id
            )
            compare = Compare(key, old.revision)
            await self._journal.delete(self._store, [compare], [Delete(key)], entry)

        await until_committed(attempt)

    async def tidy(self, keep_s: float = 30 * 86_400.0) -> None:
        """Delete tokens that ended long ago."""
        now = self._clock()
        for stored in await self.list():
            if stored.value.expires_at + keep_s < now:
                key = keys.token(stored.value.id)
                try:
                    await self._store.commit([Compare(key, stored.revision)], [Delete(key)])
                except Conflict:
                    continue  # another replica was faster


def _check(order: TokenOrder) -> None:
    if not 1 <= order.max_uses <= USES_MAX:
        raise Invalid(f"a token has 1 to {USES_MAX} uses, not {order.max_uses}")
    if not LIFE_MIN_S <= order.life_s <= LIFE_MAX_S:
        raise Invalid("a token lives from 1 second to 366 days")
    if order.site:
        checked_name(order.site, "site")
    checked_labels(order.labels)
