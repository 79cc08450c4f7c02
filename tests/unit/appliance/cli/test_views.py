"""`cairn topology`, `latency`, `search`, `node report`, `vsubnet table` against a live API."""

from __future__ import annotations

import json

import msgspec
import pytest
from cairn_agent.protocol import telemetry as wire
from cairn_appliance.domain.identity import SYSTEM
from cairn_appliance.services.vsubnets import VSubnetOrder

from tests.unit.appliance.cli.conftest import Live, Shell
from tests.unit.appliance.cli.test_gateway import look


@pytest.fixture
def nodes(live: Live, logged_in: Shell) -> dict[str, str]:
    """Two nodes in `red` with a session, which one of them reports."""
    services = live.operations.services
    live.do(services.vsubnets.create(VSubnetOrder("red", ("10.7.0.0/24",)), SYSTEM))
    made = {name: live.do(live.operations.join(name, "red", site="north")) for name in ("n1", "n2")}
    look(live)
    (vsubnet,) = services.netmaps.snapshot.vsubnets.values()
    peer = wire.PeerSaid(
        made["n2"],
        vsubnet.vni,
        "up",
        "direct",
        "192.0.2.9:8002",
        rtt_us=12_340,
        probes=10,
        lost=1,
        probed_s=1.0,
    )
    report = wire.Report(
        full=True,
        agent_version="0.1.0",
        dataplane=wire.DataPlaneSaid(True, "0.1.0", loaded_revision=7, drops={"replayed": 1200}),
        vsubnets=[wire.VSubnetSaid(vsubnet.vni, 2, 1, 1400, counters={"bum_sent": 1234})],
        problems=[wire.ProblemSaid("path_mtu", "the path is narrow", "widen it")],
        peers=[peer],
    )

    async def say() -> None:
        services.telemetry.take(made["n1"], msgspec.json.encode(report))
        services.presence.connected(made["n1"])

    live.do(say())
    return made


def test_topology_and_latency(nodes: dict[str, str], logged_in: Shell) -> None:
    shown = logged_in.ok("topology")
    assert "n1" in shown
    assert "stale" in shown  # n2 says nothing, and its peer hears it
    assert "12.3 ms" in shown
    assert "10%" in logged_in.ok("latency", "--vsubnet", "red")
    assert "Nothing is measured" in logged_in.ok("latency", "--site", "south")
    assert json.loads(logged_in.ok("latency", "--json"))["rows"][0]["rtt_ms"] == 12.34
    assert json.loads(logged_in.ok("topology", "--json"))["edges"][0]["up"]
    assert logged_in("latency", "n1").code == 2
    both = json.loads(logged_in.ok("latency", "n1", "n2", "--json"))
    assert {both["a"], both["b"]} == set(nodes.values())


@pytest.mark.usefixtures("nodes")
def test_a_report_says_how_old_it_is(logged_in: Shell) -> None:
    shown = logged_in.ok("node", "report", "n1")
    for text in ("has loaded revision 7", "replayed 1,200", "widen it", "192.0.2.9:8002", "ago"):
        assert text in shown
    missing = logged_in("node", "report", "n2")
    assert missing.code
    assert "has reported nothing" in missing.err
    assert "what to do" in missing.err


@pytest.mark.usefixtures("nodes")
def test_table_and_search(logged_in: Shell) -> None:
    shown = logged_in.ok("vsubnet", "table", "red")
    assert shown.count("member") == 2
    assert "1,234" in shown
    mac = json.loads(logged_in.ok("vsubnet", "table", "red", "--json"))["entries"][0]["mac"]
    assert mac in logged_in.ok("search", mac.upper())
    assert "Nothing fits" in logged_in.ok("search", "nowhere")
    assert json.loads(logged_in.ok("search", "n1", "--json"))["items"][0]["name"] == "n1"
