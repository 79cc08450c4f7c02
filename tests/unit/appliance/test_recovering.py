"""What the one that is left of a cluster still knows of the others."""

from __future__ import annotations

from cairn_appliance import recovering
from cairn_appliance.domain.cluster import Cluster
from cairn_appliance.domain.identity import SYSTEM
from cairn_appliance.domain.update import Report, Standing
from cairn_appliance.services.events import Journal
from cairn_appliance.store import keys, records
from cairn_appliance.store.memory import MemoryStore
from cairn_appliance.store.port import Put

from tests.unit.appliance.operations import CLUSTER_ID


async def test_nothing_is_known_any_more_of_the_machines_that_are_lost() -> None:
    store = MemoryStore()
    puts = [Put(keys.CLUSTER_INFO, records.clusters.encode(Cluster(CLUSTER_ID)))]
    for name in ("m1", "m2"):
        report = records.update_reports.encode(Report(name, Standing("a", "0.1.0-1")))
        puts.append(Put(keys.update(name), report))
    await store.commit([], puts)

    await recovering.begin_again(store, "m1")

    assert [each.key for each in (await store.list(keys.UPDATES)).items] == [keys.update("m1")]


async def test_values_that_can_not_be_read_hold_up_nothing() -> None:
    """It is done where something has gone wrong already."""
    store = MemoryStore()
    damaged = [keys.token("t1"), keys.backup("b1"), keys.event("00000000000001-a")]
    entry = Journal(lambda: 7.0).entry("node_enrolled", "node a enrolled", SYSTEM)
    await store.commit([], [Put(keys.CLUSTER_INFO, records.clusters.encode(Cluster(CLUSTER_ID)))])
    await store.commit([], [entry])
    await store.commit([], [Put(key, b"{") for key in damaged])

    restored = await recovering.begin_again(store, "m1")

    assert restored.made_at == 7.0
    assert await store.get(damaged[0]) is await store.get(damaged[1]) is None
