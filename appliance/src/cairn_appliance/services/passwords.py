"""Passwords: argon2id, a few at a time."""

from __future__ import annotations

import asyncio
import secrets
from functools import partial

import argon2

from cairn_appliance.domain.access import TooManyLogins

# Each takes 64 MiB and a core for about 0.1 s: more at once would starve the agents' API.
_HASHES_AT_ONCE = 2
_HASHES_WAITING = 16
# No 0, 1, i, l, o: a person may have to type it from a screen.
_PASSWORD_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"
# Of a random password nobody has: an unknown user takes as long as a wrong password.
_NOBODY = (
    "$argon2id$v=19$m=65536,t=3,p=1$fRPKXBZJpUKh2yvPFqYcsw$"
    "Pny8ztUKzadqS8QvSxbjYqclD6YJU/bZDVMoYPv0HfA"
)

_hasher = argon2.PasswordHasher(time_cost=3, memory_cost=65_536, parallelism=1)


def new_password() -> str:
    """Return a random password of 99 bits, made to be typed."""
    parts = ("".join(secrets.choice(_PASSWORD_ALPHABET) for _ in range(5)) for _ in range(4))
    return "-".join(parts)


def hash_password(password: str) -> str:
    """Return the argon2id string (64 MiB, 3 passes, 1 lane); takes about 0.1 s."""
    return _hasher.hash(password)


class Passwords:
    """Hashes and checks without starving everything else; raises TooManyLogins."""

    def __init__(self) -> None:
        self._hashing = asyncio.Semaphore(_HASHES_AT_ONCE)
        self._waiting = 0

    async def hash(self, password: str) -> str:
        """Return what to keep of a password."""
        await self._enter()
        try:
            return await asyncio.to_thread(hash_password, password)
        finally:
            self._leave()

    async def is_right(self, password_hash: str | None, password: str) -> bool:
        """Return whether it is the password; of nobody (None) none is, after as long."""
        await self._enter()
        try:
            check = partial(_is_right, password_hash or _NOBODY, password)
            return await asyncio.to_thread(check) and password_hash is not None
        finally:
            self._leave()

    async def _enter(self) -> None:
        if self._waiting >= _HASHES_WAITING:
            raise TooManyLogins(
                "too many logins at once", "try again in a second", retry_after_s=1.0
            )
        self._waiting += 1
        try:
            await self._hashing.acquire()
        except BaseException:
            self._waiting -= 1
            raise

    def _leave(self) -> None:
        self._hashing.release()
        self._waiting -= 1


def _is_right(password_hash: str, password: str) -> bool:
    try:
        return _hasher.verify(password_hash, password)
    except argon2.exceptions.VerificationError:
        return False
    except argon2.exceptions.InvalidHashError:  # a user without a password
        return False
