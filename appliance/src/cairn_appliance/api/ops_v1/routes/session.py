"""Log in and out."""

from __future__ import annotations

from fastapi import APIRouter, Request

from cairn_appliance.api.ops_v1.context import OpsDep, PrincipalDep, client_address
from cairn_appliance.api.ops_v1.gate import session_token
from cairn_appliance.api.ops_v1.models import LoginAsked, LoginOut, SessionOut
from cairn_appliance.api.ops_v1.shown import session_out

router = APIRouter(tags=["session"])


@router.post("/login")
async def login(asked: LoginAsked, request: Request, ops: OpsDep) -> LoginOut:
    """Open a session; 429 after too many wrong passwords."""
    opened = await ops.access.login(asked.name, asked.password, client_address(request))
    return LoginOut(**session_out(opened.principal).model_dump(), token=opened.token)


@router.post("/logout", status_code=204)
async def logout(request: Request, ops: OpsDep) -> None:
    """End this session."""
    await ops.access.logout(session_token(request.headers))


@router.get("/session")
async def session(principal: PrincipalDep) -> SessionOut:
    """Who am I, and until when."""
    return session_out(principal)
