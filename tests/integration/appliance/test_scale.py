"""A hundred simulated agents against one replica: the quick version of `make scale`."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sim import scenarios
from tests.sim.fleet import Fleet
from tests.sim.messages import Applied, Churned, Moved
from tests.sim.world import World
from tests.sim.writes import counted

pytestmark = pytest.mark.etcd

AGENTS = 100
CHANGES_PER_S, CHURN_S = 10.0, 3.0  # of each of two processes
MARKER = "203.0.113.9:8002"


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path, vsubnets=2)
    world.start()
    yield world
    world.stop()


def test_a_hundred_agents_join_follow_a_change_a_crash_and_new_keys(world: World) -> None:
    asyncio.run(_lived_through(world, world.appliance.data_dir.parent / "workers.log"))


async def _lived_through(world: World, log: Path) -> None:
    async with Fleet.of(2, log) as fleet:
        await world.make_vsubnets()
        await world.populate(fleet, AGENTS)
        await world.until_members(AGENTS)

        async with world.appliance.operator() as services, counted(services.store) as writes:
            await fleet.do("start", spread_s=1.0)
            state = await fleet.until_synced(30.0, every_s=0.1)
        # SC-7: a registration is one transaction, the event of it included.
        assert writes.others == writes.with_kind("registrations") >= AGENTS, writes.told()
        assert len(state.synced_at) == state.following == AGENTS
        assert not await scenarios.violations(world, [fleet])

        await fleet.do("expect", marker=MARKER)
        await fleet.workers[0].tell("move", Moved, which=0, endpoint=MARKER)
        assert await _applied(fleet) == AGENTS // 2  # the members of its vSubnet, itself included

        # Changes all the time reach every member, and cost no connection for each word of it.
        began = time.monotonic()
        await fleet.do("churn", per_s=CHANGES_PER_S, began=began)
        await asyncio.sleep(CHURN_S)
        await fleet.do("churn", per_s=0.0, began=began)
        await asyncio.sleep(1.0)
        said = await fleet.all("churned", Churned)
        changes = sum(len(each.answered) for each in said)
        assert changes >= CHANGES_PER_S * CHURN_S, said
        assert sum(sum(each.ages.values()) for each in said) >= changes * AGENTS // 2 * 0.9

        await fleet.do("forget")
        await asyncio.to_thread(world.stop, signal.SIGKILL)
        await asyncio.to_thread(world.start)
        state = await fleet.until_synced(60.0, every_s=0.1)
        assert len(state.synced_at) == AGENTS
        assert "full" not in state.kinds  # they resumed from what they held
        assert not await scenarios.violations(world, [fleet])

        # The CA, the map key and the vSubnets' secrets, with nobody's further word.
        await fleet.do("forget")
        took = await scenarios.replaced(world, [fleet])
        assert all(seconds < 60 for seconds in took.values()), took
        state = await fleet.state()
        assert state.following == AGENTS
        assert not [text for text in state.failures if "refused" in text], state.failures
        assert not await scenarios.violations(world, [fleet])


async def _applied(fleet: Fleet) -> int:
    """Return how many agents have applied the expected change, as soon as no more do."""
    end = time.monotonic() + 10
    while True:
        count = sum(len(answer.at) for answer in await fleet.all("applied", Applied))
        if count >= AGENTS // 2 or time.monotonic() > end:
            return count
        await asyncio.sleep(0.1)
