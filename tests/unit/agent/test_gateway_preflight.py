"""Pre-flight: what is heard, what it means, and who takes care of it."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from cairn_agent.gateway.preflight import Analysis, Overlay, is_go
from cairn_agent.protocol.gateway import Finding, Guards
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.hsrp import HSRP
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_RA, IPv6
from scapy.layers.l2 import ARP, LLC, STP, Dot3, Ether
from scapy.layers.vrrp import VRRP
from scapy.packet import Packet, Raw

OVERLAY = Overlay(
    "prod", 1390, {"02:00:00:00:00:01": "vm1"}, {"10.7.0.1": "vm1", "fd00:7::1": "vm1"}
)
LAN = "02:aa:00:00:00:09"


def _found(frames: Iterable[Packet], guards: Guards | None = None) -> dict[str, Finding]:
    analysis = Analysis(OVERLAY, 0)
    for frame in frames:
        octets = bytes(frame)
        analysis.take(octets[:512], len(octets))
    return {each.code: each for each in analysis.findings(10.0, guards or Guards())}


def _arp(ip: str, mac: str = LAN) -> Packet:
    return Ether(src=mac, dst="ff:ff:ff:ff:ff:ff") / ARP(hwsrc=mac, psrc=ip, pdst="10.7.0.9")


@pytest.mark.parametrize(
    ("frame", "code", "level", "words"),
    [
        (
            Ether(src=LAN) / IP(src="10.7.0.53") / UDP(sport=67, dport=68) / BOOTP(op=2),
            "dhcp_server",
            "handled",
            ["10.7.0.53", LAN],
        ),
        (
            Ether(src=LAN) / IPv6(src="fe80::9", dst="ff02::1") / ICMPv6ND_RA(),
            "router_advertiser",
            "handled",
            ["fe80::9", LAN],
        ),
        (Dot3(src=LAN, dst="01:80:c2:00:00:00") / LLC() / STP(), "stp", "handled", [LAN]),
        (
            Ether(src="00:00:5e:00:01:2a") / IP(src="10.7.0.2", dst="224.0.0.18") / VRRP(vrid=42),
            "vrrp",
            "info",
            ["group 42", "10.7.0.2"],
        ),
        (
            Ether(src=LAN)
            / IP(src="10.7.0.2", dst="224.0.0.18", proto=112)
            / Raw(bytes([0x21, 5, 0, 7]) + bytes(32)),
            "carp",
            "info",
            ["group 5"],
        ),
        (
            Ether(src=LAN) / IP(src="10.7.0.3") / UDP(sport=1985, dport=1985) / HSRP(),
            "hsrp",
            "info",
            ["10.7.0.3"],
        ),
        (Ether(src="02:bf:0a:07:00:50") / IP(), "nlb", "handled", ["02:bf:0a:07:00:50"]),
        (_arp("10.7.0.1"), "duplicate_ip", "no_go", ["10.7.0.1", LAN, "vm1"]),
        (
            Ether(src=LAN) / IPv6(src="fe80::9", dst="ff02::1") / ICMPv6ND_NA(tgt="fd00:7::1"),
            "duplicate_ip",
            "no_go",
            ["fd00:7::1", "vm1"],
        ),
        (
            _arp("10.7.0.77", "02:00:00:00:00:01"),
            "duplicate_mac",
            "no_go",
            ["02:00:00:00:00:01", "vm1"],
        ),
        (
            Ether(src=LAN) / IP(src="10.7.0.3") / UDP() / Raw(bytes(1472)),
            "mtu",
            "handled",
            ["1,500", "1,390"],
        ),
    ],
)
def test_each_is_named_with_who_and_with_the_guard(
    frame: Packet, code: str, level: str, words: list[str]
) -> None:
    found = _found([frame])
    assert found[code].level == level and found[code].guard
    assert all(word in found[code].what for word in words), found[code].what
    assert is_go(list(found.values())) == (level != "no_go")


def test_an_ordinary_lan_is_a_go() -> None:
    frames = [_arp("10.7.0.50"), Ether(src=LAN) / IP(src="10.7.0.50") / UDP() / Raw(b"x")]
    found = _found(frames)
    assert set(found) == {"multicast"} and is_go(list(found.values()))


def test_a_relayed_request_of_dhcp_is_no_server() -> None:
    relayed = Ether(src=LAN) / IP(src="10.7.0.53") / UDP(sport=67, dport=67) / BOOTP(op=1)
    assert "dhcp_server" not in _found([relayed])


def test_a_dhcp_server_that_only_its_client_hears_is_known_by_the_clients_request() -> None:
    asks = Ether(src=LAN, dst="ff:ff:ff:ff:ff:ff") / IP(src="0.0.0.0", dst="255.255.255.255")
    asks /= UDP(sport=68, dport=67) / BOOTP(op=1)
    chosen = asks / DHCP(options=["pad", ("message-type", 3), ("server_id", "10.7.0.53"), "end"])
    found = _found([chosen])["dhcp_server"]
    assert "10.7.0.53" in found.what and LAN in found.what, found
    for options in (["end", ("server_id", "10.7.0.53")], [("message-type", 1)], []):
        assert "dhcp_server" not in _found([asks / DHCP(options=options)])


@given(st.binary(max_size=300))
def test_no_options_of_dhcp_break_it(options: bytes) -> None:
    asks = Ether(src=LAN) / IP() / UDP(sport=68, dport=67) / BOOTP(op=1, options=b"c\x82Sc")
    _found([asks / Raw(options)])


def test_what_is_allowed_across_is_not_said_to_be_handled() -> None:
    server = Ether(src=LAN) / IP(src="10.7.0.53") / UDP(sport=67, dport=68) / BOOTP(op=2)
    assert _found([server], Guards(dhcp=True))["dhcp_server"].level == "info"


def test_a_storm_is_named_with_its_limit() -> None:
    octets = bytes(_arp("10.7.0.50"))
    analysis = Analysis(OVERLAY, 0)
    for _ in range(20_000):
        analysis.take(octets, len(octets))
    found = {each.code: each for each in analysis.findings(10.0, Guards())}
    assert found["bum_rate"].level == "handled" and "1,000" in found["bum_rate"].guard


def test_only_the_vlan_that_is_asked_for_counts_and_others_are_named() -> None:
    analysis = Analysis(OVERLAY, 0)
    analysis.take(bytes(_arp("10.7.0.1")), 60, 20)
    (tags, silence) = sorted(analysis.findings(20.0, Guards()), key=lambda each: each.code)[::-1]
    assert tags.code == "vlan_tags" and "20" in tags.what and silence.code == "silence"
    tagged = Analysis(OVERLAY, 20)
    tagged.take(bytes(_arp("10.7.0.1")), 60, 20)
    assert not is_go(tagged.findings(20.0, Guards()))


@given(st.binary(max_size=300), st.integers(0, 65_535), st.integers(0, 4095))
def test_nothing_that_is_heard_breaks_it(octets: bytes, length: int, tag: int) -> None:
    analysis = Analysis(OVERLAY, tag % 2)
    analysis.take(octets, length, tag % 2)
    analysis.findings(1.0, Guards())


@given(
    st.sampled_from([0x0800, 0x0806, 0x86DD, 0x886F, 0x88B5]),
    st.binary(max_size=240),
)
def test_nothing_malformed_breaks_it(ethertype: int, payload: bytes) -> None:
    analysis = Analysis(OVERLAY, 0)
    frame = b"\xff" * 6 + b"\x02\xaa" + bytes(4) + ethertype.to_bytes(2, "big") + payload
    analysis.take(frame, len(frame))
    analysis.findings(1.0, Guards())


def test_without_the_members_it_says_what_it_could_not_compare() -> None:
    analysis = Analysis(Overlay.of(None), 0)
    analysis.take(bytes(_arp("10.7.0.1")), 60)
    analysis.take(bytes(Ether(src=LAN) / IP() / UDP() / Raw(bytes(1472))), 1514)
    found = {each.code for each in analysis.findings(10.0, Guards())}
    assert found == {"not_compared", "multicast"}
