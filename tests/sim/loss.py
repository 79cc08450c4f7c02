"""SC-4: one of three appliances is lost, and its agents go on at the others."""

from __future__ import annotations

import asyncio
import signal
import time

from tests.sim.fleet import RigError
from tests.sim.messages import Applied, Moved
from tests.sim.scenarios import APPLIED_S, STORM_S, Stage, note

SPREAD_S = 180.0  # within which agents that are cut off have come to where they are to be
SPREAD_TRIES = 4
SETTLED_S = 10.0
RECONNECTED_S = 30.0
OCTETS_SHARE = 2.0  # percent of a full set to each


async def lost_appliance(stage: Stage) -> None:
    """The cluster grows to three, agents spread over them, and the leader is killed."""
    world, run = stage.world, stage.run
    await stage.acknowledged()
    await world.grow(3)
    await _spread(stage)
    await stage.acknowledged()
    victim = await world.leader()
    await _stay_elsewhere(stage, victim.address)
    await stage.fleet.do("forget")
    at = (await stage.fleet.state()).places.get(victim.address, 0)
    marker = "203.0.115.1:8002"
    await stage.fleet.do("expect", marker=marker)
    cpu = world.all_cpu_s(but=victim)
    begun = time.monotonic()
    await asyncio.to_thread(victim.end, signal.SIGKILL)
    (moved,) = await stage.witness.all("move", Moved, which=0, endpoint=marker)
    state = await stage.fleet.until_back(at, STORM_S)
    took_s = max(state.back_at, default=begun + STORM_S) - begun
    everybody = state.following == run.agents and len(state.back_at) >= at
    applied = await _applied(stage, moved.answered + APPLIED_S)
    state = await stage.fleet.state()
    note(run, "one of three lost", state, world.all_cpu_s(but=victim) - cpu)
    run.notes["one of three lost"] += (
        f"; {at} agents were at it, the leader of the three; a change that was asked for at once "
        f"was answered after {moved.answered - begun:.1f} s, and {applied} of "
        f"{stage.members - 1} members applied it"
    )
    run.add(
        "SC-4-lost",
        f"one appliance of three is killed: until its {at} agents are in sync at the others",
        "at most 30 s",
        took_s if everybody else float("inf"),
        "s",
        met=everybody and at > 0 and took_s <= RECONNECTED_S,
        size=10_000,
    )
    full_octets = stage.full_octets * at / run.agents
    share = state.octets_back / full_octets * 100 if at else float("inf")
    run.add(
        "SC-4-resync",
        "one of three is killed: what was sent to agents that came back, of a full set to each",
        "at most 2 %",
        share,
        "%",
        met=share <= OCTETS_SHARE and not state.kinds.get("full"),
        size=10_000,
    )
    await asyncio.to_thread(victim.start)
    await world.until_whole()


async def _spread(stage: Stage) -> None:
    """Let about a third of the agents be at each appliance, and stay there; raise RigError."""
    least = stage.run.agents / len(stage.world.all) / 2
    places: dict[str, int] = {}
    for _ in range(SPREAD_TRIES):
        for fleet in (stage.fleet, stage.witness):
            await fleet.do("forget")
            await fleet.do("spread", appliances=stage.world.addresses())
            await fleet.until_back((await fleet.state()).agents, SPREAD_S)
        await asyncio.sleep(SETTLED_S)
        places = (await stage.fleet.state()).places
        if all(places.get(each, 0) >= least for each in stage.world.addresses()):
            return
    raise RigError(f"the agents don't stay where they are: {places}; is the machine too busy?")


async def _stay_elsewhere(stage: Stage, victim: str) -> None:
    """Let the witness be at an appliance that stays: what it asks for is answered by that."""
    places = sorted(stage.world.addresses(), key=lambda place: place == victim)
    await stage.witness.do("forget")
    await stage.witness.do("spread", appliances=places)
    await stage.witness.until_back(1, SPREAD_S)


async def _applied(stage: Stage, end: float) -> int:
    """Return how many members have applied the expected change, at that time at the latest."""
    while True:
        count = sum(len(answer.at) for answer in await stage.fleet.all("applied", Applied))
        if count >= stage.members - 1 or time.monotonic() > end:
            return count
        await asyncio.sleep(0.1)
