"""A replica with gateways of one segment, whose watch of the store the test moves."""

from __future__ import annotations

from dataclasses import dataclass, field

from cairn_agent.protocol import gateway as wire
from cairn_appliance.domain.cluster import FORMAT
from cairn_appliance.domain.identity import SYSTEM
from cairn_appliance.services.segments import SegmentOrder
from cairn_appliance.store import keys
from cairn_appliance.store.memory import MemoryStore
from cairn_appliance.store.port import Delete, Events, Item, Put, Reset

from tests.simulated_node import SimulatedNode
from tests.unit.appliance.replica import FakeClock, Replica

LAN = "office-lan"


@dataclass
class Watching:
    """A replica that sees the store when it is told to look."""

    replica: Replica
    monotonic: FakeClock
    seen: dict[str, Item] = field(default_factory=dict)
    is_begun: bool = False

    async def look(self) -> None:
        """Take what the store has by now: map and gateways."""
        memory, services = self.replica.memory, self.replica.services
        listing = await memory.list(keys.MAP)
        services.netmaps.take([Reset(listing.revision, listing.items)])
        listing = await memory.list(keys.GATEWAYS)
        new = {item.key: item for item in listing.items}
        if not self.is_begun:
            self.is_begun = True
            services.board.take(Reset(listing.revision, listing.items))
        gone: list[Item | Delete] = [Delete(key) for key in self.seen.keys() - new.keys()]
        changed = [item for key, item in new.items() if self.seen.get(key) != item]
        if gone or changed:
            services.board.take(Events(listing.revision, (*gone, *changed)))
        self.seen = new

    async def beat(
        self, node: SimulatedNode, segment: str, *, boot: str = "b1", **state: object
    ) -> wire.Grant:
        """Let a gateway beat here for one segment; return what it is told."""
        await self.look()
        fields = {"is_able": True, **state}
        said = wire.SegmentState(segment, **fields)  # type: ignore[arg-type]
        answer = await self.replica.services.election.beat(node.id, wire.GatewayBeat([said], boot))
        await self.look()
        (grant,) = answer.grants
        return grant


class Office:
    """A vSubnet `red`, a segment of it, gateways g1 and g2, and one replica or two."""

    def __init__(self) -> None:
        self.memory = MemoryStore()
        self.clock = FakeClock()
        self.monotonic = FakeClock(1000.0)
        self.first, self.second = (
            Watching(
                Replica(self.memory, name, self.clock, monotonic=self.monotonic), self.monotonic
            )
            for name in ("r1", "r2")
        )
        self.gateways: list[SimulatedNode] = []
        self.segment = ""

    @property
    def replica(self) -> Replica:
        """The first replica."""
        return self.first.replica

    async def open(self, *names: str) -> Office:
        """Make the segment with these gateways, at their port eth1."""
        await self.memory.commit([], [Put(keys.CLUSTER_FORMAT, b"%d" % FORMAT)])
        await self.replica.vsubnet("red")
        segments = self.replica.services.segments
        self.segment = (await segments.create(SegmentOrder(LAN, "red"), SYSTEM)).value.id
        for name in names:
            node = await self.replica.joined(name)
            self.gateways.append(node)
            await segments.attach(LAN, node.id, "eth1", 0, SYSTEM)
        await self.look()
        return self

    async def look(self) -> None:
        """Let both replicas see the store."""
        await self.first.look()
        await self.second.look()

    def wait(self, seconds: float) -> None:
        """Let time pass on both clocks."""
        self.clock.now += seconds
        self.monotonic.now += seconds
