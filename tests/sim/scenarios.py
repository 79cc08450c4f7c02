"""The scenarios of trust.md 5.2 that one replica can show, one function each."""

from __future__ import annotations

import asyncio
import gzip
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

from tests.sim import history
from tests.sim.figures import Run, percentile
from tests.sim.fleet import ROOT, Fleet, RigError
from tests.sim.messages import Applied, Held, Moved, State
from tests.sim.world import World

SPREAD_S = 3.0  # over which agents come back (trust.md 5.4)
STORM_S = 180.0
APPLIED_S = 10.0
IDLE_S = float(os.environ.get("CAIRN_IDLE_S", "60"))
IDLE_BAR_S = 3600.0  # of trust.md SC-6
SETTLE_S = 45.0  # until second connections are gone, and what they took is given back
ACKNOWLEDGED_S = 75.0
SLOW_S = 60.0
REPLACED_S = 400.0
SLOW_SHARE = 0.05
MOVES = 20
_MIB = 1 << 20


@dataclass
class Stage:
    """What the scenarios play on: `witness` is one agent more, in a process of its own."""

    world: World
    fleet: Fleet
    witness: Fleet
    run: Run
    members: int  # of the witness's vSubnet, itself included
    moves: int = 0
    full_octets: int = 0  # of a full set to each agent

    async def acknowledged(self) -> None:
        """Wait until the agents have nothing more to say."""
        end = time.monotonic() + ACKNOWLEDGED_S
        while (await self.fleet.state()).unacknowledged and time.monotonic() < end:
            await asyncio.sleep(0.5)


async def registration_storm(stage: Stage) -> None:
    """SC-1: all agents come within seconds, for the first time."""
    world, run = stage.world, stage.run
    before = world.cpu_s()
    await stage.witness.do("start", spread_s=0.0)
    await _synced(stage.witness, 1, 30.0)
    await stage.witness.all("probe", Applied, on=True)
    begun = time.monotonic()
    await stage.fleet.do("start", spread_s=SPREAD_S)
    state = await stage.fleet.until_synced(STORM_S)
    (probed,) = await stage.witness.all("probe", Applied, on=False)
    note(run, "registration storm", state, world.cpu_s() - before)
    everybody = len(state.synced_at) == run.agents
    took_s = max(state.synced_at, default=begun + STORM_S) - begun
    rate = len(state.registered_at) / (max(state.registered_at, default=begun + STORM_S) - begun)
    stage.full_octets = state.octets
    what = "registration storm"
    run.add(
        "SC-1-converged",
        f"{what}: until all are registered and in sync",
        "at most 180 s",
        took_s if everybody else float("inf"),
        "s",
        met=everybody and took_s <= 180,
        size=10_000,
    )
    run.add(
        "SC-1-rate",
        f"{what}: registrations",
        "at least 100/s",
        rate,
        "/s",
        met=everybody and rate >= 100,
        size=10_000,
    )
    p99 = percentile(probed.at, 0.99)
    run.add(
        "SC-1-others",
        f"{what}: another node's registration, p99",
        "at most 1 s",
        p99,
        "s",
        met=p99 <= 1,
        size=10_000,
    )


async def propagation(stage: Stage) -> None:
    """SC-2: one endpoint changes; from asking for it until each member applied it."""
    await stage.acknowledged()
    latencies, lost = await _moves(stage, MOVES, every_s=2.0)
    p50, p99 = percentile(latencies, 0.5), percentile(latencies, 0.99)
    for name, value, most in (("p50", p50, 0.150), ("p99", p99, 0.500)):
        stage.run.add(
            f"SC-2-{name}",
            f"one endpoint change to {stage.members:,} members, {name}",
            f"at most {most * 1000:.0f} ms",
            value * 1000,
            "ms",
            met=value <= most and not lost,
            size=10_000,
        )


async def idleness(stage: Stage, empty_octets: int) -> None:
    """SC-6: what an agent costs while nothing happens."""
    world, run = stage.world, stage.run
    await stage.acknowledged()
    await asyncio.sleep(SETTLE_S)
    cpu, revision, begun = world.cpu_s(), await world.revision(), time.monotonic()
    await asyncio.sleep(IDLE_S)
    took_s = time.monotonic() - begun
    share = (world.cpu_s() - cpu) / took_s * 100 / (run.agents / 1000)
    writes = (await world.revision() - revision) / took_s
    rss = (world.rss_octets() - empty_octets) / run.agents / 1024
    what = f"idle agents for {took_s:.0f} s"
    run.add(
        "SC-6-rss",
        f"{what}: memory of the appliance, each",
        "at most 64 KiB over 1 h",
        rss,
        "KiB",
        met=rss <= 64,
        size=10_000,
        whole=took_s >= IDLE_BAR_S,
    )
    run.add(
        "SC-6-cpu",
        f"{what}: CPU of the appliance, each 1,000",
        "at most 5 % of a core over 1 h",
        share,
        "%",
        met=share <= 5,
        size=10_000,
        whole=took_s >= IDLE_BAR_S,
    )
    run.add(
        "SC-6-writes",
        f"{what}: writes into etcd",
        "about 0/s (at most 0.1) over 1 h",
        writes,
        "/s",
        met=writes <= 0.1,
        size=10_000,
        whole=took_s >= IDLE_BAR_S,
    )


async def restart(stage: Stage) -> None:
    """SC-5, and SC-4's resume: the appliance is killed and comes back with nothing in memory."""
    world, run = stage.world, stage.run
    await stage.fleet.do("forget")
    before = await stage.fleet.state()
    await asyncio.to_thread(world.stop, signal.SIGKILL)
    begun = time.monotonic()
    await asyncio.to_thread(world.start)
    ready = time.monotonic()
    state = await stage.fleet.until_synced(STORM_S)
    note(run, "reconnect storm", state, world.cpu_s())
    everybody = len(state.synced_at) == run.agents
    took_s = max(state.synced_at, default=ready + STORM_S) - ready
    run.notes["reconnect storm"] += f", ready after {ready - begun:.1f} s"
    run.add(
        "SC-5",
        "the appliance is killed and started: until all are in sync again",
        "at most 60 s after it is ready",
        took_s if everybody else float("inf"),
        "s",
        met=everybody and took_s <= 60,
        size=10_000,
    )
    share = (state.octets - before.octets) / stage.full_octets * 100
    run.add(
        "SC-4-octets",
        "what is sent to agents that come back, of a full set to each",
        "at most 2 %",
        share,
        "%",
        met=share <= 2 and not state.kinds.get("full"),
        size=10_000,
    )


async def slow_readers(stage: Stage) -> None:
    """SC-8: some agents ask for a full set, larger than all buffers together, and don't read it."""
    world, run = stage.world, stage.run
    for fleet in (stage.fleet, stage.witness):
        await fleet.do("widen")
    await stage.acknowledged()
    await asyncio.sleep(SETTLE_S)  # what was taken before would hide what is taken now
    (held,) = await stage.witness.all("held", Held)
    full = len(await world.document(next(iter(held.digests))))
    before, cut = world.rss_octets(), world.slow_readers
    count = round(run.agents * SLOW_SHARE)
    begun = time.monotonic()
    await stage.fleet.do("deafen", share=SLOW_SHARE)
    await asyncio.sleep(10)
    most = world.rss_octets()
    latencies, _ = await _moves(stage, 10, every_s=2.0, share=1 - SLOW_SHARE)
    most = max(most, world.rss_octets())
    while len(world.slow_readers - cut) < count and time.monotonic() - begun < SLOW_S:
        await asyncio.sleep(1)
    dropped = len(world.slow_readers - cut)
    await stage.fleet.do("forget")
    await stage.fleet.do("hear")
    back = await _in_sync_again(stage, count)
    state = await stage.fleet.state()
    are_slow = dropped >= count  # of readers that took everything nothing is shown
    each = (most - before) / max(count, 1) / 1024
    run.notes["slow readers"] = (
        f"a full set of {full / 1024:.0f} KiB; {count} agents, {dropped} cut off, {back} in sync "
        f"again after they read; {state.kinds}"
    )
    p99 = percentile(latencies, 0.99)
    run.add(
        "SC-8-memory",
        "slow readers: memory of the appliance, each",
        "at most 256 KiB",
        each,
        "KiB",
        met=each <= 256 and are_slow,
        size=1_000,
    )
    run.add(
        "SC-8-cut",
        "slow readers: cut off, and back once they read",
        "all",
        min(dropped, back) / max(count, 1) * 100,
        "%",
        met=dropped >= count <= back,
        size=1_000,
    )
    run.add(
        "SC-8-others",
        "slow readers: a change to the others, p99",
        "at most 500 ms",
        p99 * 1000,
        "ms",
        met=p99 <= 0.5 and are_slow,
        size=1_000,
    )


async def map_size(stage: Stage) -> None:
    """SC-10: the whole of a vSubnet, as sent, compressed, and as an agent holds it."""
    run = stage.run
    (held,) = await stage.witness.all("held", Held)
    line = await stage.world.document(next(iter(held.digests)))
    plain, compressed = len(line), len(gzip.compress(line, 6))
    measured = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "tests.sim.held_size"],
        input=line,
        capture_output=True,
        cwd=ROOT,
        check=True,
    )
    per_1000 = int(measured.stdout) / stage.members * 1000
    run.notes["map size"] = (
        f"{stage.members:,} members: {plain / 1024:,.0f} KiB as it is sent (it is sent "
        f"uncompressed), {compressed / 1024:,.0f} KiB by gzip"
    )
    run.add(
        "SC-10-size",
        f"whole vSubnet of {stage.members:,} members, compressed",
        "at most 100 KB",
        compressed / 1000,
        "KB",
        met=compressed <= 100_000,
        size=1_000,
    )
    run.add(
        "SC-10-memory",
        "memory of an agent for 1,000 peers",
        "at most 4 MiB",
        per_1000 / _MIB,
        "MiB",
        met=per_1000 <= 4 * _MIB,
        size=1_000,
    )


async def rotation(stage: Stage) -> None:
    """A14: the CA, the map key and the vSubnets' secrets replaced under all agents."""
    world, run = stage.world, stage.run
    await stage.acknowledged()
    await stage.fleet.do("forget")
    revision, cpu = await world.revision(), world.cpu_s()
    fleets = [stage.fleet, stage.witness]
    took = await replaced(world, fleets)
    state = await stage.fleet.state()
    note(run, "rotation", state, world.cpu_s() - cpu)
    writes = await world.revision() - revision
    took_s = sum(took.values())
    parts = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in took.items())
    run.notes["rotation"] += f"; {parts}; {writes} writes into etcd; no step was forced"
    run.add(
        "A14",
        "CA, map key and secrets replaced: until every agent has the new ones and no old one",
        "100 % within 600 s",
        took_s,
        "s",
        met=took_s <= 600,
        size=1_000,
    )


async def replaced(world: World, fleets: list[Fleet]) -> dict[str, float]:
    """Replace CA, map key and secrets, one after the other; return the seconds of each.

    Infinity where not every agent came to hold what it should in time.
    """
    took = {}
    for name, begin in (("CA", world.begin_ca), ("map key", world.begin_map_key)):
        begun = time.monotonic()
        await begin()
        wanted = await world.until_replaced(REPLACED_S)
        done = wanted and await _all_trust(fleets, wanted, REPLACED_S)
        took[name] = time.monotonic() - begun if done else float("inf")
    begun = time.monotonic()
    await world.rotate_secrets()
    expected = await world.truth()
    done = await _all_hold(fleets, expected, REPLACED_S)
    return took | {"secrets": time.monotonic() - begun if done else float("inf")}


async def _all_trust(fleets: list[Fleet], wanted: str, within_s: float) -> bool:
    end = time.monotonic() + within_s
    while True:
        states = [await fleet.state() for fleet in fleets]
        if all(set(state.trusts) == {wanted} for state in states):
            return True
        if time.monotonic() > end:
            print(f"scale: NOT CONVERGED: {[state.trusts for state in states]}", flush=True)
            return False
        await asyncio.sleep(0.2)


async def _all_hold(
    fleets: list[Fleet], expected: dict[str, dict[str, str]], within_s: float
) -> bool:
    end = time.monotonic() + within_s
    while True:
        digests: dict[str, dict[str, str]] = {}
        for fleet in fleets:
            for held in await fleet.all("held", Held):
                digests |= held.digests
        if digests == expected or time.monotonic() > end:
            return digests == expected
        await asyncio.sleep(0.5)


async def truth(stage: Stage) -> None:
    """Nothing that was acknowledged is gone, nobody saw time run backwards, all maps agree."""
    found = await violations(stage.world, [stage.fleet, stage.witness])
    for each in found[:5]:
        print(f"scale: VIOLATION {each.rule}: {each.text}", flush=True)
    stage.run.add(
        "SC-history",
        "violations in the history; agents whose map is not the truth",
        "0",
        len(found),
        "",
        met=not found,
        size=1,
    )


async def violations(world: World, fleets: list[Fleet]) -> list[history.Violation]:
    """Return what the history checker finds in all that agents did, saw and hold."""
    digests: dict[str, dict[str, str]] = {}
    operations: list[history.Operation] = []
    found: list[history.Violation] = []
    for fleet in fleets:
        for held in await fleet.all("held", Held):
            digests |= held.digests
            operations += held.operations
            found += history.backwards(held.seen)
    found += history.check(operations, final=await world.endpoints())
    return [*found, *history.diverged(digests, await world.truth())]


async def _moves(
    stage: Stage, count: int, every_s: float, share: float = 1.0
) -> tuple[list[float], int]:
    """Move the witness's endpoint; return all latencies, and how many changes did not arrive."""
    latencies, lost = [], 0
    expected = int((stage.members - 1) * share)
    for _ in range(count):
        stage.moves += 1
        marker = f"203.0.113.{stage.moves % 250 + 1}:{10_000 + stage.moves}"
        await stage.fleet.do("expect", marker=marker)
        (moved,) = await stage.witness.all("move", Moved, which=0, endpoint=marker)
        begun = time.monotonic()
        while True:
            await asyncio.sleep(every_s / 2)
            answers = await stage.fleet.all("applied", Applied)
            applied = [at - moved.asked for answer in answers for at in answer.at]
            if len(applied) >= expected or time.monotonic() - begun > APPLIED_S:
                break
        lost += max(0, expected - len(applied))
        latencies += applied + [APPLIED_S] * max(0, expected - len(applied))
        await asyncio.sleep(max(0.0, begun + every_s - time.monotonic()))
    return latencies, lost


async def _synced(fleet: Fleet, agents: int, within_s: float) -> None:
    state = await fleet.until_synced(within_s, every_s=0.1)
    if len(state.synced_at) < agents:
        raise RigError(f"the witness came to nothing: {state.failures}")


async def _in_sync_again(stage: Stage, count: int) -> int:
    """Return how many got a full set again."""
    end = time.monotonic() + 60
    while True:
        back = (await stage.fleet.state()).kinds.get("full", 0)
        if back >= count or time.monotonic() > end:
            return back
        await asyncio.sleep(1)


def note(run: Run, name: str, state: State, cpu_s: float) -> None:
    """Note what a scenario has cost, and what went wrong on the way."""
    failures = ", ".join(f"{count} x {text}" for text, count in state.failures.items())
    run.notes[name] = (
        f"{cpu_s:.1f} CPU seconds of the appliance; {state.octets / _MIB:,.0f} MiB, {state.kinds}; "
        f"tries that failed: {failures or 'none'}"
    )
