"""The packet path with its offloads, and without each of them: nothing is lost, changed or
reordered, and what leaves to a LAN without offloads has right checksums.

a --- [underlay] --- b --- leaf, on a wire whose ends have no offloads
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.integration.test_dataplane import BINARY, LIVING, TAP, VNI, Node
from tests.lab import ROOT, Lab, Machine
from tests.lab.checksums import TCP, UDP, Segment, Verdict, segment_of, verify

pytestmark = [pytest.mark.root, pytest.mark.tun]

TRANSFER = ROOT / "tests" / "lab" / "transfer.py"
TAGS = ROOT / "tests" / "lab" / "tags.py"
ANYTHING = ROOT / "tests" / "lab" / "anything.py"
LEAF = {4: "10.9.0.2", 6: "fd09::2"}
ON_THE_LAN = {4: "10.7.0.50", 6: "fd07::50"}
TAP_OFFLOADS = ["tap_checksum", "tap_segmentation", "tap_udp_segmentation"]
OFFLOADS = [*TAP_OFFLOADS, "udp_segmentation", "udp_coalescing"]
WITHOUT = ["", *OFFLOADS, ",".join(OFFLOADS)]
MTU = 1400
PORT = 5001
_SYN, _CWR = 0x02, 0x80
_TIMESTAMPS, _SACK_PERMITTED = 8, 4  # TCP options
# Beside the whole run above, one by one only in `make soak`.
SELDOM = [
    off if off == "" or "," in off else pytest.param(off, marks=pytest.mark.slow) for off in WITHOUT
]


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


def start(lab: Lab, off: str) -> Path3:
    """Start both data planes without the offloads named in `off`; b has a wire to a leaf."""
    site = lab.site("cloud")
    a, b = Node(site.host("a"), 1), Node(site.host("b"), 2)
    for node in (a, b):
        node.host.env["CAIRN_TEST_OFFLOADS_OFF"] = off
        node.make_tap()
        # Room for what is sent while the data plane gets no core: no datagram may be lost.
        node.host.ip(f"link set {TAP} txqueuelen 8192")
        node.start()
    leaf = lab.machine("leaf")
    b.host.ip(f"link add lan mtu {MTU} type veth peer name eth0 mtu {MTU} netns {leaf.pid}")
    leaf.sysctl(net__ipv6__conf__default__accept_dad=0)
    leaf.ip("link set lo up", "link set eth0 up")
    for machine, wire in ((b.host, "lan"), (leaf, "eth0")):
        switches = [word for name in ("tx", "rx", "tso", "gso", "gro") for word in (name, "off")]
        machine.run(["ethtool", "-K", wire, *switches])
    return Path3(a, b, leaf)


def build(lab: Lab, off: str) -> Path3:
    """Build the path with b as the leaf's router."""
    path = start(lab, off)
    a, b, leaf = path.a, path.b, path.leaf
    assert a.apply(b)["ok"] and b.apply(a)["ok"]
    b.host.sysctl(net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1)
    b.host.ip(
        "addr add 10.9.0.1/24 dev lan", "addr add fd09::1/64 dev lan nodad", "link set lan up"
    )
    leaf.ip(
        f"addr add {LEAF[4]}/24 dev eth0",
        f"addr add {LEAF[6]}/64 dev eth0 nodad",
        "route add default via 10.9.0.1",
        "route add ::/0 via fd09::1",
    )
    a.host.ip(f"route add 10.9.0.0/24 via {b.ips[0]}", f"route add fd09::/64 via {b.ips[1]}")
    assert a.pings(LEAF[4]) and a.pings(LEAF[6])
    return path


def build_bridged(lab: Lab, off: str) -> Path3:
    """Build the path with b as a gateway that bridges the vSubnet to the leaf's LAN."""
    path = start(lab, off)
    a, b, leaf = path.a, path.b, path.leaf
    b.host.ip(
        "link add br0 type bridge forward_delay 0 mcast_snooping 0",
        f"link set {TAP} master br0",
        "link set lan master br0 up",
        "link set br0 up",
        f"addr flush dev {TAP}",
    )
    leaf.ip(f"addr add {ON_THE_LAN[4]}/24 dev eth0", f"addr add {ON_THE_LAN[6]}/64 dev eth0 nodad")
    assert a.apply(peers=[b.as_peer() | {"role": "gateway"}])["ok"]
    assert b.apply(a, role="gateway")["ok"]
    assert b.connect().ask("gate", vni=VNI, term=1, forward_until_ns=2**63)["ok"]
    assert a.pings(ON_THE_LAN[4]) and a.pings(ON_THE_LAN[6])
    return path


def transfer(kind: str, sender: Machine, receiver: Machine, address: str, port: int = PORT) -> None:
    """Send what is known and check that it is what arrives."""
    command = [*receiver.python(TRANSFER, "receive", kind, address, str(port))]
    with subprocess.Popen(receiver.enter(command), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout and process.stdout.readline() == "ready\n"
            sent = sender.run(sender.python(TRANSFER, "send", kind, address, str(port))).stdout
            received, _ = process.communicate(timeout=30)
        finally:
            process.kill()
    assert received == sent, f"{kind} to {address}"


@pytest.mark.parametrize("off", WITHOUT)
def test_what_arrives_is_what_was_sent_and_leaves_with_right_checksums(lab: Lab, off: str) -> None:
    """TCP, pieces and datagrams of 0 to 9,000 octets (fragments), trains, options and extension
    headers, in both directions and both families."""
    path = build(lab, off)
    a, leaf = path.a, path.leaf
    capture = leaf.capture("eth0", what="src host 10.7.0.1 or src host fd07::1")

    for kind in ("tcp", "udp", "train", "pieces+options", "udp+options"):
        for family in (4, 6):
            transfer(kind, a.host, leaf, LEAF[family])
    for kind in ("tcp", "udp", "train"):
        for address in a.ips:
            transfer(kind, path.b.host, a.host, address)
    for kind, address in zip(("pieces", "udp"), a.ips, strict=True):
        transfer(kind, leaf, a.host, address)

    verdict = verify(packets := capture.packets())
    assert_right(verdict)
    assert [packet for packet in packets if len(packet.frame) > MTU + 14] == []
    for address_octets, fewest in ((8, 8), (32, 16)):
        with_options = [
            segment
            for segment in verdict.segments
            if len(segment.addresses) == address_octets and segment.extensions >= fewest
        ]
        assert {segment.protocol for segment in with_options} >= {TCP, UDP}
    assert_offloads(path, off)


def assert_right(verdict: Verdict) -> None:
    """Check that a capture has enough of both protocols, and that all of it is right."""
    for protocol in (TCP, UDP):
        assert sum(segment.protocol == protocol for segment in verdict.segments) > 500
    assert verdict.unfinished == 0
    assert verdict.wrong == []


@pytest.mark.parametrize("off", SELDOM)
def test_tags_congestion_marks_and_tcp_options_pass_as_they_are(lab: Lab, off: str) -> None:
    path = build(lab, off)
    through_vlans(path)
    with_congestion_marks(path)
    without_sack_or_timestamps(path)
    assert_offloads(path, off)


def through_vlans(path: Path3) -> None:
    """802.1Q, and 802.1Q within 802.1ad."""
    a, b = path.a.host, path.b.host
    seen = b.capture(TAP, what="vlan")
    # Linux 6.18 drops two tags on a train of datagrams before a device that can't divide it.
    kinds = {1: ("tcp", "udp", "train"), 2: ("tcp", "udp")}
    for count, kinds_of_it in kinds.items():
        for machine in (a, b):
            # The vSubnet has room for one tag; where there are more, hosts have a lower MTU.
            machine.ip(f"link set {TAP} mtu {MTU - 4 * (count - 1)}")
            tag(machine, TAP, count)
        for number, kind in enumerate(kinds_of_it):
            transfer(kind, a, b, path.b.ips[(number + count) % 2])
        transfer("short", b, a, path.a.ips[count - 1])
    for machine in (a, b):
        tag(machine, TAP, 0)
        machine.ip(f"link set {TAP} mtu {MTU}")
    tags = {segment.tags for packet in seen.packets() if (segment := segment_of(packet.frame))}
    assert tags == {1, 2}


def tag(machine: Machine, device: str, count: int) -> None:
    """Put so many tags on what leaves, and take them off what comes."""
    machine.run(machine.python(TAGS, device, str(count)))


def with_congestion_marks(path: Path3) -> None:
    """Every fourth packet or superframe is marked before it enters: CE, then ECE and CWR."""
    a, leaf = path.a.host, path.leaf
    for machine in (a, leaf):
        machine.sysctl(net__ipv4__tcp_ecn=1)
    rules = "\n".join(
        f"oifname {TAP} {ip} ecn {{ ect0, ect1 }} numgen inc mod 4 == 0 counter {ip} ecn set ce"
        for ip in ("ip", "ip6")
    )
    a.nft(
        "table inet marks {\nchain out { type filter hook output priority mangle;\n"
        f"{rules}\n}}\n}}"
    )
    capture = leaf.capture("eth0", what="src host 10.7.0.1 or src host fd07::1")
    for family in (4, 6):
        transfer("short", a, leaf, LEAF[family])
    a.nft("delete table inet marks")
    a.sysctl(net__ipv4__tcp_ecn=2)

    verdict = verify(capture.packets())
    assert verdict.wrong == []
    for address_octets in (8, 32):
        data = [
            segment
            for segment in verdict.segments
            if segment.protocol == TCP and len(segment.addresses) == address_octets
        ]
        assert sum(segment.ecn == 3 for segment in data) > 10, "marks arrive"
        reduced = [s for s in data if s.octets[13] & _CWR and not s.octets[13] & _SYN]
        assert reduced, "the echo came back: the sender reduced its window and says so"


def without_sack_or_timestamps(path: Path3) -> None:
    """Each of both off, and both; and some loss, so that it matters."""
    a, leaf = path.a.host, path.leaf
    path.b.host.nft(
        "table inet loss {\nchain forward { type filter hook forward priority filter;\n"
        "oifname lan meta l4proto tcp numgen inc mod 10 == 9 "
        "limit rate 4/second burst 4 packets drop\n"
        "}\n}"
    )
    before = retransmitted(a)
    capture = leaf.capture("eth0", what="src host 10.7.0.1 or src host fd07::1")
    wanted = {5011: (0, 1), 5012: (1, 0), 5013: (0, 0)}
    for (port, (sack, timestamps)), family in zip(wanted.items(), (4, 6, 4), strict=True):
        for machine in (a, leaf):
            machine.sysctl(net__ipv4__tcp_sack=sack, net__ipv4__tcp_timestamps=timestamps)
        transfer("short", a, leaf, LEAF[family], port)
    path.b.host.nft("delete table inet loss")
    assert retransmitted(a) > before

    verdict = verify(capture.packets())
    assert verdict.wrong == []
    seen: dict[int, set[tuple[int, int]]] = {}
    for segment in verdict.segments:
        if segment.protocol == TCP and segment.octets[13] & _SYN:
            options = tcp_options(segment)
            port = int.from_bytes(segment.octets[2:4], "big")
            has = (int(_SACK_PERMITTED in options), int(_TIMESTAMPS in options))
            seen.setdefault(port, set()).add(has)
    assert seen == {port: {has} for port, has in wanted.items()}


def retransmitted(machine: Machine) -> int:
    """Return how many TCP segments a machine has sent again."""
    shown = machine.run(["nstat", "-asz", "--json", "TcpRetransSegs"]).stdout
    return int(json.loads(shown)["kernel"]["TcpRetransSegs"])


def tcp_options(segment: Segment) -> set[int]:
    """Return the kinds of TCP options that a segment has."""
    octets, at, kinds = segment.octets, 20, set()
    while at < (octets[12] >> 4) * 4 and octets[at]:
        kinds.add(octets[at])
        at += 1 if octets[at] == 1 else octets[at + 1]
    return kinds


@pytest.mark.parametrize("off", ["", "tap_checksum"])
def test_frames_that_leave_to_a_bridge_have_right_checksums(lab: Lab, off: str) -> None:
    path = build_bridged(lab, off)
    a, leaf = path.a.host, path.leaf
    capture = leaf.capture("eth0", what=f"ether src {path.a.mac}")

    for kind in ("tcp", "udp", "train"):
        for address in ON_THE_LAN.values():
            transfer(kind, a, leaf, address)
    transfer("udp+options", a, leaf, ON_THE_LAN[6])
    iperf(a, leaf, ON_THE_LAN[4])
    for machine, device in ((a, TAP), (leaf, "eth0")):
        tag(machine, device, 1)
    for kind, family in (("tcp", 4), ("udp", 6), ("train", 4), ("tcp", 6)):
        transfer(kind, a, leaf, ON_THE_LAN[family])
    transfer("tcp", leaf, a, path.a.ips[0])

    verdict = verify(packets := capture.packets())
    assert_right(verdict)
    assert {segment.tags for segment in verdict.segments} == {0, 1}
    assert [packet for packet in packets if len(packet.frame) > MTU + 14 + 4] == []
    assert_offloads(path, off)


def iperf(sender: Machine, receiver: Machine, address: str) -> None:
    """Let iperf3 move 20 MB each way; the capture sees what it sends."""
    server = receiver.start(["iperf3", "--server", "--one-off", "--forceflush"], name="iperf3")
    server.wait_for_log("listening", within_s=5)
    done = sender.run(["iperf3", "-c", address, "-n", "20M", "--json"])
    assert json.loads(done.stdout)["end"]["sum_sent"]["bytes"] >= 20_000_000
    server.wait(within_s=10)


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


def test_a_train_crosses_in_one_send_and_one_write(lab: Lab) -> None:
    path = build(lab, "")
    before = path.b.stats()
    transfer("tcp", path.a.host, path.b.host, path.b.ips[0])
    after = path.b.stats()
    frames = after["vsubnets"][0]["rx_frames"] - before["vsubnets"][0]["rx_frames"]
    seen = path.b.host.run(["cat", f"/sys/class/net/{TAP}/statistics/rx_packets"]).stdout
    assert frames > 2500
    assert int(seen) < frames / 4, "joined before they were written"


def test_whatever_a_guest_sends_harms_nobody_and_is_never_refused_by_the_far_kernel(
    lab: Lab,
) -> None:
    """BI-5, and BI-4's "kernel accepts" for what is made of it: at a real TAP."""
    path = start(lab, "")
    a, b = path.a, path.b
    assert a.apply(b)["ok"] and b.apply(a)["ok"]
    assert a.pings(b.ips[0])
    before = [node.connect().ask("hello")["pid"] for node in (a, b)]

    sent = 0
    for seed, target in enumerate((b.mac, b.mac, "ff:ff:ff:ff:ff:ff")):
        command = a.host.python(ANYTHING, TAP, a.mac, target, "4000", str(seed))
        sent += json.loads(a.host.run(command).stdout)["sent"]

    assert sent > 3000
    stats = b.stats()["vsubnets"][0]
    assert stats["rx_frames"] > 1000, "much of it was for b"
    assert "tap_refused" not in stats["tap_counters"]
    assert [node.connect().ask("hello")["pid"] for node in (a, b)] == before
    assert a.pings(b.ips[0]) and b.pings(a.ips[1])
