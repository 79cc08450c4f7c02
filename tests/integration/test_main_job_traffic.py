"""What a vSubnet carries between three VMs at two sites with only 8002 open.

a1, a2 -- [cloud-a] -- internet -- [cloud-b] -- b1      (appliance in the office)
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration.world import World
from tests.lab import Packet, Program
from tests.lab.cairn import Network, Node, ethernet
from tests.proofs import record

pytestmark = [pytest.mark.root, pytest.mark.tun, pytest.mark.etcd]

LAB = Path(__file__).resolve().parents[1] / "lab"
IPX, VLAN, EXPERIMENTAL = 0x8137, 0x8100, 0x88B5
PAIRS = [(a, b) for a in ("a1", "a2", "b1") for b in ("a1", "a2", "b1") if a != b]


def test_from_join_to_the_first_ping_takes_less_than_ten_seconds(world: World) -> None:
    slowest = max(world.first_ping_s.values())
    assert len(world.first_ping_s) == 2, "a2 and b1 each had somebody to ping"
    assert record(
        "JOIN-ping",
        what="from `cairn-agent join` to the first answered ping, the slowest of two nodes",
        bar="< 10 s",
        value=round(slowest, 2),
        unit="s",
        holds=slowest < 10,
    )


def test_only_8002_is_open_between_the_sites(world: World) -> None:
    a1, b1 = world.node("a1").host, world.node("b1").host
    assert a1.run(["ping", "-c1", "-W1", b1.v4], check=False).returncode != 0
    assert a1.run(["ping", "-c1", "-W1", b1.v6], check=False).returncode != 0
    connect = "import socket,sys; socket.create_connection((sys.argv[1], 22), 1)"
    refused = a1.run([sys.executable, "-c", connect, b1.v4], check=False)
    assert "timed out" in refused.stderr, "dropped, not refused"


@pytest.mark.parametrize("family", [4, 6])
def test_three_vms_at_two_sites_ping_each_other(world: World, family: int) -> None:
    for name, other in PAIRS:
        assert world.node(name).pings(world.address(other, family), count=3) == 3


@pytest.mark.parametrize("family", [4, 6])
def test_arp_and_neighbour_discovery_find_the_other_members(world: World, family: int) -> None:
    a1 = world.node("a1")
    a1.host.run(["ip", "neigh", "flush", "dev", world.prod.tap])

    for other in ("a2", "b1"):
        assert a1.pings(world.address(other, family)) == 1
        found = a1.host.run(["ip", "-j", "neigh", "show", world.address(other, family)]).stdout
        assert json.loads(found)[0]["lladdr"] == world.node(other).mac(world.prod)


def test_an_arp_question_that_nobody_answers_for_goes_unanswered(world: World) -> None:
    done = world.node("a1").host.run(["ping", "-c1", "-W1", "10.7.0.251"], check=False)
    assert done.returncode != 0


@pytest.mark.parametrize("family", [4, 6])
def test_a_ping_of_1400_octets_passes_unfragmented(world: World, family: int) -> None:
    size = 1400 - (28 if family == 4 else 48)
    for name, other in PAIRS:
        host, address = world.node(name).host, world.address(other, family)
        host.run(["ping", "-c2", "-i0.1", "-W2", "-M", "do", "-s", str(size), address])


@pytest.mark.parametrize("family", [4, 6])
def test_a_fragmented_ping_passes(world: World, family: int) -> None:
    for name, other in PAIRS:
        assert world.node(name).pings(world.address(other, family), count=2, size=5000) == 2


def test_a_dhcp_server_in_one_member_serves_another(world: World) -> None:
    """In an unmanaged vSubnet, where a member gives the addresses out."""
    a1, b1 = world.node("a1"), world.node("b1")
    with ExitStack() as stack:
        lan = _unmanaged_network(stack, world, "dhcp", ("a1", "b1"))
        a1.host.ip(f"addr add 10.99.0.1/24 dev {lan.tap}")
        server = _dhcp_server(stack, a1, lan)

        said = _dhcp_client(b1, lan)

        found = re.search(r"lease of (10\.99\.0\.5\d) obtained", said)
        assert found, said + server.tail()
        b1.host.ip(f"addr add {found[1]}/24 dev {lan.tap}")
        assert b1.pings("10.99.0.1", count=3) == 3, "the address is of use"


def test_a_dhcp_server_in_a_member_of_a_managed_vsubnet_is_not_heard(world: World) -> None:
    a1, b1 = world.node("a1"), world.node("b1")
    with ExitStack() as stack:
        a1.host.ip(f"addr add 10.99.0.1/24 dev {world.prod.tap}")
        stack.callback(a1.host.ip, f"addr del 10.99.0.1/24 dev {world.prod.tap}")
        server = _dhcp_server(stack, a1, world.prod)

        said = _dhcp_client(b1, world.prod)

        assert "lease of" not in said
        assert "DHCPOFFER" in server.text(), "the question did arrive and was answered"


def test_multicast_dns_finds_a_name_at_another_site(world: World) -> None:
    a1, b1 = world.node("a1").host, world.node("b1").host
    answerer = b1.start(b1.python(LAB / "mdns.py", "answer", world.address("b1"), "printer"))
    answerer.wait_for_log("ready", within_s=5)
    try:
        asked = a1.run(a1.python(LAB / "mdns.py", "ask", world.address("a1"), "printer"))
    finally:
        answerer.stop()
    assert asked.stdout.strip() == world.address("b1")


def test_a_broadcast_reaches_every_other_member_once(world: World) -> None:
    sender = world.node("a1")
    frame = ethernet(
        "ff:ff:ff:ff:ff:ff", sender.mac(world.prod), EXPERIMENTAL, b"broadcast" + os.urandom(16)
    )
    for name in ("a2", "b1"):
        assert _frames_at(world, name, EXPERIMENTAL, sender, frame, count=10) == [frame] * 10


@pytest.mark.parametrize("octets", [46, 1400])
def test_a_frame_of_another_protocol_arrives_as_it_was(world: World, octets: int) -> None:
    """EtherType 0x8137 (Novell IPX), the shortest and the longest payload."""
    a1, b1 = world.node("a1"), world.node("b1")
    frame = ethernet(b1.mac(world.prod), a1.mac(world.prod), IPX, os.urandom(octets))

    assert _frames_at(world, "b1", IPX, a1, frame, count=5) == [frame] * 5


@pytest.mark.parametrize("octets", [46, 1396, 1400])
def test_a_vlan_tagged_frame_keeps_its_tag(world: World, octets: int) -> None:
    """VLAN 42, priority 5, around another EtherType; full-size ones have 4 octets more."""
    a1, b1 = world.node("a1"), world.node("b1")
    tag = ((5 << 13) | 42).to_bytes(2, "big") + EXPERIMENTAL.to_bytes(2, "big")
    frame = ethernet(b1.mac(world.prod), a1.mac(world.prod), VLAN, tag + os.urandom(octets))

    assert _frames_at(world, "b1", None, a1, frame, count=5) == [frame] * 5


def _unmanaged_network(
    stack: ExitStack, world: World, name: str, members: tuple[str, ...]
) -> Network:
    """Make a vSubnet without prefixes for some of the nodes; it goes with the stack."""
    network = world.appliance.network(name)
    stack.callback(world.appliance.remove_network, network)
    for member in members:
        world.appliance.attach(network, member)
    for member in members:
        world.node(member).wait_for_tap(network)
    return network


def _dhcp_server(stack: ExitStack, node: Node, network: Network) -> Program:
    command = [
        *("dnsmasq", "--no-daemon", "--conf-file=/dev/null", "--port=0", "--log-dhcp"),
        f"--interface={network.tap}",
        "--bind-interfaces",
        "--no-ping",
        "--dhcp-authoritative",
        "--dhcp-range=10.99.0.50,10.99.0.59,1h",
        "--dhcp-leasefile=/run/leases",
    ]
    server = node.host.start(command, name=f"dnsmasq-{network.name}")
    stack.callback(server.stop)
    server.wait_for_log("DHCP, IP range", within_s=5)
    return server


def _dhcp_client(node: Node, network: Network) -> str:
    """Ask for a lease; return what the client said."""
    command = ["udhcpc", "-f", "-n", "-q", "-t", "4", "-T", "1", "-s", "/bin/true"]
    done = node.host.run([*command, "-i", network.tap], check=False)
    return done.stdout + done.stderr


def _frames_at(
    world: World, receiver: str, ethertype: int | None, sender: Node, frame: bytes, *, count: int
) -> list[bytes]:
    """Return the frames that arrive at a node's interface while `frame` is sent."""
    what = f"ether proto {ethertype:#x}" if ethertype is not None else "vlan"
    capture = world.node(receiver).host.capture(world.prod.tap, what=what)
    sender.send_frames(world.prod, frame, count=count, interval_ms=10)
    time.sleep(0.3)  # for stragglers, and for what must not come twice
    packets: list[Packet] = capture.packets()
    return [packet.frame for packet in packets]
