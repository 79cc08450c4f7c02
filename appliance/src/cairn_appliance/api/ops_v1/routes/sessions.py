"""Sessions that are open: all for administrators, their own for others."""

from __future__ import annotations

from fastapi import APIRouter

from cairn_appliance.api.ops_v1.context import ActorDep, OpsDep, PrincipalDep
from cairn_appliance.api.ops_v1.models import Page
from cairn_appliance.api.ops_v1.models_access import SessionRow, session_row
from cairn_appliance.api.ops_v1.paging import PagingDep, Part, has
from cairn_appliance.domain.access import Principal, Role

router = APIRouter(prefix="/sessions", tags=["session"])


@router.get("")
async def list_sessions(
    ops: OpsDep, paging: PagingDep, principal: PrincipalDep, user: Part = ""
) -> Page[SessionRow]:
    """The open sessions, newest first."""
    views = await ops.access.sessions(owner_of(principal))
    views = [view for view in views if has(user, view.session.user)]
    page, following = paging.page(
        views, lambda view: f"{view.session.created_at:020.6f}/{view.id}", newest_first=True
    )
    return Page(items=[session_row(each, principal) for each in page], next=following)


@router.delete("/{session}", status_code=204)
async def end_session(session: str, ops: OpsDep, principal: PrincipalDep, by: ActorDep) -> None:
    """End a session: its next request is refused."""
    await ops.access.end_session(session, by, owner=owner_of(principal))


def owner_of(principal: Principal) -> str | None:
    """Return whose things they may see; None: everybody's."""
    return None if principal.role is Role.ADMIN else principal.name
