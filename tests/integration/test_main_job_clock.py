"""KT-11: what a wrong or stepping wall clock does to a node, which is nothing to its packets."""

from __future__ import annotations

import random
import time

import pytest

from tests.integration.world import World
from tests.lab import until
from tests.lab.wall_clock import set_clock, wrong_clock
from tests.proofs import record

pytestmark = [
    pytest.mark.root,
    pytest.mark.tun,
    pytest.mark.etcd,
]

YEAR_S = 365 * 86_400


def test_kt_11_a_wrong_and_stepping_clock_costs_no_packet(world: World) -> None:
    """The agent of a1 runs with a clock 50 years back, then ahead, then stepping each second."""
    world.settle()
    a1 = world.node("a1")
    assert a1.agent is not None
    clock = a1.host.directory / "clock"
    probes = world.probes()
    begun = probes.now()
    seen = []
    try:
        a1.agent.stop()
        set_clock(clock, -50 * YEAR_S)
        a1.start_agent(prefix=wrong_clock(clock))
        until("it runs", lambda: a1.answers(), within_s=20)
        seen.append(_year(world))
        time.sleep(3.0)
        set_clock(clock, 50 * YEAR_S)
        time.sleep(3.0)
        seen.append(_year(world))
        seed = random.Random(11)
        for _ in range(6):
            set_clock(clock, seed.randrange(-50 * YEAR_S, 50 * YEAR_S))
            time.sleep(1.0)
    finally:
        a1.agent.stop()
        a1.start_agent()
    until("it runs", lambda: a1.answers(), within_s=20)
    until("it is connected", lambda: a1.status()["link"]["is_up"], within_s=60)
    probes.stop()

    this_year = time.gmtime().tm_year
    assert seen[0] < this_year - 40 and seen[1] > this_year + 40, "the agent did see these clocks"
    lost = probes.lost(since=begun)
    assert record(
        "KT-11",
        what="agent clock -50 years, +50 years, stepping every second: probes lost",
        bar="0 effect on the data plane",
        value=lost,
        unit="probes",
        holds=lost == 0,
    ), [str(pair) for pair in probes.pairs(since=begun) if pair.lost]


def _year(world: World) -> int:
    """Return the year that the programs of a1 see."""
    a1 = world.node("a1").host
    command = [*wrong_clock(a1.directory / "clock"), "date", "+%Y"]
    return int(a1.run(command).stdout)
