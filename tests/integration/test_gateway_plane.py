"""A gateway's data plane alone: its gate, loop probes, frames too long for a vSubnet."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator

import pytest

from tests.integration.office import LAN, Office, build_office, now_ns
from tests.integration.test_dataplane import BINARY, LIVING, TAP, Node, frame, instance
from tests.lab import Lab, until

pytestmark = [pytest.mark.root, pytest.mark.tun]

PROBE_GROUP = "03:43:41:49:52:4e"
_EXPERIMENT, _SYN = 0x88B5, 0x02


@pytest.fixture
def lab() -> Iterator[Lab]:
    if not BINARY.exists():
        pytest.fail(f"{BINARY} is not built; run make setup")
    with Lab("gateway") as made:
        yield made
        while LIVING:
            LIVING.pop().disconnect()


def test_a_gate_lets_a_lan_in_for_as_long_as_it_is_open(lab: Lab) -> None:
    office = build_office(lab)
    a, b, leaf = office.a, office.b, office.leaf
    b.connect().ask("subscribe")
    assert office.vsubnet()["gate"] == {"term": 0, "is_open": False, "until_ns": 0}
    assert not a.pings(leaf.ips[0])

    office.settle()
    assert leaf.pings(a.ips[0]) and leaf.pings(a.ips[1])
    refused = office.set_gate(0, now_ns() + 10**12)
    assert refused["error"]["code"] == "older_term"
    assert b.apply(a, role="gateway", mtu=1399)["changed"]
    assert a.pings(leaf.ips[0]), "a newer state leaves the gate as it is"

    until_ns = office.open(0.3, term=2)
    told = b.event("gate_closed")
    assert (told["vni"], told["term"]) == (7, 2)
    assert told["at_ms"] - until_ns // 10**6 < 1000
    assert not a.pings(leaf.ips[0]) and not leaf.pings(a.ips[1])
    assert office.vsubnet()["drops"]["gate_closed"] > 0
    assert office.vsubnet()["gate"] == {"term": 2, "is_open": False, "until_ns": until_ns}
    assert office.set_gate(1, now_ns() + 10**12)["error"]["code"] == "older_term"


def stream_of(office: Office) -> None:
    """Let the leaf send without a pause."""
    flood = ["ping", "-n", "-q", "-f", "-s", "1000", office.a.ips[0]]
    office.leaf.host.start(flood, name="flood")


def test_a_data_plane_that_was_paused_carries_nothing_of_a_right_that_is_over(lab: Lab) -> None:
    """Under load it is nearly always stopped with frames in its hands, and more in its queues."""
    office = build_office(lab)
    office.settle()
    stream_of(office)
    at_a = office.a.host.capture(TAP, what="src host 10.7.0.80")
    on_lan = office.leaf.host.capture(LAN, what="src host 10.7.0.1")
    ends = []
    for term in range(2, 7):
        until_ns = office.open(0.3, term)
        time.sleep(0.1)
        office.running.send_signal(signal.SIGSTOP)
        time.sleep(0.4)
        office.running.resume()
        time.sleep(0.2)
        ends.append(until_ns)
    offset_ns = time.time_ns() - now_ns()
    crossed = [int(packet.at * 1e9) - offset_ns for packet in at_a.packets() + on_lan.packets()]
    for end in ends:
        assert any(end - 300_000_000 < at < end - 200_000_000 for at in crossed)
        # What the kernel had already when the time was over may still be on its way.
        late = [at for at in crossed if end + 10_000_000 < at < end + 290_000_000]
        assert late == [], f"{len(late)} frames after the end"


def test_when_closing_is_answered_nothing_passes_any_more(lab: Lab) -> None:
    office = build_office(lab)
    office.settle()
    stream_of(office)
    at_a = office.a.host.capture(TAP, what="src host 10.7.0.80")
    closed = []
    for _ in range(20):
        office.open(10)
        time.sleep(0.05)
        assert office.set_gate(1, 0)["ok"]
        closed.append(time.time_ns())
        time.sleep(0.05)
    crossed = [int(packet.at * 1e9) for packet in at_a.packets()]
    assert len(crossed) > 100
    for at in closed:
        # A frame that was sent has still to go through the other data plane.
        assert [each for each in crossed if at + 20_000_000 < each < at + 49_000_000] == []


def test_a_takeover_hands_the_gate_over_as_it_is(lab: Lab) -> None:
    office = build_office(lab)
    office.settle()
    b = office.b
    before = b.connect().ask("hello")["instance"]
    until_ns = office.open(60, term=9)
    b.start("--take-over")
    until("the successor answers", lambda: instance(b) not in ("", before), within_s=10)
    b.connect()
    assert office.vsubnet()["gate"] == {"term": 9, "is_open": True, "until_ns": until_ns}
    assert office.a.pings(office.leaf.ips[0])
    assert office.set_gate(8, 0)["error"]["code"] == "older_term"


def test_loop_probes_of_a_gateway_pass_its_closed_gate_and_those_of_a_host_nothing(
    lab: Lab,
) -> None:
    office = build_office(lab)
    a, b = office.a, office.b
    payload = b"CRNp" + bytes(range(100))
    arrived = a.host.capture(TAP, what="ether proto 0x88b5")
    b.send(
        frame(b.mac, PROBE_GROUP, _EXPERIMENT, payload),
        frame(b.mac, "ff:ff:ff:ff:ff:ff", _EXPERIMENT, b"another experiment" * 4),
    )
    a.send(frame(a.mac, PROBE_GROUP, _EXPERIMENT, payload))

    def refused(node: Node, reason: str) -> bool:
        counted: int = node.stats()["vsubnets"][0]["drops"].get(reason, 0)
        return counted >= 1

    until("a's own is refused", lambda: refused(a, "loop_probe"), within_s=5)
    until("b's other is refused", lambda: refused(b, "gate_closed"), within_s=5)
    time.sleep(0.5)
    foreign = [packet for packet in arrived.packets() if packet.frame[6:12] != mac_octets(a)]
    assert [packet.frame[14:118] for packet in foreign] == [payload]


def mac_octets(node: Node) -> bytes:
    """Return its MAC address."""
    return bytes.fromhex(node.mac.replace(":", ""))


def test_a_jumbo_lan_loses_nothing_in_silence(lab: Lab) -> None:
    office = build_office(lab, lan_mtu=9000)
    office.settle()
    a, leaf = office.a, office.leaf
    for address in a.ips:
        shown = leaf.host.run(
            ["ping", "-n", "-c", "2", "-W", "1", "-M", "do", "-s", "8000", address], check=False
        )
        assert re.search(r"mtu[ =:]*1400", shown.stdout + shown.stderr), shown
    for family in ("-4", "-6"):
        leaf.host.run(["ip", family, "route", "flush", "cache"])
    assert leaf.pings(a.ips[0], "-M", "dont", "-s", "8000"), "divided on its way"
    syns = a.host.capture(TAP, what="tcp port 5001")
    for sender, receiver in ((leaf, a), (a, leaf)):
        for family in (0, 1):
            carry(sender, receiver, receiver.ips[family], 5001)
    offered = {mss_of(packet.frame) for packet in syns.packets() if is_syn(packet.frame)}
    assert offered == {1360, 1340}, "both ends are offered what the vSubnet carries"


def carry(sender: Node, receiver: Node, address: str, port: int) -> None:
    """Carry a few MiB in one stream."""
    script = "import socket, sys\n"
    listener = (
        f"{script}family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET\n"
        "listener = socket.create_server((sys.argv[1], int(sys.argv[2])), family=family)\n"
        "listener.settimeout(10)\nprint('ready', flush=True)\n"
        "stream, _ = listener.accept()\nstream.settimeout(10)\ncount = 0\n"
        "while octets := stream.recv(1 << 16):\n    count += len(octets)\nprint(count)\n"
    )
    talker = (
        f"{script}stream = socket.create_connection((sys.argv[1], int(sys.argv[2])), 10)\n"
        "stream.sendall(bytes(4 << 20))\nstream.close()\n"
    )
    python = ["/usr/bin/env", "python3", "-c"]
    there = receiver.host.start([*python, listener, address, str(port)], name=f"to-{address}")
    there.wait_for_log("ready", within_s=10)
    sender.host.run([*python, talker, address, str(port)])
    assert there.wait(within_s=10) == 0, there.tail()
    assert there.text().splitlines()[-1] == str(4 << 20)


def is_syn(octets: bytes) -> bool:
    """Say whether a TCP frame has SYN set."""
    return bool(octets[tcp_at(octets) + 13] & _SYN)


def mss_of(octets: bytes) -> int:
    """Return the MSS option of a SYN as Linux writes it: the first."""
    at = tcp_at(octets) + 20
    assert octets[at] == 2, "MSS comes first"
    return int.from_bytes(octets[at + 2 : at + 4], "big")


def tcp_at(octets: bytes) -> int:
    """Return where TCP starts in a plain frame."""
    return 34 if octets[12:14] == b"\x08\x00" else 54
