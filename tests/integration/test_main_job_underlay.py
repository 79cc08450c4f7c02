"""What someone on the underlay sees, and what they can do with it: nothing.

    a1 -- [cloud-a] --+
                   internet -- [office] -- appliance
    b1 -- [cloud-b] --+
    b2, stranger --'                  IPv4 only; default timers, so that no rekey interferes

One capture runs in b1 from the beginning of the module; KT-4 replays all of it.
"""

from __future__ import annotations

import ipaddress
import os
import random
import struct
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.world import start_appliance
from tests.lab import Capture, Lab, Machine, Packet, Probes, parse, read_pcap
from tests.lab.cairn import Appliance, Network, Node, ethernet, send_frames
from tests.lab.topology import Host, Site
from tests.lab.underlay import PORT, examine, plain_tcp
from tests.proofs import record

pytestmark = [pytest.mark.root, pytest.mark.tun, pytest.mark.etcd]

EXPERIMENTAL = 0x88B5
INIT, RESP, DATA = 0x11, 0x12, 0x14
CAPTURE_S = 60.0
MARKER = b"KNOWN-PLAINTEXT-" + os.urandom(8).hex().encode()
DATA_PLANE_HEADER = 16


@dataclass(slots=True)
class Underlay:
    """The module's own lab."""

    lab: Lab
    appliance: Appliance
    prod: Network
    other: Network  # a second vSubnet of a1 and b1
    a1: Node
    b1: Node
    b2: Node
    cloud_b: Site
    stranger: Host
    capture: Capture  # in b1, from before its first session
    captures: list[Capture]  # on the internet's links
    since: float
    probes: Probes


@pytest.fixture(scope="module")
def underlay() -> Iterator[Underlay]:
    with Lab("underlay") as lab:
        names = ("cloud-a", "cloud-b", "office")
        sites = {name: lab.site(name, families="4") for name in names}
        captures = [lab.internet.capture(f"to{site.number}") for site in sites.values()]
        appliance = start_appliance(sites["office"])
        prod, other = appliance.network("prod", "10.7.0.0/24"), appliance.network("other")
        nodes = {
            name: Node(sites[site].host(name))
            for name, site in (("a1", "cloud-a"), ("b1", "cloud-b"), ("b2", "cloud-b"))
        }
        stranger = sites["cloud-b"].host("stranger")
        for machine in (stranger, *(node.host for node in nodes.values())):
            # A capture shows what a wire carries, not trains that are divided later.
            machine.run(["ethtool", "-K", "eth0", "tx-udp-segmentation", "off"])
        capture = nodes["b1"].host.capture("eth0", name="whole")
        since = time.monotonic()
        for name, node in nodes.items():
            node.start()
            node.join(appliance.token(prod, *([other] if name != "b2" else [])))
        addresses = {name: node.address(prod) for name, node in nodes.items()}
        for name, node in nodes.items():
            for target, address in addresses.items():
                if target != name:
                    node.wait_for_ping(address, within_s=20)
        machines: dict[Machine, str] = {node.host: addresses[name] for name, node in nodes.items()}
        a1, b1, b2 = nodes.values()
        probes = Probes(machines, directory=lab.directory)
        yield Underlay(
            lab, appliance, prod, other, a1, b1, b2, sites["cloud-b"], stranger,
            capture, captures, since, probes,
        )  # fmt: skip


def test_a_capture_shows_only_udp_and_tcp_8002_and_no_plaintext(underlay: Underlay) -> None:
    a1, b1, prod = underlay.a1, underlay.b1, underlay.prod
    pattern = MARKER[:16].hex()
    a1.host.run(f"ping -n -c 50 -i 0.02 -s 600 -p {pattern} {b1.address(prod)}".split())
    frame = ethernet(b1.mac(prod), a1.mac(prod), EXPERIMENTAL, MARKER)
    a1.send_frames(prod, frame, count=50)
    a1.host.run(["cairn-agent", "status"])
    time.sleep(0.3)

    packets = [packet for capture in underlay.captures for packet in capture.packets()]
    secrets = [MARKER, MARKER[:16], b"cairn1.", underlay.appliance.password.encode()]
    findings = examine(packets, [*secrets, bytes.fromhex(a1.mac(prod).replace(":", ""))])

    assert findings.sealed > 500, "the probes and pings were captured"
    assert findings.tls > 50, "so was the traffic to the appliance"
    streams = plain_tcp(packets)
    assert record(
        "PORTS-8002",
        what=f"captured on the internet from before the joins on: {findings}",
        bar="0 packets but UDP 8002 and TLS on TCP 8002, 0 with known plaintext",
        value=sum(findings.foreign.values()) + len(streams),
        unit="packets",
        holds=findings.clean and not streams,
    ), (findings, streams)


def test_a_stranger_gets_no_byte_back_whatever_it_sends(underlay: Underlay) -> None:
    stranger, target = underlay.stranger, underlay.b1.host
    heard = stranger.capture("eth0", what=f"src host {target.v4} and not arp")
    seed = random.Random(4)
    recorded = [packet.payload for packet in _datagrams(underlay.capture.file)][:300]
    payloads = [
        bytes([octet]) + seed.randbytes(length) for octet in range(256) for length in (0, 167)
    ]
    payloads += [bytes([0x10 | seed.randrange(7)]) + seed.randbytes(n) for n in range(1472)]
    payloads += [b"", *recorded]
    payloads += [_mutated(payload, seed) for payload in recorded for _ in range(3)]
    before = _received_by_dataplane(underlay.b1)

    way = _Way.of(stranger, target)
    send_frames(stranger, "eth0", [way.frame(payload) for payload in payloads])
    time.sleep(1.0)

    arrived = _received_by_dataplane(underlay.b1) - before
    answers = heard.packets()
    assert arrived >= len(payloads) * 0.95, "the data plane did read them"
    assert record(
        "SILENT",
        what=f"answers to {len(payloads)} datagrams of a stranger: random, recorded, changed",
        bar="0 octets",
        value=sum(len(packet.frame) for packet in answers),
        unit="octets",
        holds=not answers,
    )


def test_kt_4_nothing_that_was_captured_is_of_use_on_the_path(underlay: Underlay) -> None:
    """Replay all of a 60 s capture, truncate, flip every header bit, swap directions,
    sessions and vSubnets; from the right source address and from a stranger's."""
    _wait_until(underlay.since + CAPTURE_S)
    a1, b1, prod, lab = underlay.a1, underlay.b1, underlay.prod, underlay.lab
    marked = ethernet(b1.mac(prod), a1.mac(prod), EXPERIMENTAL, MARKER)
    marked_back = ethernet(a1.mac(prod), b1.mac(prod), EXPERIMENTAL, MARKER)
    a1.send_frames(prod, marked, count=20)
    b1.send_frames(prod, marked_back, count=20)
    time.sleep(0.3)
    recorded = _datagrams(underlay.capture.file)
    underlay.probes.stop()
    attack = _attack(underlay, recorded)
    assert {"replay", "truncated", "bit", "direction", "session"} <= set(attack)

    taps = [n.host.capture(prod.tap, what=f"ether proto {EXPERIMENTAL:#x}") for n in (a1, b1)]
    answers = b1.host.capture("eth0", what=f"src host {b1.host.v4} and udp", name="answers")
    machines: dict[Machine, str] = {n.host: n.address(prod) for n in (a1, b1, underlay.b2)}
    # One probe a second keeps the session in use, and shows that it stays unharmed.
    probes = Probes(machines, directory=lab.directory, interval_ms=250)
    before = _received_by_dataplane(b1)
    begun = time.monotonic()
    for frames in attack.values():
        send_frames(underlay.cloud_b.router, _port_of(underlay, b1), frames)
    took = time.monotonic() - begun
    time.sleep(1.0)
    probes.stop()

    arrived = _received_by_dataplane(b1) - before
    injected = sum(len(frames) for frames in attack.values())
    delivered = sum(len(tap.packets()) for tap in taps)
    pairs = probes.pairs()
    harmed = sum(pair.lost + pair.duplicated for pair in pairs)
    replies = _replies(answers.packets(), pairs_s=took + 2)
    assert arrived >= injected * 0.95, "the data plane did read the attack"
    assert record(
        "KT-4",
        what=(
            f"{injected} datagrams made of {len(recorded)} recorded in {CAPTURE_S:.0f} s: "
            + ", ".join(f"{len(frames)} {kind}" for kind, frames in attack.items())
        ),
        bar="0 frames delivered, 0 replies, session unharmed",
        value=f"{delivered} delivered, {replies} replies, {harmed} probes harmed",
        unit="",
        holds=delivered == 0 and replies == 0 and harmed == 0,
    ), Counter(packet.payload[0] for packet in answers.packets() if packet.payload)
    assert underlay.b1.pings(a1.address(prod), count=3) == 3


@dataclass(frozen=True, slots=True)
class _Way:
    """The addresses of a forged IPv4 datagram; its UDP checksum is 0: none."""

    source_mac: bytes
    target_mac: bytes
    source: bytes
    target: bytes
    source_port: int = PORT
    target_port: int = PORT

    @classmethod
    def of(cls, source: Host, target: Host) -> _Way:
        macs = [_eth0_mac(host) for host in (source, target)]
        ips = [ipaddress.IPv4Address(host.v4).packed for host in (source, target)]
        return cls(macs[0], macs[1], ips[0], ips[1])

    def frame(self, payload: bytes) -> bytes:
        udp = struct.pack("!4H", self.source_port, self.target_port, 8 + len(payload), 0)
        total = 20 + len(udp) + len(payload)
        head = struct.pack("!BBHHHBBH", 0x45, 0, total, 0, 0, 64, 17, 0) + self.source + self.target
        head = head[:10] + _checksum(head).to_bytes(2, "big") + head[12:]
        return self.target_mac + self.source_mac + b"\x08\x00" + head + udp + payload


def _attack(underlay: Underlay, recorded: list[Packet]) -> dict[str, list[bytes]]:
    """Return the forged frames for b1 by kind; all leave the router as if they were routed."""
    a1, b1, b2 = underlay.a1.host, underlay.b1.host, underlay.b2.host
    from_a1 = _Way.of(a1, b1)
    # What comes from another site has the router's MAC; the kernel does not check it.
    from_b2, from_stranger = _Way.of(b2, b1), _Way.of(underlay.stranger, b1)
    to_b1 = [p.payload for p in recorded if p.destination == from_a1.target]
    by_b1 = [p.payload for p in recorded if p.source == from_a1.target]
    of_a1 = [p.payload for p in recorded if p.source == from_a1.source]
    of_b2 = [p.payload for p in recorded if p.source == from_b2.source]
    data = [payload for payload in of_a1 if payload[0] == DATA]
    sample = random.Random(7).sample(data, 40)
    indexes = {payload[1:4] for payload in to_b1 if payload[0] == DATA}
    assert len(indexes) >= 2, "b1 has sessions with a1 and b2, and in two vSubnets"
    return {
        "replay": [_way_of(p, from_a1, from_b2).frame(p.payload) for p in recorded
                   if p.destination == from_a1.target],
        "replay elsewhere": [from_stranger.frame(payload) for payload in to_b1],
        "truncated": [
            from_a1.frame(payload[:cut])
            for payload in sample
            for cut in (0, 1, 4, 15, 16, 17, 31, 32, len(payload) - 17, len(payload) - 1)
        ],
        "bit": [
            from_a1.frame(_flip(payload, bit))
            for payload in sample[:20]
            for bit in range(8 * DATA_PLANE_HEADER)
        ],
        "direction": [from_a1.frame(payload) for payload in by_b1],
        "session": [
            way.frame(payload[:1] + index + payload[4:])
            for way, payloads in ((from_a1, of_b2), (from_b2, of_a1))
            for payload in payloads[-200:]
            for index in indexes
            if payload[0] == DATA and payload[1:4] != index
        ],
    }  # fmt: skip


def _way_of(packet: Packet, from_a1: _Way, from_b2: _Way) -> _Way:
    return from_a1 if packet.source == from_a1.source else from_b2


def _replies(packets: list[Packet], *, pairs_s: float) -> int:
    """Count what b1 sent beyond its own probes, answers to pings, keepalives and liveness.

    Handshake messages are replies for certain: with default timers none is due. Everything
    to the stranger is one. Of sealed packets, what the probes explain is taken away.
    """
    kinds = Counter(packet.payload[0] for packet in packets if packet.payload)
    handshakes = sum(kinds[kind] for kind in (INIT, RESP, 0x13))
    probes = 2 * pairs_s / 0.25  # to two peers
    sealed = kinds[DATA] + kinds[0x15]
    # ARP between the members and keepalives: a few; a reply per forged packet: thousands.
    return handshakes + (sealed if sealed > probes * 1.5 + 60 else 0)


def _datagrams(file: Path) -> list[Packet]:
    return [
        packet
        for packet in read_pcap(file)
        if packet.protocol == 17 and packet.destination_port == PORT and packet.payload
    ]


def _mutated(payload: bytes, seed: random.Random) -> bytes:
    changed = bytearray(payload)
    for _ in range(seed.randrange(1, 4)):
        changed[seed.randrange(len(changed))] ^= 1 << seed.randrange(8)
    return bytes(changed[: seed.randrange(1, len(changed) + 1)] if seed.random() < 0.3 else changed)


def _flip(payload: bytes, bit: int) -> bytes:
    changed = bytearray(payload)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def _checksum(header: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(header) // 2}H", header))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return 0xFFFF - total


def _eth0_mac(host: Host) -> bytes:
    text = host.run(["cat", "/sys/class/net/eth0/address"]).stdout.strip()
    return bytes.fromhex(text.replace(":", ""))


def _port_of(underlay: Underlay, node: Node) -> str:
    return f"p{underlay.cloud_b.hosts.index(node.host)}"


def _received_by_dataplane(node: Node) -> int:
    """Return how many UDP datagrams the host's kernel has handed to sockets."""
    for line in node.host.run(["cat", "/proc/net/snmp"]).stdout.splitlines():
        fields = line.split()
        if fields[0] == "Udp:" and fields[1].isdigit():
            return int(fields[1])
    raise AssertionError("no UDP counters")


def _wait_until(deadline: float) -> None:
    time.sleep(max(0.0, deadline - time.monotonic()))


def test_the_forged_frames_are_what_a_kernel_takes_for_ipv4() -> None:
    way = _Way(b"\1" * 6, b"\2" * 6, bytes([198, 18, 1, 1]), bytes([198, 18, 2, 1]))
    packet = parse(way.frame(b"payload"))
    assert (packet.protocol, packet.destination_port, packet.payload) == (17, PORT, b"payload")
    assert _checksum(packet.frame[14:34]) == 0
