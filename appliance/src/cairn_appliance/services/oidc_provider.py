"""Talks to the identity provider: what it says of itself, its keys, and a code for a token.

Every answer is bounded in time and size, no redirect is followed, and nothing goes out but by
TLS. What the provider says of itself is kept for an hour, its keys until a token names another
one; who guesses key names makes nobody ask more often than twice a minute.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import httpx
from cairn_agent.http_transport import HttpTransport

import cairn_appliance
from cairn_appliance.domain.oidc import OidcDenied, OidcUnavailable, Provider
from cairn_appliance.services import id_token
from cairn_appliance.services.clock import Clock
from cairn_appliance.services.receivers import trusting, unbelieved

log = logging.getLogger(__name__)

WITHIN_S = 4.0  # one answer; the API has 11 s for a request that needs three
_SILENCE_S = 3.0  # less than that, so that the client itself closes what it has opened
KEPT_S = 3600.0
KEYS_AGAIN_S = 30.0
FAILURE_KEPT_S = 3.0  # so that strangers at the login page are no load for the provider
_OCTETS_MAX = 262_144
_KEYS_MAX = 64
_WELL_KNOWN = "/.well-known/openid-configuration"

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Metadata:
    """What the provider says of itself (OpenID Connect Discovery 3)."""

    authorization: str
    token: str
    keys: str
    is_basic: bool  # the client shows its secret by HTTP Basic, else in the body


@dataclass(slots=True)
class _Kept:
    """What is known of one provider."""

    context: ssl.SSLContext
    metadata: Metadata | None = None
    metadata_at: float = 0.0
    keys: Sequence[Mapping[str, Any]] = ()
    keys_at: float = 0.0
    failure: OidcUnavailable | None = None
    failed_at: float = 0.0
    asking: asyncio.Lock = field(default_factory=asyncio.Lock)


class ProviderLine:
    """Leads to the provider that is set; what is kept of another one is forgotten."""

    def __init__(self, monotonic: Clock = time.monotonic) -> None:
        self._now = monotonic
        self._of: tuple[str, str] = ("", "")
        self._kept: _Kept | None = None

    async def metadata(self, provider: Provider) -> Metadata:
        """Return what the provider says of itself; raise OidcUnavailable."""
        kept = self._known(provider)
        async with kept.asking:
            now = self._now()
            if kept.metadata is not None and now - kept.metadata_at < KEPT_S:
                return kept.metadata
            if kept.failure is not None and now - kept.failed_at < FAILURE_KEPT_S:
                raise OidcUnavailable(kept.failure.cause)
            try:
                kept.metadata = await self._discover(provider, kept)
            except OidcUnavailable as error:
                kept.failure, kept.failed_at = error, self._now()
                raise
            kept.failure, kept.metadata_at = None, self._now()
            return kept.metadata

    async def claims(self, provider: Provider, token: str) -> dict[str, Any]:
        """Return what a token says that the provider has signed; raise OidcToken."""
        keys = await self._keys(provider)
        try:
            return id_token.verified(token, keys)
        except id_token.UnknownKey:
            fresh = await self._keys(provider, is_unknown=True)
            return id_token.verified(token, fresh)

    async def exchange(
        self, provider: Provider, secret: str, code: str, verifier: str, redirect_uri: str
    ) -> str:
        """Return the ID token that a code is good for; raise OidcDenied, OidcUnavailable."""
        metadata = await self.metadata(provider)
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "code_verifier": verifier,
        }
        headers = {}
        if secret and metadata.is_basic:
            headers["Authorization"] = _basic(provider.client_id, secret)
        else:
            form["client_id"] = provider.client_id
            if secret:
                form["client_secret"] = secret
        kept = self._known(provider)
        status, answer = await _ask(kept.context, "POST", metadata.token, form, headers)
        if status in (400, 401, 403):
            log.warning("the identity provider refuses a code error=%r", answer.get("error"))
            raise OidcDenied(
                f"the identity provider refuses the login: {_told(answer.get('error'))}",
                "begin again; if it stays, an administrator compares client ID, secret and "
                "redirect address with the provider's",
            )
        token = answer.get("id_token")
        if status != 200 or not isinstance(token, str):
            raise OidcUnavailable(f"the identity provider answered {status}, without an ID token")
        return token

    async def look(self, provider: Provider) -> int:
        """Ask anew for all of it and return how many keys there are; raise OidcUnavailable."""
        self._kept = None
        return len(await self._keys(provider))

    async def _keys(
        self, provider: Provider, *, is_unknown: bool = False
    ) -> Sequence[Mapping[str, Any]]:
        """Return the provider's keys; asked again where one is unknown, not too often."""
        metadata = await self.metadata(provider)
        kept = self._known(provider)
        async with kept.asking:
            age = self._now() - kept.keys_at
            if kept.keys and age < (KEYS_AGAIN_S if is_unknown else KEPT_S):
                return kept.keys
            status, answer = await _ask(kept.context, "GET", metadata.keys)
            found = answer.get("keys")
            if status != 200 or not isinstance(found, list):
                raise OidcUnavailable(f"the identity provider's keys can't be read ({status})")
            kept.keys = [each for each in found[:_KEYS_MAX] if isinstance(each, dict)]
            kept.keys_at = self._now()
            return kept.keys

    def _known(self, provider: Provider) -> _Kept:
        if self._kept is None or self._of != (provider.issuer, provider.ca):
            self._of = (provider.issuer, provider.ca)
            self._kept = _Kept(trusting(provider.ca))
        return self._kept

    async def _discover(self, provider: Provider, kept: _Kept) -> Metadata:
        url = provider.issuer.removesuffix("/") + _WELL_KNOWN
        status, answer = await _ask(kept.context, "GET", url)
        if status != 200:
            raise OidcUnavailable(
                f"{url} answered {status}", "correct the issuer: `cairn oidc set`"
            )
        if answer.get("issuer") != provider.issuer:
            raise OidcUnavailable(
                f"the identity provider calls itself {_told(answer.get('issuer'))}, not "
                f"{provider.issuer}",
                "set the issuer exactly as the provider has it: `cairn oidc set`",
            )
        algorithms = answer.get("id_token_signing_alg_values_supported")
        if isinstance(algorithms, list) and id_token.ALGORITHMS.keys().isdisjoint(algorithms):
            raise OidcUnavailable(
                f"the identity provider signs with none of {', '.join(id_token.ALGORITHMS)}",
                "let it sign ID tokens of this client with one of them",
            )
        ways = answer.get("token_endpoint_auth_methods_supported")
        return Metadata(
            _endpoint(answer, "authorization_endpoint"),
            _endpoint(answer, "token_endpoint"),
            _endpoint(answer, "jwks_uri"),
            is_basic=not isinstance(ways, list) or "client_secret_basic" in ways,
        )


async def _ask(
    context: ssl.SSLContext,
    method: str,
    url: str,
    form: Mapping[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, dict[str, Any]]:
    """Return status and JSON object of an answer, {} where it is none."""
    host = urlsplit(url).netloc
    agent = {"User-Agent": f"cairn/{cairn_appliance.__version__}", "Accept": "application/json"}
    try:
        async with (
            asyncio.timeout(WITHIN_S),
            httpx.AsyncClient(
                transport=HttpTransport(verify=context, trust_env=False),
                follow_redirects=False,
                trust_env=False,
                timeout=_SILENCE_S,
            ) as client,
            client.stream(method, url, data=form, headers={**agent, **(headers or {})}) as answer,
        ):
            body = bytearray()
            async for octets in answer.aiter_bytes():
                body += octets
                if len(body) > _OCTETS_MAX:
                    raise OidcUnavailable(f"the identity provider at {host} answers without end")
            return answer.status_code, _object(bytes(body))
    except TimeoutError as error:
        raise _unreached(host, f"no answer within {WITHIN_S:.0f} s") from error
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, RuntimeError) as error:
        if isinstance(error, httpx.TimeoutException):
            raise _unreached(host, f"no answer within {_SILENCE_S:.0f} s") from error
        if (why := unbelieved(error)) is not None:
            raise OidcUnavailable(
                f"the certificate of the identity provider at {host} is not believed: {why}",
                "give the CA that it is from: `cairn oidc set --ca FILE`",
            ) from error
        raise _unreached(host, str(error) or type(error).__name__) from error


def _unreached(host: str, why: str) -> OidcUnavailable:
    return OidcUnavailable(f"the identity provider at {host} can't be asked: {why.rstrip('.')}")


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _endpoint(answer: Mapping[str, Any], name: str) -> str:
    url = answer.get(name)
    if isinstance(url, str) and is_https(url):
        return url
    raise OidcUnavailable(f"the identity provider tells no https address as {name}")


def is_https(url: str) -> bool:
    """Return whether it is an https URL without a password in it."""
    try:
        parts = urlsplit(url)
        is_all = bool(parts.hostname) and parts.scheme == "https" and parts.port != 0
    except ValueError:
        return False
    shows = url.isascii() and url.isprintable() and " " not in url and not parts.fragment
    return is_all and shows and parts.username is None and len(url) <= 1024


def _basic(client_id: str, secret: str) -> str:
    """Return HTTP Basic as OAuth has it: both parts are encoded first (RFC 6749, 2.3.1)."""
    both = f"{quote(client_id, safe='')}:{quote(secret, safe='')}"
    return "Basic " + base64.b64encode(both.encode()).decode()


def _told(value: object) -> str:
    """Return what can be shown of a text of the provider's."""
    return repr(value[:200]) if isinstance(value, str) else "nothing"
