"""People and what they may do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class UserRole(StrEnum):
    """A viewer reads, an operator changes, an admin manages users too."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class User:
    """Someone who may sign in to the operations API."""

    name: str
    role: UserRole
    password_hash: str  # argon2id, in its PHC string form
    created_at: float = 0.0
    password_changed_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Session:
    """A signed-in user; only the hash of the session's secret is kept."""

    secret_hash: str  # hex SHA-256
    user: str
    created_at: float
    last_used_at: float
    address: str = ""
