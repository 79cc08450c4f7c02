"""Log in by way of an identity provider, and say which one."""

from __future__ import annotations

import re
from typing import Annotated, Final

from fastapi import APIRouter, Query, Request, Response

from cairn_appliance.api.ops_v1.context import (
    ActorDep,
    ExpectedDep,
    OpsDep,
    RequiredDep,
    client_address,
    tagged,
)
from cairn_appliance.api.ops_v1.models_access import session_out
from cairn_appliance.api.ops_v1.models_oidc import (
    OidcAsked,
    OidcBack,
    OidcBegun,
    OidcEntered,
    OidcOut,
    OidcTestOut,
    oidc_out,
    provider_of,
)
from cairn_appliance.api.ops_v1.routes.session import set_cookie
from cairn_appliance.domain.access import csrf_of
from cairn_appliance.domain.errors import Invalid
from cairn_appliance.domain.oidc import LOGIN_LIFE_S, OidcUnavailable
from cairn_appliance.services.access import Caller
from cairn_appliance.services.oidc import Back
from cairn_appliance.services.oidc_provider import is_https
from cairn_appliance.services.receivers import trusting

router = APIRouter(tags=["session"])

WAITING_COOKIE: Final = "__Host-cairn-oidc"
# The console's own page for the way back: it reads what came and posts it.
_WAY_BACK = "/oidc"
_HOST = re.compile(r"([A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(:[0-9]{1,5})?")
_PAGE = re.compile(r"/(?![/\\])[!-\[\]-~]{0,300}")  # of this origin: no //host, no \


@router.get("/oidc/login")
async def begin_oidc(
    request: Request, response: Response, ops: OpsDep, to: Annotated[str, Query()] = "/"
) -> OidcBegun:
    """Where a browser goes to log in by the identity provider; no session is needed.

    503 `oidc_unavailable` where the provider gives no answer: passwords hold all the same.
    """
    page = to if _PAGE.fullmatch(to) else "/"
    begun = await ops.oidc.begin(_redirect_uri(request), page, client_address(request))
    response.set_cookie(
        WAITING_COOKIE,
        begun.cookie,
        max_age=int(LOGIN_LIFE_S),
        path="/",
        secure=True,
        httponly=True,
        samesite="strict",
    )
    return OidcBegun(url=begun.url)


@router.post("/oidc/callback")
async def finish_oidc(
    asked: OidcBack, request: Request, response: Response, ops: OpsDep
) -> OidcEntered:
    """Open a session with what the provider has sent the browser back with; it holds once."""
    caller = Caller(client_address(request), request.headers.get("user-agent", ""))
    back = Back(asked.state, asked.code, asked.iss, asked.error)
    waiting = request.cookies.get(WAITING_COOKIE, "")
    entered = await ops.oidc.finish(waiting, back, caller)
    set_cookie(response, entered.opened)
    response.delete_cookie(WAITING_COOKIE, secure=True, httponly=True, samesite="strict")
    csrf = csrf_of(entered.opened.token)
    shown = session_out(entered.opened.principal, csrf=csrf, totp=False)
    return OidcEntered(**shown.model_dump(), to=entered.to)


@router.get("/settings/oidc", tags=["settings"])
async def get_oidc(request: Request, response: Response, ops: OpsDep) -> OidcOut:
    """The identity provider, without its secret; an empty `issuer`: none is set."""
    return await _out(request, response, ops)


@router.put("/settings/oidc", tags=["settings"])
async def set_oidc(
    asked: OidcAsked,
    request: Request,
    response: Response,
    ops: OpsDep,
    by: ActorDep,
    expected: RequiredDep,
) -> OidcOut:
    """Set the identity provider; If-Match is required. Users with a password log in as ever."""
    if not is_https(asked.issuer) or "?" in asked.issuer:
        raise Invalid(f"{asked.issuer[:80]!r} can't be an issuer", "write https://HOST/PATH")
    if asked.ca:
        try:
            trusting(asked.ca)
        except ValueError as error:
            raise Invalid(str(error), "give the file that begins with BEGIN CERTIFICATE") from error
    await ops.oidc.set(provider_of(asked), asked.client_secret, by, expected=expected)
    return await _out(request, response, ops)


@router.delete("/settings/oidc", status_code=204, tags=["settings"])
async def clear_oidc(ops: OpsDep, by: ActorDep, expected: ExpectedDep) -> None:
    """Let nobody in by way of the provider any more; sessions that are open go on."""
    await ops.oidc.clear(by, expected=expected)


@router.post("/settings/oidc/test", tags=["settings"])
async def test_oidc(ops: OpsDep) -> OidcTestOut:
    """Ask the provider from here, now, what a login asks of it but for a person."""
    try:
        return OidcTestOut(ok=True, keys=await ops.oidc.test())
    except OidcUnavailable as error:
        return OidcTestOut(ok=False, error=error.cause, remedy=error.remedy)
    except TimeoutError:
        return OidcTestOut(ok=False, error="the identity provider takes too long")


async def _out(request: Request, response: Response, ops: OpsDep) -> OidcOut:
    stored = await ops.oidc.get()
    tagged(response, stored.revision if stored else 0)
    return oidc_out(stored.value if stored else None, _redirect_uri(request))


def _redirect_uri(request: Request) -> str:
    """Return where the provider sends the browser back to: the address that it is at.

    Who lies about it gains nothing: the provider goes to registered addresses only.
    """
    host = request.headers.get("host", "")
    if not _HOST.fullmatch(host):
        raise Invalid("the request does not say at which address it was made (Host)")
    return f"https://{host}{_WAY_BACK}"
