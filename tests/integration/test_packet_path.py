"""The packet path with its offloads, and without each of them: nothing is lost, changed or
reordered, and what leaves to a LAN without offloads has right checksums.

a --- [underlay] --- b --- leaf, on a wire whose ends have no offloads
"""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.integration.test_dataplane import BINARY, LIVING, TAP, Node
from tests.lab import ROOT, Lab, Machine, Packet

pytestmark = [pytest.mark.root, pytest.mark.tun]

TRANSFER = ROOT / "tests" / "lab" / "transfer.py"
LEAF = {4: "10.9.0.2", 6: "fd09::2"}
TAP_OFFLOADS = ["tap_checksum", "tap_segmentation", "tap_udp_segmentation"]
OFFLOADS = [*TAP_OFFLOADS, "udp_segmentation", "udp_coalescing"]
MTU = 1400
_IPV4, _IPV6, _TCP, _UDP = 0x0800, 0x86DD, 6, 17


@dataclass(frozen=True)
class Path3:
    """The three machines and the nodes on two of them."""

    a: Node
    b: Node
    leaf: Machine


@pytest.fixture
def lab() -> Iterator[Lab]:
    if not BINARY.exists():
        pytest.fail(f"{BINARY} is not built; run make setup")
    with Lab("path") as made:
        yield made
        while LIVING:
            LIVING.pop().disconnect()


def build(lab: Lab, off: str) -> Path3:
    """Build the path; both data planes go without the offloads named in `off`."""
    site = lab.site("cloud")
    a, b = Node(site.host("a"), 1), Node(site.host("b"), 2)
    for node in (a, b):
        node.host.env["CAIRN_TEST_OFFLOADS_OFF"] = off
        node.make_tap()
        node.start()
    assert a.apply(b)["ok"] and b.apply(a)["ok"]
    leaf = lab.machine("leaf")
    b.host.ip(f"link add lan type veth peer name eth0 netns {leaf.pid}")
    b.host.sysctl(net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1)
    b.host.ip(
        "addr add 10.9.0.1/24 dev lan",
        "addr add fd09::1/64 dev lan nodad",
        "link set lan mtu 1400 up",
    )
    leaf.ip(
        "link set lo up",
        f"addr add {LEAF[4]}/24 dev eth0",
        f"addr add {LEAF[6]}/64 dev eth0 nodad",
        "link set eth0 mtu 1400 up",
        "route add default via 10.9.0.1",
        "route add ::/0 via fd09::1",
    )
    for machine, wire in ((b.host, "lan"), (leaf, "eth0")):
        switches = [word for name in ("tx", "rx", "tso", "gso", "gro") for word in (name, "off")]
        machine.run(["ethtool", "-K", wire, *switches])
    a.host.ip(f"route add 10.9.0.0/24 via {b.ips[0]}", f"route add fd09::/64 via {b.ips[1]}")
    assert a.pings(LEAF[4]) and a.pings(LEAF[6])
    return Path3(a, b, leaf)


def transfer(kind: str, sender: Machine, receiver: Machine, address: str) -> None:
    """Send what is known and check that it is what arrives."""
    command = [*receiver.python(TRANSFER, "receive", kind, address, "5001")]
    process = subprocess.Popen(receiver.enter(command), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout and process.stdout.readline() == "ready\n"
        sent = sender.run(sender.python(TRANSFER, "send", kind, address, "5001")).stdout
        received, _ = process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait(10)
    assert received == sent, f"{kind} to {address}"


@pytest.mark.parametrize("off", ["", *OFFLOADS, ",".join(OFFLOADS)])
def test_what_arrives_is_what_was_sent_and_leaves_with_right_checksums(lab: Lab, off: str) -> None:
    path = build(lab, off)
    a, leaf = path.a, path.leaf
    capture = leaf.capture("eth0", what="src host 10.7.0.1 or src host fd07::1")

    for kind in ("tcp", "udp", "train"):
        for family in (4, 6):
            transfer(kind, a.host, leaf, LEAF[family])
    for kind in ("tcp", "udp"):
        for address in a.ips:
            transfer(kind, leaf, a.host, address)
            transfer(kind, path.b.host, a.host, address)

    packets = [packet for packet in capture.packets() if packet.protocol in (_TCP, _UDP)]
    assert len(packets) > 500
    assert [packet for packet in packets if len(packet.frame) > MTU + 14] == []
    assert [packet for packet in packets if not has_right_checksums(packet)] == []
    assert_offloads(path, off)


def assert_offloads(path: Path3, off: str) -> None:
    """Check that what should be on is on, that it was used, and that nothing went wrong."""
    for node in (path.a, path.b):
        states = node.connect().ask("hello")["offloads"]
        dependent = TAP_OFFLOADS if "tap_checksum" in off else []
        for name in OFFLOADS:
            is_off = name in off.split(",") or name in dependent
            assert states[name].startswith("off: ") is is_off, states
        stats = node.stats()
        assert not stats["drops"].keys() & {"bad_superframe", "malformed_data", "not_authentic"}
        assert "udp_train_fallbacks" not in stats["counters"]
        assert "tap_refused" not in stats["vsubnets"][0]["tap_counters"]


def has_right_checksums(packet: Packet) -> bool:
    """Say whether the sums of a captured frame's IPv4 header and of TCP or UDP are right."""
    octets = packet.frame[14:]
    if packet.ethertype == _IPV4:
        length, size = (octets[0] & 15) * 4, struct.unpack_from("!H", octets, 2)[0]
        if ones_sum(octets[:length]) != 0xFFFF:
            return False
        if struct.unpack_from("!H", octets, 6)[0] & 0x3FFF:
            return True  # a fragment: the sum is over all of them
        segment = octets[length:size]
        pseudo = octets[12:20] + struct.pack("!HH", packet.protocol, len(segment))
    else:
        segment = octets[40 : 40 + struct.unpack_from("!H", octets, 4)[0]]
        if octets[6] not in (_TCP, _UDP):
            return True
        pseudo = octets[8:40] + struct.pack("!II", len(segment), octets[6])
    return ones_sum(pseudo + segment) == 0xFFFF


def ones_sum(octets: bytes) -> int:
    """Return the sum of RFC 1071, not complemented."""
    padded = octets + bytes(len(octets) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def test_a_train_crosses_in_one_send_and_one_write(lab: Lab) -> None:
    path = build(lab, "")
    before = path.b.stats()
    transfer("tcp", path.a.host, path.b.host, path.b.ips[0])
    after = path.b.stats()
    frames = after["vsubnets"][0]["rx_frames"] - before["vsubnets"][0]["rx_frames"]
    seen = path.b.host.run(["cat", f"/sys/class/net/{TAP}/statistics/rx_packets"]).stdout
    assert frames > 5000
    assert int(seen) < frames / 4, "joined before they were written"
