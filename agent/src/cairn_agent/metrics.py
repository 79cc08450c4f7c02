"""The agent's report as metrics, and the file that node_exporter's textfile collector reads.

There is no port: a node opens UDP 8002 and nothing else, and whoever watches machines with
Prometheus has node_exporter on them already.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest, write_to_textfile
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from cairn_agent.errors import AgentError
from cairn_agent.report import Status

log = logging.getLogger(__name__)

EVERY_S: Final = 15.0
PEERS: Final = 200  # that have series of their own
_LISTED: Final = 1000  # vSubnets, segments, reasons
_GATEWAY_STATES: Final = ("forwarding", "standby", "blocked", "unable")


def exposition(status: Status, now: float) -> bytes:
    """Return the report in Prometheus' text format."""
    return generate_latest(_registry(status, now))


async def keep_file(path: Path, status: Callable[[], Awaitable[Status]]) -> None:
    """Write the file again and again until cancelled; it is the old one or the new one."""
    problem = ""
    while True:
        try:
            registry = _registry(await status(), time.time())
            await asyncio.to_thread(write_to_textfile, str(path), registry)
            found = ""
        except OSError as error:
            found = f"{error.strerror}"
        except AgentError as error:
            found = error.cause
        if found and found != problem:
            log.warning("metrics can't be written to %s: %s", path, found)
        problem = found
        await asyncio.sleep(EVERY_S * random.uniform(0.9, 1.0))


class _Reported(Collector):
    """A report as metrics."""

    def __init__(self, status: Status, now: float) -> None:
        self._status = status
        self._now = now

    def collect(self) -> Iterable[Metric]:
        """Yield them."""
        yield from _of_node(self._status, self._now)
        yield from _of_vsubnets(self._status)
        yield from _of_peers(self._status)
        yield from _of_gateways(self._status)


def _registry(status: Status, now: float) -> CollectorRegistry:
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Reported(status, now))
    return registry


def _of_node(status: Status, now: float) -> Iterator[Metric]:
    about = {"node": status.node_id, "name": status.name, "version": status.agent_version}
    yield InfoMetricFamily("cairn_agent", "This node and its agent", value=about)
    yield _gauge("cairn_agent_metrics_timestamp_seconds", "When this was measured", now)
    yield _gauge("cairn_agent_approved", "1: the node takes part", status.state == "approved")
    yield _gauge("cairn_agent_link_up", "1: an appliance is connected", status.link.is_up)
    if status.link.heard_s is not None:
        yield _gauge(
            "cairn_agent_netmap_age_seconds",
            "Since an appliance confirmed the netmap",
            status.link.heard_s,
        )
    yield _gauge("cairn_agent_netmap_revision", "Of the netmap in use", status.revision)
    yield _gauge("cairn_agent_offline_seconds", "Without an appliance", status.offline_s)
    yield _gauge("cairn_agent_problems", "What isn't as it should be", len(status.problems))
    plane = status.dataplane
    yield _gauge("cairn_agent_dataplane_up", "1: the data plane answers", plane.is_up)
    drops = CounterMetricFamily(
        "cairn_agent_dropped_frames", "Frames and datagrams dropped, by reason", labels=("reason",)
    )
    for reason, count in sorted(plane.drops.items())[:_LISTED]:
        drops.add_metric([reason], count)
    yield drops


def _of_vsubnets(status: Status) -> Iterator[Metric]:
    sent = CounterMetricFamily(
        "cairn_agent_transmit_bytes", "From this node's TAP into the vSubnet", labels=("vsubnet",)
    )
    received = CounterMetricFamily(
        "cairn_agent_receive_bytes", "From the vSubnet to this node's TAP", labels=("vsubnet",)
    )
    trust = _by("cairn_agent_trust_left_seconds", "Until it stops without an appliance", "vsubnet")
    members = _by("cairn_agent_members", "Members of the vSubnet", "vsubnet")
    faulty = _by("cairn_agent_vsubnet_problem", "1: it is not as it should be", "vsubnet")
    for each in status.vsubnets[:_LISTED]:
        sent.add_metric([each.name], each.tx_octets)
        received.add_metric([each.name], each.rx_octets)
        members.add_metric([each.name], each.members)
        faulty.add_metric([each.name], bool(each.problem))
        if each.trusted_for_s is not None:
            trust.add_metric([each.name], each.trusted_for_s)
    yield from (sent, received, trust, members, faulty)


def _of_peers(status: Status) -> Iterator[Metric]:
    """Sessions are counted; the round trips of the first peers by node ID are told."""
    sessions = _by("cairn_agent_sessions", "Peers by state of the session", "vsubnet", "state")
    for (vsubnet, state), count in sorted(Counter(
        (each.vsubnet, each.session) for each in status.peers
    ).items()):  # fmt: skip
        sessions.add_metric([vsubnet, state], count)
    yield sessions
    rtt = _by("cairn_agent_peer_rtt_seconds", "Round trip in the session", "vsubnet", "peer",
              "node")  # fmt: skip
    measured = [each for each in status.peers if each.rtt_us is not None]
    measured.sort(key=lambda each: (each.node_id, each.vsubnet))
    for each in measured[:PEERS]:
        rtt.add_metric([each.vsubnet, each.name, each.node_id], (each.rtt_us or 0) / 1e6)
    yield rtt
    yield _gauge(
        "cairn_agent_peers_left_out",
        f"Peers beyond the {PEERS} whose round trip is told",
        max(0, len(measured) - PEERS),
    )


def _of_gateways(status: Status) -> Iterator[Metric]:
    states = _by("cairn_agent_gateway_state", "1: the state that it is in", "segment", "state")
    stations = _by("cairn_agent_gateway_stations", "Machines on the LAN", "segment")
    for each in status.gateways[:_LISTED]:
        for state in _GATEWAY_STATES:
            states.add_metric([each.name, state], each.state == state)
        stations.add_metric([each.name], each.stations)
    yield states
    yield stations


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))


def _by(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=labels)
