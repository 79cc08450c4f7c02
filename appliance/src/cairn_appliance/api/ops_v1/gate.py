"""The one place where a request is let in: who asks, whether they may, for how long.

It stands before the router, so that no body is read for someone who may not.
"""

from __future__ import annotations

import asyncio
import hmac
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import cookie_parser
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cairn_appliance.api import errors
from cairn_appliance.api.ops_v1 import matrix, recorder
from cairn_appliance.domain.access import (
    CsrfRefused,
    PersonNeeded,
    Principal,
    RoleTooLow,
    SignIn,
    csrf_of,
)
from cairn_appliance.domain.errors import CairnError, NotSignedIn, Refused, Unavailable
from cairn_appliance.services.access import Access, check_password_changed
from cairn_appliance.services.audit import Audit
from cairn_appliance.store.port import StoreError

# A store call ends within 10 s; a request that needs several must end as well, and whoever
# asks waits for 12 s at most, the way there and back included.
ANSWER_WITHIN_S = 11.0
BODY_MAX_OCTETS = 1 << 20
# A stream outlives the question who asks: it is asked again before a message, at most this often.
CHECKED_EVERY_S = 2.0
# The prefix makes browsers insist on Secure, Path=/ and no Domain (RFC 6265bis, 4.1.3.2).
SESSION_COOKIE: Final = "__Host-cairn-session"

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Gate:
    """ASGI middleware: authenticates, authorises by the matrix, bounds body and time."""

    def __init__(self, app: ASGIApp, access: Access, audit: Audit) -> None:
        self._app = app
        self._access = access
        self._audit = audit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or refuse it; lifespan passes through."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = is_stream = is_over = False
        clock = asyncio.get_running_loop().time
        checked_at = clock()

        async def send_guarded(message: Message) -> None:
            nonlocal started, is_stream, is_over, checked_at
            if is_over:
                return
            goes_on = is_stream and message.get("more_body", False)
            if goes_on and clock() - checked_at >= CHECKED_EVERY_S:
                checked_at = clock()
                is_over = not await self._still_may(scope)
            if is_over:
                deadline.reschedule(clock())  # ends what sends
                return
            if message["type"] == "http.response.start":
                started = True
                deadline.reschedule(None)  # a stream may last
                headers = MutableHeaders(scope=message)
                is_stream = "content-length" not in headers  # a download may come to its end
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            async with asyncio.timeout(_answer_within_s(scope)) as deadline:
                refusal = await self._refusal(scope)
                await (refusal or self._app)(scope, _limited(scope, receive), send_guarded)
        except TimeoutError:
            if is_over:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                return
            if started:
                raise
            late = Unavailable("the answer takes too long")
            await errors.answer_error(late)(scope, receive, send)

    async def _refusal(self, scope: Scope) -> Response | None:
        """Return the answer to a request that may not pass; else note who asks."""
        listed, methods = matrix.find(scope["method"], scope["path"])
        if listed is None and methods:
            allow = {"Allow": ", ".join(sorted(methods))}
            return errors.answer_http(405, f"{scope['method']} is not possible here", allow)
        if listed is None:
            return errors.answer_http(404, f"there is no {scope['path'][:200]}")
        if listed.needed is matrix.PUBLIC:
            return None
        try:
            principal, csrf = await self._admit(scope, listed)
        except (CairnError, StoreError) as error:
            return errors.answer_error(error)
        scope.setdefault("state", {}).update(principal=principal, csrf=csrf)
        return None

    def _check_permitted(self, principal: Principal, listed: matrix.Listed, scope: Scope) -> None:
        try:
            _check_kind(principal, listed)
            _check_role(principal, listed)
        except Refused as error:
            recorder.refused(self._audit, scope, listed.path, principal, error)
            raise

    async def _admit(
        self, scope: Scope, listed: matrix.Listed, *, again: bool = False
    ) -> tuple[Principal, str]:
        """Return who asks, and the CSRF token where it is by cookie; raise why they may not."""
        headers = Headers(scope=scope)
        token, is_cookie = credential(headers)
        # A page that is left open is no use of the session; a command that follows events is.
        principal = await self._access.authenticate(token, touch=not (again and is_cookie))
        csrf = csrf_of(token) if is_cookie else ""
        _check_csrf(scope["method"], headers, csrf)
        self._check_permitted(principal, listed, scope)
        return principal, csrf

    async def _still_may(self, scope: Scope) -> bool:
        """Return whether who was let in still would be; a silent store ends nothing."""
        listed, _ = matrix.find(scope["method"], scope["path"])
        if listed is None or listed.needed is matrix.PUBLIC:
            return True
        try:
            await self._admit(scope, listed, again=True)
        except StoreError:
            return True
        except CairnError:
            return False
        return True


def _answer_within_s(scope: Scope) -> float:
    return matrix.LONG.get((scope["method"], scope["path"]), ANSWER_WITHIN_S)


def _limited(scope: Scope, receive: Receive) -> Receive:
    """Return a `receive` that ends a body which is too large, declared or not."""
    most = matrix.UPLOADS.get((scope["method"], scope["path"]), BODY_MAX_OCTETS)
    received = 0

    async def limited() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > most:
            raise HTTPException(413, f"a request has at most {most} octets")
        return message

    return limited


def session_token(headers: Headers) -> str:
    """Return the token of a request's session; raise NotSignedIn."""
    return credential(headers)[0]


def credential(headers: Headers) -> tuple[str, bool]:
    """Return what a request signs in with, and whether it is a cookie; raise NotSignedIn.

    A bearer token goes before a cookie: no foreign page can make a browser send one.
    """
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip(), False
    cookie = cookie_parser(headers.get("cookie", "")).get(SESSION_COOKIE, "")
    if "authorization" in headers or not cookie:
        raise NotSignedIn("the request carries no session")
    return cookie, True


def _check_csrf(method: str, headers: Headers, csrf: str) -> None:
    """A browser adds the cookie by itself, so a change must show what only the console knows."""
    if not csrf or method in ("GET", "HEAD"):
        return
    if not hmac.compare_digest(headers.get("x-csrf-token", "").encode(), csrf.encode()):
        raise CsrfRefused("the request does not come from the console, or from an old page of it")


def _check_kind(principal: Principal, listed: matrix.Listed) -> None:
    if listed.persons_only and principal.kind is SignIn.API_TOKEN:
        raise PersonNeeded("an API token can't do this")
    if not listed.before_password_change:
        check_password_changed(principal)


def _check_role(principal: Principal, listed: matrix.Listed) -> None:
    if listed.needed is not None and not principal.role.includes(listed.needed):
        raise RoleTooLow(
            f"{principal.name} is {principal.role}, and this needs the role {listed.needed}",
            "ask an administrator to do it or to raise the role",
        )
