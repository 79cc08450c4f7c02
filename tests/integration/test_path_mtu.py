"""What the underlay carries is found out, and what the vSubnet carries follows from it: at each
MTU from 1,280 to 9,001, on a LAN and between sites, and when it falls while no ICMP gets through.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.integration.test_dataplane import BINARY, FRAMES, LIVING, TAP, Node
from tests.integration.test_packet_path import tag, transfer
from tests.lab import ROOT, Lab, until
from tests.lab.checksums import ones_sum
from tests.proofs import record, record_seconds

pytestmark = [pytest.mark.root, pytest.mark.tun]

RATE = ROOT / "tests" / "lab" / "rate.py"
UDP_HEADERS = {"v4": 28, "v6": 48}
SEALED, ETHERNET, VLAN = 34, 14, 4  # docs/protocol.md 1.7
NO_ICMP = """
table inet silent {
  chain input { type filter hook input priority 0;
    icmp type destination-unreachable drop
    icmpv6 type packet-too-big drop
  }
}
"""


@pytest.fixture
def lab() -> Iterator[Lab]:
    if not BINARY.exists():
        pytest.fail(f"{BINARY} is not built; run make setup")
    with Lab("mtu") as made:
        yield made
        while LIVING:
            LIVING.pop().disconnect()


def connect(a: Node, b: Node, mtu: int) -> None:
    """Join two hosts to a vSubnet of this MTU."""
    for node in (a, b):
        node.make_tap()
        node.host.ip(f"link set {TAP} mtu {mtu}")
        node.start()
    assert a.apply(b, mtu=mtu)["ok"] and b.apply(a, mtu=mtu)["ok"]
    assert a.pings(b.ips[0])


def path_mtu(node: Node) -> int:
    """Return the MTU of the path to the only peer, once it is known."""
    found: int = until("the path's MTU is known", lambda: node.peer_stats().get("mtu"), within_s=10)
    return found


def expected(node: Node, underlay: int, mtu: int) -> int:
    """Return what a path over this underlay carries."""
    family = "v6" if node.peer_stats()["endpoint"].startswith("[") else "v4"
    return min(mtu, underlay - UDP_HEADERS[family] - SEALED - ETHERNET - VLAN)


@pytest.mark.parametrize(
    ("underlay", "families", "mtu"),
    [
        (1280, "4", 1400),
        (1280, "6", 1400),
        (1400, "46", 1400),
        (1500, "46", 1400),
        (9001, "46", 8900),
        (1500, "46", 8900),
    ],
)
def test_everything_passes_at_each_mtu(lab: Lab, underlay: int, families: str, mtu: int) -> None:
    site = lab.site("cloud", mtu=underlay, families=families)
    a, b = Node(site.host("a"), 1), Node(site.host("b"), 2)
    for node in (a, b):
        # A host that lacks a family has no address of it.
        node.endpoints = [one for one in node.endpoints if one not in (":8002", "[]:8002")]
    connect(a, b, mtu)
    carried = path_mtu(a)
    assert carried == expected(a, underlay, mtu)
    assert path_mtu(b) == expected(b, underlay, mtu)

    untagged = min(mtu, carried + VLAN)
    for node, other in ((a, b), (b, a)):
        v4, v6 = other.ips
        if carried < mtu:
            # The sender is told, and what it sends from then on is small enough.
            assert not node.pings(v4, "-c", "1", "-M", "do", "-s", str(mtu - 28))
            told = node.host.run(["ip", "route", "get", v4]).stdout
            assert f"mtu {untagged}" in told, told
            node.pings(v6, "-c", "1", "-M", "do", "-s", str(mtu - 48))
        assert node.pings(v4, "-M", "do", "-s", str(untagged - 28))
        assert node.pings(v4, "-M", "dont", "-s", str(mtu - 28))
        assert node.pings(v6, "-s", str(1280 - 48))
        assert node.pings(v6, "-s", "4000")
    for address in b.ips:
        transfer("tcp", a.host, b.host, address)
        transfer("udp", a.host, b.host, address)
    for address in a.ips:
        transfer("tcp", b.host, a.host, address)
    drops = a.stats()["drops"]
    assert not drops.keys() & {"bad_superframe", "malformed_data", "malformed_control"}, drops


@pytest.mark.parametrize("off", ["", "tap_segmentation"])
def test_two_tags_pass_where_the_path_has_room_for_one(lab: Lab, off: str) -> None:
    """Over IPv6 the full MTU with one tag takes 1,500 octets; a second tag must cost the hosts no
    more than it would on any link: TCP goes on, and who sends packets too large is told."""
    site = lab.site("cloud")
    a, b = Node(site.host("a"), 1), Node(site.host("b"), 2)
    for node in (a, b):
        node.endpoints = [one for one in node.endpoints if one.startswith("[")]
        node.host.env["CAIRN_TEST_OFFLOADS_OFF"] = off
    connect(a, b, 1400)
    assert path_mtu(a) == 1400
    for node in (a, b):
        tag(node.host, TAP, 2)
    for address in b.ips:
        transfer("tcp", a.host, b.host, address)
    assert not a.pings(b.ips[0], "-c", "1", "-M", "do", "-s", str(1400 - 28))
    told = a.host.run(["ip", "route", "get", b.ips[0]]).stdout
    assert "mtu 1396" in told, told
    assert a.pings(b.ips[0], "-M", "do", "-s", str(1396 - 28))
    assert a.pings(b.ips[0], "-M", "dont", "-s", "4000")
    assert "udp_too_big" not in a.stats()["counters"]


FORGED = [0, 68, 552, 1279, 1280, 1500, 9001, 65535]


def test_no_icmp_of_anybody_makes_a_path_narrower(lab: Lab) -> None:
    """BI-3: a stranger on the LAN tells each host that what it sent was too large."""
    site = lab.site("cloud")
    a, b = Node(site.host("a"), 1), Node(site.host("b"), 2)
    stranger = site.host("stranger")
    connect(a, b, 1400)
    assert path_mtu(a) == path_mtu(b) == 1400
    target = a.host.run(["cat", "/sys/class/net/eth0/address"]).stdout.strip()
    own = stranger.run(["cat", "/sys/class/net/eth0/address"]).stdout.strip()
    ethernet = bytes.fromhex((target + own).replace(":", ""))
    forged = [
        frame
        for mtu in FORGED
        for frame in (
            ethernet + b"\x08\x00" + too_big_v4(stranger.v4, a.host.v4, b.host.v4, mtu),
            ethernet + b"\x86\xdd" + too_big_v6(stranger.v6, a.host.v6, b.host.v6, mtu),
        )
    ]
    lines = "".join(frame.hex() + "\n" for frame in forged)
    seen = a.host.capture("eth0", what="icmp or icmp6")
    stranger.run(stranger.python(FRAMES, "eth0", "1", "0"), stdin=lines)
    told = [packet for packet in seen.packets() if packet.frame[6:12] == ethernet[6:12]]
    assert len(told) >= len(forged), "they arrived"

    fragments = b.host.capture("eth0", what="ip[6:2] & 0x3fff != 0 or ip6[6] == 44")
    assert a.pings(b.ips[0], "-M", "do", "-s", "1372")
    transfer("tcp", a.host, b.host, b.ips[0])
    assert fragments.packets() == []
    counters = a.stats()["counters"]
    worst = path_mtu(a)
    holds = worst == 1400 and not counters.keys() & {"path_mtu_fell", "udp_too_big"}
    assert record(
        "BI-3",
        what="path MTU after forged ICMP and ICMPv6 that claim MTUs from 0 to 65,535",
        bar="never lowered by ICMP",
        value=worst,
        unit="octets",
        holds=holds,
    ), counters


def too_big_v4(source: str, target: str, peer: str, mtu: int) -> bytes:
    """Return an IPv4 packet that says that what `target` sent to `peer` was too large."""
    udp = struct.pack("!HHHH", 8002, 8002, 1460, 0)
    quoted = v4_header(target, peer, socket.IPPROTO_UDP, 1480) + udp
    icmp = struct.pack("!BBHHH", 3, 4, 0, 0, mtu) + quoted
    icmp = icmp[:2] + struct.pack("!H", 0xFFFF - ones_sum(icmp)) + icmp[4:]
    return v4_header(source, target, socket.IPPROTO_ICMP, 20 + len(icmp)) + icmp


def v4_header(source: str, destination: str, protocol: int, length: int) -> bytes:
    addresses = ipaddress.IPv4Address(source).packed + ipaddress.IPv4Address(destination).packed
    header = struct.pack("!BBHHHBBH", 0x45, 0, length, 7, 0x4000, 64, protocol, 0) + addresses
    return header[:10] + struct.pack("!H", 0xFFFF - ones_sum(header)) + header[12:]


def too_big_v6(source: str, target: str, peer: str, mtu: int) -> bytes:
    """The same of IPv6."""
    udp = struct.pack("!HHHH", 8002, 8002, 1440, 0)
    quoted = v6_header(target, peer, socket.IPPROTO_UDP, 1440) + udp
    icmp = struct.pack("!BBHI", 2, 0, 0, mtu) + quoted
    header = v6_header(source, target, socket.IPPROTO_ICMPV6, len(icmp))
    pseudo = header[8:] + struct.pack("!II", len(icmp), socket.IPPROTO_ICMPV6)
    return header + icmp[:2] + struct.pack("!H", 0xFFFF - ones_sum(pseudo + icmp)) + icmp[4:]


def v6_header(source: str, destination: str, protocol: int, length: int) -> bytes:
    addresses = ipaddress.IPv6Address(source).packed + ipaddress.IPv6Address(destination).packed
    return struct.pack("!IHBB", 0x60000000, length, protocol, 64) + addresses


@dataclass(frozen=True)
class Fall:
    """A path whose MTU falls."""

    before: int
    after: int
    mtu: int
    family: int  # of the inner stream


FALLS = [Fall(1500, 1280, 1400, 0), Fall(1500, 1400, 1400, 1), Fall(9001, 1500, 8900, 0)]


def test_tcp_goes_on_within_five_seconds_of_a_path_that_shrinks_in_silence() -> None:
    """B9; each case in a lab of its own, so that nothing is remembered from the one before."""
    resumed = {fall: resume_time(fall) for fall in FALLS}
    worst = max(resumed.values())
    assert record_seconds(
        "B9",
        worst,
        at_most_s=5,
        what="bulk TCP after the underlay's MTU fell, ICMP filtered: until 1 MB more has come",
    ), resumed


def resume_time(fall: Fall) -> float:
    """Let the MTU between two sites fall under a stream; return how long that stood still."""
    with Lab("fall") as lab:
        sites = [
            lab.site(name, mtu=fall.before, wan_mtu=fall.before, closed=False)
            for name in ("east", "west")
        ]
        a, b = (
            Node(site.host(name), number)
            for number, (site, name) in enumerate(zip(sites, "ab", strict=True), 1)
        )
        for node in (a, b):
            node.host.nft(NO_ICMP)
        connect(a, b, fall.mtu)
        assert path_mtu(a) == fall.mtu
        address = b.ips[fall.family]
        command = b.host.python(RATE, "receive", address, "5001")
        receiver = subprocess.Popen(b.host.enter(command), stdout=subprocess.PIPE, text=True)
        sender = None
        try:
            assert receiver.stdout and receiver.stdout.readline() == "ready\n"
            command = a.host.python(RATE, "send", address, "5001", "8")
            sender = subprocess.Popen(a.host.enter(command))
            until("the stream runs", lambda: received(b) > 20_000_000, within_s=5)
            begun = time.monotonic()
            for site in sites:
                lab.internet.ip(f"link set to{site.number} mtu {fall.after}")
                site.router.ip(f"link set wan mtu {fall.after}")
            time.sleep(0.2)
            before = received(b)
            until("the stream goes on", lambda: received(b) > before + 1_000_000, within_s=7)
            took = time.monotonic() - begun
            assert path_mtu(a) == expected(a, fall.after, fall.mtu)
            assert a.stats()["counters"]["path_mtu_fell"] == 1
            assert sender.wait(15) == 0, "to the end"
        finally:
            for process in (receiver, sender):
                if process is not None:
                    process.kill()
                    process.communicate(timeout=10)
            while LIVING:
                LIVING.pop().disconnect()
    return took


def received(node: Node) -> int:
    """Return how many octets came to a host's TAP."""
    return int(node.host.run(["cat", f"/sys/class/net/{TAP}/statistics/rx_bytes"]).stdout)
