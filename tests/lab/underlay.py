"""What a capture of the underlay shows, and what it must not show."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.lab.capture import Packet

PORT = 8002
_TCP, _UDP, _ICMPV6 = 6, 17, 58
_ARP, _IPV4, _IPV6 = 0x0806, 0x0800, 0x86DD
_TLS_RECORDS = {20, 21, 22, 23}  # change cipher spec, alert, handshake, application data
_ND_TYPES = {133, 134, 135, 136, 143}  # neighbour discovery and MLD reports of the link itself


@dataclass(slots=True)
class Findings:
    """Counts of what is allowed, and a line for each kind of packet that is not."""

    sealed: int = 0  # UDP 8002
    tls: int = 0  # TCP 8002
    link: int = 0  # ARP, ND, MLD of the underlay's own links
    foreign: Counter[str] = field(default_factory=Counter)

    @property
    def clean(self) -> bool:
        """True if something was captured and all of it is allowed."""
        return self.sealed > 0 and not self.foreign

    def __str__(self) -> str:
        seen = f"{self.sealed} datagrams UDP {PORT}, {self.tls} segments TCP {PORT}"
        foreign = "; ".join(f"{count} x {what}" for what, count in self.foreign.most_common(5))
        return f"{seen}; not allowed: {foreign}" if foreign else seen


def examine(packets: Iterable[Packet], plaintexts: Iterable[bytes] = ()) -> Findings:
    """Sort packets into what is allowed on the underlay and what is not.

    Allowed: UDP 8002 with the first octet of one of our messages, TCP 8002 (its streams are
    checked by `plain_tcp`), and the links' own ARP, ND and MLD. A packet that has one of
    `plaintexts` anywhere is foreign whatever else it is.
    """
    findings, needles = Findings(), list(plaintexts)
    for packet in packets:
        if any(needle in packet.frame for needle in needles):
            findings.foreign["plaintext inside"] += 1
        elif packet.protocol == _UDP and _is_ours(packet):
            findings.sealed += 1
        elif packet.protocol == _TCP and PORT in (packet.source_port, packet.destination_port):
            findings.tls += 1
        elif _is_link(packet):
            findings.link += 1
        else:
            findings.foreign[_describe(packet)] += 1
    return findings


def plain_tcp(packets: Iterable[Packet]) -> list[str]:
    """Return a line for each direction of a TCP 8002 stream that does not start with TLS."""
    started: dict[tuple[bytes, int, bytes, int], bytes] = {}
    for packet in packets:
        if packet.protocol != _TCP or not packet.payload:
            continue
        way = (packet.source, packet.source_port, packet.destination, packet.destination_port)
        started.setdefault(way, packet.payload)
    return [
        f"port {way[1]} to {way[3]} starts with {first[:8].hex()}"
        for way, first in started.items()
        if len(first) < 3 or first[0] not in _TLS_RECORDS or first[1] != 3
    ]


def _is_ours(packet: Packet) -> bool:
    if PORT not in (packet.source_port, packet.destination_port) or not packet.payload:
        return False
    return packet.payload[0] >> 4 == 1 and 1 <= packet.payload[0] & 15 <= 5


def _is_link(packet: Packet) -> bool:
    if packet.ethertype == _ARP:
        return True
    if packet.ethertype != _IPV6:
        return False
    if packet.frame[20] == 0:  # hop-by-hop: an MLD report has a router alert in it
        return packet.frame[54] == _ICMPV6 and packet.frame[62] in _ND_TYPES
    return packet.protocol == _ICMPV6 and packet.frame[54] in _ND_TYPES


def _describe(packet: Packet) -> str:
    if packet.ethertype not in (_IPV4, _IPV6):
        return f"EtherType {packet.ethertype:04x}"
    ends = f"{_text(packet.source)} to {_text(packet.destination)}"
    if packet.source_port:
        ends += f" ports {packet.source_port} to {packet.destination_port}"
    return f"IP protocol {packet.protocol} {ends}"


def _text(address: bytes) -> str:
    return str(ipaddress.ip_address(address))
