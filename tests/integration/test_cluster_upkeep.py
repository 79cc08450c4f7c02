"""Three appliances: one is paused, or cut off from everybody.

The cluster of test_cluster.py, grown anew. In `make chaos`; bars: trust.md A3.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.integration.test_cluster import grown
from tests.integration.trio import Trio, at_appliance, longest_stall, lost, mend, writing
from tests.lab import until
from tests.lab.cairn import OPS_PORT, Appliance
from tests.lab.program import children_of
from tests.proofs import record, record_seconds

pytestmark = [
    pytest.mark.root,
    pytest.mark.tun,
    pytest.mark.etcd,
    pytest.mark.slow,
    pytest.mark.timeout(300),
]

_CUT = """table inet cut {
    chain in { type filter hook input priority 0; iifname "eth0" drop; }
    chain out { type filter hook output priority 0; oifname "eth0" drop; }
}
"""
_LEASE_S = 10.0  # of the key that says that an appliance runs


@pytest.fixture(scope="module")
def trio() -> Iterator[Trio]:
    """A cluster of three."""
    with grown("upkeep") as trio:
        yield trio


@pytest.mark.parametrize(
    ("what", "pause_s", "proof"),
    [
        pytest.param("APIs", 8.0, "A3", id="APIs"),
        pytest.param("APIs and etcd", 30.0, "A3-all", id="all"),
    ],
)
def test_a_paused_appliance_is_left_by_its_agents(
    trio: Trio, what: str, pause_s: float, proof: str
) -> None:
    trio.wait_until_whole()
    leader = trio.leader()
    victim = trio.appliances[leader]
    others = [each for each in trio.appliances.values() if each is not victim]
    rest = [f"{each.host.v4}:{OPS_PORT}" for each in others]
    with at_appliance(trio, leader), writing(trio.client, rest, victim.session()) as writer:
        writer.wait_for(20)
        with paused(victim, etcd="etcd" in what):
            begun = time.monotonic()
            moved = moved_from(trio, victim) - begun
            if pause_s > _LEASE_S:
                until("it no longer counts as running", lambda: not serves(trio, leader, others[0]),
                      within_s=_LEASE_S + 15)  # fmt: skip
            time.sleep(max(0.0, begun + pause_s - time.monotonic()))
        writer.wait_for(20)
        acknowledged = writer.acknowledged()
    stall = longest_stall(acknowledged, since=begun - 0.5)
    gone = lost(trio, acknowledged)
    trio.wait_until_whole()
    until("it counts as running", lambda: serves(trio, leader, others[0]), within_s=20)
    assert record(
        proof,
        what=f"{what} of the leader paused for {pause_s:.0f} s, {len(acknowledged)} writes and "
        f"{gone} lost, none for {stall:.1f} s: its agent follows another appliance after",
        bar="<= 5 s; 0 lost, no pause over 3 s",
        value=round(moved, 3),
        unit="s",
        holds=moved <= 5.0 and gone == 0 and stall <= 3.0,
    )


def test_an_appliance_that_nobody_reaches_is_left_by_its_agents(trio: Trio) -> None:
    trio.wait_until_whole()
    leader = trio.leader()
    victim = trio.appliances[leader]
    with at_appliance(trio, leader):
        begun = time.monotonic()
        victim.host.nft(_CUT)
        try:
            moved = moved_from(trio, victim) - begun
        finally:
            mend(victim)
    trio.wait_until_whole()
    assert record_seconds(
        "A3-cut",
        moved,
        at_most_s=5,
        what="the leader cut off from agents and appliances: its agent follows another after",
    )


def moved_from(trio: Trio, victim: Appliance) -> float:
    """Return when the agent follows another appliance, by its log: a command takes a second."""
    agent = trio.vm.agent
    assert agent is not None
    came_up = re.compile(r"link is up appliance=(\S+):\d+")

    def elsewhere() -> float:
        places = came_up.findall(agent.text())
        return time.monotonic() if places and places[-1] != victim.host.v4 else 0.0

    return until("the agent is elsewhere", elsewhere, within_s=60)


def serves(trio: Trio, name: str, asked: Appliance) -> bool:
    shown = asked.cairn("cluster", "status")["appliances"]
    return any(each["serves"] for each in shown if each["name"] == name)


@contextmanager
def paused(appliance: Appliance, *, etcd: bool) -> Iterator[None]:
    """Stop the process inside the block, and its etcd with it if wanted."""
    pids = [appliance.pid]
    if etcd:
        pids += children_of(appliance.pid)
        assert len(pids) > 1
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)
