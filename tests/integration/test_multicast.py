"""Multicast reaches exactly the members whose hosts listen, as their kernels know it.

a --- [lan] --- b, c
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import pytest

from tests.integration.test_dataplane import BINARY, LIVING, TAP, Node
from tests.lab import Capture, Lab, Program, until

pytestmark = [pytest.mark.root, pytest.mark.tun]

GROUPS = {4: "239.1.2.3", 6: "ff05::1:2:3"}
PORT = "5007"

_JOIN = """
import socket, sys, time
group, interface = sys.argv[1:]
if ":" in group:
    opened = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    index = socket.if_nametoindex(interface).to_bytes(4, sys.byteorder)
    joining = socket.inet_pton(socket.AF_INET6, group) + index
    opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, joining)
else:
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    index = socket.if_nametoindex(interface).to_bytes(4, sys.byteorder)
    joining = socket.inet_aton(group) + bytes(4) + index
    opened.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, joining)
print("joined", flush=True)
time.sleep(600)
"""

_SEND = """
import socket, sys
group, interface, port, text = sys.argv[1:]
family = socket.AF_INET6 if ":" in group else socket.AF_INET
opened = socket.socket(family, socket.SOCK_DGRAM)
opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
opened.sendto(text.encode(), (group, int(port)))
"""


@pytest.fixture
def nodes() -> Iterator[tuple[Node, Node, Node]]:
    """Three nodes that know each other."""
    if not BINARY.exists():
        pytest.fail(f"{BINARY} is not built; run make setup")
    with Lab("multicast") as lab:
        site = lab.site("cloud")
        made = tuple(Node(site.host(name), number + 1) for number, name in enumerate("abc"))
        for node in made:
            node.make_tap()
            node.start()
        for node in made:
            assert node.apply(*(other for other in made if other is not node))["ok"]
        a, b, c = made
        assert a.pings(b.ips[0]) and a.pings(c.ips[0])
        yield a, b, c
        while LIVING:
            LIVING.pop().disconnect()


def joins(node: Node, group: str) -> Program:
    """Let the node's host listen to a group."""
    host = node.host
    listener = host.start([sys.executable, "-I", "-S", "-c", _JOIN, group, TAP], name="joined")
    listener.wait_for_log("joined", within_s=5)
    return listener


def sends(node: Node, group: str, text: str) -> None:
    """Send a datagram to the group."""
    node.host.run([sys.executable, "-I", "-S", "-c", _SEND, group, TAP, PORT, text])


def sends_more(node: Node, group: str) -> int:
    """Send another datagram to the group; return how many copies of any were spared until now."""
    sends(node, group, "more")
    return copies_spared(node)


def copies_spared(node: Node) -> int:
    """Return how many copies the node did not send, to members whose hosts don't listen."""
    spared: int = node.stats()["vsubnets"][0]["counters"]["multicast_spared"]
    return spared


def watch(node: Node) -> Capture:
    """Capture what comes out of the TAP; not promiscuous, for such an interface takes all."""
    file = node.host.directory / "multicast.pcap"
    command = ["tcpdump", "-p", "-i", TAP, "-w", str(file), "-U", "--immediate-mode", "-Z", "root"]
    program = node.host.start([*command, f"udp port {PORT}"], name="watch")
    program.wait_for_log("listening on", within_s=5)
    return Capture(program, file)


def arrives(capture: Capture, text: str) -> bool:
    """Say whether the datagram comes out of the TAP; all that is sent before it has done so."""
    return text.encode() in capture.file.read_bytes()


@pytest.mark.parametrize("family", [4, 6])
def test_multicast_reaches_exactly_those_who_listen(
    nodes: tuple[Node, Node, Node], family: int
) -> None:
    a, b, c = nodes
    group = GROUPS[family]
    joins(b, group)
    at_b, at_c = watch(b), watch(c)

    sends(a, group, "first")  # nothing is known yet
    until("it comes to both", lambda: arrives(at_b, "first") and arrives(at_c, "first"), within_s=5)
    spared = until("c has said that it wants none", lambda: sends_more(a, group), within_s=5)
    for number in range(5):
        sends(a, group, f"next-{number}")
    until("all come to b", lambda: arrives(at_b, "next-4"), within_s=5)
    time.sleep(0.2)
    assert not arrives(at_c, "next-")
    assert copies_spared(a) == spared + 5

    listener = joins(c, group)
    time.sleep(1.5)  # IGMPv3 and MLDv2 hosts report within a second of joining
    sends(a, group, "joined")
    until(
        "it comes to both", lambda: arrives(at_b, "joined") and arrives(at_c, "joined"), within_s=5
    )

    listener.stop()
    c.host.ip(f"link set {TAP} promisc on")  # as a bridge would
    for number in range(3):
        sends(a, group, f"bridged-{number}")
        time.sleep(1.1)
    until("it comes to c", lambda: arrives(at_c, "bridged-2"), within_s=5)
    assert all(arrives(at_c, f"bridged-{number}") for number in range(3))
