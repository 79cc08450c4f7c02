"""A gateway's data plane alone: its gate, loop probes, frames too long for a vSubnet."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.office import Office, build_office, now_ns
from tests.integration.test_dataplane import BINARY, LIVING, TAP, Node, frame, instance
from tests.lab import Lab, until

pytestmark = [pytest.mark.root, pytest.mark.tun]

PROBE_GROUP = "03:43:41:49:52:4e"
_EXPERIMENT, _SYN = 0x88B5, 0x02
_SEALED = 16 + 2 + 14 + 20 + 8 + 1000 + 16  # octets of a ping of the flood on the underlay
_LONGEST_BATCH_S = 0.05  # for so long closing waits for what is under way


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


class Passing:
    """What b lets pass of the flood, where b itself writes it: whoever reads it may be late."""

    def __init__(self, office: Office) -> None:
        host = office.b.host
        self._to_a = host.capture("eth0", what="outbound and udp port 8002 and greater 1000")
        self._to_lan = host.capture(TAP, what="src host 10.7.0.1")

    def assert_only_before(self, rounds: list[tuple[int, int, int]]) -> None:
        """Check each (begin, end, later): something passed up to its end, and nothing after."""
        passed = [each for each in self._to_a.packets() if len(each.payload) % _SEALED == 0]
        times = [int(packet.at * 1e9) for packet in passed + self._to_lan.packets()]
        for begin, end, later in rounds:
            assert any(begin < at < end for at in times)
            late = [at for at in times if end < at < later]
            assert late == [], f"{len(late)} frames after the end"


def counts(office: Office) -> tuple[int, int]:
    """Return how many frames b sealed, and how many a closed gate stopped."""
    vsubnet = office.vsubnet()
    return vsubnet["tx_frames"], vsubnet["drops"].get("gate_closed", 0)


def wait_until_stopped(pid: int) -> None:
    """Wait for all threads: one on the other core may go on for a moment after the signal."""
    tasks = list(Path(f"/proc/{pid}/task").iterdir())

    def stopped() -> bool:
        states = [(task / "stat").read_text().rpartition(")")[2].split()[0] for task in tasks]
        return set(states) == {"T"}

    until("it is stopped", stopped, within_s=10)


def test_a_data_plane_that_was_paused_carries_nothing_of_a_right_that_is_over(lab: Lab) -> None:
    """Under load it is nearly always stopped with frames in its hands, and more in its queues."""
    office = build_office(lab)
    office.settle()
    stream_of(office)
    passing = Passing(office)
    office.set_gate(1, 0)
    rounds: list[tuple[int, int, int]] = []
    for term in range(2, 40):
        sealed, refused = counts(office)
        begin, until_ns = time.time_ns(), office.open(0.5, term)
        time.sleep(0.1)
        has_carried = counts(office)[0] > sealed + 5
        office.running.send_signal(signal.SIGSTOP)
        wait_until_stopped(office.running.pid)
        end, is_in_time = time.time_ns(), now_ns() < until_ns
        time.sleep(max(0, until_ns - now_ns()) / 1e9 + 0.1)
        office.running.resume()
        until("the queues are read", lambda n=refused: counts(office)[1] > n, within_s=10)
        time.sleep(0.2)
        if has_carried and is_in_time:  # else this machine stood still: another round
            rounds.append((begin, end, time.time_ns()))
        if len(rounds) == 5:
            break
    assert len(rounds) == 5
    passing.assert_only_before(rounds)


def test_when_closing_is_answered_nothing_passes_any_more(lab: Lab) -> None:
    office = build_office(lab)
    office.settle()
    stream_of(office)
    passing = Passing(office)
    rounds: list[tuple[int, int, int]] = []
    for _ in range(80):
        begin, (sealed, _) = time.time_ns(), counts(office)
        office.open()
        until("frames pass", lambda n=sealed: counts(office)[0] > n + 5, within_s=10)
        asked = time.monotonic()
        assert office.set_gate(1, 0)["ok"]
        end, took_s = time.time_ns(), time.monotonic() - asked
        _, refused = counts(office)
        time.sleep(0.05)
        until("frames are refused", lambda n=refused: counts(office)[1] > n, within_s=10)
        if took_s < _LONGEST_BATCH_S:  # else a thread of b's stood still for longer than it waits
            rounds.append((begin, end, time.time_ns()))
        if len(rounds) == 20:
            break
    assert len(rounds) == 20
    passing.assert_only_before(rounds)


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
