"""Two replicas on a real etcd, asked for the same thing at once: never do both say yes.

A state machine makes up who asks for what. Each replica has a store connection of its own;
what they answered goes into a history, and its checker (tests/sim/history.py) decides.
`CAIRN_RACE_STEPS` sets how many steps it takes; `make races` takes 100,000.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import zlib
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from cairn_appliance.domain.addressing import QUARANTINE_S
from cairn_appliance.domain.errors import CairnError
from cairn_appliance.domain.identity import SYSTEM
from cairn_appliance.domain.member import Member
from cairn_appliance.pki.keyring import Keyring
from cairn_appliance.services import addressing as addressing_module
from cairn_appliance.services import vsubnets as vsubnets_module
from cairn_appliance.services.members import MemberChange, MemberOrder
from cairn_appliance.services.services import Services, build
from cairn_appliance.services.stored import read_all
from cairn_appliance.services.tokens import TokenOrder
from cairn_appliance.services.vsubnets import VSubnetOrder
from cairn_appliance.store import keys, records
from cairn_appliance.store.etcd import EtcdStore
from cairn_appliance.store.port import MAX_WRITES, Delete
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    rule,
    run_state_machine_as_test,
)

from tests import proofs
from tests.contract.etcd_server import EtcdServer
from tests.sim import history
from tests.sim.history import History, Kind, Outcome
from tests.simulated_node import SimulatedNode
from tests.unit.appliance.replica import AUTHORITY, CLUSTER, MAP_KEY, SEALER, FakeClock

pytestmark = [pytest.mark.etcd, pytest.mark.timeout(3 * 3600)]

STEPS = int(os.environ.get("CAIRN_RACE_STEPS", "400"))
STEPS_A_RUN = 50
NODES = [SimulatedNode(f"n{number}") for number in range(6)]
PREFIX = "10.9.0.0/29"  # five addresses for six nodes
MACS = 8
VNIS = 3
node_numbers = st.integers(0, len(NODES) - 1)


class Cluster:
    """An etcd, and two replicas' services on connections of their own."""

    def __init__(self, directory: Path) -> None:
        self.etcd = EtcdServer(directory)
        self.etcd.start()
        self.loop = asyncio.new_event_loop()
        self.clock = FakeClock()
        self.stores = self.run(self._connect())
        self.replicas = [self._replica(store, f"r{n}") for n, store in enumerate(self.stores)]

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    def close(self) -> None:
        for store in self.stores:
            self.run(store.close())
        self.loop.close()
        self.etcd.kill()

    async def wipe(self) -> None:
        """Empty the store, so that runs are alike and the store stays small."""
        found = (await self.stores[0].list(keys.ROOT)).items
        for begin in range(0, len(found), MAX_WRITES):
            gone = [Delete(item.key) for item in found[begin : begin + MAX_WRITES]]
            await self.stores[0].commit([], gone)

    async def _connect(self) -> list[EtcdStore]:
        return [EtcdStore([self.etcd.address], None) for _ in range(2)]

    def _replica(self, store: EtcdStore, name: str) -> Services:
        return build(
            store=store,
            cluster=CLUSTER,
            keyring=Keyring(SEALER, AUTHORITY, MAP_KEY),
            sealer=SEALER,
            replica=name,
            clock=self.clock,
        )


class Races(RuleBasedStateMachine):
    """Asks both replicas at once."""

    cluster: Cluster
    steps = 0
    yes = 0
    no = 0
    broken = 0  # by what was answered, of what no truth explains

    def __init__(self) -> None:
        super().__init__()
        self.history = History()
        self.uses: dict[str, int] = {}
        self.numbers = itertools.count()

    @property
    def first(self) -> Services:
        return self.cluster.replicas[0]

    def together(self, *works: Coroutine[Any, Any, None]) -> None:
        """Run what is asked at once; a refusal is an answer."""

        async def gathered() -> None:
            await asyncio.gather(*works)

        Races.steps += 1
        self.cluster.run(gathered())

    @contextlib.contextmanager
    def asking(self, client: str, kind: Kind, thing: str, value: str) -> Iterator[history.Call]:
        """Record an operation; what the services refuse did not happen."""
        with self.history.of(client, kind, thing, value) as call:
            try:
                yield call
            except CairnError:
                Races.no += 1
                call.refused()
            else:
                Races.yes += 1

    @initialize()
    def begin(self) -> None:
        self.cluster.run(self._begin())

    async def _begin(self) -> None:
        await self.cluster.wipe()
        await self.first.vsubnets.create(VSubnetOrder("red", (PREFIX,)), SYSTEM)
        order = TokenOrder(max_uses=1000, life_s=366 * 86_400.0)
        _, self.token = await self.first.tokens.create(order, SYSTEM)
        for node in NODES:
            await self.first.enrolment.enrol(node.newcomer(self.token), "192.0.2.1")

    @rule(numbers=st.lists(node_numbers, min_size=2, max_size=4, unique=True))
    def addresses(self, numbers: list[int]) -> None:
        """Each of some nodes joins at both replicas, in opposite orders."""
        orders = (numbers, numbers[::-1])
        self.together(
            *(self._join(replica, NODES[n]) for replica in (0, 1) for n in orders[replica])
        )

    async def _join(self, replica: int, node: SimulatedNode, *ips: str) -> None:
        members = self.cluster.replicas[replica].members
        with self.asking(f"r{replica}", Kind.TAKE, f"member {node.name}", node.id) as call:
            asked = self.history.clock()
            member = (await members.create(MemberOrder("red", node.id, ips), SYSTEM)).value
            self._took(f"r{replica}", member, asked)
            call.succeeded()

    def _took(self, client: str, member: Member, asked: float) -> None:
        """Record each address of a member that it has now."""
        for thing in (f"mac {member.mac}", *(f"ip {ip}" for ip in member.ips)):
            self.history.done(client, Kind.TAKE, thing, member.node, asked)

    @rule(one=node_numbers, other=node_numbers, host=st.integers(1, 6))
    def the_same_static_address(self, one: int, other: int, host: int) -> None:
        """Two nodes want one address at once, each from another replica."""
        ip = f"10.9.0.{host}"
        self.together(self._join(0, NODES[one], ip), self._join(1, NODES[other], ip))

    @rule(one=node_numbers, other=node_numbers, host=st.integers(1, 6))
    def members_change_to_the_same_address(self, one: int, other: int, host: int) -> None:
        ip = f"10.9.0.{host}"
        if one != other:
            self.together(self._change(0, NODES[one], ip), self._change(1, NODES[other], ip))

    async def _change(self, replica: int, node: SimulatedNode, ip: str) -> None:
        members = self.cluster.replicas[replica].members
        held = [f"ip {each}" for each in await self._ips(node)]
        asked = self.history.clock()
        with contextlib.suppress(CairnError):
            member = await members.change("red", node.id, MemberChange(ips=(ip,)), SYSTEM)
            for thing in held:
                self.history.done(f"r{replica}", Kind.RELEASE, thing, node.id, asked)
            self._took(f"r{replica}", member.value, self.history.clock())

    async def _ips(self, node: SimulatedNode) -> tuple[str, ...]:
        try:
            return (await self.first.members.get("red", node.id)).value.ips
        except CairnError:
            return ()

    @rule(number=node_numbers)
    def leave_at_both(self, number: int) -> None:
        self.together(self._leave(0, NODES[number]), self._leave(1, NODES[number]))

    async def _leave(self, replica: int, node: SimulatedNode) -> None:
        try:
            member = (await self.first.members.get("red", node.id)).value
        except CairnError:
            return
        asked = self.history.clock()
        with contextlib.suppress(CairnError):
            await self.cluster.replicas[replica].members.delete("red", node.id, SYSTEM)
            things = (f"mac {member.mac}", *(f"ip {ip}" for ip in member.ips))
            for thing in (f"member {node.name}", *things):
                self.history.done(f"r{replica}", Kind.RELEASE, thing, node.id, asked)

    @rule(uses=st.integers(1, 2), newcomers=st.integers(2, 4))
    def the_last_use_of_a_token(self, uses: int, newcomers: int) -> None:
        """More nodes than a token has uses show it at once."""
        order = TokenOrder(max_uses=uses)
        stored, token = self.cluster.run(self.first.tokens.create(order, SYSTEM))
        thing = f"token {stored.value.id}"
        self.uses[thing] = uses
        nodes = [SimulatedNode(f"t{next(self.numbers)}") for _ in range(newcomers)]
        self.together(*(self._use(n % 2, node, token, thing) for n, node in enumerate(nodes)))
        done = (op for op in self.history.operations if op.outcome is Outcome.DONE)
        used = {each.value for each in done if each.thing == thing}
        Races.broken += abs(len(used) - uses)
        assert len(used) == uses  # never one too many, and none goes to waste

    async def _use(self, replica: int, node: SimulatedNode, token: str, thing: str) -> None:
        with self.asking(f"r{replica}", Kind.USE, thing, node.id) as call:
            newcomer = node.newcomer(token)
            await self.cluster.replicas[replica].enrolment.enrol(newcomer, "192.0.2.1")
            call.succeeded()

    @rule()
    def the_same_node_id(self) -> None:
        """Two machines come with one node ID and keys of their own."""
        one = SimulatedNode(f"d{next(self.numbers)}")
        other = SimulatedNode(one.name, id=one.id)
        self.together(self._be(0, one), self._be(1, other))

    async def _be(self, replica: int, node: SimulatedNode) -> None:
        with self.asking(
            f"r{replica}", Kind.TAKE, f"node ID {node.id}", node.data_public_key
        ) as call:
            newcomer = node.newcomer(self.token)
            await self.cluster.replicas[replica].enrolment.enrol(newcomer, "192.0.2.1")
            call.succeeded()

    @rule(number=st.integers(0, 1))
    def the_same_name_and_vni(self, number: int) -> None:
        """One name at both replicas, in another case; there are few VNIs."""
        self.together(self._make(0, f"blue-{number}"), self._make(1, f"BLUE-{number}"))

    async def _make(self, replica: int, name: str) -> None:
        asked = self.history.clock()
        with self.asking(f"r{replica}", Kind.TAKE, f"name {name.casefold()}", "?") as call:
            made = await self.cluster.replicas[replica].vsubnets.create(VSubnetOrder(name), SYSTEM)
            call.succeeded(made.value.id)
            thing = f"vni {made.value.vni}"
            self.history.done(f"r{replica}", Kind.TAKE, thing, made.value.id, asked)

    @rule(number=st.integers(0, 1))
    def delete_a_vsubnet_at_both(self, number: int) -> None:
        self.together(*(self._unmake(replica, f"blue-{number}") for replica in (0, 1)))

    async def _unmake(self, replica: int, name: str) -> None:
        vsubnets = self.cluster.replicas[replica].vsubnets
        try:
            vsubnet = (await vsubnets.get(name)).value
        except CairnError:
            return
        asked = self.history.clock()
        with contextlib.suppress(CairnError):
            await vsubnets.delete(vsubnet.id, SYSTEM)
            for thing in (f"name {name}", f"vni {vsubnet.vni}"):
                self.history.done(f"r{replica}", Kind.RELEASE, thing, vsubnet.id, asked)

    @rule(number=node_numbers)
    def a_node_registers_at_both(self, number: int) -> None:
        ends = [f"198.51.100.{replica + 1}:{next(self.numbers) + 1}" for replica in (0, 1)]
        self.together(*(self._register(n, NODES[number], end) for n, end in enumerate(ends)))

    async def _register(self, replica: int, node: SimulatedNode, endpoint: str) -> None:
        with self.asking(f"r{replica}", Kind.WRITE, f"endpoint {node.id}", endpoint) as call:
            report = node.report(endpoints=(endpoint,))
            await self.cluster.replicas[replica].registry.register(node.id, report, "192.0.2.1")
            call.succeeded()

    @rule(seconds=st.sampled_from([3600.0, QUARANTINE_S]))
    def time_passes(self, seconds: float) -> None:
        Races.steps += 1
        self.cluster.clock.now += seconds

    def teardown(self) -> None:
        endpoints, owners = self.cluster.run(self._final())
        operations = self.history.operations
        found = history.check(operations, final=endpoints, uses=self.uses)
        found += history.evicted(operations, owners)
        Races.broken += len(found)
        assert not found, "\n".join(each.text for each in found)

    async def _final(self) -> tuple[dict[str, str], dict[str, str]]:
        """Return what the store holds at the end: endpoints, and owners of all else."""
        store = self.first.store
        registrations = await read_all(store, records.registrations, keys.REGISTRATIONS)
        endpoints = {
            f"endpoint {each.value.node}": each.value.endpoints[0]
            for each in registrations
            if each.value.endpoints
        }
        owners: dict[str, str] = {}
        for member in await self.first.members.list("red"):
            node = member.value.node
            name = next(each.name for each in NODES if each.id == node)
            ips = [f"ip {ip}" for ip in member.value.ips]
            owners |= dict.fromkeys([f"member {name}", f"mac {member.value.mac}", *ips], node)
        for vsubnet in await self.first.vsubnets.list():
            value = vsubnet.value
            owners[f"name {value.name.casefold()}"] = owners[f"vni {value.vni}"] = value.id
        for each in await read_all(store, records.nodes, keys.NODES):
            owners[f"node ID {each.value.id}"] = each.value.data_public_key
        return endpoints, owners


def few_macs(node: str, vni: int, attempt: int = 0) -> str:
    """Return one of few MACs: of the real ones two would never be the same."""
    return f"02:00:00:00:00:{(zlib.crc32(node.encode()) + attempt) % MACS:02x}"


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    monkeypatch.setattr(addressing_module, "derived_mac", few_macs)
    monkeypatch.setattr(vsubnets_module, "VNI_MAX", VNIS)
    cluster = Cluster(tmp_path)
    yield cluster
    cluster.close()


def test_two_replicas_never_both_say_yes(cluster: Cluster) -> None:
    Races.cluster = cluster
    Races.steps = Races.yes = Races.no = Races.broken = 0
    try:
        while Races.steps < STEPS:
            run_state_machine_as_test(
                Races,
                settings=settings(
                    max_examples=max(1, min(200, (STEPS - Races.steps) // STEPS_A_RUN)),
                    stateful_step_count=STEPS_A_RUN,
                    database=None,
                    suppress_health_check=list(HealthCheck),
                ),
            )
    finally:
        if STEPS >= 100_000:
            proofs.record(
                "RACES",
                what="two replicas on one etcd asked at once for an IP, MAC, token use, node ID, "
                f"name, in {Races.steps} steps: answers that no truth explains",
                bar="0 in 100,000 steps",
                value=Races.broken,
                unit="answers",
                holds=Races.broken == 0 and Races.steps >= 100_000,
                command="make races",
            )
    print(f"{Races.steps} steps, {Races.yes} times yes, {Races.no} times no")
    assert Races.yes > STEPS / 4  # it is not all refusals
    assert Races.no > STEPS / 10
