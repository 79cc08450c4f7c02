"""A replica's services on a store in memory, with a clock that tests move."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from datetime import UTC, datetime

from cairn_appliance.domain.cluster import Cluster
from cairn_appliance.domain.identity import SYSTEM
from cairn_appliance.pki.authority import Authority
from cairn_appliance.pki.keyring import Keyring
from cairn_appliance.pki.map_key import MapKey
from cairn_appliance.pki.sealing import Sealer, new_kek
from cairn_appliance.services.enrolment import Credentials
from cairn_appliance.services.services import Services, build
from cairn_appliance.services.tokens import TokenOrder
from cairn_appliance.services.vsubnets import VSubnetOrder
from cairn_appliance.store.memory import MemoryLease, MemoryStore
from cairn_appliance.store.port import (
    Compare,
    Delete,
    Events,
    Item,
    Listing,
    Progress,
    Put,
    Reset,
)

from tests.simulated_node import SimulatedNode

CLUSTER = Cluster("0f7b5e0e-5b0e-4a53-9f6e-0d6b6c2a1d11", 1, ("192.0.2.1:8002",), 15.0)
AUTHORITY = Authority.create("test cluster", datetime.now(UTC))
MAP_KEY = MapKey.create()
SEALER = Sealer(new_kek())


class FakeClock:
    """Seconds since 1970 that pass when told to."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class YieldingStore:
    """The store in memory, letting others in before each operation as a network does.

    With `dice` for a random number of turns, so that every order of steps comes up.
    """

    def __init__(self, inner: MemoryStore) -> None:
        self.inner = inner
        self.dice: random.Random | None = None

    async def _let_others_in(self) -> None:
        for _ in range(self.dice.randrange(1, 12) if self.dice else 1):
            await asyncio.sleep(0)

    async def get(self, key: str) -> Item | None:
        await self._let_others_in()
        return await self.inner.get(key)

    async def get_all(self, keys: Sequence[str]) -> tuple[Item | None, ...]:
        await self._let_others_in()
        return await self.inner.get_all(keys)

    async def list(self, prefix: str) -> Listing:
        await self._let_others_in()
        return await self.inner.list(prefix)

    async def surplus(self, prefix: str, kept: int) -> tuple[str, ...]:
        await self._let_others_in()
        return await self.inner.surplus(prefix, kept)

    async def newest(self, prefix: str) -> int:
        await self._let_others_in()
        return await self.inner.newest(prefix)

    async def commit(self, compares: Sequence[Compare], writes: Sequence[Put | Delete]) -> int:
        await self._let_others_in()
        return await self.inner.commit(compares, writes)

    async def write_and_read(self, writes: Sequence[Put], read: Sequence[str]) -> Listing:
        await self._let_others_in()
        return await self.inner.write_and_read(writes, read)

    def follow(self, prefix: str) -> AsyncGenerator[Reset | Events | Progress, None]:
        return self.inner.follow(prefix)

    async def lease(self, ttl_s: int) -> MemoryLease:
        return await self.inner.lease(ttl_s)

    async def close(self) -> None:
        await self.inner.close()


class Replica:
    """Services on a store that may be shared with other replicas."""

    def __init__(
        self,
        store: MemoryStore | None = None,
        name: str = "r1",
        clock: FakeClock | None = None,
        cluster: Cluster = CLUSTER,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.memory = store or MemoryStore()
        self.store = YieldingStore(self.memory)
        self.clock = clock or FakeClock()
        self.services: Services = build(
            store=self.store,
            cluster=cluster,
            keyring=Keyring(SEALER, AUTHORITY, MAP_KEY),
            sealer=SEALER,
            replica=name,
            clock=self.clock,
            monotonic=monotonic,
        )

    async def vsubnet(self, name: str = "red", *prefixes: str) -> str:
        """Make a vSubnet and return its ID."""
        order = VSubnetOrder(name, prefixes or ("10.7.0.0/24", "fd00:7::/64"))
        return (await self.services.vsubnets.create(order, SYSTEM)).value.id

    async def token(self, *vsubnets: str, **order: object) -> str:
        """Make a token and return the pasteable string."""
        wanted = TokenOrder(vsubnets=vsubnets, **order)  # type: ignore[arg-type]
        return (await self.services.tokens.create(wanted, SYSTEM))[1]

    async def enrol(self, node: SimulatedNode, token: str) -> Credentials:
        """Let a node join."""
        return await self.services.enrolment.enrol(node.newcomer(token), "198.51.100.9")

    async def register(self, node: SimulatedNode, **changes: object) -> None:
        """Register a node and give it what was offered."""
        answer = await self.services.registry.register(
            node.id, node.report(**changes), "198.51.100.9"
        )
        node.generation = answer.generation

    async def joined(self, name: str, *vsubnets: str) -> SimulatedNode:
        """Return a node that enrolled and registered."""
        node = SimulatedNode(name)
        await self.enrol(node, await self.token(*vsubnets))
        await self.register(node)
        return node

    async def kinds(self) -> list[str]:
        """The kinds of all events, in order."""
        return [event.kind for event in await self.services.events.list(limit=10_000)]
