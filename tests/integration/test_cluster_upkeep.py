"""Three appliances: one is paused, or cut off from everybody.

The cluster of test_cluster.py, grown anew. In `make chaos`; bars: trust.md A3.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.integration.test_cluster import grown
from tests.integration.trio import (
    Trio,
    at_appliance,
    longest_stall,
    lost,
    mend,
    moved_from,
    writing,
)
from tests.lab import until
from tests.lab.cairn import OPS_PORT, Appliance
from tests.lab.program import children_of
from tests.proofs import record

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
_LEFT_S = 5.0  # within which agents leave one that is paused
_WHAT = {"api": "the APIs", "etcd": "the etcd", "both": "APIs and etcd"}


@pytest.fixture(scope="module")
def trio() -> Iterator[Trio]:
    """A cluster of three."""
    with grown("upkeep") as trio:
        yield trio


@pytest.mark.parametrize("pause_s", [1.0, 5.0, 30.0], ids=lambda s: f"{s:.0f} s")
@pytest.mark.parametrize("what", ["api", "etcd", "both"])
def test_a_paused_appliance_harms_nobody_and_is_left_by_its_agents(
    trio: Trio, what: str, pause_s: float
) -> None:
    """The takers ask the paused one, too: what it does once it goes on must fit the rest."""
    trio.wait_until_whole()
    leader = trio.leader()
    victim = trio.appliances[leader]
    others = [each for each in trio.appliances.values() if each is not victim]
    rest = [f"{each.host.v4}:{OPS_PORT}" for each in others]
    # After less it may be itself again; and without its own etcd it serves by another's.
    is_left = what != "etcd" and pause_s > _LEFT_S
    with (
        at_appliance(trio, leader),
        trio.probed() as probes,
        trio.taking() as taken,
        writing(trio.client, rest, victim.session()) as writer,
    ):
        writer.wait_for(20)
        taken.wait_for(20)
        with paused(victim, what):
            begun = time.monotonic()
            moved = moved_from(trio, victim) - begun if is_left else 0.0
            if pause_s > _LEASE_S and what != "etcd":
                until("it no longer counts as running", lambda: not serves(trio, leader, others[0]),
                      within_s=_LEASE_S + 15)  # fmt: skip
            time.sleep(max(0.0, begun + pause_s - time.monotonic()))
        writer.wait_for(20)
        taken.wait_for(20)
        acknowledged = writer.acknowledged()
    stall = longest_stall(acknowledged, since=begun - 0.5)
    gone = lost(trio, acknowledged)
    trio.wait_until_whole()
    until("it counts as running", lambda: serves(trio, leader, others[0]), within_s=20)
    wrong = trio.violations(taken, acknowledged)
    left = f", its agent follows another after {moved:.1f} s" if is_left else ""
    assert record(
        f"A3-{what}-{pause_s:.0f}",
        what=f"{_WHAT[what]} of the leader paused for {pause_s:.0f} s{left}; {len(acknowledged)} "
        f"writes and {gone} lost, {probes}, of {taken} {len(wrong)} that no truth explains: no "
        "write at the others for",
        bar="<= 3 s; 0 lost, no two owners" + "; its agent leaves in 5 s" * is_left,
        value=round(stall, 3),
        unit="s",
        holds=stall <= 3.0 and moved <= 5.0 and gone == 0 and probes.none_lost and not wrong,
    ), wrong


def test_an_appliance_that_nobody_reaches_is_left_by_its_agents(trio: Trio) -> None:
    trio.wait_until_whole()
    leader = trio.leader()
    victim = trio.appliances[leader]
    with at_appliance(trio, leader), trio.probed() as probes:
        begun = time.monotonic()
        victim.host.nft(_CUT)
        try:
            moved = moved_from(trio, victim) - begun
        finally:
            mend(victim)
    trio.wait_until_whole()
    assert record(
        "A3-cut",
        what=f"the leader cut off from agents and appliances, {probes}: its agent follows another "
        "after",
        bar="<= 5 s, 0 probes lost",
        value=round(moved, 3),
        unit="s",
        holds=moved <= 5.0 and probes.none_lost,
    )


def serves(trio: Trio, name: str, asked: Appliance) -> bool:
    shown = asked.cairn("cluster", "status")["appliances"]
    return any(each["serves"] for each in shown if each["name"] == name)


@contextmanager
def paused(appliance: Appliance, what: str) -> Iterator[None]:
    """Stop the process inside the block, its etcd, or both."""
    etcd = children_of(appliance.pid)
    assert len(etcd) == 1
    pids = {"api": [appliance.pid], "etcd": etcd, "both": [appliance.pid, *etcd]}[what]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in reversed(pids):
            os.kill(pid, signal.SIGCONT)
