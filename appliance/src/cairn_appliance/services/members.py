"""Members: which node is attached to which vSubnet, with which addresses."""

from __future__ import annotations

from dataclasses import dataclass

from cairn_appliance.domain.identity import Actor
from cairn_appliance.domain.member import Member, MemberRole
from cairn_appliance.services.stored import Stored


@dataclass(frozen=True, slots=True)
class MemberOrder:
    """A member to be; `ips` empty: one address of each prefix is allocated."""

    vsubnet: str  # name, ID or VNI
    node: str  # ID or name
    ips: tuple[str, ...] = ()  # static addresses
    role: MemberRole = MemberRole.HOST


@dataclass(frozen=True, slots=True)
class MemberChange:
    """What is to change; None: stays."""

    ips: tuple[str, ...] | None = None
    role: MemberRole | None = None


class Members:
    """All there is to do with members."""

    async def create(self, order: MemberOrder, by: Actor) -> Stored[Member]:
        """Attach a node; the same order again returns the member. Raise Clash, NoAddressLeft."""
        raise NotImplementedError

    async def list(self, vsubnet: str = "", node: str = "") -> list[Stored[Member]]:
        """Return the members, of one vSubnet or node if given (name, ID or VNI)."""
        raise NotImplementedError

    async def get(self, vsubnet: str, node: str) -> Stored[Member]:
        """Return a member; raise NotFound."""
        raise NotImplementedError

    async def change(
        self,
        vsubnet: str,
        node: str,
        change: MemberChange,
        by: Actor,
        *,
        expected: int | None = None,
    ) -> Stored[Member]:
        """Return the member after the change; raise NotFound, Clash, Changed."""
        raise NotImplementedError

    async def delete(
        self,
        vsubnet: str,
        node: str,
        by: Actor,
        *,
        revoke_now: bool = False,
        expected: int | None = None,
    ) -> None:
        """Detach a node and start a new epoch of the vSubnet's secret; raise NotFound, Changed."""
        raise NotImplementedError
