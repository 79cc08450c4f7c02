"""Logging in by way of an identity provider: authorization code with PKCE (RFC 7636).

What waits between the button and the way back lies in the browser, sealed: no stranger makes
the store grow, and any replica can go on with what another has begun. It opens once.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import re
import secrets
from dataclasses import dataclass, replace
from urllib.parse import urlencode

import msgspec

from cairn_appliance.domain.access import TooManyLogins
from cairn_appliance.domain.errors import Invalid, TooMany
from cairn_appliance.domain.event import Severity
from cairn_appliance.domain.identity import Actor
from cairn_appliance.domain.oidc import (
    LOGIN_LIFE_S,
    OidcDenied,
    OidcNotSet,
    OidcState,
    OidcUnavailable,
    Provider,
    check_claims,
    identify,
)
from cairn_appliance.pki.errors import PkiError
from cairn_appliance.pki.sealing import Sealer
from cairn_appliance.services.access import Access, Caller, OpenedSession
from cairn_appliance.services.clock import Clock, wall_clock
from cairn_appliance.services.events import Journal
from cairn_appliance.services.external_logins import ExternalLogins
from cairn_appliance.services.guesses import Attempts, network
from cairn_appliance.services.oidc_provider import ProviderLine
from cairn_appliance.services.stored import Stored, read
from cairn_appliance.store import keys, records
from cairn_appliance.store.port import Compare, Conflict, Delete, Put, Store

log = logging.getLogger(__name__)

WITHIN_S = 9.0  # all that is asked of the provider for one login
_BEGUN_ALLOWED, _BEGUN_WINDOW_S = 30, 60.0
_RANDOM_OCTETS = 32
_COOKIE_MAX = 4096
_CODE_MAX = 4096
_SCOPES = ("openid", "profile", "email")
_WAITING = "oidc/waiting"
_ERROR = re.compile(r"[a-z_]{1,64}")  # as the standards have them; anybody can write others
_SWEPT_AFTER_S = LOGIN_LIFE_S + 60.0


class _Waiting(msgspec.Struct, frozen=True):
    """A login on its way, as it lies in the browser's cookie."""

    state: str
    nonce: str
    verifier: str
    issuer: str
    redirect_uri: str
    to: str
    at: float  # seconds since 1970


@dataclass(frozen=True, slots=True)
class Begun:
    """Where the browser goes, and what it keeps until it comes back."""

    url: str
    cookie: str


@dataclass(frozen=True, slots=True)
class Back:
    """What the browser brings back from the provider."""

    state: str
    code: str = ""
    issuer: str = ""  # RFC 9207; not every provider tells it
    error: str = ""


@dataclass(frozen=True, slots=True)
class Entered:
    """A login that came to its end, and the page that was asked for before it."""

    opened: OpenedSession
    to: str


class Oidc:
    """What is set, and the logins by way of it."""

    def __init__(
        self,
        store: Store,
        sealer: Sealer,
        access: Access,
        *,
        now: Clock = wall_clock,
        line: ProviderLine | None = None,
    ) -> None:
        self._store = store
        self._sealer = sealer
        self._access = access
        self._now = now
        self._journal = Journal(now)
        self._line = line or ProviderLine()
        self._logins = ExternalLogins(store, access.second_factor, self._journal, now)
        self._begun = Attempts(_BEGUN_ALLOWED, _BEGUN_WINDOW_S)

    async def get(self) -> Stored[Provider] | None:
        """Return the provider; None where none is set."""
        return await read(self._store, records.providers, keys.OIDC_PROVIDER)

    async def set(
        self, wanted: Provider, secret: str | None, by: Actor, *, expected: int | None = None
    ) -> None:
        """Set the provider; without a secret it keeps the one it has. Raise Invalid, Changed.

        A secret never goes along to another issuer or client: it would be told to a stranger.
        """
        current = await self.get()
        provider = replace(wanted, client_secret=self._sealed(wanted, secret, current))
        revision = current.revision if current else 0
        rules = ", ".join(f"{each.value} is {each.role}" for each in wanted.roles) or "no group"
        others = wanted.default_role or "not let in"
        text = f"people log in by way of {wanted.issuer}: {rules}; others: {others}"
        entry = self._journal.entry("oidc_changed", text[:1000], by, severity=Severity.WARNING)
        compare = Compare(keys.OIDC_PROVIDER, revision if expected is None else expected)
        put = Put(keys.OIDC_PROVIDER, records.providers.encode(provider))
        await self._store.commit([compare], [put, entry])

    async def clear(self, by: Actor, *, expected: int | None = None) -> None:
        """Let nobody in by way of the provider any more; raise OidcNotSet, Changed."""
        current = await self._set_one()
        text = f"nobody logs in by way of {current.value.issuer} any more"
        entry = self._journal.entry("oidc_changed", text, by, severity=Severity.WARNING)
        compare = Compare(keys.OIDC_PROVIDER, current.revision if expected is None else expected)
        await self._journal.delete(self._store, [compare], [Delete(keys.OIDC_PROVIDER)], entry)

    async def test(self) -> int:
        """Ask the provider what a login asks, anew; return how many keys it has."""
        provider = (await self._set_one()).value
        async with asyncio.timeout(WITHIN_S):
            return await self._line.look(provider)

    async def begin(self, redirect_uri: str, to: str, address: str) -> Begun:
        """Return where to go for a login; raise OidcNotSet, OidcUnavailable, TooManyLogins."""
        wait = self._begun.add(network(address), self._now())
        if wait:
            raise _too_many(wait)
        provider = (await self._set_one()).value
        metadata = await self._line.metadata(provider)
        drawn = [secrets.token_urlsafe(_RANDOM_OCTETS) for _ in range(3)]
        state, nonce, verifier = drawn
        waiting = _Waiting(state, nonce, verifier, provider.issuer, redirect_uri, to, self._now())
        query = {
            "response_type": "code",
            "client_id": provider.client_id,
            "redirect_uri": redirect_uri,
            "scope": " ".join(dict.fromkeys((*_SCOPES, *provider.scopes))),
            "state": state,
            "nonce": nonce,
            "code_challenge": _challenge(verifier),
            "code_challenge_method": "S256",
        }
        joint = "&" if "?" in metadata.authorization else "?"
        sealed = self._sealer.seal(_WAITING, msgspec.json.encode(waiting))
        cookie = base64.urlsafe_b64encode(sealed).decode()
        return Begun(f"{metadata.authorization}{joint}{urlencode(query)}", cookie)

    async def finish(self, cookie: str, back: Back, caller: Caller) -> Entered:
        """Open a session for who comes back; raise why not."""
        self._access.limit_address(caller.address)
        provider = (await self._set_one()).value
        waiting = self._waiting(cookie, back.state)
        if waiting.issuer != provider.issuer or back.issuer not in ("", provider.issuer):
            raise OidcState("the login was begun with another identity provider")
        once = keys.oidc_used(hashlib.sha256(waiting.state.encode()).hexdigest())
        if await self._store.get(once) is not None:
            raise OidcState("this login was used already")
        if back.error or not back.code:
            said = back.error if _ERROR.fullmatch(back.error) else "without a word that is known"
            log.warning("the identity provider lets nobody in error=%s", said)
            raise OidcDenied(f"the identity provider did not let you in: {said}")
        try:
            async with asyncio.timeout(WITHIN_S):
                claims = await self._claims(provider, waiting, back.code[:_CODE_MAX])
        except TimeoutError as error:
            raise OidcUnavailable("the identity provider takes too long") from error
        check_claims(claims, provider, nonce=waiting.nonce, begun_at=waiting.at, now=self._now())
        identity = identify(claims, provider)
        return Entered(await self._logins.open(identity, once, caller), waiting.to)

    async def sweep(self) -> int:
        """Forget logins that have been, once nobody could use them again; return how many."""
        swept = 0
        for item in (await self._store.list(keys.OIDC_USED)).items:
            used_at = float(item.value) if item.value.isdigit() else 0.0
            if self._now() - used_at < _SWEPT_AFTER_S:
                continue
            try:
                await self._store.commit([Compare(item.key, item.revision)], [Delete(item.key)])
            except Conflict:
                continue  # another replica was faster
            swept += 1
        return swept

    async def _claims(self, provider: Provider, waiting: _Waiting, code: str) -> dict[str, object]:
        secret = self._opened(provider)
        token = await self._line.exchange(
            provider, secret, code, waiting.verifier, waiting.redirect_uri
        )
        return await self._line.claims(provider, token)

    async def _set_one(self) -> Stored[Provider]:
        stored = await self.get()
        if stored is None:
            raise OidcNotSet("no identity provider is set")
        return stored

    def _waiting(self, cookie: str, state: str) -> _Waiting:
        """Return the login that waits in this browser; raise OidcState."""
        try:
            sealed = base64.urlsafe_b64decode(cookie.encode()) if cookie else b""
            opened = self._sealer.open(_WAITING, sealed) if len(cookie) <= _COOKIE_MAX else b""
            waiting = msgspec.json.decode(opened, type=_Waiting)
        except (PkiError, ValueError, msgspec.MsgspecError) as error:
            raise OidcState("no login was begun in this browser, or another one since") from error
        if not hmac.compare_digest(waiting.state.encode(), state.encode()):
            raise OidcState("this login was not begun in this browser, or another one since")
        if not 0 <= self._now() - waiting.at < LOGIN_LIFE_S:
            raise OidcState("the login took more than ten minutes")
        return waiting

    def _sealed(
        self, wanted: Provider, secret: str | None, current: Stored[Provider] | None
    ) -> str:
        if secret:
            octets = self._sealer.seal(_secret_name(wanted), secret.encode())
            return base64.b64encode(octets).decode()
        before = current.value if current else None
        if secret == "" or before is None or not before.client_secret:
            return ""
        if (before.issuer, before.client_id) != (wanted.issuer, wanted.client_id):
            raise Invalid(
                "the secret of one client is not told to another provider or client",
                "give the new client's secret, or an empty one where it has none",
                code="secret_required",
            )
        return before.client_secret

    def _opened(self, provider: Provider) -> str:
        if not provider.client_secret:
            return ""
        try:
            sealed = base64.b64decode(provider.client_secret)
            return self._sealer.open(_secret_name(provider), sealed).decode()
        except PkiError as error:
            raise OidcUnavailable(
                "the client secret can't be opened", "set it again: `cairn oidc set`"
            ) from error


def _secret_name(provider: Provider) -> str:
    return f"oidc/{provider.issuer} {provider.client_id}"


def _challenge(verifier: str) -> str:
    digest = hashlib.sha256(verifier.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _too_many(wait: float) -> TooMany:
    return TooManyLogins("too many logins from this address", retry_after_s=wait)
