"""Two vSubnets with the same prefix on the same hosts know nothing of each other."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from tests.integration.world import World
from tests.lab.cairn import Network, ethernet
from tests.proofs import record

pytestmark = [pytest.mark.root, pytest.mark.tun, pytest.mark.etcd]

EXPERIMENTAL = 0x88B5
PREFIX = "10.50.0.0/24"


@pytest.fixture(scope="module")
def red_and_blue(world: World) -> Iterator[tuple[Network, Network]]:
    """a1 and b1 are members of both, a2 of red only; both have the prefix 10.50.0.0/24."""
    appliance = world.appliance
    red, blue = appliance.network("red", PREFIX), appliance.network("blue", PREFIX)
    for network, members in ((red, ("a1", "a2", "b1")), (blue, ("a1", "b1"))):
        for member in members:
            appliance.attach(network, member)
        for member in members:
            world.node(member).address(network)
    yield red, blue
    for network in (red, blue):
        appliance.remove_network(network)


def test_overlapping_prefixes_both_carry_traffic(
    world: World, red_and_blue: tuple[Network, Network]
) -> None:
    a1, b1 = world.node("a1"), world.node("b1")
    for used, other in (red_and_blue, red_and_blue[::-1]):
        for node in (a1, b1):  # the host's own routing can't know which one is meant
            node.host.ip(f"link set {other.tap} down")
        try:
            a1.wait_for_ping(b1.address(used), within_s=10)
            assert a1.pings(b1.address(used), count=3) == 3
        finally:
            for node in (a1, b1):
                node.host.ip(f"link set {other.tap} up")


def test_no_frame_of_one_vsubnet_shows_up_in_the_other(
    world: World, red_and_blue: tuple[Network, Network]
) -> None:
    red, blue = red_and_blue
    a1, b1 = world.node("a1"), world.node("b1")
    marker = b"isolation" + os.urandom(16)
    source = a1.mac(red)
    frames = [
        ethernet(to, source, EXPERIMENTAL, marker)
        for to in ("ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:fb", b1.mac(red), b1.mac(blue))
    ]
    what = f"ether proto {EXPERIMENTAL:#x}"
    there = {network.name: b1.host.capture(network.tap, what=what) for network in red_and_blue}
    here = a1.host.capture(blue.tap, what=what)

    a1.send_frames(red, *frames, count=20, interval_ms=5)
    time.sleep(0.5)

    arrived = len(there["red"].packets())
    strayed = len(there["blue"].packets()) + len(here.packets())
    assert arrived >= 60, "broadcast, multicast and unicast did arrive in red"
    assert record(
        "ISOLATION",
        what=f"frames of one vSubnet seen in another with the same prefix ({arrived} arrived)",
        bar="0 frames",
        value=strayed,
        unit="frames",
        holds=strayed == 0,
    )


def test_a_node_outside_a_vsubnet_has_no_interface_of_it(
    world: World, red_and_blue: tuple[Network, Network]
) -> None:
    red, blue = red_and_blue
    assert world.node("a2").has_tap(red)
    assert not world.node("a2").has_tap(blue)
