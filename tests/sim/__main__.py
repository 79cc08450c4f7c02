"""`make scale` (ARGS="--agents 5000"): simulated agents against one replica; prints a table.

Nothing claims a bar at a size at which it was not measured. Writes build/scale.json and the
proofs SC-*.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import Awaitable
from pathlib import Path

from tests.sim import loss, scenarios, steady
from tests.sim.figures import FILE, Run, machine
from tests.sim.fleet import Fleet, RigError
from tests.sim.scenarios import Stage
from tests.sim.world import World
from tests.sim.writes import counted

PARTS = (
    "propagation",
    "writes",
    "idleness",
    "restart",
    "map",
    "churn",
    "slow",
    "rotate",
    "lost",
    "truth",
)
_MEMBERS = 1000
_AGENTS_MAX = 14_000  # two connections each at times, of 20,000 open files (trust.md 5.1)


def main() -> int:
    """Run all scenarios; 0 if every bar is met at the size there was."""
    arguments = _arguments()
    signal.signal(signal.SIGTERM, _end)  # so that everything started is ended
    vsubnets = -(-arguments.agents // arguments.members)
    command = f"make scale ARGS='--agents {arguments.agents} --members {arguments.members}'"
    run = Run(arguments.agents, vsubnets, arguments.processes, command)
    print(f"scale: {arguments.agents:,} agents in {vsubnets} vSubnets; {machine()}", flush=True)
    directory = Path(tempfile.mkdtemp(prefix="cairn-scale-"))
    world = World(directory, vsubnets=vsubnets, is_alone=not arguments.among_others)
    try:
        world.start()
        asyncio.run(_measure(world, run, arguments))
    except RigError as error:
        print(f"error: {error}\n  what to do: look into {directory}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nscale: interrupted; nothing was written", file=sys.stderr)
        return 130
    finally:
        world.stop()
    run.write()
    print(run.text())
    print(f"scale: {FILE} written; logs are in {directory}")
    return 0 if all(figure.is_met for figure in run.figures) else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make scale", description=__doc__)
    parser.add_argument("--agents", type=int, default=1000, help="simulated agents (1000)")
    parser.add_argument("--members", type=int, default=_MEMBERS, help="per vSubnet (1000)")
    parser.add_argument("--processes", type=int, default=2, help="of simulated agents (2)")
    parser.add_argument(
        "--among-others",
        action="store_true",
        help="the appliance believes in another: a word every 1.3 s, not every 15 s",
    )
    parser.add_argument(
        "--only", nargs="*", default=(), choices=PARTS, help="scenarios beside the first"
    )
    parser.add_argument("--without", nargs="*", default=(), choices=PARTS, help="not these")
    parser.add_argument("--churn-s", type=float, default=steady.CHURN_S, help="of SC-3 (1200)")
    arguments = parser.parse_args()
    if not 10 <= arguments.agents <= _AGENTS_MAX:
        parser.error(f"--agents needs 10 to {_AGENTS_MAX}")
    if not 1 <= arguments.members <= 4000:
        parser.error("--members needs 1 to 4000")
    return arguments


def _end(number: int, _frame: object) -> None:
    raise KeyboardInterrupt(number)


async def _measure(world: World, run: Run, arguments: argparse.Namespace) -> None:
    log = world.appliance.data_dir.parent / "workers.log"
    async with Fleet.of(run.processes, log) as fleet, Fleet.of(1, log) as witness:
        await world.make_vsubnets()
        await world.populate(witness, 1)
        rate = await world.populate(fleet, run.agents, first=1)
        run.notes["enrolment"] = f"{rate:.0f} nodes/s through the API"
        await world.until_members(run.agents + 1)
        print(f"scale: {run.agents:,} nodes enrolled, {rate:.0f}/s", flush=True)
        empty = world.rss_octets()
        members = run.agents // run.vsubnets + 1
        stage = Stage(world, fleet, witness, run, members=members)
        await _played("registration storm", _counted_storm(stage), run)
        parts = {
            "propagation": lambda: scenarios.propagation(stage),
            "writes": lambda: steady.store_writes(stage),
            "idleness": lambda: scenarios.idleness(stage, empty),
            "restart": lambda: scenarios.restart(stage),
            "churn": lambda: steady.churn(stage, arguments.churn_s),
            "slow": lambda: scenarios.slow_readers(stage),
            "map": lambda: scenarios.map_size(stage),
            "rotate": lambda: scenarios.rotation(stage),
            "lost": lambda: loss.lost_appliance(stage),
            "truth": lambda: scenarios.truth(stage),
        }
        for name in PARTS:
            is_wanted = not arguments.only or name in arguments.only
            if is_wanted and name not in arguments.without:
                await _played(name, parts[name](), run)


async def _counted_storm(stage: Stage) -> None:
    """Play the first scenario, and count what it costs the store."""
    begun = time.monotonic()
    async with stage.world.appliance.operator() as services, counted(services.store) as writes:
        await scenarios.registration_storm(stage)
        took_s = time.monotonic() - begun
    steady.registrations(stage, writes, took_s)


async def _played(name: str, scenario: Awaitable[None], run: Run) -> None:
    """Play one, and say at once what it found: a run takes minutes."""
    before, begun, known = len(run.figures), time.monotonic(), set(run.notes)
    await scenario
    print(f"scale: {name}, {time.monotonic() - begun:.0f} s", flush=True)
    for figure in run.figures[before:]:
        told = f"{figure.value:.3g} {figure.unit}".strip()
        print(f"  {figure.id}: {told} ({figure.bar}): {figure.verdict}", flush=True)
    for noted in run.notes.keys() - known:
        print(f"  {noted}: {run.notes[noted]}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
