"""What the command reads of answers about users, sessions and API tokens (see replies.py)."""

from __future__ import annotations

from datetime import datetime

import msgspec


class Login(msgspec.Struct, frozen=True):
    """A new session."""

    token: str
    user: str
    role: str
    ends_at: datetime
    must_change_password: bool = False


class Who(msgspec.Struct, frozen=True):
    """The session in use."""

    user: str
    role: str
    ends_at: datetime | None = None
    totp: bool = False


class User(msgspec.Struct, frozen=True):
    """Someone who may log in; `password` is there only when one was drawn."""

    name: str
    role: str
    created_at: datetime | None = None
    totp: bool = False
    locked_until: datetime | None = None
    last_login_at: datetime | None = None
    disabled: bool = False
    must_change_password: bool = False
    external: bool = False
    password: str = ""


class Totp(msgspec.Struct, frozen=True):
    """A secret for an app."""

    secret: str
    uri: str


class RecoveryCodes(msgspec.Struct, frozen=True):
    """What opens where the app is not at hand."""

    recovery_codes: list[str]


class OpenSession(msgspec.Struct, frozen=True):
    """A session that is open."""

    id: str
    user: str
    seen_at: datetime
    ends_at: datetime
    address: str = ""
    client: str = ""
    current: bool = False


class ApiToken(msgspec.Struct, frozen=True):
    """An API token; `token` is there only when it was made."""

    id: str
    name: str
    user: str
    scope: str
    created_at: datetime
    expires_at: datetime | None = None
    last_used_at: datetime | None = None
    token: str = ""


class OidcSettings(msgspec.Struct, frozen=True):
    """The identity provider; with an empty `issuer` none is set."""

    issuer: str
    client_id: str
    name: str
    redirect_uri: str
    has_secret: bool = False
    scopes: list[str] = []
    user_claim: str = ""
    role_claim: str = ""
    roles: dict[str, str] = {}
    default_role: str | None = None
    allowed_domains: list[str] = []
    allowed_groups: list[str] = []
    ca: str = ""


class OidcTest(msgspec.Struct, frozen=True):
    """Whether the provider answers."""

    ok: bool
    keys: int = 0
    error: str = ""
    remedy: str = ""
