"""Nodes, as operators see them: list, approve, reject, remove."""

from __future__ import annotations

from dataclasses import dataclass

from cairn_appliance.domain.identity import Actor
from cairn_appliance.domain.member import Member
from cairn_appliance.domain.node import Node, NodeState, Presence, Registration
from cairn_appliance.services.stored import Stored


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node with what it last registered, its memberships, and its link (None: never seen)."""

    node: Node
    registration: Registration
    members: tuple[Member, ...]
    presence: Presence | None


class Nodes:
    """All that operators do with nodes."""

    async def list(self, state: NodeState | None = None) -> list[Stored[NodeView]]:
        """Return nodes by name; removed ones only when asked for by their state."""
        raise NotImplementedError

    async def get(self, reference: str) -> Stored[NodeView]:
        """Return the node with this ID, or this name if only one has it; NotFound, Ambiguous."""
        raise NotImplementedError

    async def approve(
        self, reference: str, by: Actor, *, expected: int | None = None
    ) -> Stored[NodeView]:
        """Let a pending node in: it becomes a member of the vSubnets its token names."""
        raise NotImplementedError

    async def reject(self, reference: str, by: Actor, reason: str = "") -> None:
        """Turn a pending node away; it has to join anew. Raise NotFound, Clash (not pending)."""
        raise NotImplementedError

    async def remove(
        self,
        reference: str,
        by: Actor,
        *,
        reason: str = "",
        revoke_now: bool = False,
        expected: int | None = None,
    ) -> None:
        """Cut a node off: out of every netmap at once, addresses in quarantine for a day."""
        raise NotImplementedError
