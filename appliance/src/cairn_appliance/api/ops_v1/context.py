"""What routes are given: the services, who asks, and what If-Match says."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated

from fastapi import Depends, Header, Request, Response
from starlette.exceptions import HTTPException

from cairn_appliance.api.limits import StrangerLimit
from cairn_appliance.api.ops_v1.meter import Meter
from cairn_appliance.domain.access import Principal
from cairn_appliance.domain.errors import Invalid
from cairn_appliance.domain.figures import OwnFigures
from cairn_appliance.domain.identity import Actor, ActorKind
from cairn_appliance.services.access import Access
from cairn_appliance.services.backups import Backups
from cairn_appliance.services.idempotency import Idempotency
from cairn_appliance.services.membership import Membership
from cairn_appliance.services.oidc import Oidc
from cairn_appliance.services.services import Services
from cairn_appliance.services.updates import Updates

_ETAG = re.compile(r'"(\d{1,19})"')


@dataclass(frozen=True, slots=True)
class Ops:
    """Everything that the routes work with; made once by `create_app`."""

    services: Services
    membership: Membership
    backups: Backups
    access: Access
    oidc: Oidc
    idempotency: Idempotency
    joinings: StrangerLimit
    install: Callable[[], str]  # the command that installs the agent from here; empty: none
    now: Callable[[], float]
    meter: Meter
    own: Callable[[], OwnFigures]
    updates: Updates | None = None
    first_seen: dict[tuple[str, str], float] = field(default_factory=dict)  # problems, here


def _ops(request: Request) -> Ops:
    ops = request.app.state.ops
    if not isinstance(ops, Ops):
        raise TypeError("create_app has not put Ops into the application")
    return ops


def _services(request: Request) -> Services:
    return _ops(request).services


def _principal(request: Request) -> Principal:
    principal = request.state.principal
    if not isinstance(principal, Principal):
        raise TypeError("the gate has let in a request without a principal")
    return principal


def _actor(request: Request) -> Actor:
    return Actor(ActorKind.OPERATOR, _principal(request).spoken, client_address(request))


def _expected(if_match: Annotated[str | None, Header()] = None) -> int | None:
    """Return the revision that If-Match asks for; None: any."""
    if if_match is None or if_match.strip() == "*":
        return None
    match = _ETAG.fullmatch(if_match.strip())
    if match is None:
        raise Invalid(
            "If-Match is no ETag of this API",
            "send the ETag header of the answer that you have read, or *",
            code="invalid_etag",
        )
    return int(match[1])


def _required(if_match: Annotated[str | None, Header()] = None) -> int | None:
    """Return the same; a change without If-Match would undo unseen changes of others."""
    if if_match is None:
        raise HTTPException(428, "a change needs If-Match")
    return _expected(if_match)


def client_address(request: Request) -> str:
    """Return the address that the request came from."""
    return request.client.host if request.client else ""


def tagged(response: Response, revision: int) -> None:
    """Put the ETag of what is answered into the response."""
    response.headers["ETag"] = f'"{revision}"'


OpsDep = Annotated[Ops, Depends(_ops)]
ServicesDep = Annotated[Services, Depends(_services)]
PrincipalDep = Annotated[Principal, Depends(_principal)]
ActorDep = Annotated[Actor, Depends(_actor)]
ExpectedDep = Annotated[int | None, Depends(_expected)]
RequiredDep = Annotated[int | None, Depends(_required)]
