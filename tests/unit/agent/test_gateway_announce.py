"""What a gateway says when it takes over, as another implementation reads it."""

from __future__ import annotations

import asyncio

import pytest
from cairn_agent.gateway.announce import binding_frames, paced, station_frames
from cairn_agent.netmap.held import HeldMember, HeldVSubnet
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6NDOptDstLLAddr, IPv6
from scapy.layers.l2 import ARP, Ether

from tests.unit.agent.fakes.netmaps import header, member


def _vsubnet() -> HeldVSubnet:
    members = [
        member(1, ips=["10.7.0.1/24", "fd00:7::1/64"]),
        member(2, role="gateway", ips=[]),
        member(3, ips=["fd00:7::3/64"]),
    ]
    held = {each.node_id: HeldMember(b"", b"", each) for each in members}
    return HeldVSubnet(b"", header(), held, 1, "", "")


def test_each_station_is_said_to_be_here() -> None:
    (frame,) = map(Ether, station_frames(["02:aa:00:00:00:01"]))
    assert (frame.src, frame.dst, frame.type) == ("02:aa:00:00:00:01", "ff:ff:ff:ff:ff:ff", 0x8035)
    request = ARP(bytes(frame.payload))
    assert (request.op, request.hwsrc, request.hwdst) == (3, frame.src, frame.src)


def test_each_host_of_the_overlay_is_said_to_be_here_and_no_gateway() -> None:
    frames = list(map(Ether, binding_frames(_vsubnet())))
    arps = [frame for frame in frames if frame.type == 0x0806]
    (arp,) = arps
    assert (arp.src, arp[ARP].psrc, arp[ARP].pdst) == (
        "02:00:00:00:00:01",
        "10.7.0.1",
        "10.7.0.1",
    )
    advertised = {(frame.src, frame[ICMPv6ND_NA].tgt) for frame in frames if IPv6 in frame}
    assert ("02:00:00:00:00:01", "fd00:7::1") in advertised
    assert ("02:00:00:00:00:03", "fd00:7::3") in advertised
    assert ("02:00:00:00:00:03", "fe80::ff:fe00:3") in advertised
    assert not any(frame.src == "02:00:00:00:00:02" for frame in frames)
    no_ipv4 = [frame.src for frame in frames if frame.type == 0x8035]
    assert no_ipv4 == ["02:00:00:00:00:03"], "a switch must learn where it is all the same"


def test_an_advertisement_is_whole() -> None:
    frames = [Ether(frame) for frame in binding_frames(_vsubnet())]
    first = next(frame for frame in frames if ICMPv6ND_NA in frame)
    assert first[IPv6].hlim == 255 and first[IPv6].dst == "ff02::1"
    assert first[ICMPv6ND_NA].O == 1 and first[ICMPv6ND_NA].S == 0
    assert first[ICMPv6NDOptDstLLAddr].lladdr == first.src
    sum_as_sent = first[ICMPv6ND_NA].cksum
    del first[ICMPv6ND_NA].cksum
    assert Ether(bytes(first))[ICMPv6ND_NA].cksum == sum_as_sent


async def test_no_more_than_500_a_second_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    sent: list[bytes] = []
    await paced(sent.append, [b"frame"] * 1000)
    assert len(sent) == 1000 and sum(slept) >= 1000 / 500 - 0.01
