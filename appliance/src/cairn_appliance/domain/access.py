"""Who may do what: users, roles, sessions, and when too many guesses have been made."""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from cairn_appliance.domain.errors import Clash, Invalid, NotSignedIn, Refused, TooMany

SESSION_IDLE_S = 30 * 60.0
SESSION_LIFE_S = 12 * 3600.0
# Not each request is written: a session is seen again once a minute.
SESSION_TOUCH_S = 60.0

FAILURES_ALLOWED = 5
FAILURES_WINDOW_S = 15 * 60.0
ATTEMPTS_PER_ADDRESS = 20
ATTEMPTS_WINDOW_S = 60.0

PASSWORD_MIN_CHARACTERS = 12
API_TOKENS_PER_USER = 50
API_TOKEN_LIFE_MAX_S = 10 * 366 * 86_400.0
_USER_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class WrongLogin(NotSignedIn):
    """The name or the password is wrong; which of them is not told."""

    code = "wrong_login"
    remedy = "check both; after 5 wrong passwords an account waits 15 minutes"


class SessionEnded(NotSignedIn):
    """The session is unknown, was ended, or was not used for too long."""

    code = "session_ended"
    remedy = "sign in again with `cairn login`"


class TotpRequired(NotSignedIn):
    """The password is right, and the account needs a code beside it."""

    code = "totp_required"
    remedy = "send the code that your app shows, or one of your recovery codes"


class WrongCode(NotSignedIn):
    """The password is right and the code is not, or it was used before."""

    code = "wrong_code"
    remedy = "wait for the next code; check the clock of the device that shows it"


class WrongPassword(Refused):
    """The password that confirms a change is wrong; the session itself is all right."""

    code = "wrong_password"
    remedy = "check it; after 5 wrong passwords an account waits 15 minutes"


class UserDisabled(Refused):
    """An administrator has disabled the account."""

    code = "user_disabled"
    remedy = "ask an administrator"


class PasswordChangeNeeded(Refused):
    """The password was given by someone else: nothing goes before it is changed."""

    code = "password_change_needed"
    remedy = "change it with `cairn user password`"


class PersonNeeded(Refused):
    """An API token asks for what only a person may do, after a login."""

    code = "person_needed"
    remedy = "log in with name and password for this"


class CsrfRefused(Refused):
    """A request with a cookie does not show that it comes from the console."""

    code = "csrf"
    remedy = "send the `csrf` of GET /api/v1/session as the header X-CSRF-Token"


class LastAdmin(Clash):
    """Nobody could administer the cluster after it."""

    code = "last_admin"
    remedy = "make another user admin first"


class RoleTooLow(Refused):
    """The user's role does not include this."""

    code = "role_too_low"


class AccountLocked(TooMany):
    """Too many wrong passwords of late."""

    code = "account_locked"


class TooManyLogins(TooMany):
    """Too many logins from one address, or at once."""

    code = "too_many_logins"


class UserExists(Clash):
    """The name is taken."""

    code = "user_exists"
    remedy = "choose another name"


class Role(StrEnum):
    """What a user may do; each role may all that the one before it may."""

    VIEWER = "viewer"  # see everything but secrets
    OPERATOR = "operator"  # run the vSubnets: tokens, nodes, members
    ADMIN = "admin"  # and decide who else may

    def includes(self, needed: Role) -> bool:
        """Return whether this role may what `needed` may."""
        order = list(Role)
        return order.index(self) >= order.index(needed)


@dataclass(frozen=True, slots=True)
class User:
    """Someone who may log in."""

    name: str
    role: Role
    password_hash: str  # argon2id, in its usual string form
    created_at: float  # seconds since 1970
    disabled: bool = False
    must_change_password: bool = False  # someone else knows it
    era: str = ""  # drawn anew with each password: sessions of another era have ended
    external: str = ""  # issuer and subject at an identity provider: has no password here

    @property
    def is_admin(self) -> bool:
        """Return whether this user can administer the cluster, whatever is away."""
        return self.role is Role.ADMIN and not self.disabled and not self.external


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a user has beside the password, and what was used of it: written by each login."""

    last_login_at: float = 0.0  # 0: never
    totp: str = ""  # sealed; empty: no code is asked for
    totp_pending: str = ""  # sealed; shown, and not confirmed by a code yet
    totp_step: int = 0  # the last one used: a code opens once, at whichever replica
    recovery: tuple[str, ...] = ()  # hex SHA-256 of each code that is left


class SignIn(StrEnum):
    """How whoever asks has shown who they are."""

    PASSWORD = "password"
    OIDC = "oidc"
    API_TOKEN = "api-token"


@dataclass(frozen=True, slots=True)
class Session:
    """One login; its token is known to its holder only."""

    user: str
    created_at: float
    seen_at: float
    address: str = ""
    client: str = ""  # as the browser or command names itself
    era: str = ""  # of the user, when it began
    kind: SignIn = SignIn.PASSWORD

    @property
    def ends_at(self) -> float:
        """Return when it ends if it is not used again."""
        return min(self.seen_at + SESSION_IDLE_S, self.created_at + SESSION_LIFE_S)


@dataclass(frozen=True, slots=True)
class ApiToken:
    """What a program signs in with; its string is known to its holder only."""

    name: str
    user: str
    user_since: float  # when the owner was created: a later user of the name is another one
    scope: Role  # at most this, and at most what the owner may
    created_at: float
    expires_at: float = 0.0  # 0: never
    last_used_at: float = 0.0  # to the minute; 0: never

    def has_expired(self, now: float) -> bool:
        """Return whether its time is over."""
        return bool(self.expires_at) and now >= self.expires_at


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is asking, as of this request."""

    name: str
    role: Role
    id: str  # of the session or the API token
    created_at: float  # of the same
    ends_at: float  # 0: never
    kind: SignIn = SignIn.PASSWORD
    api_token: str = ""  # its name
    must_change_password: bool = False

    @property
    def spoken(self) -> str:
        """Return who it is, for events."""
        return f"{self.name} (API token {self.api_token})" if self.api_token else self.name


def is_user_name(text: str) -> bool:
    """Return whether a user can have this name."""
    return _USER_NAME.fullmatch(text) is not None


def check_user_name(text: str) -> str:
    """Return the name if a user can have it, else raise Invalid."""
    if not is_user_name(text):
        raise Invalid(
            f"{text[:80]!r} can't be the name of a user",
            "use 1 to 64 of a-z, 0-9, '.', '_' and '-', starting with a letter or digit",
        )
    return text


def check_password(password: str) -> str:
    """Return the password if it is long enough, else raise Invalid."""
    if len(password) < PASSWORD_MIN_CHARACTERS:
        raise Invalid(
            "the password is too short", f"use at least {PASSWORD_MIN_CHARACTERS} characters"
        )
    return password


def lower(role: Role, other: Role) -> Role:
    """Return the role of the two that may less."""
    return other if role.includes(other) else role


def csrf_of(session_token: str) -> str:
    """Return what a page has to show beside the cookie; it is bound to the session."""
    return hmac.new(session_token.encode(), b"cairn-csrf-1", hashlib.sha256).hexdigest()


def recent(moments: Sequence[float], *, now: float, window_s: float) -> tuple[float, ...]:
    """Return those moments that still count."""
    return tuple(moment for moment in moments if now - moment < window_s)


def wait_s(moments: Sequence[float], *, now: float, window_s: float) -> float:
    """Return how long until the oldest of the moments no longer counts."""
    return max(min(moments) + window_s - now, 0.0) if moments else 0.0
