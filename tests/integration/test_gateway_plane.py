"""A gateway's data plane alone: its gate, what may cross, frames that are too long.

a --- [underlay] --- b (bridge of TAP and LAN port) --- leaf, a machine without an agent

The test stands in the place of b's agent: it makes the bridge, and opens the gate.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.integration.test_dataplane import BINARY, LIVING, TAP, VNI, JsonObject, Node, frame
from tests.lab import Host, Lab, Machine, Program

pytestmark = [pytest.mark.root, pytest.mark.tun]

LEAF = ("10.7.0.50", "fd07::50")
LEAF_MAC = "02:00:00:00:00:50"
PROBE_GROUP = "03:43:41:49:52:4e"
_EXPERIMENT = 0x88B5
_S = 1_000_000_000


@dataclass(frozen=True)
class Office:
    """The machines, and the nodes on two of them."""

    a: Node
    b: Node
    leaf: Machine
    running: Program  # b's data plane

    def open(self, seconds: float, term: int = 1) -> JsonObject:
        """Let b forward for so long from now on."""
        return self.set_gate(term, time.clock_gettime_ns(time.CLOCK_BOOTTIME) + int(seconds * _S))

    def set_gate(self, term: int, until_ns: int) -> JsonObject:
        """Set b's gate."""
        control = self.b.control or self.b.connect()
        return control.ask("gate", vni=VNI, term=term, forward_until_ns=until_ns)

    def gate(self) -> JsonObject:
        """Return how b's gate stands."""
        gate: JsonObject = self.b.stats()["vsubnets"][0]["gate"]
        return gate


def build(lab: Lab, *, lan_mtu: int = 1500) -> Office:
    """Start a, and b as a gateway to the LAN of the leaf."""
    site = lab.site("cloud")
    leaf = lab.machine("leaf", veth_to(lab))
    return start(lab, site.host("a"), site.host("b"), leaf, lan_mtu)


@pytest.fixture
def lab() -> Iterator[Lab]:
    if not BINARY.exists():
        pytest.fail(f"{BINARY} is not built; run make setup")
    with Lab("gateway") as made:
        yield made
        while LIVING:
            LIVING.pop().disconnect()
