"""Where a cluster that began again has got to: what is held back until the nodes were heard."""

from __future__ import annotations

import asyncio

from cairn_appliance.domain.errors import Clash, Restoring
from cairn_appliance.domain.node import NodeState
from cairn_appliance.domain.restored import QUARANTINE_S, REASSERT_S, Restored, RestoreHealth
from cairn_appliance.domain.vsubnet import VSubnet
from cairn_appliance.services.clock import Clock, wall_clock
from cairn_appliance.services.stored import read, read_all
from cairn_appliance.store import keys, records
from cairn_appliance.store.port import Store


class Restoration:
    """What this replica knows of the last restore; None where there was none."""

    def __init__(self, store: Store, clock: Clock = wall_clock) -> None:
        self._store = store
        self._clock = clock
        self._restored: Restored | None = None
        self._is_open = asyncio.Event()
        self._is_open.set()

    @property
    def restored(self) -> Restored | None:
        """The last restore."""
        return self._restored

    @restored.setter
    def restored(self, restored: Restored | None) -> None:
        self._restored = restored
        if self.is_absorbing:
            self._is_open.clear()
        else:
            self._is_open.set()

    async def opened(self) -> None:
        """Return when the nodes have been heard."""
        await self._is_open.wait()

    async def load(self) -> Restored | None:
        """Read how far it is; call it before anything is served."""
        found = await read(self._store, records.restored, keys.RESTORED)
        self.restored = found.value if found else None
        return self.restored

    @property
    def is_absorbing(self) -> bool:
        """True while the nodes are listened to and told nothing."""
        return self.restored is not None and not self.restored.is_absorbed

    @property
    def takes_reassertions(self) -> bool:
        """True while nodes may say what happened in the time that is lost."""
        restored = self.restored
        return restored is not None and self._clock() < restored.restored_at + REASSERT_S

    def check_open(self) -> None:
        """Raise Restoring while the nodes are listened to."""
        restored = self.restored
        if restored is not None and self.is_absorbing:
            raise Restoring(f"the cluster was {restored.how} and listens to its nodes first")

    def check_allocation(self, vsubnet: VSubnet) -> None:
        """Raise Restoring, or Clash where an address might be one that was given out already."""
        self.check_open()
        restored = self.restored
        if restored is None or vsubnet.id not in restored.unheard:
            return
        left_s = restored.restored_at + QUARANTINE_S - self._clock()
        if left_s <= 0:
            return
        raise Clash(
            f"vSubnet {vsubnet.name} gives out no address by itself: no member of it has said yet "
            f"what was given out in the time that is lost (the cluster was {restored.how})",
            f"start a member of it, give an address that you know to be free (--ip), or wait "
            f"{left_s / 3600:.0f} hours",
            code="addresses_quarantined",
        )


async def restore_health(store: Store, now: float) -> RestoreHealth | None:
    """Return how far the last restore is; None where there was none of late."""
    found = await read(store, records.restored, keys.RESTORED)
    if found is None or now > found.value.restored_at + REASSERT_S:
        return None
    restored = found.value
    registered = await read_all(store, records.registrations, keys.REGISTRATIONS)
    # What nodes brought back has no token; who joined since has one, and is on its way.
    seen = {r.value.node for r in registered if r.value.registered_at >= restored.restored_at}
    nodes = await read_all(store, records.nodes, keys.NODES)
    unseen = sorted(
        each.value.name
        for each in nodes
        if each.value.state is NodeState.APPROVED
        and each.value.id not in seen
        and (each.value.created_at < restored.restored_at or not each.value.token)
    )
    return RestoreHealth(restored, now, tuple(unseen))
