"""Events: written with the change they tell of, kept in bounded number."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from cairn_appliance.domain.event import Event


class Events:
    """What happened, in order."""

    async def list(self, *, after: int = 0, limit: int = 100) -> list[Event]:
        """Return the oldest `limit` events with a sequence above `after`."""
        raise NotImplementedError

    async def latest(self, limit: int = 100) -> list[Event]:
        """Return the newest events, oldest of them first."""
        raise NotImplementedError

    def follow(self, after: int | None = None) -> AsyncGenerator[Event, None]:
        """Yield events as they happen, those after `after` (None: from now on) first."""
        raise NotImplementedError
