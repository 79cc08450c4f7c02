"""What is thrown away by itself, on a real etcd: never what is still needed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from cairn_appliance.domain.addressing import QUARANTINE_S
from cairn_appliance.domain.errors import Clash, NodeRemoved
from cairn_appliance.domain.event import Severity
from cairn_appliance.domain.identity import SYSTEM, Actor, ActorKind
from cairn_appliance.pki.keyring import Keyring
from cairn_appliance.services.events import Events, Journal
from cairn_appliance.services.members import MemberOrder
from cairn_appliance.services.services import Services, build
from cairn_appliance.services.tokens import TokenOrder
from cairn_appliance.services.vsubnets import VSubnetOrder
from cairn_appliance.store import keys
from cairn_appliance.store.etcd import EtcdStore
from cairn_appliance.store.port import MAX_WRITES, Delete

from tests.contract.etcd_server import EtcdServer, client
from tests.simulated_node import SimulatedNode
from tests.unit.appliance.replica import AUTHORITY, CLUSTER, MAP_KEY, SEALER, FakeClock

pytestmark = pytest.mark.etcd

OPERATOR = Actor(ActorKind.OPERATOR, "alice")
NODE = Actor(ActorKind.NODE, "n")


@pytest.fixture(scope="module")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServer]:
    server = EtcdServer(tmp_path_factory.mktemp("etcd"))
    server.start()
    yield server
    server.kill()


@pytest_asyncio.fixture
async def store(etcd: EtcdServer) -> AsyncIterator[EtcdStore]:
    async with client(etcd.address) as store:
        yield store
        found = (await store.list(keys.ROOT)).items
        for begin in range(0, len(found), MAX_WRITES):
            await store.commit([], [Delete(item.key) for item in found[begin : begin + MAX_WRITES]])


async def _tell(store: EtcdStore, journal: Journal, count: int, kind: str, by: Actor) -> None:
    severity = Severity.ALARM if kind == "duplicate_node" else Severity.INFO
    entries = [
        journal.entry(kind, f"{kind} {number}", by, severity=severity) for number in range(count)
    ]
    for begin in range(0, count, MAX_WRITES):
        await store.commit([], entries[begin : begin + MAX_WRITES])


async def test_a_flood_of_one_nodes_events_pushes_out_neither_alarms_nor_what_is_audited(
    store: EtcdStore,
) -> None:
    clock = FakeClock()
    journal, events = Journal(clock), Events(store, kept=400)
    await _tell(store, journal, 3, "duplicate_node", SYSTEM)
    await _tell(store, journal, 4, "vsubnet_created", OPERATOR)
    await _tell(store, journal, 2, "node_enrolled", NODE)
    for _ in range(10):
        clock.now += 1
        await _tell(store, journal, 300, "endpoints_changed", NODE)
        await events.prune()
    kinds = [event.kind for event in await events.latest(1_000)]
    assert [kinds.count(each) for each in ("duplicate_node", "vsubnet_created")] == [3, 4]
    assert kinds.count("node_enrolled") == 2
    assert len(kinds) == 400
    assert kinds[-300:] == ["endpoints_changed"] * 300, "the newest stay"


async def test_each_weight_of_events_has_its_share_and_what_others_leave(store: EtcdStore) -> None:
    clock = FakeClock()
    journal, events = Journal(clock), Events(store, kept=400)
    await _tell(store, journal, 390, "vsubnet_created", OPERATOR)
    await _tell(store, journal, 10, "endpoints_changed", NODE)
    assert await events.prune() == 0
    clock.now += 1
    await _tell(store, journal, 250, "endpoints_changed", NODE)
    assert await events.prune() == 250
    await _tell(store, journal, 300, "duplicate_node", SYSTEM)
    assert await events.prune() == 300
    kinds = [event.kind for event in await events.latest(1_000)]
    counts = [kinds.count(each) for each in ("endpoints_changed", "vsubnet_created")]
    assert counts == [200, 100]
    assert kinds.count("duplicate_node") == 100
    assert await events.prune() == 0


class Pair:
    """Two replicas' services on connections of their own, with one clock."""

    def __init__(self, *stores: EtcdStore) -> None:
        self.clock = FakeClock()
        self.first, self.second = (self._replica(store) for store in stores)

    def _replica(self, store: EtcdStore) -> Services:
        return build(
            store=store,
            cluster=CLUSTER,
            keyring=Keyring(SEALER, AUTHORITY, MAP_KEY),
            sealer=SEALER,
            replica="r",
            clock=self.clock,
        )

    async def vsubnet(self) -> str:
        order = VSubnetOrder("red", ("10.7.0.0/24",))
        return (await self.first.vsubnets.create(order, SYSTEM)).value.id

    async def joined(self, count: int) -> list[SimulatedNode]:
        order = TokenOrder(vsubnets=("red",), max_uses=count)
        _, token = await self.first.tokens.create(order, SYSTEM)
        nodes = [SimulatedNode(f"n{number}") for number in range(count)]
        for node in nodes:
            await self.first.enrolment.enrol(node.newcomer(token), "192.0.2.1")
        return nodes


@pytest_asyncio.fixture
async def pair(store: EtcdStore, etcd: EtcdServer) -> AsyncIterator[Pair]:
    async with client(etcd.address) as other:
        yield Pair(store, other)


async def test_two_replicas_forget_removed_nodes_at_once(pair: Pair, store: EtcdStore) -> None:
    await pair.vsubnet()
    nodes = await pair.joined(12)
    stays, gone = nodes[0], nodes[1:]
    for node in gone:
        await pair.first.nodes.remove(node.id, SYSTEM)
    for days, left in ((60, 12), (2, 1)):
        pair.clock.now += days * 86_400.0
        await asyncio.gather(*(each.nodes.tidy() for each in (pair.first, pair.second)))
        assert len((await store.list(keys.NODES)).items) == left
    assert len((await store.list(keys.REGISTRATIONS)).items) == 1
    for node in gone:
        with pytest.raises(NodeRemoved):
            await pair.second.registry.register(node.id, node.report(), "192.0.2.1")
    assert (await pair.second.nodes.get(stays.id)).value.members


async def test_claims_are_forgotten_when_their_quarantine_is_over(
    pair: Pair, store: EtcdStore
) -> None:
    red = await pair.vsubnet()
    kept, gone = await pair.joined(2)
    await pair.first.nodes.remove(gone.id, SYSTEM)
    claims = len((await store.list(keys.addresses_of(red))).items)
    assert claims == 4
    pair.clock.now += QUARANTINE_S - 1
    assert await pair.first.addressing.forget_released(red) == 0
    pair.clock.now += 1
    both = (pair.first.addressing, pair.second.addressing)
    counts = await asyncio.gather(*(each.forget_released(red) for each in both))
    assert max(counts) == 2
    left = {item.key for item in (await store.list(keys.addresses_of(red))).items}
    (member,) = (await pair.first.nodes.get(kept.id)).value.members
    assert left == {keys.mac(red, member.mac), keys.ip(red, member.ips[0])}


async def test_an_address_that_is_taken_while_claims_are_forgotten_stays_taken(
    pair: Pair,
) -> None:
    """Whoever is later finds that the claim isn't as it was read."""
    red = await pair.vsubnet()
    first, second, *rest = await pair.joined(6)
    nodes = [first, second]
    for node in rest:
        await pair.first.nodes.remove(node.id, SYSTEM)
    for node in nodes:
        await pair.first.members.detach(red, node.id, SYSTEM)
    for number in range(20):
        pair.clock.now += QUARANTINE_S + 1
        wanted = f"10.7.0.{2 + number % 6}"
        orders = [MemberOrder("red", node.id, (wanted,)) for node in nodes]

        async def take(services: Services, order: MemberOrder) -> int:
            with contextlib.suppress(Clash):
                await services.members.create(order, SYSTEM)
                return 1
            return 0

        taken = await asyncio.gather(
            take(pair.first, orders[0]),
            take(pair.second, orders[1]),
            pair.first.addressing.forget_released(red),
            pair.second.addressing.forget_released(red),
        )
        assert sum(taken[:2]) == 1
        (member,) = (each.value for each in await pair.first.members.list("red"))
        claims = await pair.first.addressing.claims(red)
        for key in (keys.mac(red, member.mac), keys.ip(red, wanted)):
            assert claims.by_key[key].value.node == member.node
            assert not claims.by_key[key].value.released_at
        await pair.first.members.detach(red, member.node, SYSTEM)
