"""Enrolment tokens, as the appliance keeps them."""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Token:
    """What a new node may join with; the secret itself is not kept."""

    id: str
    secret_hash: str  # hex
    created_at: float  # seconds since 1970
    created_by: str
    expires_at: float
    max_uses: int = 1
    uses: int = 0
    site: str = ""  # name
    labels: dict[str, str] = field(default_factory=dict)
    vsubnets: tuple[str, ...] = ()  # IDs
    needs_approval: bool = False
    pin: str = ""  # hex SHA-256 of the cluster CA that its string names; empty: the first one

    def matches(self, secret: str) -> bool:
        """Compare in constant time."""
        return hmac.compare_digest(self.secret_hash, secret_hash(self.id, secret))


def secret_hash(token_id: str, secret: str) -> str:
    """Return the hex HMAC-SHA256 of the secret (256 random bits: no slow hash is needed)."""
    key = b"cairn-token-1/" + token_id.encode()
    return hmac.new(key, secret.encode(), hashlib.sha256).hexdigest()
