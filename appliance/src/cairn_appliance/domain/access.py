"""Who may do what: users, roles, sessions, and when too many guesses have been made."""

from __future__ import annotations

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
_USER_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")


class WrongLogin(NotSignedIn):
    """The name or the password is wrong; which of them is not told."""

    code = "wrong_login"
    remedy = "check both; after 5 wrong passwords an account waits 15 minutes"


class SessionEnded(NotSignedIn):
    """The session is unknown, was ended, or was not used for too long."""

    code = "session_ended"
    remedy = "sign in again with `cairn login`"


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


@dataclass(frozen=True, slots=True)
class Session:
    """One login; its token is known to its holder only."""

    user: str
    created_at: float
    seen_at: float

    @property
    def ends_at(self) -> float:
        """Return when it ends if it is not used again."""
        return min(self.seen_at + SESSION_IDLE_S, self.created_at + SESSION_LIFE_S)


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is asking, as of this request."""

    name: str
    role: Role
    session: Session


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


def recent(moments: Sequence[float], *, now: float, window_s: float) -> tuple[float, ...]:
    """Return those moments that still count."""
    return tuple(moment for moment in moments if now - moment < window_s)


def wait_s(moments: Sequence[float], *, now: float, window_s: float) -> float:
    """Return how long until the oldest of the moments no longer counts."""
    return max(min(moments) + window_s - now, 0.0) if moments else 0.0
