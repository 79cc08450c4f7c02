"""Never two forwarders: what the check finds, and random schedules of cuts, pauses and kills.

`make gateway`; CAIRN_GATEWAY_SCHEDULES sets how many schedules, CAIRN_GATEWAY_SEED what happens
in them, which is printed first.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from tests.integration.crossings import (
    Crossing,
    Crossings,
    Run,
    crossing,
    doubled,
    hand_overs,
    overlaps,
    runs,
    violations,
)
from tests.integration.office import BRIDGE, now_ns
from tests.integration.test_dataplane import BINARY, LIVING, TAP, VNI
from tests.integration.test_dataplane import Node as Plane
from tests.lab import Lab, until
from tests.lab.lan import Lan

pytestmark = [pytest.mark.root, pytest.mark.tun]

_MS = 1_000_000


def test_what_is_two_forwarders_and_what_is_a_hand_over() -> None:
    one = [Crossing(at * 8 * _MS, "g1", at) for at in range(10)]
    other = [Crossing(at * 8 * _MS, "g2", at) for at in range(10, 20)]
    assert not violations({"out": one + other, "in": one + other})
    assert hand_overs(one + other) == 1

    late = Crossing(15 * 8 * _MS, "g1", 9)  # a frame that it had in its hands for long
    assert violations({"out": sorted([*one[:9], *other, late]), "in": []}) == [
        "at one time, out: g2 and g1 for 0.0 ms"
    ]
    again = Crossing(19 * 8 * _MS + 1, "g1", 19)
    assert doubled([*other, again]) == ["frame 19: g2, g1 0.0 ms"]
    assert overlaps(runs([*one, *[Crossing(each.at_ns + 1, "g2", 1) for each in one]]))
    assert runs(one) == [Run(0, 72 * _MS, "g1")]


@dataclass(frozen=True)
class Pair:
    """Two gateways' data planes on one LAN, and a member; the test stands for their agents."""

    gateways: dict[str, Plane]
    seen: Crossings

    def gate(self, name: str, seconds: float) -> None:
        """Set a gateway's gate, whatever the other's is."""
        control = self.gateways[name].control or self.gateways[name].connect()
        until_ns = now_ns() + int(seconds * 1e9) if seconds else 0
        assert control.ask("gate", vni=VNI, term=1, forward_until_ns=until_ns)["ok"]


@contextmanager
def _pair() -> Iterator[Pair]:
    if not BINARY.exists():
        pytest.fail(f"{BINARY} is not built; run make setup")
    with Lab("split") as lab, _closing_connections():
        site = lab.site("dc", families="4", closed=False)
        vm, g1, g2 = (Plane(site.host(name), at) for at, name in enumerate(("vm", "g1", "g2"), 1))
        lan = Lan(lab, "floor")
        for node in (vm, g1, g2):
            node.endpoints = node.endpoints[:1]
            node.make_tap()
            node.start()
            node.connect()
        for node in (g1, g2):
            node.ips = []
            lan.plug(node.host, "eth1")
            node.host.ip(
                f"addr flush dev {TAP}",
                f"link add {BRIDGE} type bridge forward_delay 0 mcast_snooping 0",
                f"link set {TAP} master {BRIDGE}",
                f"link set eth1 master {BRIDGE}",
                f"link set {BRIDGE} up",
            )
            # Two open gates make a loop: it is enough to see the first time round.
            port = lan.port(node.host, "eth1")
            lan.switch.run(["bridge", "link", "set", "dev", port, "isolated", "on"])
        for node in (vm, g1, g2):
            state = node.state(*(each for each in (vm, g1, g2) if each is not node))
            (vsubnet,) = state["vsubnets"]
            vsubnet["role"] = "host" if node is vm else "gateway"
            for peer in vsubnet["peers"]:
                peer["role"] = "host" if peer["id"] == vm.id else "gateway"
            assert node.control and node.control.ask("apply", generation=1, state=state)["ok"]
        machines = {"g1": g1.host, "g2": g2.host}
        with crossing(lan, vm.host, TAP, machines, "eth1") as seen:
            yield Pair({"g1": g1, "g2": g2}, seen)


@contextmanager
def _closing_connections() -> Iterator[None]:
    try:
        yield
    finally:
        while LIVING:
            LIVING.pop().disconnect()


def test_the_check_finds_a_gateway_that_forwards_without_the_right() -> None:
    with _pair() as pair:
        pair.gate("g1", 100)
        until("g1 forwards", lambda: pair.seen.forwarder() == "g1", within_s=5)
        time.sleep(0.3)
        pair.gate("g1", 0)
        pair.gate("g2", 100)
        until("g2 forwards", lambda: pair.seen.forwarder() == "g2", within_s=5)
        time.sleep(0.3)
        taken = pair.seen.take()
        assert violations(taken) == []
        for way, crossings in taken.items():
            assert {each.gateway for each in crossings} == {"g1", "g2"}, way
            assert hand_overs(crossings) == 1

        pair.gate("g1", 0.1)  # what it was not granted
        time.sleep(0.4)
        said = violations(pair.seen.take())
        for sign in ("twice on the LAN", "at one time, out", "at one time, in"):
            assert any(each.startswith(sign) for each in said), (sign, said)
