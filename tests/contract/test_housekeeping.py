"""What is thrown away by itself, on a real etcd: never what is still needed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from cairn_appliance.domain.event import Severity
from cairn_appliance.domain.identity import SYSTEM, Actor, ActorKind
from cairn_appliance.services.events import Events, Journal
from cairn_appliance.store import keys
from cairn_appliance.store.etcd import EtcdStore
from cairn_appliance.store.port import MAX_WRITES, Delete

from tests.contract.etcd_server import EtcdServer, client
from tests.unit.appliance.replica import FakeClock

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
