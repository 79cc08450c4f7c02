"""What a restore from a backup voids."""

from __future__ import annotations

from cairn_appliance.domain.access import Role
from cairn_appliance.domain.backup import Head
from cairn_appliance.domain.cluster import Cluster
from cairn_appliance.domain.update import Action, Plan, Report, Standing
from cairn_appliance.restoring import begin_again
from cairn_appliance.store import keys, records
from cairn_appliance.store.port import Put

from tests.unit.appliance.operations import CLUSTER_ID, operations


async def test_nothing_that_was_deleted_after_the_backup_opens_again() -> None:
    ops = operations()
    await ops.add_user("admin", Role.ADMIN)
    session, token = await ops.session(), await ops.api_token(Role.ADMIN)
    cluster = records.clusters.encode(Cluster(CLUSTER_ID))
    await ops.store.commit([], [Put(keys.CLUSTER_INFO, cluster)])

    await begin_again(ops.store, "m1", Head(CLUSTER_ID, 1, 1, 1.0, "m1", "0.1.0"), 1.0)

    for opens in (session, token):
        async with ops.client(opens) as client:
            assert (await client.get("/api/v1/session")).status_code == 401


async def test_an_update_of_before_the_backup_does_not_go_on() -> None:
    """The backup that is made for an update has its plan in it."""
    store = operations().store
    plan = records.update_plans.encode(Plan("p1", Action.INSTALL, "0.1.0-2"))
    report = records.update_reports.encode(Report("m1", Standing("a", "0.1.0-1")))
    cluster = records.clusters.encode(Cluster(CLUSTER_ID))
    puts = [(keys.CLUSTER_INFO, cluster), (keys.UPDATE, plan), (keys.update("m1"), report)]
    await store.commit([], [Put(*each) for each in puts])

    await begin_again(store, "m2", Head(CLUSTER_ID, 1, 1, 1.0, "m1", "0.1.0"), 1.0)

    assert await store.get(keys.UPDATE) is None
    assert not (await store.list(keys.UPDATES)).items
