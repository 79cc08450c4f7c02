"""An appliance with its etcd, and the vSubnets and members that a scenario needs."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

from cairn_agent.protocol import netmap as wire
from cairn_agent.protocol.token import decode_token
from cairn_appliance.cluster.bootstrap import load
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

WHOLE_S = 90.0
_PAGE_OCTETS = os.sysconf("SC_PAGE_SIZE")
_TICKS = os.sysconf("SC_CLK_TCK")
_SLOW = re.compile(r"slow reader cut off.* node=(\S+)")


def vsubnet_order(number: int) -> VSubnetOrder:
    """Return the order of the n-th vSubnet: room for 4,000 members, IPv4 only."""
    return VSubnetOrder(f"net-{number}", (f"10.{64 + number}.0.0/20",))


_ANOTHER = "m2"
_ANOTHER_LEAVES = [Delete(keys.appliance(_ANOTHER)), Delete(keys.replica(_ANOTHER))]


async def _announce_another(store: Store) -> None:
    """Let the appliance believe in another, at no address: it then speaks as in a cluster."""
    writes = [
        Put(keys.appliance(_ANOTHER), records.appliances.encode(Appliance(_ANOTHER, ()))),
        Put(keys.replica(_ANOTHER), records.replicas.encode(Replica(_ANOTHER, "", 0.0))),
    ]
    await store.commit([], writes)


class World:
    """One replica and its store."""

    def __init__(self, directory: Path, *, vsubnets: int, is_alone: bool = True) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.appliance = RunningAppliance(directory, heartbeat_s=15.0, first=vsubnet_order(0))
        self._directory = directory
        self._others: list[RunningAppliance] = []
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
        """End it, if it runs, and all that have joined it."""
        for appliance in (*self._others, self.appliance):
            if appliance.process is not None and appliance.process.poll() is None:
                appliance.end(number)

    @property
    def all(self) -> list[RunningAppliance]:
        """All appliances of the cluster."""
        return [self.appliance, *self._others]

    def addresses(self) -> list[str]:
        """Return where their agent APIs are."""
        return [each.address for each in self.all]

    async def grow(self, count: int) -> None:
        """Let appliances join until there are so many, and all have a vote."""
        async with self.appliance.operator() as services:
            await services.store.commit([], _ANOTHER_LEAVES)
        while len(self.all) < count:
            directory = self._directory / f"appliance-{len(self.all) + 1}"
            directory.mkdir()
            joined = await RunningAppliance.joining(directory, self.appliance)
            self._others.append(joined)
            await asyncio.to_thread(joined.start)
            await self.until_whole()

    async def until_whole(self) -> None:
        """Wait until every appliance has a vote and is healthy; raise RigError."""
        end = time.monotonic() + WHOLE_S
        while True:
            shown = await self._shown()
            healthy = [each for each in shown if each["healthy"] and each["votes"]]
            if len(healthy) == len(self.all):
                return
            if time.monotonic() > end:
                raise RigError(f"{len(healthy)} of {len(self.all)} appliances are healthy: {shown}")
            await asyncio.sleep(0.5)

    async def leader(self) -> RunningAppliance:
        """Return the appliance whose etcd leads."""
        name = next(each["name"] for each in await self._shown() if each["leads"])
        return next(each for each in self.all if load(each.data_dir).member == name)

    async def _shown(self) -> list[dict[str, Any]]:
        async with self.appliance.operations() as client:
            answer = (await client.get("/cluster")).raise_for_status()
        found: list[dict[str, Any]] = answer.json()["appliances"]
        return found

    @property
    def metrics_port(self) -> int:
        """Where the first one's etcd tells of itself."""
        return self.appliance.settings.etcd_metrics_port

    def all_cpu_s(self, *, but: RunningAppliance) -> float:
        """Return the CPU time that all but one have used."""
        return sum(_cpu_s(each) for each in self.all if each is not but)

    def rss_octets(self) -> int:
        """The memory that the appliance's process holds."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * _PAGE_OCTETS

    def cpu_s(self) -> float:
        """The CPU time that it has used."""
        return _cpu_s(self.appliance)

    @property
    def slow_readers(self) -> set[str]:
        """The nodes whose streams the appliance has cut off for their slowness."""
        return set(_SLOW.findall(self.appliance.log.read_text()))

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
            await services.store.commit([], _ANOTHER_LEAVES)
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


def _cpu_s(appliance: RunningAppliance) -> float:
    assert appliance.process is not None
    stat = Path(f"/proc/{appliance.process.pid}/stat").read_text()
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS
