"""What the operations API takes and gives about users, sessions and API tokens."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, Field, StringConstraints

from cairn_appliance.api.ops_v1.models import Asked, moment, moment_or_none
from cairn_appliance.domain.access import Principal, Role, SignIn
from cairn_appliance.services.access import SessionView
from cairn_appliance.services.api_tokens import ApiTokenView
from cairn_appliance.services.users import UserView

_WRITE_ONLY = {"writeOnly": True}
UserName = Annotated[str, StringConstraints(min_length=1, max_length=64)]
Password = Annotated[
    str, StringConstraints(min_length=1, max_length=1024), Field(json_schema_extra=_WRITE_ONLY)
]
NewPassword = Annotated[
    str, StringConstraints(max_length=1024), Field(json_schema_extra=_WRITE_ONLY)
]
Code = Annotated[str, StringConstraints(max_length=64), Field(json_schema_extra=_WRITE_ONLY)]


class LoginAsked(Asked):
    """Who logs in; `code` is of the app or a recovery code. Never logged or answered."""

    name: UserName
    password: Password
    code: Code = ""


class LoginMethods(BaseModel):
    """How one can log in here."""

    password: Literal[True] = True
    oidc: OidcMethod | None = None


class OidcMethod(BaseModel):
    """An identity provider, as its button is called."""

    name: str


class SessionOut(BaseModel):
    """Who asks; `ends_at` if it is not used again before, null for an API token without end."""

    user: str
    role: Role
    created_at: datetime
    ends_at: datetime | None
    csrf: str = ""
    totp: bool = False
    must_change_password: bool = False
    kind: SignIn = SignIn.PASSWORD


class LoginOut(SessionOut):
    """A new session; `token` goes into `Authorization: Bearer` and is told only once.

    To the console it is told by a cookie alone; then `csrf` goes into `X-CSRF-Token`.
    """

    token: str


class PasswordAsked(Asked):
    """The own password, and the one it is to be."""

    old: Password
    new: Password


class ConfirmAsked(Asked):
    """The own password, for what a session alone is not enough for."""

    password: Password


class CodeAsked(Asked):
    """A code of the app."""

    code: Code


class TotpOut(BaseModel):
    """A secret for an app, in base 32 and as a QR code carries it; told only once."""

    secret: str
    uri: str


class RecoveryCodes(BaseModel):
    """Each opens once where the app is not at hand; told only once."""

    recovery_codes: list[str]


class UserOut(BaseModel):
    """Someone who may log in."""

    name: str
    role: Role
    created_at: datetime
    totp: bool
    locked_until: datetime | None
    last_login_at: datetime | None
    disabled: bool
    must_change_password: bool
    external: bool = False  # logs in by way of the identity provider: has no password here


class UserWithPassword(UserOut):
    """The same; `password` is the one that was drawn, told only once, else empty."""

    password: str = ""


class UserAsked(Asked):
    """A new user; without a password one is drawn, to be changed at the first login."""

    name: UserName
    role: Role
    password: NewPassword = ""
    must_change_password: bool | None = None


class UserPatch(Asked):
    """What is to change; an empty password is drawn, `totp` can only be taken away."""

    role: Role | None = None
    disabled: bool | None = None
    password: NewPassword | None = None
    totp: Literal[False] | None = None


class SessionRow(BaseModel):
    """A session in the list; `current` is the one that asks."""

    id: str
    user: str
    address: str
    client: str
    created_at: datetime
    seen_at: datetime
    ends_at: datetime
    kind: SignIn
    current: bool


class ApiTokenAsked(Asked):
    """A new API token of one's own; without `life_s` it does not expire."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=64)]
    scope: Role
    life_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None


class ApiTokenOut(BaseModel):
    """An API token, without its string."""

    id: str
    name: str
    user: str
    scope: Role
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


class ApiTokenCreated(ApiTokenOut):
    """The same; `token` is told only once."""

    token: str


def session_out(principal: Principal, *, csrf: str, totp: bool) -> SessionOut:
    """Return who is asking."""
    return SessionOut(
        user=principal.name,
        role=principal.role,
        created_at=moment(principal.created_at),
        ends_at=moment_or_none(principal.ends_at),
        csrf=csrf,
        totp=totp,
        must_change_password=principal.must_change_password,
        kind=principal.kind,
    )


def session_row(view: SessionView, principal: Principal) -> SessionRow:
    """Return a session of the list."""
    session = view.session
    return SessionRow(
        id=view.id,
        user=session.user,
        address=session.address,
        client=session.client,
        created_at=moment(session.created_at),
        seen_at=moment(session.seen_at),
        ends_at=moment(session.ends_at),
        kind=session.kind,
        current=view.id == principal.id,
    )


def user_out(view: UserView, password: str = "") -> UserWithPassword:
    """Return a user, with the password if one was drawn."""
    return UserWithPassword(
        name=view.user.name,
        role=view.user.role,
        created_at=moment(view.user.created_at),
        totp=bool(view.credentials.totp),
        locked_until=moment_or_none(view.locked_until),
        last_login_at=moment_or_none(view.credentials.last_login_at),
        disabled=view.user.disabled,
        must_change_password=view.user.must_change_password,
        external=bool(view.user.external),
        password=password,
    )


def api_token_out(view: ApiTokenView) -> ApiTokenOut:
    """Return an API token."""
    token = view.token
    return ApiTokenOut(
        id=view.id,
        name=token.name,
        user=token.user,
        scope=token.scope,
        created_at=moment(token.created_at),
        expires_at=moment_or_none(token.expires_at),
        last_used_at=moment_or_none(token.last_used_at),
    )
