"""The data plane alone: real TAPs and UDP, and the test in the place of the agent.

a --- [lan] --- b          c, on the same LAN, is a stranger
"""

from __future__ import annotations

import base64
import json
import os
import socket
import stat
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tests.lab import ROOT, Host, Lab, Packet, Probes, Program, until

pytestmark = [pytest.mark.root, pytest.mark.tun]

BINARY = ROOT / "build" / "bin" / "cairn-dataplane"
FRAMES = ROOT / "tests" / "lab" / "frames.py"
CLUSTER = str(uuid.uuid4())
VNI, TAP = 7, "cairn7"
MARKER = b"an octet string that must never be seen on the underlay"
IPX = 0x8137
_ARP, _ICMPV6, _UDP = 0x0806, 58, 17
JsonObject = dict[str, Any]


class Control:
    """A connection to a control socket."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(10)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise
        self._lines = self._socket.makefile("rb")
        self._number = 0
        self.events: list[JsonObject] = []

    def ask(self, op: str, **fields: object) -> JsonObject:
        """Return the answer to a request; events that come before it are kept."""
        self._number += 1
        line = json.dumps({"id": self._number, "op": op, **fields})
        self._socket.sendall(line.encode() + b"\n")
        while "id" not in (answer := self._read()):
            self.events += answer["events"]
        return answer

    def close(self) -> None:
        """End the connection, as an agent does that is killed."""
        self._lines.close()
        self._socket.close()

    def _read(self) -> JsonObject:
        line = self._lines.readline()
        if not line:
            raise ConnectionResetError("the data plane closed the connection")
        answer: JsonObject = json.loads(line)
        return answer


LIVING: list[Node] = []


class Node:
    """A host with a TAP and a data plane, fed by the test."""

    def __init__(self, host: Host, number: int) -> None:
        self.host = host
        self.id = str(uuid.UUID(int=number))
        self.key = X25519PrivateKey.generate()
        self.mac = f"02:00:00:00:00:{number:02x}"
        self.ips = [f"10.7.0.{number}", f"fd07::{number:x}"]
        self.socket = host.directory / "dp.sock"
        self.endpoints = [f"{host.v4}:8002", f"[{host.v6}]:8002"]
        self.generation = 0
        self.control: Control | None = None
        LIVING.append(self)

    def make_tap(self, *options: str) -> None:
        """Make the TAP as the agent does."""
        self.host.sysctl(net__ipv6__conf__default__accept_dad=0)
        self.host.ip(
            f"tuntap add dev {TAP} mode tap vnet_hdr multi_queue {' '.join(options)}",
            f"link set {TAP} address {self.mac} mtu 1400 up",
            f"addr add {self.ips[0]}/24 dev {TAP}",
            f"addr add {self.ips[1]}/64 dev {TAP} nodad",
        )

    def start(self, *arguments: str, prefix: Sequence[str] = (), restart: bool = False) -> Program:
        """Start the data plane."""
        command = [*prefix, str(BINARY), "--socket", str(self.socket), *arguments]
        return self.host.start(command, name="cairn-dataplane", restart=restart)

    def connect(self, *, within_s: float = 5) -> Control:
        """Connect to the data plane as soon as it answers."""
        self.disconnect()
        deadline = time.monotonic() + within_s
        while True:
            try:
                self.control = Control(self.socket)
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
            else:
                return self.control

    def disconnect(self) -> None:
        """Close the connection, if there is one."""
        if self.control:
            self.control.close()
            self.control = None

    def apply(self, *peers: Node, **changes: object) -> JsonObject:
        """Apply the state in which `peers` are the others; `changes` are of the vSubnet."""
        control = self.control or self.connect()
        self.generation += 1
        return control.ask("apply", generation=self.generation, state=self.state(*peers, **changes))

    def state(self, *peers: Node, **changes: object) -> JsonObject:
        """Return the state in which `peers` are the others."""
        vsubnet = {
            "vni": VNI,
            "suite": 1,
            "tap": TAP,
            "mtu": 1400,
            "psks": [{"epoch": 1, "key": base64.b64encode(b"\x07" * 32).decode()}],
            "role": "host",
            "macs": [self.mac],
            "ips": self.ips,
            "peers": [peer.as_peer() for peer in peers],
        }
        private = base64.b64encode(self.key.private_bytes_raw()).decode()
        return {
            "cluster_id": CLUSTER,
            "node": {"id": self.id, "private_key": private},
            "port": 8002,
            "revision": 1,
            "vsubnets": [vsubnet | changes],
        }

    def as_peer(self) -> JsonObject:
        """Return this node as others see it."""
        public = self.key.public_key().public_bytes_raw()
        return {
            "id": self.id,
            "name": self.host.name,
            "public_key": base64.b64encode(public).decode(),
            "role": "host",
            "macs": [self.mac],
            "ips": self.ips,
            "endpoints": self.endpoints,
            "warm": True,
        }

    def stats(self) -> JsonObject:
        """Return the statistics."""
        return (self.control or self.connect()).ask("stats")

    def peer_stats(self) -> JsonObject:
        """Return what is known of the only peer."""
        peer: JsonObject = self.stats()["vsubnets"][0]["peers"][0]
        return peer

    def event(self, name: str, *, within_s: float = 5) -> JsonObject:
        """Wait for an event of a subscribed connection."""
        control = self.control
        assert control is not None

        def seen() -> JsonObject | None:
            control.ask("hello")
            return next((one for one in control.events if one["event"] == name), None)

        return until(f"event {name} on {self.host.name}", seen, within_s=within_s)

    def pings(self, address: str, *options: str) -> bool:
        """Say whether one of three pings is answered."""
        command = ["ping", "-n", "-c", "3", "-i", "0.2", "-W", "1", *options, address]
        return self.host.run(command, check=False).returncode == 0

    def send(self, *frames: bytes) -> None:
        """Send raw frames from the TAP."""
        lines = "".join(frame.hex() + "\n" for frame in frames)
        self.host.run(self.host.python(FRAMES, TAP, "1", "0"), stdin=lines)


def frame(source: str, destination: str, ethertype: int, payload: bytes) -> bytes:
    """Return an Ethernet frame."""
    addresses = bytes.fromhex((destination + source).replace(":", ""))
    return addresses + ethertype.to_bytes(2, "big") + payload


@pytest.fixture
def lab() -> Iterator[Lab]:
    if not BINARY.exists():
        pytest.fail(f"{BINARY} is not built; run make setup")
    with Lab("dataplane") as made:
        yield made
        while LIVING:
            LIVING.pop().disconnect()


@pytest.fixture
def nodes(lab: Lab) -> tuple[Node, Node]:
    """Two nodes that know each other."""
    return two_nodes(lab, "46")


def two_nodes(lab: Lab, families: str) -> tuple[Node, Node]:
    site = lab.site("cloud", families=families)
    a, b = Node(site.host("a"), 1), Node(site.host("b"), 2)
    for node in (a, b):
        if not node.host.v4:
            node.endpoints = node.endpoints[1:]
        node.make_tap()
        node.start()
        node.connect().ask("subscribe")
    for node, other in ((a, b), (b, a)):
        assert node.apply(other)["ok"]
    return a, b


def test_hosts_talk_ipv4_and_ipv6_in_the_vsubnet(nodes: tuple[Node, Node]) -> None:
    a, b = nodes

    for address in b.ips:
        assert a.pings(address)

    stats = a.peer_stats()
    assert stats["session"] == "up"
    assert stats["endpoint"] in b.endpoints
    assert stats["rx_frames"] >= 2
    probe = a.connect().ask("probe", vni=VNI, peer=b.id, timeout_ms=1000)
    assert 0 < probe["rtt_us"] < 500_000


def test_an_ipv6_underlay_alone_is_enough(lab: Lab) -> None:
    a, b = two_nodes(lab, "6")
    assert a.pings(b.ips[0])
    assert a.peer_stats()["endpoint"] == b.endpoints[0]


def test_full_size_and_fragmented_packets_pass(nodes: tuple[Node, Node]) -> None:
    a, b = nodes
    assert a.pings(b.ips[0], "-s", "1372", "-M", "do"), "1,400 octets"
    assert a.pings(b.ips[0], "-s", "4000"), "three fragments"
    assert a.pings(b.ips[1], "-s", "4000"), "three fragments of IPv6"


def test_any_ethertype_passes_and_the_underlay_shows_nothing_of_it(
    nodes: tuple[Node, Node],
) -> None:
    a, b = nodes
    outer = a.host.capture("eth0")
    inner = b.host.capture(TAP, what=f"ether proto {IPX:#x} or vlan")
    ipx = frame(a.mac, b.mac, IPX, MARKER)
    tagged = frame(a.mac, b.mac, 0x8100, b"\x00\x2a\x08\x00" + MARKER)
    flooded = frame(a.mac, "ff:ff:ff:ff:ff:ff", IPX, MARKER)

    assert a.pings(b.ips[0], "-p", MARKER[:16].hex())
    a.send(ipx, tagged, flooded)

    until("the frames arrive", lambda: inner.file.read_bytes().count(MARKER) == 3, within_s=5)
    # The host may pad nothing: what arrives is what was sent.
    assert [packet.frame for packet in inner.packets()] == [ipx, tagged, flooded]
    seen = outer.packets()
    assert [packet for packet in seen if not on_the_underlay(packet)] == []
    assert sum(packet.protocol == _UDP for packet in seen) > 5
    assert not any(MARKER[:16] in packet.frame for packet in seen)


def on_the_underlay(packet: Packet) -> bool:
    """Say whether a packet may be there: sealed datagrams, and the host's own ARP and ND."""
    sealed = (packet.protocol, packet.source_port, packet.destination_port) == (_UDP, 8002, 8002)
    return sealed or packet.ethertype == _ARP or packet.protocol in (0, _ICMPV6)


def test_traffic_goes_on_when_the_agent_is_gone(nodes: tuple[Node, Node], lab: Lab) -> None:
    a, b = nodes
    assert a.pings(b.ips[0])
    probes = Probes({a.host: a.ips[0], b.host: b.ips[0]}, directory=lab.directory)
    time.sleep(0.3)
    begun = probes.now()
    for node in nodes:
        assert node.control
        node.control.close()
    time.sleep(1)

    assert probes.lost(since=begun, until=begun + 0.9) == 0
    assert a.connect().ask("hello")["generation"] == 1


@pytest.mark.timed
def test_a_killed_data_plane_heals_within_1500_ms(lab: Lab) -> None:
    site = lab.site("cloud")
    a, b = Node(site.host("a"), 1), Node(site.host("b"), 2)
    programs = {}
    for node in (a, b):
        node.make_tap()
        programs[node] = node.start(restart=True)
    assert a.apply(b)["ok"] and b.apply(a)["ok"]
    assert a.pings(b.ips[0])
    probes = Probes({a.host: a.ips[0], b.host: b.ips[0]}, directory=lab.directory)
    time.sleep(0.3)

    begun = probes.now()
    programs[b].kill()
    reapply(b, a)
    time.sleep(2)

    outage = max(pair.outage_s for pair in probes.pairs(since=begun))
    print(f"outage after kill -9 and apply: {outage * 1000:.0f} ms")
    assert outage <= 1.5
    assert probes.lost(since=begun + 1.5, until=begun + 1.9) == 0


def reapply(node: Node, peer: Node) -> None:
    """Do what the agent does when the socket is new: connect until there is one, and apply."""
    while True:
        with suppress(ConnectionResetError, BrokenPipeError):
            node.connect()
            assert node.apply(peer)["ok"]
            return


@pytest.mark.timed
def test_a_takeover_loses_at_most_300_ms(nodes: tuple[Node, Node], lab: Lab) -> None:
    a, b = nodes
    assert a.pings(b.ips[0])
    before = b.connect().ask("hello")
    probes = Probes({a.host: a.ips[0], b.host: b.ips[0]}, directory=lab.directory)
    time.sleep(0.3)

    begun = probes.now()
    b.start("--take-over")
    until("the successor answers", lambda: instance(b) != before["instance"], within_s=5)
    time.sleep(1)

    outage = max(pair.outage_s for pair in probes.pairs(since=begun))
    lost = probes.lost(since=begun)
    print(f"takeover: {lost} probes of 10 ms lost, longest outage {outage * 1000:.0f} ms")
    assert outage <= 0.3
    assert b.connect().ask("hello")["generation"] == before["generation"]
    assert b.apply(a)["changed"] is False
    assert b.connect().ask("hello")["pid"] != before["pid"]


def instance(node: Node) -> str:
    """Return which process answers now; empty while it is being replaced."""
    with suppress(OSError):
        return str(node.connect().ask("hello").get("instance", ""))
    return ""


STRANGER = """
import os, socket, sys, time
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM)
s.bind(("", 8002))
s.settimeout(0.5)
to = (sys.argv[1], 8002)
s.sendto(b"?", to)
time.sleep(0.2)  # until the neighbour is known: before, the kernel keeps three datagrams only
for length in [0, 1, 15, 16, 47, 48, 104, 105, 167, 168, 169, 170, 500, 1400]:
    for first in [0x00, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x21, 0xff]:
        s.sendto((bytes([first]) + os.urandom(length))[:length], to)
        s.sendto((bytes([first]) + bytes(length))[:length], to)
    time.sleep(0.01)  # the capture keeps pace
try:
    print("answered", s.recv(2000).hex())
except TimeoutError:
    print("silence")
"""


def test_a_stranger_gets_no_byte_back(nodes: tuple[Node, Node], lab: Lab) -> None:
    a, b = nodes
    assert a.pings(b.ips[0])
    stranger = lab.sites["cloud"].host("c")
    capture = stranger.capture("eth0", what="udp or icmp or icmp6")

    for address in (b.host.v4, b.host.v6):
        done = stranger.run([sys.executable, "-c", STRANGER, address])
        assert done.stdout == "silence\n"

    own = {socket.inet_aton(stranger.v4), socket.inet_pton(socket.AF_INET6, stranger.v6)}
    packets = [packet for packet in capture.packets() if packet.protocol == _UDP]
    assert len(packets) == 2 * (1 + 2 * 14 * 9)
    assert all(packet.source in own for packet in packets)
    assert sum(b.stats()["drops"].values()) >= len(packets)
    assert a.pings(b.ips[0])


@pytest.mark.timed
def test_a_removed_peer_is_cut_off_at_once(nodes: tuple[Node, Node], lab: Lab) -> None:
    a, b = nodes
    assert a.pings(b.ips[0])
    probes = Probes({a.host: a.ips[0], b.host: b.ips[0]}, directory=lab.directory)
    time.sleep(0.3)

    assert b.apply()["ok"]
    gone = probes.now()
    time.sleep(1)

    after = probes.pairs(since=gone)
    assert all(pair.lost == pair.sent > 0 for pair in after), list(map(str, after))
    assert b.event("session_down")["reason"] == "removed"
    assert b.stats()["vsubnets"][0]["peers"] == []


def test_a_spoofed_source_is_dropped_and_reported(nodes: tuple[Node, Node]) -> None:
    a, b = nodes
    foreign = "02:00:00:00:00:99"
    # Node a is compromised: it lets out what is not its own.
    assert a.apply(b, macs=[a.mac, foreign])["ok"]
    assert a.pings(b.ips[0])
    inner = b.host.capture(TAP, what=f"ether proto {IPX:#x}")

    spoofed = frame(foreign, b.mac, IPX, MARKER)
    honest = frame(a.mac, b.mac, IPX, MARKER)
    a.send(spoofed, spoofed, honest)

    event = b.event("spoofed")
    assert (event["peer"], event["mac"], event["vni"]) == (a.id, foreign, VNI)
    until("the honest one arrives", lambda: MARKER in inner.file.read_bytes(), within_s=5)
    assert [packet.frame for packet in inner.packets()] == [honest]
    assert sum(b.stats()["vsubnets"][0]["drops"].values()) >= 2


@pytest.mark.timed
def test_a_moved_host_is_found_again_at_its_new_address(nodes: tuple[Node, Node], lab: Lab) -> None:
    a, b = nodes
    assert a.pings(b.ips[0])
    probes = Probes({a.host: a.ips[0], b.host: b.ips[0]}, directory=lab.directory)
    time.sleep(0.3)

    begun = probes.now()
    a.host.change_address(77)
    assert a.control and a.control.ask("underlay_changed")["ok"]
    time.sleep(2)

    outage = max(pair.outage_s for pair in probes.pairs(since=begun))
    print(f"outage after a change of address: {outage * 1000:.0f} ms")
    assert outage <= 1.0
    assert a.host.v4 in b.peer_stats()["endpoint"] or a.host.v6 in b.peer_stats()["endpoint"]


def test_a_tap_that_vanishes_is_reported_and_attached_to_again(nodes: tuple[Node, Node]) -> None:
    a, b = nodes
    assert a.pings(b.ips[0])
    b.host.ip(f"link del {TAP}")
    assert b.event("degraded")["what"] == f"tap {TAP}"

    refused = b.apply(a)
    assert refused["error"]["code"] == "tap_missing"
    assert TAP in refused["error"]["message"]

    b.make_tap()
    assert b.apply(a)["changed"] is True
    assert a.pings(b.ips[0])


def test_it_runs_without_root_on_a_tap_of_its_own(lab: Lab) -> None:
    site = lab.site("cloud")
    a, b = Node(site.host("a"), 1), Node(site.host("b"), 2)
    nobody = "65534"
    # The lab's directories are root's: the user only gets a place for its socket.
    (b.host.directory / "nobody").mkdir()
    os.chown(b.host.directory / "nobody", int(nobody), int(nobody))
    b.socket = b.host.directory / "nobody" / "dp.sock"
    a.make_tap()
    b.make_tap("user", nobody)
    a.start()
    # Files may be of any mode here (the checkout): only the network's own permissions are at
    # stake. The data plane drops this capability too, so /dev/net/tun gets the mode of udev.
    tun = b.host.directory / "tun"
    os.mknod(tun, 0o600 | stat.S_IFCHR, Path("/dev/net/tun").stat().st_rdev)
    tun.chmod(0o666)
    b.host.run(["mount", "--bind", str(tun), "/dev/net/tun"])
    files = ["--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    b.start(prefix=["setpriv", f"--reuid={nobody}", f"--regid={nobody}", "--clear-groups", *files])

    assert a.apply(b)["ok"]
    assert b.apply(a)["ok"]

    assert a.pings(b.ips[0])
    memory_lock = b.connect().ask("hello")["degraded"]
    assert any("RLIMIT_MEMLOCK" in text for text in memory_lock), memory_lock


@pytest.mark.timed
def test_idle_costs_little(nodes: tuple[Node, Node]) -> None:
    a, b = nodes
    assert a.pings(b.ips[0])
    pid = a.connect().ask("hello")["pid"]
    # The PID is one of the host's own namespace.
    status = a.host.run(["cat", f"/proc/{pid}/status"]).stdout
    rss_kib = next(int(line.split()[1]) for line in status.splitlines() if line[:6] == "VmRSS:")
    before = processor_s(a, pid)
    time.sleep(3)
    used = processor_s(a, pid) - before
    print(f"idle: RSS {rss_kib} KiB, {used / 3 * 100:.2f} % of a core")
    assert rss_kib <= 8 * 1024
    assert used <= 0.03


def processor_s(node: Node, pid: int) -> float:
    """Return the processor time that a process used, in seconds."""
    fields = node.host.run(["cat", f"/proc/{pid}/stat"]).stdout.rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
