"""Presence: which nodes have a stream open, and what they have loaded."""

from __future__ import annotations

from cairn_appliance.domain.node import Presence


class PresenceBoard:
    """Kept per replica in memory, shared with the others in batches under a lease."""

    def of(self, node: str) -> Presence | None:
        """Return the newest that any replica knows of the node's link."""
        raise NotImplementedError
