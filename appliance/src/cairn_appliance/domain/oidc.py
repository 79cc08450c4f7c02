"""Logging in by way of an identity provider (OpenID Connect): what is set, what is believed.

That a token is really signed by the provider is found out elsewhere (services/id_token.py);
here is what its claims must say, and who somebody is by them.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from cairn_appliance.domain.access import Role
from cairn_appliance.domain.errors import Clash, NotFound, Refused, Unavailable

LOGIN_LIFE_S = 600.0  # from the button to the way back
LEEWAY_S = 60.0  # between the provider's clock and this one
CLAIMS_MAX = 500  # groups of one person that are looked at
_SUBJECT = re.compile(r"[!-~]{1,255}")  # OpenID Connect Core 2: at most 255 of ASCII
_NOT_IN_NAMES = re.compile(r"[^a-z0-9._-]+")
_NAME_MAX = 64


class OidcNotSet(NotFound):
    """Nobody logs in by way of a provider here."""

    code = "oidc_not_set"
    remedy = "log in with name and password; an administrator can set one: `cairn oidc set`"


class OidcState(Refused):
    """What came back from the provider does not belong to a login that waits in this browser."""

    code = "oidc_state"
    remedy = "begin again with the button of the login page, in one window"


class OidcToken(Refused):
    """The provider's ID token is not believed."""

    code = "oidc_token"
    remedy = "begin again; if it stays, an administrator looks at `cairn oidc test`"


class OidcDenied(Refused):
    """The provider did not let the person in, or they broke off."""

    code = "oidc_denied"
    remedy = "begin again, or ask who runs the identity provider"


class OidcNotAllowed(Refused):
    """The provider knows the person, and nobody here has said that they may come in."""

    code = "oidc_not_allowed"
    remedy = "ask an administrator of Cairn which groups may log in: `cairn oidc show`"


class OidcUnavailable(Unavailable):
    """The provider gives no answer, or none that can be used."""

    code = "oidc_unavailable"
    remedy = (
        "try again in a minute; users with a password log in as ever, and an administrator sees "
        "more with `cairn oidc test`"
    )
    retry_after_s = 10.0


class ExternalUser(Clash):
    """The provider decides about this, not the appliance."""

    code = "external_user"
    remedy = "change it at the identity provider; it counts from the next login on"


@dataclass(frozen=True, slots=True)
class RoleRule:
    """Who has this value in the role claim has this role."""

    value: str
    role: Role


@dataclass(frozen=True, slots=True)
class Provider:
    """The identity provider of the cluster."""

    issuer: str
    client_id: str
    name: str = "single sign-on"  # as the button calls it
    client_secret: str = ""  # base64, sealed; empty: a public client
    scopes: tuple[str, ...] = ()  # beside openid, profile and email
    user_claim: str = "preferred_username"
    role_claim: str = "groups"
    roles: tuple[RoleRule, ...] = ()
    default_role: Role | None = None  # of who is in none of them; None: they don't come in
    allowed_domains: tuple[str, ...] = ()  # of the verified mail address; empty: any
    allowed_groups: tuple[str, ...] = ()  # of the role claim; empty: any
    ca: str = ""  # PEM; empty: the authorities that the system trusts


@dataclass(frozen=True, slots=True)
class Identity:
    """Who somebody is, as the provider has it."""

    external: str  # issuer and subject: the one thing that is nobody else's, ever
    name: str  # that a new user gets
    role: Role


def check_claims(
    claims: Mapping[str, Any], provider: Provider, *, nonce: str, begun_at: float, now: float
) -> None:
    """Raise OidcToken unless the claims are of this provider, for this login, and of now.

    OpenID Connect Core 3.1.3.7; stricter where a provider has no reason to differ.
    """
    if claims.get("iss") != provider.issuer:
        raise _unbelieved("it is from another issuer (iss)")
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    if provider.client_id not in audiences:
        raise _unbelieved("it is for another client (aud)")
    party = claims.get("azp")
    if party != provider.client_id and (party is not None or len(audiences) > 1):
        raise _unbelieved("it was issued to another client (azp)")
    if now >= _moment(claims, "exp") + LEEWAY_S:
        raise _unbelieved("its time is over (exp)")
    issued_at = _moment(claims, "iat")
    if issued_at > now + LEEWAY_S:
        raise _unbelieved("it is from the future (iat): compare the clocks")
    if issued_at < begun_at - LEEWAY_S:
        raise _unbelieved("it is from before this login (iat): compare the clocks")
    if "nbf" in claims and _moment(claims, "nbf") > now + LEEWAY_S:
        raise _unbelieved("it does not count yet (nbf): compare the clocks")
    told = claims.get("nonce")
    if not isinstance(told, str) or not hmac.compare_digest(told.encode(), nonce.encode()):
        raise _unbelieved("it is of another login (nonce)")


def identify(claims: Mapping[str, Any], provider: Provider) -> Identity:
    """Return who the claims are of, with the role of now; raise OidcToken, OidcNotAllowed."""
    subject = claims.get("sub")
    if not isinstance(subject, str) or not _SUBJECT.fullmatch(subject):
        raise _unbelieved("it names nobody (sub)")
    groups = frozenset(_values(claims, provider.role_claim))
    _check_domain(claims, provider)
    if provider.allowed_groups and groups.isdisjoint(provider.allowed_groups):
        raise OidcNotAllowed("the person is in none of the groups that may log in here")
    role = _role(groups, provider)
    if role is None:
        raise OidcNotAllowed("the person is in no group that has a role here")
    return Identity(f"{provider.issuer} {subject}", _name(claims, provider), role)


def _check_domain(claims: Mapping[str, Any], provider: Provider) -> None:
    if not provider.allowed_domains:
        return
    address = claims.get("email")
    if not isinstance(address, str) or claims.get("email_verified") is not True:
        raise OidcNotAllowed("the provider does not vouch for a mail address of the person")
    if address.rpartition("@")[2].lower() not in provider.allowed_domains:
        raise OidcNotAllowed("the person's mail address is of a domain that may not log in here")


def _role(groups: frozenset[str], provider: Provider) -> Role | None:
    """Return the highest role that the person's groups have."""
    found = [rule.role for rule in provider.roles if rule.value in groups]
    if provider.default_role is not None:
        found.append(provider.default_role)
    return max(found, key=list(Role).index, default=None)


def _name(claims: Mapping[str, Any], provider: Provider) -> str:
    """Return what to call a new user: that others may have the name is found out later."""
    told = claims.get(provider.user_claim) or claims.get("email") or ""
    text = _NOT_IN_NAMES.sub("-", told.lower()) if isinstance(told, str) else ""
    text = text.strip("._-")[:_NAME_MAX]
    if not text:
        raise OidcNotAllowed(
            f"the provider tells no name of the person (claim {provider.user_claim})",
            "ask an administrator to set another claim for the name: `cairn oidc set`",
        )
    return text


def _values(claims: Mapping[str, Any], claim: str) -> Iterator[str]:
    """Yield the texts of a claim: `groups`, or `realm_access.roles` for one inside another."""
    found: Any = claims.get(claim)
    if found is None:
        found = claims
        for part in claim.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
    if isinstance(found, str):
        yield found
    elif isinstance(found, list):
        yield from (each for each in found[:CLAIMS_MAX] if isinstance(each, str))


def _moment(claims: Mapping[str, Any], claim: str) -> float:
    value = claims.get(claim)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _unbelieved(f"it has no time ({claim})")
    return float(value)


def _unbelieved(why: str) -> OidcToken:
    return OidcToken(f"the identity provider's ID token is not believed: {why}")
