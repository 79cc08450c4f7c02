"""What the operations API takes and gives of the identity provider."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field, StringConstraints

from cairn_appliance.api.ops_v1.models import Asked
from cairn_appliance.api.ops_v1.models_access import SessionOut
from cairn_appliance.api.ops_v1.models_outputs import CA, Pem
from cairn_appliance.domain.access import Role
from cairn_appliance.domain.oidc import Provider, RoleRule

# What can be seen, without a space: OAuth's alphabet of scopes, and of what goes into a URL.
Token = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[!-~]+$")]
Claim = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[!-~]+$")]
Value = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Domain = Annotated[
    str,
    StringConstraints(min_length=1, max_length=253, pattern=r"^[A-Za-z0-9.-]+$", to_lower=True),
]
SECRET = Field(
    None,
    max_length=1024,
    description="of the client; never told. Left out: the one it has; empty: a public client",
    json_schema_extra={"writeOnly": True},
)


class _OidcBase(BaseModel):
    name: Annotated[str, StringConstraints(min_length=1, max_length=64)] = "single sign-on"
    client_id: Token
    scopes: tuple[Token, ...] = Field((), max_length=16)
    user_claim: Claim = "preferred_username"
    role_claim: Claim = "groups"
    roles: dict[Value, Role] = Field(default_factory=dict, max_length=64)
    default_role: Role | None = None
    allowed_domains: tuple[Domain, ...] = Field((), max_length=64)
    allowed_groups: tuple[Value, ...] = Field((), max_length=64)
    ca: Pem = CA


class OidcAsked(_OidcBase, Asked):
    """The identity provider that people may log in by; who is in no group with a role may not."""

    issuer: Annotated[str, StringConstraints(min_length=1, max_length=512)]
    client_secret: str | None = SECRET


class OidcOut(_OidcBase):
    """The identity provider; with an empty `issuer` none is set. Its secret is never told."""

    client_id: str
    issuer: str
    has_secret: bool
    redirect_uri: str = Field(description="to be registered at the provider, for this address")


class OidcTestOut(BaseModel):
    """Whether the provider answers the appliance that was asked, and with how many keys."""

    ok: bool
    keys: int = 0
    error: str = ""
    remedy: str = ""


class OidcBegun(BaseModel):
    """Where the browser goes; a cookie that no script can read binds the way back to it."""

    url: str


class OidcBack(Asked):
    """What the provider has sent the browser back with."""

    state: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    code: Annotated[str, StringConstraints(max_length=4096)] = Field(
        "", json_schema_extra={"writeOnly": True}
    )
    iss: Annotated[str, StringConstraints(max_length=512)] = ""
    error: Annotated[str, StringConstraints(max_length=256)] = ""


class OidcEntered(SessionOut):
    """The new session, told by a cookie alone; `to` is the page that was asked for before."""

    to: str


def provider_of(asked: OidcAsked) -> Provider:
    """Return what is to be set, without its secret."""
    return Provider(
        issuer=asked.issuer,
        client_id=asked.client_id,
        name=asked.name,
        scopes=asked.scopes,
        user_claim=asked.user_claim,
        role_claim=asked.role_claim,
        roles=tuple(RoleRule(value, role) for value, role in asked.roles.items()),
        default_role=asked.default_role,
        allowed_domains=asked.allowed_domains,
        allowed_groups=asked.allowed_groups,
        ca=asked.ca,
    )


def oidc_out(provider: Provider | None, redirect_uri: str) -> OidcOut:
    """Return the provider as it may be shown."""
    shown = provider or Provider("", "")
    return OidcOut(
        name=shown.name,
        issuer=shown.issuer,
        client_id=shown.client_id,
        has_secret=bool(shown.client_secret),
        scopes=shown.scopes,
        user_claim=shown.user_claim,
        role_claim=shown.role_claim,
        roles={each.value: each.role for each in shown.roles},
        default_role=shown.default_role,
        allowed_domains=shown.allowed_domains,
        allowed_groups=shown.allowed_groups,
        ca=shown.ca,
        redirect_uri=redirect_uri,
    )
