"""Enrolment tokens: made and deleted by operators, used by new nodes."""

from __future__ import annotations

from dataclasses import dataclass, field

from cairn_appliance.domain.identity import Actor
from cairn_appliance.domain.token import Token
from cairn_appliance.services.stored import Stored


@dataclass(frozen=True, slots=True)
class TokenOrder:
    """What a token is to allow; `vsubnets` are names, IDs or VNIs."""

    vsubnets: tuple[str, ...] = ()
    max_uses: int = 1
    life_s: float = 86_400.0
    site: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    needs_approval: bool = False


class Tokens:
    """All there is to do with tokens but enrolling (see enrolment.py)."""

    async def create(self, order: TokenOrder, by: Actor) -> tuple[Stored[Token], str]:
        """Return the token and its pasteable string, which is shown this once only."""
        raise NotImplementedError

    async def list(self) -> list[Stored[Token]]:
        """Return all tokens, newest first, expired and used-up ones too."""
        raise NotImplementedError

    async def get(self, token_id: str) -> Stored[Token]:
        """Return a token; raise NotFound."""
        raise NotImplementedError

    async def delete(self, token_id: str, by: Actor, *, expected: int | None = None) -> None:
        """Delete a token: nobody can enrol with it any more. Raise NotFound, Changed."""
        raise NotImplementedError
