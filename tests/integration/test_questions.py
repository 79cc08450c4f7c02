"""Who has this address? Answered where it is asked, from what the netmap binds (RFC 9161).

a --- [lan] --- b
"""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.integration.test_dataplane import BINARY, LIVING, TAP, Node, frame, two_nodes
from tests.lab import Lab, Packet, until

pytestmark = [pytest.mark.root, pytest.mark.tun]

_ARP, _ICMPV6, _VLAN = 0x0806, 58, 0x8100
_REQUEST, _REPLY, _SOLICITATION = 1, 2, 135
BROADCAST = "ff:ff:ff:ff:ff:ff"
NOBODY = "0.0.0.0"


@pytest.fixture
def nodes() -> Iterator[tuple[Node, Node]]:
    """Two nodes whose hosts have not spoken yet."""
    if not BINARY.exists():
        pytest.fail(f"{BINARY} is not built; run make setup")
    with Lab("questions") as lab:
        yield two_nodes(lab, "46")
        while LIVING:
            LIVING.pop().disconnect()


def arp(node: Node, operation: int, sender: str, target: str) -> bytes:
    """Return an ARP packet of the node's."""
    mac = bytes.fromhex(node.mac.replace(":", ""))
    head = bytes.fromhex("0001080006040000")[:6] + operation.to_bytes(2, "big")
    return head + mac + socket.inet_aton(sender) + bytes(6) + socket.inet_aton(target)


def is_question(packet: Packet, asker: Node) -> bool:
    """Say whether the asker asks everybody for an address."""
    octets = packet.frame
    to_group = octets[0] & 1 == 1 and octets[6:12].hex(":") == asker.mac
    by_arp = packet.ethertype == _ARP and octets[21] == _REQUEST
    by_nd = packet.protocol == _ICMPV6 and octets[54] == _SOLICITATION
    return to_group and (by_arp or by_nd)


def test_a_bound_address_is_found_without_asking_anybody(nodes: tuple[Node, Node]) -> None:
    a, b = nodes
    seen = b.host.capture(TAP)
    asked = a.host.capture(TAP)

    assert a.pings(b.ips[0]) and a.pings(b.ips[1])

    assert len([one for one in asked.packets() if is_question(one, a)]) >= 2
    assert [one for one in seen.packets() if is_question(one, a)] == []
    counters = a.stats()["vsubnets"][0]["counters"]
    assert counters["arp_answered"] >= 1 and counters["nd_answered"] >= 1
    for address in b.ips:
        assert b.mac in a.host.run(["ip", "neigh", "show", address]).stdout


def test_an_answer_has_the_tags_of_its_question(nodes: tuple[Node, Node]) -> None:
    a, b = nodes
    seen = a.host.capture(TAP, what="vlan")
    question = arp(a, _REQUEST, a.ips[0], b.ips[0])
    tag = bytes.fromhex("a02a") + _ARP.to_bytes(2, "big")
    a.send(frame(a.mac, BROADCAST, _VLAN, tag + question))

    mac = bytes.fromhex(b.mac.replace(":", ""))
    answer = frame(b.mac, a.mac, _VLAN, tag + question[:6] + _REPLY.to_bytes(2, "big") + mac)
    until("an answer", lambda: answer in seen.file.read_bytes(), within_s=5)


def test_what_concerns_the_owner_or_everybody_arrives_there(nodes: tuple[Node, Node]) -> None:
    a, b = nodes
    assert a.pings(b.ips[0])
    seen = b.host.capture(TAP, what="arp")
    frames = [
        frame(a.mac, b.mac, _ARP, arp(a, _REQUEST, a.ips[0], b.ips[0])),  # a neighbour is probed
        frame(a.mac, BROADCAST, _ARP, arp(a, _REQUEST, NOBODY, b.ips[0])),  # is it a duplicate?
        frame(a.mac, BROADCAST, _ARP, arp(a, _REQUEST, a.ips[0], a.ips[0])),  # an announcement
        frame(a.mac, BROADCAST, _ARP, arp(a, _REQUEST, a.ips[0], "10.7.0.250")),  # bound to nobody
    ]
    a.send(*frames)
    until("all arrive", lambda: all(one in seen.file.read_bytes() for one in frames), within_s=5)
    answers = [one.frame for one in seen.packets() if one.frame[:12].hex(":") == f"{a.mac}:{b.mac}"]
    assert len(answers) >= 2, "the owner answers the probe and defends its address"


def test_a_duplicate_address_is_noticed(nodes: tuple[Node, Node]) -> None:
    a, b = nodes
    assert a.pings(b.ips[1])
    b.host.sysctl(**{f"net__ipv6__conf__{TAP}__accept_dad": "1"})
    b.host.ip(f"addr add {a.ips[1]}/64 dev {TAP}")

    def is_noticed() -> bool:
        shown = b.host.run(["ip", "-6", "addr", "show", "dev", TAP]).stdout
        return "dadfailed" in shown

    until("the duplicate is noticed", is_noticed, within_s=5)
