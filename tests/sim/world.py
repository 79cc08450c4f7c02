"""An appliance with its etcd, and the vSubnets and members that a scenario needs."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

from cairn_agent.protocol import netmap as wire
from cairn_agent.protocol.token import decode_token
from cairn_appliance.domain.cluster import Appliance, Replica
from cairn_appliance.domain.identity import SYSTEM
from cairn_appliance.domain.node import NodeState
from cairn_appliance.domain.trust import Phase
from cairn_appliance.netmap.render import trust_document
from cairn_appliance.services.stored import read, read_all
from cairn_appliance.services.vsubnets import VSubnetOrder
from cairn_appliance.store import keys, records
from cairn_appliance.store.keys import MAP
from cairn_appliance.store.port import Delete, Put, Reset, Store

from tests.integration.appliance.running import RunningAppliance
from tests.sim.fleet import Fleet, RigError
from tests.sim.messages import Enrolled

_PAGE_OCTETS = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")


def vsubnet_order(number: int) -> VSubnetOrder:
    """Return the order of the n-th vSubnet: room for 4,000 members, IPv4 only."""
    return VSubnetOrder(f"net-{number}", (f"10.{64 + number}.0.0/20",))


async def _announce_another(store: Store) -> None:
    """Let the appliance believe in another, at no address: it then speaks as in a cluster."""
    writes = [
        Put(keys.appliance("m2"), records.appliances.encode(Appliance("m2", ()))),
        Put(keys.replica("m2"), records.replicas.encode(Replica("m2", "", 0.0))),
    ]
    await store.commit([], writes)


class World:
    """One replica and its store."""

    def __init__(self, directory: Path, *, vsubnets: int, is_alone: bool = True) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.appliance = RunningAppliance(directory, heartbeat_s=15.0, first=vsubnet_order(0))
        self._vsubnets = vsubnets
        self._is_alone = is_alone

    @property
    def pid(self) -> int:
        """The appliance's process."""
        assert self.appliance.process is not None
        return self.appliance.process.pid

    def start(self) -> None:
        """Start it."""
        self.appliance.start()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it, if it runs."""
        process = self.appliance.process
        if process is not None and process.poll() is None:
            self.appliance.end(number)

    def rss_octets(self) -> int:
        """The memory that the appliance's process holds."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE_OCTETS

    def cpu_s(self) -> float:
        """The CPU time that it has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    @property
    def slow_readers(self) -> int:
        """How many streams the appliance has cut off for their readers' slowness."""
        return self.appliance.log.read_text().count("slow reader cut off")

    async def make_vsubnets(self) -> None:
        """Make all but the first, which is there, and a cluster of it."""
        async with self.appliance.operator() as services:
            for number in range(1, self._vsubnets):
                await services.vsubnets.create(vsubnet_order(number), SYSTEM)
            if not self._is_alone:
                await _announce_another(services.store)

    async def populate(self, fleet: Fleet, agents: int, first: int = 0) -> float:
        """Let agents join the vSubnets in turn, through the API; return nodes per second."""
        tokens = [
            decode_token(await self.appliance.token(f"net-{number}", max_uses=agents))
            for number in range(self._vsubnets)
        ]
        begun = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for number, worker in enumerate(fleet.workers):
                count = agents // len(fleet.workers) + (number < agents % len(fleet.workers))
                work = worker.tell(
                    "enrol",
                    Enrolled,
                    address=self.appliance.address,
                    ca=self.appliance.ca,
                    tokens=tokens,
                    first=first,
                    count=count,
                )
                tasks.create_task(work)
                first += count
        return agents / (time.monotonic() - begun)

    async def revision(self) -> int:
        """The store's revision: one more for each write, whoever made it."""
        async with self.appliance.operator() as services:
            return (await services.store.list(keys.CLUSTER_INFO)).revision

    async def truth(self) -> dict[str, dict[str, str]]:
        """Return what each node should hold, made from the store by code that streams nothing."""
        async with self.appliance.operator() as services:
            listing = await services.store.list(MAP)
            services.netmaps.take([Reset(listing.revision, listing.items)])
            nodes = await read_all(services.store, records.nodes, keys.NODES)
            return {
                node.value.id: services.netmaps.digests(node.value.id)
                for node in nodes
                if node.value.state is NodeState.APPROVED
            }

    async def endpoints(self) -> dict[str, str]:
        """Return the endpoint that the store has of each node, by the history's name of it."""
        async with self.appliance.operator() as services:
            found = await read_all(services.store, records.registrations, keys.REGISTRATIONS)
            return {
                f"endpoint {each.value.node}": each.value.endpoints[0]
                for each in found
                if each.value.endpoints
            }

    async def begin_ca(self) -> None:
        """Begin to replace the CA, as an operator does.

        The other appliance leaves first: it is none, and would show no new certificate.
        """
        async with self.appliance.operator() as services:
            gone = [Delete(keys.appliance("m2")), Delete(keys.replica("m2"))]
            await services.store.commit([], gone)
            await services.rotation.begin_ca(SYSTEM)

    async def begin_map_key(self) -> None:
        """Begin to replace the map key."""
        async with self.appliance.operator() as services:
            await services.rotation.begin_map_key(SYSTEM)

    async def rotate_secrets(self) -> None:
        """Give each vSubnet a new secret."""
        async with self.appliance.operator() as services:
            for number in range(self._vsubnets):
                await services.vsubnets.rotate_secret(f"net-{number}", SYSTEM)

    async def until_replaced(self, within_s: float) -> str:
        """Wait until nothing is being replaced; return what each agent is to have then."""
        end = time.monotonic() + within_s
        while time.monotonic() < end:
            async with self.appliance.operator() as services:
                stored = await read(services.store, records.trust, keys.TRUST)
            assert stored is not None
            trust = stored.value
            if trust.authorities.phase is trust.map_keys.phase is Phase.STEADY:
                document = trust_document(trust)
                digest = wire.trust_digest(document)
                return f"{digest} {document.map_key} {document.issuer}"
            await asyncio.sleep(1.0)
        return ""

    async def document(self, node: str) -> bytes:
        """Return the whole of a node's vSubnet as a line of the stream, made from the store."""
        async with self.appliance.operator() as services:
            listing = await services.store.list(MAP)
            services.netmaps.take([Reset(listing.revision, listing.items)])
            ((topic, _),) = services.netmaps.topics_of(node).values()
            return topic.full()

    async def until_members(self, count: int, within_s: float = 60.0) -> None:
        """Wait until all are members of their vSubnet; raise RigError."""
        end = time.monotonic() + within_s
        while True:
            async with self.appliance.operator() as services:
                members = len(await services.members.list())
            if members == count:
                return
            if time.monotonic() > end:
                raise RigError(f"{members} of {count} nodes became members")
            await asyncio.sleep(0.5)
