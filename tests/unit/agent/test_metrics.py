"""The agent's report as metrics."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from cairn_agent import metrics
from cairn_agent.errors import BadInput
from cairn_agent.report import (
    DataPlaneReport,
    GatewayReport,
    LinkReport,
    PeerReport,
    Status,
    VSubnetReport,
)
from cairn_agent.settings import from_environment
from prometheus_client.parser import text_string_to_metric_families


def peer(number: int) -> PeerReport:
    return PeerReport(
        node_id=f"{number:08d}",
        name=f"n{number}",
        site="",
        vni=7,
        vsubnet="office",
        role="host",
        ips=[],
        macs=[],
        endpoints=[],
        session="up" if number else "down",
        rtt_us=1500 if number else None,
    )


STATUS = Status(
    state="approved",
    agent_version="0.1.0",
    node_id="n-1",
    name='web"1',
    revision=42,
    link=LinkReport(is_up=True, heard_s=1.5),
    dataplane=DataPlaneReport(is_up=True, drops={"replayed": 3}),
    vsubnets=[
        VSubnetReport(
            vni=7,
            name="office",
            tap="cairn7",
            mac="",
            ips=[],
            mtu=1400,
            tap_mtu=1400,
            members=3,
            tx_octets=100,
            rx_octets=200,
            trusted_for_s=86_400.0,
        )
    ],
    peers=[peer(0), peer(1), peer(2)],
    gateways=[
        GatewayReport(
            segment="s", name="lan", vni=7, port="eth1", vlan=0, state="standby", stations=4
        )
    ],
)


def samples(text: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_report_is_told_in_seconds_and_octets() -> None:
    found = samples(metrics.exposition(STATUS, 1_795_000_000.0).decode())

    assert found["cairn_agent_info", 'web"1', "n-1", "0.1.0"] == 1
    assert found["cairn_agent_link_up",] == 1
    assert found["cairn_agent_netmap_age_seconds",] == 1.5
    assert found["cairn_agent_sessions", "up", "office"] == 2
    assert found["cairn_agent_sessions", "down", "office"] == 1
    assert found["cairn_agent_peer_rtt_seconds", "00000001", "n1", "office"] == 0.0015
    assert found["cairn_agent_transmit_bytes_total", "office"] == 100
    assert found["cairn_agent_dropped_frames_total", "replayed"] == 3
    assert found["cairn_agent_trust_left_seconds", "office"] == 86_400
    assert found["cairn_agent_gateway_state", "lan", "standby"] == 1
    assert found["cairn_agent_gateway_state", "lan", "forwarding"] == 0


def test_peers_beyond_the_bound_are_counted_and_not_told() -> None:
    many = Status("approved", "0.1.0", peers=[peer(number) for number in range(1, 501)])
    found = samples(metrics.exposition(many, 0.0).decode())

    assert sum(name == "cairn_agent_peer_rtt_seconds" for name, *_ in found) == metrics.PEERS
    assert found["cairn_agent_peers_left_out",] == 500 - metrics.PEERS
    assert found["cairn_agent_sessions", "up", "office"] == 500


async def test_the_file_is_whole_at_any_time_and_a_bad_disk_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(metrics, "EVERY_S", 0.005)
    path = tmp_path / "there" / "cairn.prom"

    async def status() -> Status:
        return STATUS

    writing = asyncio.create_task(metrics.keep_file(path, status))
    await asyncio.sleep(0.05)
    assert caplog.text.count("metrics can't be written") == 1
    path.parent.mkdir()
    async with asyncio.timeout(10):
        while not path.exists():
            await asyncio.sleep(0.01)
    for _ in range(50):
        assert ("cairn_agent_gateway_stations", "lan") in samples(path.read_text())
        await asyncio.sleep(0.002)
    writing.cancel()
    await asyncio.wait({writing})


@pytest.mark.parametrize("path", ["cairn.prom", "/var/lib/cairn.txt"])
def test_a_path_that_node_exporter_would_not_read_is_refused(path: str) -> None:
    with pytest.raises(BadInput, match="CAIRN_METRICS_FILE"):
        from_environment({"CAIRN_METRICS_FILE": path}, None, None)
