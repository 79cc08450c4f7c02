"""The code beside the password: an app's (RFC 6238), or a recovery code.

The app's secret is sealed under the KEK, recovery codes are kept as hashes. The step of the
last code is written with the session that it opened, so that none opens two.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
from collections import OrderedDict
from dataclasses import dataclass, replace

from cairn_appliance.domain import totp
from cairn_appliance.domain.access import Credentials, TotpRequired, WrongCode
from cairn_appliance.domain.cluster import ACCESS_FORMAT
from cairn_appliance.domain.errors import Clash, Invalid
from cairn_appliance.domain.identity import Actor
from cairn_appliance.pki.sealing import Sealer
from cairn_appliance.services.clock import Clock
from cairn_appliance.services.commit import unchanged, until_committed
from cairn_appliance.services.events import Journal
from cairn_appliance.services.formats import check_writable
from cairn_appliance.store import keys, records
from cairn_appliance.store.port import Item, Put, Store, Unavailable

ISSUER = "Cairn"
_STORE_WITHIN_S = 1.0
_USERS_REMEMBERED = 1000


@dataclass(frozen=True, slots=True)
class Offered:
    """A secret to put into an app; shown this once."""

    secret: str
    uri: str


class SecondFactor:
    """Codes of users: set up, checked, taken away."""

    def __init__(self, store: Store, sealer: Sealer, journal: Journal, now: Clock) -> None:
        self._store = store
        self._sealer = sealer
        self._journal = journal
        self._now = now
        self._last_known: OrderedDict[str, bool] = OrderedDict()

    async def is_on(self, user: str) -> bool:
        """Return whether the user needs a code; as last known while the store is silent.

        For people to see: what opens a session is decided by `accept` alone.
        """
        try:
            async with asyncio.timeout(_STORE_WITHIN_S):
                _, known = await self.read(user)
        except (Unavailable, TimeoutError):
            return self._last_known.get(user, False)
        self._last_known[user] = bool(known.totp)
        self._last_known.move_to_end(user)
        while len(self._last_known) > _USERS_REMEMBERED:
            self._last_known.popitem(last=False)
        return bool(known.totp)

    async def read(self, user: str) -> tuple[Item | None, Credentials]:
        """Return what is kept of the user, and where it was read."""
        item = await self._store.get(keys.credentials(user))
        return item, records.credentials.decode(item) if item else Credentials()

    def accept(self, user: str, known: Credentials, code: str) -> Credentials:
        """Return what to keep once the code has opened; raise TotpRequired or WrongCode."""
        if not known.totp:
            return known
        if not code:
            raise TotpRequired("this account needs a code beside the password")
        tidy = totp.tidy(code)
        if totp.is_totp(tidy):
            secret = self._open(user, known.totp)
            step = totp.matching_step(secret, tidy, now=self._now(), used=known.totp_step)
            if not step:
                raise WrongCode("the code is wrong, or was used before")
            return replace(known, totp_step=step)
        asked = totp.recovery_hash(user, tidy)
        left = tuple(each for each in known.recovery if not hmac.compare_digest(each, asked))
        if len(left) == len(known.recovery):
            raise WrongCode("the code is wrong, or was used before")
        return replace(known, recovery=left)

    async def offer(self, user: str) -> Offered:
        """Draw a secret; it counts once a code of it was confirmed. Raise Clash."""
        await check_writable(self._store, ACCESS_FORMAT, "a code beside the password")
        secret = totp.new_secret()

        async def attempt() -> None:
            item, known = await self.read(user)
            if known.totp:
                raise _is_on()
            await self._write(user, item, replace(known, totp_pending=self._seal(user, secret)))

        await until_committed(attempt)
        return Offered(totp.base32(secret), totp.uri(secret, user, ISSUER))

    async def confirm(self, user: str, code: str, by: Actor) -> tuple[str, ...]:
        """Ask for codes from now on; return the recovery codes, which are shown this once."""
        codes = totp.new_recovery_codes()

        async def attempt() -> None:
            item, known = await self.read(user)
            if known.totp:
                raise _is_on()
            if not known.totp_pending:
                raise Clash("no secret was asked for", "begin with `cairn user totp`")
            secret = self._open(user, known.totp_pending)
            step = totp.matching_step(secret, totp.tidy(code), now=self._now(), used=0)
            if not step:
                raise Invalid(
                    "the code is not one of this secret",
                    "wait for the next code; check the clock of the device that shows it",
                    code="wrong_code",
                )
            hashes = tuple(totp.recovery_hash(user, each) for each in codes)
            on = replace(
                known, totp=known.totp_pending, totp_pending="", totp_step=step, recovery=hashes
            )
            text = f"user {user} needs a code beside the password from now on"
            await self._write(user, item, on, self._journal.entry("totp_enabled", text, by))

        await until_committed(attempt)
        return codes

    async def remove(self, user: str, by: Actor) -> None:
        """Ask for no code any more; nothing happens where none is asked for."""

        async def attempt() -> None:
            item, known = await self.read(user)
            if not known.totp and not known.totp_pending:
                return
            off = replace(known, totp="", totp_pending="", recovery=())
            text = f"user {user} needs no code beside the password any more"
            await self._write(user, item, off, self._journal.entry("totp_removed", text, by))

        await until_committed(attempt)

    async def _write(self, user: str, item: Item | None, value: Credentials, *also: Put) -> None:
        key = keys.credentials(user)
        put = Put(key, records.credentials.encode(value))
        await self._store.commit([unchanged(key, item)], [put, *also])

    def _seal(self, user: str, secret: bytes) -> str:
        return base64.b64encode(self._sealer.seal(_place(user), secret)).decode()

    def _open(self, user: str, sealed: str) -> bytes:
        return self._sealer.open(_place(user), base64.b64decode(sealed))


def _place(user: str) -> str:
    return f"totp/{user}"


def _is_on() -> Clash:
    return Clash(
        "a code is asked for already", "take it away first: `cairn user totp --remove`",
        code="totp_is_on",
    )  # fmt: skip
