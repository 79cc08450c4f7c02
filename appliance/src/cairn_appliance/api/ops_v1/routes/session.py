"""Log in and out, and what a user does to the own account."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from cairn_appliance.api.ops_v1.context import ActorDep, OpsDep, PrincipalDep, client_address
from cairn_appliance.api.ops_v1.gate import SESSION_COOKIE, session_token
from cairn_appliance.api.ops_v1.models_access import (
    CodeAsked,
    ConfirmAsked,
    LoginAsked,
    LoginMethods,
    LoginOut,
    OidcMethod,
    PasswordAsked,
    RecoveryCodes,
    SessionOut,
    TotpOut,
    session_out,
)
from cairn_appliance.domain.access import Principal, SignIn, csrf_of
from cairn_appliance.domain.oidc import ExternalUser
from cairn_appliance.services.access import Caller, OpenedSession

router = APIRouter(tags=["session"])


@router.get("/login-methods")
async def login_methods(ops: OpsDep) -> LoginMethods:
    """How one can log in here; no session is needed."""
    stored = await ops.oidc.get()
    return LoginMethods(oidc=OidcMethod(name=stored.value.name) if stored else None)


@router.post("/login")
async def login(asked: LoginAsked, request: Request, response: Response, ops: OpsDep) -> LoginOut:
    """Open a session; 401 `totp_required` where a code is needed, 429 after too many wrong ones.

    With the header `X-Cairn-Console: 1` the token is in a cookie that no script can read.
    """
    caller = Caller(client_address(request), request.headers.get("user-agent", ""))
    opened = await ops.access.login(asked.name, asked.password, caller, asked.code)
    has_totp = await ops.access.second_factor.is_on(opened.principal.name)
    csrf = csrf_of(opened.token) if request.headers.get("x-cairn-console") == "1" else ""
    if csrf:
        set_cookie(response, opened)
    shown = session_out(opened.principal, csrf=csrf, totp=has_totp)
    return LoginOut(**shown.model_dump(), token="" if csrf else opened.token)


@router.post("/logout", status_code=204)
async def logout(request: Request, response: Response, ops: OpsDep) -> None:
    """End this session."""
    await ops.access.logout(session_token(request.headers))
    response.delete_cookie(SESSION_COOKIE, secure=True, httponly=True, samesite="strict")


@router.get("/session")
async def session(request: Request, ops: OpsDep, principal: PrincipalDep) -> SessionOut:
    """Who am I, and until when."""
    has_totp = await ops.access.second_factor.is_on(principal.name)
    return session_out(principal, csrf=request.state.csrf, totp=has_totp)


@router.post("/session/password", status_code=204)
async def change_password(
    asked: PasswordAsked, request: Request, ops: OpsDep, principal: PrincipalDep
) -> None:
    """Change the own password; all other sessions of the user end."""
    _check_own(principal)
    token, address = session_token(request.headers), client_address(request)
    await ops.access.change_password(token, principal, asked.old, asked.new, address)


@router.post("/session/totp")
async def offer_totp(ops: OpsDep, principal: PrincipalDep) -> TotpOut:
    """Draw a secret for an app; it counts once a code of it was confirmed."""
    _check_own(principal)
    offered = await ops.access.second_factor.offer(principal.name)
    return TotpOut(secret=offered.secret, uri=offered.uri)


@router.post("/session/totp/confirm")
async def confirm_totp(
    asked: CodeAsked, ops: OpsDep, principal: PrincipalDep, by: ActorDep
) -> RecoveryCodes:
    """Ask for a code at each login from now on; the recovery codes are told only now."""
    codes = await ops.access.second_factor.confirm(principal.name, asked.code, by)
    return RecoveryCodes(recovery_codes=list(codes))


@router.post("/session/totp/remove", status_code=204)
async def remove_totp(
    asked: ConfirmAsked, request: Request, ops: OpsDep, principal: PrincipalDep, by: ActorDep
) -> None:
    """Ask for no code any more; the recovery codes are void."""
    await ops.access.check_own_password(principal, asked.password, client_address(request))
    await ops.access.second_factor.remove(principal.name, by)


def _check_own(principal: Principal) -> None:
    """Raise ExternalUser for who has no password here, and so nothing beside it."""
    if principal.kind is SignIn.OIDC:
        raise ExternalUser(f"{principal.name} logs in by way of the identity provider")


def set_cookie(response: Response, opened: OpenedSession) -> None:
    """Give the session to a browser; it forgets it when it is closed."""
    response.set_cookie(
        SESSION_COOKIE, opened.token, path="/", secure=True, httponly=True, samesite="strict"
    )
