"""Idempotency keys: a request that is sent again is answered again, not done again.

The answer is kept for a day, sealed under the client's key, of which the store holds a
hash only: an answer may hold an enrolment token, and the store alone must not give it away.
"""

from __future__ import annotations

import hashlib
import logging
import os
from dataclasses import dataclass

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cairn_appliance.domain.errors import Clash, Invalid
from cairn_appliance.services.clock import Clock, wall_clock
from cairn_appliance.store import keys
from cairn_appliance.store.codec import Codec
from cairn_appliance.store.port import Compare, Conflict, Delete, Item, Put, Store
from cairn_appliance.store.records import quarantine

log = logging.getLogger(__name__)

KEPT_S = 86_400.0
# A request ends within 15 s; one that is open for longer died with its replica.
ABANDONED_AFTER_S = 60.0
KEY_MIN_CHARACTERS, KEY_MAX_CHARACTERS = 16, 128
_NONCE_OCTETS = 12


class KeyReused(Invalid):
    """The key came before, with another request."""

    code = "idempotency_key_reused"
    remedy = "use a new Idempotency-Key for each new request"


class StillRunning(Clash):
    """The first request with this key has no answer yet."""

    code = "request_in_progress"
    remedy = "repeat the request in a second to get its answer"


class Answer(msgspec.Struct, frozen=True):
    """What was answered, to be answered again."""

    status: int
    headers: list[tuple[str, str]]
    body: str


@dataclass(frozen=True, slots=True)
class _Record:
    request: str  # hex SHA-256 of what was asked
    started_at: float
    sealed: str = ""  # hex; empty: no answer yet


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to do a request, once."""

    key: str
    client_key: str
    record: _Record
    revision: int


_records = Codec(_Record)


class Idempotency:
    """Remembers the answers to requests that carried a key."""

    def __init__(self, store: Store, *, now: Clock = wall_clock) -> None:
        self._store = store
        self._now = now

    async def begin(self, who: str, client_key: str, request: bytes) -> Claim | Answer:
        """Return the answer given before, or the claim to do the request now.

        Raises KeyReused for another request with the key, StillRunning while the first runs.
        """
        _check_key(client_key)
        key = keys.idempotency(hashlib.sha256(f"{who}\0{client_key}".encode()).hexdigest())
        digest = hashlib.sha256(request).hexdigest()
        item = await self._store.get(key)
        if item is not None:
            known = _records.decode(item)
            if not self._is_over(known):
                return _answered(item.key, known, client_key, digest)
        return await self._claim(key, client_key, _Record(digest, self._now()), item)

    async def finish(self, claim: Claim, answer: Answer) -> None:
        """Keep the answer for those who ask again."""
        sealed = _Seal(claim.client_key, claim.key).seal(msgspec.json.encode(answer))
        record = _Record(claim.record.request, claim.record.started_at, sealed.hex())
        try:
            await self._store.commit(
                [Compare(claim.key, claim.revision)], [Put(claim.key, _records.encode(record))]
            )
        except Conflict:
            log.warning("answer not kept: the request ran for too long and was begun again")

    async def abandon(self, claim: Claim) -> None:
        """Let the next one try: nothing was done."""
        try:
            await self._store.commit([Compare(claim.key, claim.revision)], [Delete(claim.key)])
        except Conflict:
            log.debug("claim was taken over already")

    async def sweep(self) -> int:
        """Forget what is older than a day; return how many."""
        swept = 0
        for item in (await self._store.list(keys.IDEMPOTENCY)).items:
            if any(map(self._is_over, _records.decode_all([item], quarantine))):
                try:
                    await self._store.commit([Compare(item.key, item.revision)], [Delete(item.key)])
                except Conflict:
                    continue
                swept += 1
        return swept

    async def _claim(
        self, key: str, client_key: str, record: _Record, item: Item | None
    ) -> Claim | Answer:
        compare = Compare(key, item.revision if item else 0)
        try:
            revision = await self._store.commit([compare], [Put(key, _records.encode(record))])
        except Conflict as error:
            raise StillRunning("the same request came at the same time") from error
        return Claim(key, client_key, record, revision)

    def _is_over(self, record: _Record) -> bool:
        age = self._now() - record.started_at
        return age > (KEPT_S if record.sealed else ABANDONED_AFTER_S)


def _answered(key: str, record: _Record, client_key: str, digest: str) -> Answer:
    if record.request != digest:
        raise KeyReused("the Idempotency-Key came before, with another request")
    if not record.sealed:
        raise StillRunning("the first request with this Idempotency-Key is still running")
    octets = _Seal(client_key, key).open(bytes.fromhex(record.sealed))
    return msgspec.json.decode(octets, type=Answer)


def _check_key(client_key: str) -> None:
    fits = KEY_MIN_CHARACTERS <= len(client_key) <= KEY_MAX_CHARACTERS
    if not fits or not client_key.isascii() or not client_key.isprintable():
        raise Invalid(
            "the Idempotency-Key can't be used",
            f"send {KEY_MIN_CHARACTERS} to {KEY_MAX_CHARACTERS} printable characters, "
            "random ones: a UUID is right",
            code="invalid_idempotency_key",
        )


@dataclass(frozen=True, slots=True)
class _Seal:
    client_key: str
    key: str

    def seal(self, octets: bytes) -> bytes:
        nonce = os.urandom(_NONCE_OCTETS)
        return nonce + self._aead().encrypt(nonce, octets, self.key.encode())

    def open(self, sealed: bytes) -> bytes:
        nonce, rest = sealed[:_NONCE_OCTETS], sealed[_NONCE_OCTETS:]
        try:
            return self._aead().decrypt(nonce, rest, self.key.encode())
        except InvalidTag as error:
            raise KeyReused("the answer kept for this Idempotency-Key is damaged") from error

    def _aead(self) -> AESGCM:
        salt = self.key.encode()
        kdf = HKDF(SHA256(), length=32, salt=salt, info=b"cairn-idempotency-1")
        return AESGCM(kdf.derive(self.client_key.encode()))
