"""BI-8: what a LAN may throw at a gateway, at the kernel's real bridge and a real TAP.

station: lan0 --- eth1 [cbr7] cairn7 --- a file descriptor where the data plane has its own
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import select
import socket
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import pytest
from cairn_agent.host.bridge import ensure_bridges, remove_other_bridges, stations
from cairn_agent.host.bridge_guards import (
    GuardsWanted,
    Seen,
    ensure_guards,
    hold_frozen,
    read_counters,
    read_noted,
)
from cairn_agent.host.bridge_journal import Journal
from cairn_agent.protocol.gateway import Guards
from pyroute2 import AsyncIPRoute
from scapy.contrib.cdp import CDPMsgDeviceID, CDPv2_HDR
from scapy.contrib.lldp import LLDPDUChassisID, LLDPDUEndOfLLDPDU, LLDPDUPortID, LLDPDUTimeToLive
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.dhcp6 import DHCP6_Advertise, DHCP6_Solicit
from scapy.layers.eap import EAPOL
from scapy.layers.igmp import IGMP
from scapy.layers.inet import IP, UDP, fragment
from scapy.layers.inet6 import (
    ICMPv6MLReport,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    IPv6,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    fragment6,
)
from scapy.layers.l2 import ARP, LLC, SNAP, STP, Dot1AD, Dot1Q, Ether
from scapy.layers.vrrp import VRRP
from scapy.packet import Packet, Raw

from tests.integration.test_bridge_host import lan, run, wanted
from tests.proofs import record
from tests.unit.agent.fakes.network import in_new_network

pytestmark = [pytest.mark.root, pytest.mark.tun]

Side = Literal["lan", "overlay"]
VM = "02:00:00:00:00:77"
STATION = "02:aa:00:00:00:01"
_SENTINEL = 0x9000
_TUNSETIFF, _FLAGS = 0x400454CA, 0x0002 | 0x1000 | 0x4000 | 0x0100  # TAP, no PI, header, queues
_HEADER = 10  # of virtio-net, before each frame
_PAUSE_S = 0.3  # of who sends: a storm with a longer one isn't measured
_ALL, _ROUTERS = "33:33:00:00:00:01", "33:33:00:00:00:02"


@dataclass
class Wire:
    """Both ends: a station's socket on the LAN, and the TAP."""

    lan: socket.socket
    tap: int
    sent: int = 0
    _number: int = field(default=0)

    def send(self, side: Side, frame: bytes) -> None:
        """Send one frame from a side."""
        if side == "lan":
            self.lan.send(frame)
        else:
            os.write(self.tap, bytes(_HEADER) + frame)

    def crossed(self, side: Side, frames: list[bytes]) -> list[bytes]:
        """Send frames from a side; return what came out at the other one, in order."""
        for frame in frames:
            self.send(side, frame)
        self._number += 1
        ends = (STATION, VM) if side == "lan" else (VM, STATION)
        mark = bytes(Ether(src=ends[0], dst=ends[1], type=_SENTINEL) / Raw(b"%050d" % self._number))
        self.send(side, mark)
        found: list[bytes] = []
        for _, frame in self.heard("overlay" if side == "lan" else "lan", within_s=5):
            if frame == mark:
                return found
            found.append(frame)
        raise AssertionError("even the frame that always crosses didn't")

    def heard(self, side: Side, *, within_s: float) -> Iterator[tuple[float, bytes]]:
        """Yield (when, frame) of what comes out at a side."""
        source = self.lan if side == "lan" else self.tap
        deadline = time.monotonic() + within_s
        while (left := deadline - time.monotonic()) > 0:
            if not select.select([source], [], [], left)[0]:
                return
            yield time.monotonic(), self._read(side)

    def _read(self, side: Side) -> bytes:
        if side == "overlay":
            return os.read(self.tap, 65_600)[_HEADER:]
        octets, ancillary, _, _ = self.lan.recvmsg(65_600, 256)
        for _level, kind, data in ancillary:
            status, _, _, _, _, tci, tpid = struct.unpack("IIIHHHH", data)
            if kind == 8 and status & 0x10:  # PACKET_AUXDATA, TP_STATUS_VLAN_VALID
                return octets[:12] + struct.pack("!HH", tpid or 0x8100, tci) + octets[12:]
        return octets


@contextmanager
def wire() -> Iterator[Wire]:
    """Open both ends."""
    tap = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    station = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    try:
        fcntl.ioctl(tap, _TUNSETIFF, struct.pack("16sH22x", b"cairn7", _FLAGS))
        station.setsockopt(263, 8, 1)  # SOL_PACKET, PACKET_AUXDATA
        station.setsockopt(263, 23, 1)  # PACKET_IGNORE_OUTGOING
        station.setsockopt(socket.SOL_SOCKET, 33, 32 << 20)  # SO_RCVBUFFORCE
        station.bind(("lan0", 3))
        yield Wire(station, tap)
    finally:
        station.close()
        os.close(tap)


def bridged(
    directory: Path,
    guards: Guards,
    test: Callable[[Wire, AsyncIPRoute], Awaitable[None]],
    address: str = "",
    *,
    is_one_nic: bool = False,
) -> None:
    """Run a test with the bridge made and both ends open; the host has the address."""

    async def body(netlink: AsyncIPRoute) -> None:
        await lan(netlink, has_ipv6=is_one_nic)
        if address:
            run("ip", "addr", "add", address, "dev", "eth1" if is_one_nic else "lo")
        for name in ("lan0", "eth1"):
            run("ip", "link", "set", name, "mtu", "9000")
            run("ethtool", "-K", name, "tx", "off", "gro", "off")
        run("ip", "link", "set", "cairn7", "txqueuelen", "20000")
        with wire() as opened:
            one = wanted(guards=guards)
            journal = Journal(directory / "bridges.json")
            outcome = (await ensure_bridges(netlink, [one], journal))[7]
            assert outcome.error is None, outcome.error
            _wait_for_carrier()
            opened.send("lan", bytes(Ether(src=STATION, dst=VM, type=_SENTINEL) / Raw(bytes(46))))
            if not is_one_nic:
                _check_only_queries(opened)
            await test(opened, netlink)

    in_new_network(body)


def _wait_for_carrier() -> None:
    deadline = time.monotonic() + 5
    while run("bridge", "link").count("state forwarding") != 2:
        assert time.monotonic() < deadline, run("bridge", "link")
        time.sleep(0.01)


def _check_only_queries(opened: Wire) -> None:
    """Nothing but the bridge's question who listens came out by itself, on either side."""
    ends: tuple[Side, Side] = ("lan", "overlay")
    for side in ends:
        for _, frame in opened.heard(side, within_s=0.05):
            packet = Ether(frame)
            assert packet.type == _SENTINEL or (IGMP in packet and packet[IGMP].type == 0x11)


@dataclass(frozen=True)
class Case:
    """One kind of frame, and what becomes of it by default."""

    name: str
    frames: list[Packet]
    counter: str = ""  # which says that it didn't cross; "" where it crosses
    is_counted: bool = True
    sides: tuple[Side, ...] = ("lan", "overlay")


def _to(dst: str, *payload: Packet, type: int | None = None) -> list[Packet]:
    frame = Ether(dst=dst) if type is None else Ether(dst=dst, type=type)
    for layer in payload:
        frame = frame / layer
    return [frame]


def _dhcp(kind: str) -> Packet:
    ports = {"sport": 67, "dport": 68} if kind == "offer" else {"sport": 68, "dport": 67}
    ends = {"src": "192.0.2.66", "dst": "255.255.255.255"}
    return IP(**ends) / UDP(**ports) / BOOTP(op=2) / DHCP(options=[("message-type", kind), "end"])


def _ra(hops: int = 255) -> Packet:
    return IPv6(src="fe80::66", dst="ff02::1", hlim=hops) / ICMPv6ND_RA()


def _fragmented_ra() -> list[Packet]:
    whole = IPv6(src="fe80::66", dst="ff02::1", hlim=255) / IPv6ExtHdrFragment()
    return [
        Ether(dst=_ALL) / part for part in fragment6(whole / ICMPv6ND_RA() / Raw(bytes(2000)), 800)
    ]


_ARP = {"hwsrc": STATION, "psrc": "192.0.2.5", "pdst": "192.0.2.6"}
_TO_ALL = "ff:ff:ff:ff:ff:ff"
_NS = ICMPv6ND_NS(tgt="fe80::1")
_PLAIN = IP(src="192.0.2.5", dst="192.0.2.6") / UDP(sport=1000, dport=2000) / Raw(bytes(40))

CORPUS = [
    Case("BPDU", _to("01:80:c2:00:00:00", LLC(), STP()), "link_local_group"),
    Case(
        "PVST+", _to("01:00:0c:cc:cc:cd", LLC(), SNAP(OUI=0xC, code=0x10B), STP()), "vendor_group"
    ),
    *(
        Case(
            f"LLDP to {group}",
            _to(
                f"01:80:c2:00:00:{group}",
                LLDPDUChassisID(subtype=4, id=b"\2" + bytes(5)),
                LLDPDUPortID(subtype=7, id=b"1"),
                LLDPDUTimeToLive(ttl=120),
                LLDPDUEndOfLLDPDU(),
                type=0x88CC,
            ),
            "link_local_group",
            is_counted=group != "0e",  # the kernel itself, before any hook
        )
        for group in ("0e", "03", "00")
    ),
    Case(
        "LACP", _to("01:80:c2:00:00:02", Raw(b"\1\1" + bytes(108)), type=0x8809), "link_local_group"
    ),
    Case("802.1X", _to("01:80:c2:00:00:03", EAPOL(type=1), type=0x888E), "link_local_group"),
    Case("802.1X to one", _to("", EAPOL(type=1), type=0x888E), "link_local_group"),
    Case(
        "CDP",
        _to(
            "01:00:0c:cc:cc:cc",
            LLC(),
            SNAP(OUI=0xC, code=0x2000),
            CDPv2_HDR(msg=[CDPMsgDeviceID(val=b"s")]),
        ),
        "vendor_group",
    ),
    # As LLDP to 0e.
    Case(
        "PAUSE",
        _to("01:80:c2:00:00:01", Raw(b"\0\1\xff\xff" + bytes(42)), type=0x8808),
        "pause",
        False,
    ),
    Case("PAUSE to one", _to("", Raw(b"\0\1\xff\xff" + bytes(42)), type=0x8808), "pause"),
    Case("QinQ", _to("", Dot1AD(vlan=5), Dot1Q(vlan=6), _PLAIN), "qinq"),
    Case("two 802.1Q tags", _to("", Dot1Q(vlan=5), Dot1Q(vlan=6), _PLAIN), "qinq"),
    Case("one tag", _to("", Dot1Q(vlan=5), _PLAIN)),
    Case("jumbo", _to("", IP() / UDP(sport=1, dport=2) / Raw(bytes(8900))), sides=("lan",)),
    Case(
        "IGMP report",
        _to("01:00:5e:01:02:03", IP(dst="239.1.2.3", ttl=1) / IGMP(type=0x16, gaddr="239.1.2.3")),
    ),
    Case("IGMP query", _to("01:00:5e:00:00:01", IP(dst="224.0.0.1", ttl=1) / IGMP(type=0x11))),
    Case(
        "MLD report",
        _to(
            "33:33:00:01:00:03",
            IPv6(src="fe80::5", dst="ff05::1:3", hlim=1)
            / IPv6ExtHdrHopByHop()
            / ICMPv6MLReport(mladdr="ff05::1:3"),
        ),
    ),
    Case("mDNS", _to("01:00:5e:00:00:fb", IP(dst="224.0.0.251") / UDP(sport=5353, dport=5353))),
    Case("ARP", _to(_TO_ALL, ARP(**_ARP))),
    Case("ARP, long addresses", _to(_TO_ALL, ARP(**_ARP, hwlen=8)), "malformed_arp"),
    Case("ARP, not Ethernet", _to(_TO_ALL, ARP(**_ARP, hwtype=6)), "malformed_arp"),
    Case("ARP, unknown operation", _to(_TO_ALL, ARP(**_ARP, op=99)), "malformed_arp"),
    Case("ARP as a VM", _to(_TO_ALL, ARP(**(_ARP | {"hwsrc": VM}))), "spoofed_mac", sides=("lan",)),
    Case("NS", _to("33:33:ff:00:00:01", IPv6(src="fe80::5", dst="ff02::1:ff00:1") / _NS)),
    Case(
        "NS from afar",
        _to("33:33:ff:00:00:01", IPv6(src="fe80::5", dst="ff02::1:ff00:1", hlim=64) / _NS),
        "malformed_nd",
    ),
    Case(
        "NA from afar",
        _to("", IPv6(src="fe80::5", dst="fe80::1", hlim=64) / ICMPv6ND_NA()),
        "malformed_nd",
    ),
    Case("DHCP discover", _to(_TO_ALL, _dhcp("discover"))),
    Case("DHCP offer", _to(_TO_ALL, _dhcp("offer")), "dhcp"),
    Case("DHCP offer in a tag", _to(_TO_ALL, Dot1Q(vlan=9), _dhcp("offer")), "dhcp"),
    Case(
        "DHCP, cut short",
        _to(_TO_ALL, IP(dst="255.255.255.255") / UDP(sport=67, dport=68) / Raw(b"\2")),
        "dhcp",
    ),
    Case(
        "DHCP from another port",
        _to("", IP(dst="192.0.2.6") / UDP(sport=1067, dport=68) / Raw(b"\2")),
        "dhcp",
    ),
    Case(
        "DHCPv6 solicit",
        _to(
            "33:33:00:01:00:02",
            IPv6(src="fe80::5", dst="ff02::1:2") / UDP(sport=546, dport=547) / DHCP6_Solicit(),
        ),
    ),
    Case(
        "DHCPv6 advertise",
        _to(
            "", IPv6(src="fe80::66", dst="fe80::1") / UDP(sport=547, dport=546) / DHCP6_Advertise()
        ),
        "dhcp",
    ),
    Case("RA", _to(_ALL, _ra()), "router_advertisement"),
    Case("RA in a tag", _to(_ALL, Dot1Q(vlan=9), _ra()), "router_advertisement"),
    Case(
        "RA behind options",
        _to(
            _ALL,
            IPv6(src="fe80::66", dst="ff02::1", hlim=255) / IPv6ExtHdrHopByHop() / ICMPv6ND_RA(),
        ),
        "router_advertisement",
    ),
    Case("RA in fragments", _fragmented_ra(), "malformed_nd"),
    Case("RA from afar", _to(_ALL, _ra(hops=3)), "malformed_nd"),
    Case(
        "redirect",
        _to("", IPv6(src="fe80::66", dst="fe80::1") / ICMPv6ND_Redirect()),
        "router_advertisement",
    ),
    Case(
        "VRRP",
        _to("01:00:5e:00:00:12", IP(dst="224.0.0.18", ttl=255) / VRRP(addrlist=["192.0.2.50"])),
    ),
    Case("an EtherType of its own", _to("", Raw(bytes(64)), type=0x8137)),
    Case("NLB: IP to one, MAC to many", _to("03:bf:c0:00:02:06", _PLAIN)),
    Case(
        "big IP in fragments",
        [
            Ether(dst="") / part
            for part in fragment(IP(dst="192.0.2.6") / UDP() / Raw(bytes(3000)), 1400)
        ],
    ),
    Case(
        "loop probe", _to("03:43:41:49:52:4e", Raw(b"cairn" + bytes(80)), type=0x88B5), "loop_probe"
    ),
    Case(
        "source MAC of a VM",
        [Ether(src=VM, dst=VM) / _PLAIN, Ether(src=VM, dst=_TO_ALL) / _PLAIN],
        "spoofed_mac",
        sides=("lan",),
    ),
    Case(
        "unknown MAC",
        _to("02:99:99:99:99:99", _PLAIN),
        "no counter: the bridge doesn't flood",
        False,
    ),
]


def _octets(case: Case, side: Side, number: int) -> list[bytes]:
    """Return a case's frames as a side sends them, from a MAC of its own: none is a storm."""
    found = []
    for packet in case.frames:
        frame = packet.copy()
        if "src" not in frame.fields:
            frame.src = f"02:aa:00:00:{0 if side == 'lan' else 1:02x}:{number + 2:02x}"
        if not frame.fields.get("dst"):
            frame.dst = VM if side == "lan" else STATION
        found.append(bytes(frame).ljust(60, b"\0"))
    return found


def _are_same(crossed: list[bytes], sent: list[bytes]) -> bool:
    """Compare frames; the kernel takes padding behind an IP packet off."""
    return [f.ljust(60, b"\0") for f in crossed] == sent


def test_each_kind_of_frame_crosses_or_not_and_the_counters_say_the_same(tmp_path: Path) -> None:
    async def test(opened: Wire, netlink: AsyncIPRoute) -> None:
        expected: Counter[str] = Counter()
        wrong: list[str] = []
        before = await read_counters(7)
        for number, case in enumerate(CORPUS):
            for side in case.sides:
                frames = _octets(case, side, number)
                crossed = opened.crossed(side, frames)
                if not _are_same(crossed, [] if case.counter else frames):
                    wrong.append(
                        f"{case.name} from {side}: {len(crossed)} of {len(frames)} crossed"
                    )
                if case.counter and case.is_counted:
                    expected[f"{case.counter}_from_{side}"] += len(frames)
                if not case.counter:
                    expected[f"passed_from_{side}"] += len(frames)
                expected[f"passed_from_{side}"] += 1  # the frame that always crosses
        after = await read_counters(7)
        counted = {k: after[k] - before[k] for k in after if after[k] != before[k]}
        kinds = len(CORPUS)
        assert record(
            "BI-8",
            what="what a LAN throws at a gateway: per kind of frame what crosses, and its counter",
            bar=f"all {kinds} kinds as documented, both ways; counters agree",
            value=kinds - len(wrong),
            unit="kinds",
            holds=not wrong and counted == expected,
        ), (
            wrong,
            {
                k: (counted.get(k, 0), expected[k])
                for k in expected
                if counted.get(k) != expected[k]
            },
        )

        seen = (await read_noted(7)).seen
        assert {s.code for s in seen} == {"rogue_dhcp", "rogue_ra", "spoofed_mac"}
        assert {s.port for s in seen} == {"eth1", "cairn7"}
        assert Seen("spoofed_mac", "eth1", VM) in seen

    bridged(tmp_path, Guards(), test)


def test_a_frozen_mac_s_frames_stay_on_their_lan_until_its_time_is_over(tmp_path: Path) -> None:
    async def test(opened: Wire, _netlink: AsyncIPRoute) -> None:
        frozen, other = "02:aa:00:00:00:05", "02:aa:00:00:00:06"
        liar = Ether(src=STATION, dst=_TO_ALL) / ARP(
            hwsrc=frozen, psrc="192.0.2.5", pdst="192.0.2.5"
        )
        frames = [bytes(Ether(src=mac, dst=VM) / Raw(bytes(50))) for mac in (frozen, other)]
        frames.append(bytes(liar))
        back = [bytes(Ether(src=VM, dst=STATION) / Raw(bytes(50)))]
        assert opened.crossed("lan", frames) == frames
        await hold_frozen(7, {frozen: 2, "02:aa:00:00:00:07": 60})
        until = time.monotonic() + 2
        assert opened.crossed("lan", frames) == frames[1:2]
        assert opened.crossed("overlay", back) == back
        assert (await read_counters(7))["frozen_from_lan"] == 2
        assert await ensure_guards([replace(_GUARDED, guards=Guards(bum_pps=900))])
        assert opened.crossed("lan", frames) == frames[1:2]
        await asyncio.sleep(max(0, until + 0.5 - time.monotonic()))
        assert opened.crossed("lan", frames) == frames
        await hold_frozen(7, {other: 60})
        assert opened.crossed("lan", frames) == [frames[0], frames[2]]
        await hold_frozen(7, {})
        assert opened.crossed("lan", frames) == frames
        await hold_frozen(8, {other: 60})  # there are no guards of such a bridge

    bridged(tmp_path, Guards(), test)


_GUARDED = GuardsWanted(7, "eth1", "cairn7", Guards(), frozenset({VM}), has_host=False)
_OWN = "192.0.2.1"


def _asks_for(address: str) -> bytes:
    question = ARP(hwsrc=STATION, psrc="192.0.2.9", pdst=address)
    return bytes(Ether(src=STATION, dst=_TO_ALL) / question)


def _answers(opened: Wire, side: Side) -> list[Packet]:
    """Return the ARP answers that come out at a side."""
    heard = [Ether(frame) for _, frame in opened.heard(side, within_s=0.2)]
    return [packet[ARP] for packet in heard if ARP in packet and packet[ARP].op == 2]


def test_a_host_with_a_nic_of_its_own_takes_no_part_in_the_lan(tmp_path: Path) -> None:
    async def test(opened: Wire, netlink: AsyncIPRoute) -> None:
        for side in ("lan", "overlay"):
            opened.send(side, _asks_for(_OWN))
        # An address of another interface: Linux would answer for it on any.
        assert _answers(opened, "lan") == [] and _answers(opened, "overlay") == []

    bridged(tmp_path, Guards(), test, f"{_OWN}/32")


def test_the_hosts_own_address_is_reached_from_both_sides_but_not_by_the_overlays_router(
    tmp_path: Path,
) -> None:
    async def test(opened: Wire, netlink: AsyncIPRoute) -> None:
        opened.send("lan", _asks_for(_OWN))
        assert [answer.psrc for answer in _answers(opened, "lan")] == [_OWN]
        question = ARP(hwsrc=VM, psrc="192.0.2.77", pdst=_OWN)
        opened.send("overlay", bytes(Ether(src=VM, dst=_TO_ALL) / question))
        assert [answer.psrc for answer in _answers(opened, "overlay")] == [_OWN]

        router = "02:ee:00:00:00:02"
        rogue = bytes(Ether(src=router, dst=_ALL) / _ra())
        opened.send("overlay", rogue)
        opened.send("overlay", bytes(Ether(src=VM, dst=_TO_ALL) / question))
        assert _answers(opened, "overlay"), "what came after it was read"
        assert "fe80::66" not in run("ip", "-6", "route")
        opened.send("lan", rogue)
        deadline = time.monotonic() + 5
        while "fe80::66" not in run("ip", "-6", "route"):
            assert time.monotonic() < deadline, "its own LAN's router is heard"
            await asyncio.sleep(0.02)

    bridged(tmp_path, Guards(), test, f"{_OWN}/24", is_one_nic=True)


def test_dhcp_and_router_advertisements_cross_where_they_are_let(tmp_path: Path) -> None:
    async def test(opened: Wire, netlink: AsyncIPRoute) -> None:
        let = [c for c in CORPUS if c.counter in ("dhcp", "router_advertisement")]
        for number, case in enumerate(let):
            for side in case.sides:
                frames = _octets(case, side, number)
                assert _are_same(opened.crossed(side, frames), frames), f"{case.name} from {side}"
        assert (await read_noted(7)).seen == ()

    bridged(tmp_path, Guards(dhcp=True, router_advertisements=True), test)


def test_a_silent_host_gets_frames_and_a_stranger_none(tmp_path: Path) -> None:
    silent = "02:bb:00:00:00:01"

    async def test(opened: Wire, netlink: AsyncIPRoute) -> None:
        to_silent = bytes(Ether(src=VM, dst=silent) / _PLAIN)
        to_stranger = bytes(Ether(src=VM, dst="02:bb:00:00:00:02") / _PLAIN)
        assert opened.crossed("overlay", [to_silent, to_stranger]) == [to_silent]

    bridged(tmp_path, Guards(silent_hosts=[silent]), test)


def _storm(opened: Wire, frames: list[bytes]) -> tuple[int, list[float], float]:
    """Send for a while; return how many, when others were read, and the longest pause in it."""
    sent, pause_s = 0, 0.0
    arrived: list[float] = []
    now = began = time.monotonic()
    while now < began + 1.5:
        opened.send("lan", frames[sent % len(frames)])
        sent += 1
        if sent % 20 == 0:
            arrived += [at for at, _ in opened.heard("overlay", within_s=0.0001)]
        last, now = now, time.monotonic()
        pause_s = max(pause_s, now - last)
    arrived += [at for at, _ in opened.heard("overlay", within_s=0.2)]
    return sent, arrived, pause_s


@pytest.mark.parametrize("sources", [1, 500])
def test_a_storm_is_capped_per_station_and_in_all(tmp_path: Path, sources: int) -> None:
    async def test(opened: Wire, netlink: AsyncIPRoute) -> None:
        frames = [
            bytes(Ether(src=f"02:cc:00:00:{n >> 8:02x}:{n & 255:02x}", dst=_TO_ALL) / _PLAIN)
            for n in range(sources)
        ]
        cap = 200 if sources == 1 else 1000
        for _ in range(5):
            before = await read_counters(7)
            sent, arrived, pause_s = _storm(opened, frames)
            if pause_s < _PAUSE_S:
                break
            await asyncio.sleep(1.5)
        assert pause_s < _PAUSE_S, "this machine stood still each time"
        most = max(sum(at <= other < at + 1.0 for other in arrived) for at in arrived[::50])
        print(
            f"{sent} broadcasts of {sources} stations: {len(arrived)} crossed, {most} in a second"
        )
        assert sent > 3 * cap, "the sender is too slow to prove anything"
        # Read on this side up to 20 sends later than they crossed.
        assert cap * 0.5 < most <= cap * 1.03
        after = await read_counters(7)
        kinds = ("source_storm_from_lan", "storm_from_lan")
        assert sum(after[kind] - before[kind] for kind in kinds) >= sent - len(arrived)
        if sources == 1:
            assert Seen("storm", "eth1", "02:cc:00:00:00:00") in (await read_noted(7)).seen

    bridged(tmp_path, Guards(), test)


def test_a_flood_of_macs_fills_no_table_and_costs_known_flows_nothing(tmp_path: Path) -> None:
    async def test(opened: Wire, netlink: AsyncIPRoute) -> None:
        known = [bytes(Ether(src=STATION, dst=VM) / Raw(b"%060d" % n)) for n in range(500)]
        flood = [
            b"\x02\x99\x99\x99\x99\x99\x02\xdd" + struct.pack("!I", n) + b"\x81\x37" + bytes(46)
            for n in range(20_000)
        ]
        arrived = 0
        for number, frame in enumerate(known):
            for each in flood[number * 40 : number * 40 + 40]:
                opened.send("lan", each)
            arrived += frame in opened.crossed("lan", [frame])
        held = await stations(netlink, 7)
        assert len(held) > 1000
        print(f"{arrived} of {len(known)} frames of a known flow; {len(held)} MACs held")
        assert arrived >= 0.99 * len(known)
        assert len(held) <= 1024

    bridged(tmp_path, Guards(), test)


def test_who_speaks_for_an_address_on_the_lan_is_noted_and_outlives_a_change(
    tmp_path: Path,
) -> None:
    asks = ARP(op="who-has", hwsrc=STATION, psrc="10.7.0.77", pdst="10.7.0.1")
    probes = ARP(op="who-has", hwsrc="02:bb:00:00:00:05", psrc="0.0.0.0", pdst="10.7.0.78")
    overlay = ARP(op="who-has", hwsrc=VM, psrc="10.7.0.5", pdst="10.7.0.77")
    neighbour = IPv6(src="fd00:7::77", dst="ff02::1:ff00:1") / ICMPv6ND_NS(tgt="fd00:7::1")
    local = IPv6(src="fe80::77", dst="ff02::1:ff00:1") / ICMPv6ND_NS(tgt="fd00:7::1")
    tentative = IPv6(src="::", dst="ff02::1:ff00:78") / ICMPv6ND_NS(tgt="fd00:7::78")

    async def test(opened: Wire, netlink: AsyncIPRoute) -> None:
        from_lan = [
            bytes(Ether(src=STATION, dst=_TO_ALL) / asks),
            bytes(Ether(src="02:bb:00:00:00:05", dst=_TO_ALL) / probes),
            bytes(Ether(src=STATION, dst="33:33:ff:00:00:01") / neighbour),
            bytes(Ether(src=STATION, dst="33:33:ff:00:00:01") / local),
            bytes(Ether(src=STATION, dst="33:33:ff:00:00:78") / tentative),
        ]
        assert len(opened.crossed("lan", from_lan)) == 5
        assert len(opened.crossed("overlay", [bytes(Ether(src=VM, dst=_TO_ALL) / overlay)])) == 1
        expected = {STATION: ("10.7.0.77", "fd00:7::77")}
        assert (await read_noted(7)).addresses == expected
        journal = Journal(tmp_path / "bridges.json")
        changed: dict[str, Any] = {"guards": Guards(bum_pps=500)}
        assert (await ensure_bridges(netlink, [wanted(**changed)], journal))[7].error is None
        assert (await read_noted(7)).addresses == expected
        assert (await read_noted(8)).addresses == {}

        await asyncio.sleep(1.2)  # the kernel tells whole seconds
        other = "02:bb:00:00:00:06"
        taken = ARP(op="who-has", hwsrc=other, psrc="10.7.0.77", pdst="10.7.0.77")
        assert len(opened.crossed("lan", [bytes(Ether(src=other, dst=_TO_ALL) / taken)])) == 1
        moved = {STATION: ("fd00:7::77",), other: ("10.7.0.77",)}
        assert (await read_noted(7)).addresses == moved

    bridged(tmp_path, Guards(), test)


def test_counters_and_what_was_seen_outlive_a_change_of_the_guards(tmp_path: Path) -> None:
    async def test(opened: Wire, netlink: AsyncIPRoute) -> None:
        rogue = bytes(Ether(src="02:ee:00:00:00:01", dst=_TO_ALL) / _dhcp("offer"))
        assert opened.crossed("lan", [rogue]) == []
        counted = (await read_counters(7))["dhcp_from_lan"]
        journal = Journal(tmp_path / "bridges.json")
        changed: dict[str, Any] = {"guards": Guards(bum_pps=500), "overlay_macs": frozenset()}
        assert (await ensure_bridges(netlink, [wanted(**changed)], journal))[7].error is None
        assert (await read_counters(7))["dhcp_from_lan"] == counted == 1
        assert (await read_noted(7)).seen == (Seen("rogue_dhcp", "eth1", "02:ee:00:00:00:01"),)

    bridged(tmp_path, Guards(), test)


def test_a_bridge_is_guarded_until_it_has_been_taken_apart(tmp_path: Path) -> None:
    async def test(opened: Wire, netlink: AsyncIPRoute) -> None:
        rogue = bytes(Ether(src="02:ee:00:00:00:01", dst=_TO_ALL) / _dhcp("offer"))
        journal = Journal(tmp_path / "bridges.json")
        await ensure_bridges(netlink, [], journal)
        assert opened.crossed("lan", [rogue]) == []
        # One that fails now has been made before.
        failing = wanted(guards=Guards(dhcp=True), port="eth1", tap="cairn9")
        assert (await ensure_bridges(netlink, [failing], journal))[7].error is not None
        assert opened.crossed("lan", [rogue]) == [rogue], "as it is wanted now"
        await remove_other_bridges(netlink, [], journal)
        assert run("nft", "list", "ruleset") == ""

    bridged(tmp_path, Guards(), test)


def test_guards_that_somebody_flushed_are_loaded_again(tmp_path: Path) -> None:
    async def test(opened: Wire, netlink: AsyncIPRoute) -> None:
        rogue = bytes(Ether(src="02:ee:00:00:00:01", dst=_TO_ALL) / _dhcp("offer"))
        run("nft", "flush", "ruleset")
        assert opened.crossed("lan", [rogue]) == [rogue]
        journal = Journal(tmp_path / "bridges.json")
        assert (await ensure_bridges(netlink, [wanted()], journal))[7].error is None
        assert opened.crossed("lan", [rogue]) == []

    bridged(tmp_path, Guards(), test)
