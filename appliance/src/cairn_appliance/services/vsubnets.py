"""vSubnets: create, change, delete, and the epochs of their secrets."""

from __future__ import annotations

from dataclasses import dataclass

from cairn_appliance.domain.identity import Actor
from cairn_appliance.domain.vsubnet import Policy, VSubnet
from cairn_appliance.services.stored import Stored


@dataclass(frozen=True, slots=True)
class VSubnetOrder:
    """A vSubnet to be; the VNI, the ID and the first secret are drawn."""

    name: str
    prefixes: tuple[str, ...] = ()
    reserved: tuple[str, ...] = ()
    mtu: int = 1400
    policy: Policy = Policy()


@dataclass(frozen=True, slots=True)
class VSubnetChange:
    """What is to change; None: stays."""

    name: str | None = None
    prefixes: tuple[str, ...] | None = None  # only while it has no members
    reserved: tuple[str, ...] | None = None
    mtu: int | None = None
    policy: Policy | None = None


class VSubnets:
    """All there is to do with vSubnets."""

    async def create(self, order: VSubnetOrder, by: Actor) -> Stored[VSubnet]:
        """Return the new vSubnet; raise Invalid, Clash (name taken)."""
        raise NotImplementedError

    async def list(self) -> list[Stored[VSubnet]]:
        """Return all vSubnets by name."""
        raise NotImplementedError

    async def get(self, reference: str) -> Stored[VSubnet]:
        """Return the vSubnet with this name, ID or VNI (decimal); raise NotFound."""
        raise NotImplementedError

    async def change(
        self, reference: str, change: VSubnetChange, by: Actor, *, expected: int | None = None
    ) -> Stored[VSubnet]:
        """Return the vSubnet after the change; raise NotFound, Invalid, Clash, Changed."""
        raise NotImplementedError

    async def rotate_secret(self, reference: str, by: Actor, *, revoke_now: bool = False) -> int:
        """Start a new epoch and return its number; `revoke_now`: the old ends at once."""
        raise NotImplementedError

    async def delete(self, reference: str, by: Actor, *, expected: int | None = None) -> None:
        """Delete a vSubnet without members; raise NotFound, Clash (has members), Changed."""
        raise NotImplementedError
