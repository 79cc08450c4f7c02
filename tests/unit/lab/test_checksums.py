"""The lab's own check of checksums, against frames that another program made."""

from __future__ import annotations

import importlib.util
import random
from types import ModuleType

import pytest
from scapy.layers import inet, inet6, l2

from tests.lab import ROOT, Packet
from tests.lab.checksums import TCP, UDP, verify

CONTENT = random.Random(1).randbytes(3001)


def frames(kind: str) -> list[bytes]:
    """Return what scapy makes of a packet."""
    ethernet, udp = l2.Ether(), inet.UDP(sport=1, dport=2) / CONTENT
    v4 = inet.IP(src="10.0.0.1", dst="10.0.0.2", options=[inet.IPOption(b"\x9e\x04ab")])
    v6 = inet6.IPv6(src="fd00::1", dst="fd00::2")
    tcp = inet.TCP(sport=1, dport=2, options=[("Timestamp", (1, 2))]) / CONTENT[:1001]
    options = inet6.IPv6ExtHdrHopByHop() / inet6.IPv6ExtHdrDestOpt()
    made = {
        "tcp4": [ethernet / v4 / tcp],
        "tagged": [ethernet / l2.Dot1AD(vlan=9) / l2.Dot1Q(vlan=5) / v6 / tcp],
        "options": [ethernet / v6 / options / tcp],
        "pieces4": inet.fragment(ethernet / v4 / udp, fragsize=1000),
        "pieces6": inet6.fragment6(
            ethernet / v6 / inet6.IPv6ExtHdrFragment() / inet6.IPv6ExtHdrDestOpt() / udp, 1400
        ),
    }
    return [bytes(packet) for packet in made[kind]]


def packets(octets: list[bytes]) -> list[Packet]:
    return [Packet(0.0, each, 0) for each in octets]


@pytest.mark.parametrize("kind", ["tcp4", "tagged", "options", "pieces4", "pieces6"])
def test_right_sums_are_right_and_a_changed_octet_is_seen(kind: str) -> None:
    made = frames(kind)
    verdict = verify(packets(made))
    assert (verdict.wrong, verdict.unfinished, len(verdict.segments)) == ([], 0, 1)
    assert verdict.segments[0].protocol == (UDP if "pieces" in kind else TCP)
    assert verdict.segments[0].tags == (2 if kind == "tagged" else 0)

    for number, frame in enumerate(made):
        changed = bytearray(frame)
        changed[-1] ^= 0x40
        wrong = verify(packets([*made[:number], bytes(changed), *made[number + 1 :]]))
        assert len(wrong.wrong) == 1
    if len(made) > 1:
        assert verify(packets(made[1:])).unfinished == 1


def sequence() -> ModuleType:
    """Return the stand-alone script as a module."""
    spec = importlib.util.spec_from_file_location("sequence", ROOT / "tests/lab/sequence.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_numbers_that_are_missing_doubled_or_late_are_counted() -> None:
    account = sequence().Account()
    for numbers in ([0, 1, 2], [5, 6], [4, 7, 6], [7, 8, 10]):
        account.take(numbers)
    counted = (account.received, account.doubled, account.reordered, account.next)
    assert counted == (11, 2, 1, 11)
    assert account.missing == {3, 9}
