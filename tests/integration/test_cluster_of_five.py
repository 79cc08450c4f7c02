"""Five appliances: two may be lost at once. In `make chaos`."""

from __future__ import annotations

import time

import pytest

from tests.integration.trio import grown_trio, longest_stall, lost
from tests.lab import Lab, until
from tests.lab.cairn import missing_programs
from tests.proofs import record

pytestmark = [
    pytest.mark.root,
    pytest.mark.tun,
    pytest.mark.etcd,
    pytest.mark.slow,
    pytest.mark.timeout(300),
]


def test_two_of_five_are_killed_at_once_under_writes() -> None:
    if missing := missing_programs():
        pytest.fail(f"not built: {', '.join(missing)}; run make setup")
    with Lab("five") as lab:
        five = grown_trio(lab)
        site = five.client.site
        five.add("m4", site.host("m4"))
        shown = five.appliances["m1"].cairn("cluster", "status")
        assert any("4" in each["cause"] for each in shown["problems"]), "four are no better"
        five.add("m5", site.host("m5"))
        five.wait_until_whole()
        assert five.appliances["m1"].cairn("cluster", "status")["problems"] == []

        leader = five.leader()
        other = next(name for name in five.appliances if name != leader)
        safe = next(name for name in five.appliances if name not in (leader, other))
        with five.probed() as probes, five.writing(first=safe) as writer:
            writer.wait_for(20)
            killed = time.monotonic()
            for name in (leader, other):
                five.appliances[name].kill()
            writer.wait_for(50, within_s=20)
            acknowledged = writer.acknowledged()
        until(
            "the agent follows one that is left",
            lambda: (
                five.served_by()
                not in ("", *(five.appliances[name].host.v4 for name in (leader, other)))
            ),
            within_s=20,
        )
        stall = longest_stall(acknowledged, since=killed - 0.5)
        gone = lost(five, acknowledged)
        for name in (leader, other):
            five.appliances[name].start()
        five.wait_until_whole()
    assert record(
        "CLUSTER-five",
        what=f"five, the leader and another killed at once under writes, {gone} and {probes}: no "
        "write for",
        bar="<= 3 s, 0 lost",
        value=round(stall, 3),
        unit="s",
        holds=stall <= 3.0 and gone == 0 and probes.none_lost,
    )
