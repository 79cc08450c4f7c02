"""What a gateway says when it takes over, so that traffic comes its way at once.

Into the overlay: each LAN station is behind this gateway now (RARP, as hypervisors do after a
VM has moved). Onto the LAN: each VM is behind this port now (gratuitous ARP, unsolicited
neighbour advertisement), so that switches send there. At most 500 frames in a second.
"""

from __future__ import annotations

import asyncio
import ipaddress
import struct
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from cairn_agent.netmap.desired import link_local
from cairn_agent.netmap.held import HeldVSubnet

_BROADCAST: Final = b"\xff" * 6
_ARP, _RARP, _IPV6 = 0x0806, 0x8035, 0x86DD
_ARP_HEAD: Final = struct.Struct("!HHBBH")
_OVERRIDE: Final = 0x2000_0000  # flags of a neighbour advertisement (RFC 4861 4.4)
_ALL_NODES: Final = ipaddress.IPv6Address("ff02::1")
_LEAST_OCTETS: Final = 60
_BATCH: Final = 5
_BATCH_S: Final = 0.01  # 5 each 10 ms: 500/s


def station_frames(macs: Iterable[str]) -> Iterator[bytes]:
    """Yield one RARP for each station."""
    for mac in sorted(macs):
        octets = _octets(mac)
        request = _ARP_HEAD.pack(1, 0x0800, 6, 4, 3) + octets + bytes(4) + octets + bytes(4)
        yield _frame(_BROADCAST, octets, _RARP, request)


def binding_frames(vsubnet: HeldVSubnet) -> Iterator[bytes]:
    """Yield what tells a LAN where the vSubnet's hosts are."""
    for member in vsubnet.readable():
        if member.role != "host":
            continue
        for mac in member.macs:
            yield from _of_mac(mac, member.ips if mac == member.macs[0] else [])


async def paced(send: Callable[[bytes], None], frames: Iterable[bytes]) -> None:
    """Send them, no faster than 500 in a second."""
    for number, frame in enumerate(frames, start=1):
        send(frame)
        if number % _BATCH == 0:
            await asyncio.sleep(_BATCH_S)


def _of_mac(mac: str, ips: Iterable[str]) -> Iterator[bytes]:
    octets = _octets(mac)
    addresses = {ipaddress.ip_address(ip.partition("/")[0]) for ip in [*ips, link_local(mac)]}
    for address in sorted(addresses, key=lambda a: (a.version, int(a))):
        if address.version == 4:
            packed = address.packed
            body = _ARP_HEAD.pack(1, 0x0800, 6, 4, 1) + octets + packed + bytes(6) + packed
            yield _frame(_BROADCAST, octets, _ARP, body)
        else:
            yield _advertisement(octets, address)
    if not any(address.version == 4 for address in addresses):
        yield from station_frames([mac])


def _advertisement(mac: bytes, address: ipaddress.IPv6Address) -> bytes:
    option = b"\x02\x01" + mac  # target link-layer address
    body = struct.pack("!BBHI", 136, 0, 0, _OVERRIDE) + address.packed + option
    pseudo = address.packed + _ALL_NODES.packed + struct.pack("!II", len(body), 58)
    body = body[:2] + _checksum(pseudo + body).to_bytes(2, "big") + body[4:]
    header = struct.pack("!IHBB", 6 << 28, len(body), 58, 255)
    packet = header + address.packed + _ALL_NODES.packed + body
    return _frame(b"\x33\x33\x00\x00\x00\x01", mac, _IPV6, packet)


def _checksum(octets: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(octets) // 2}H", octets))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _frame(destination: bytes, source: bytes, ethertype: int, payload: bytes) -> bytes:
    header = destination + source + ethertype.to_bytes(2, "big")
    return (header + payload).ljust(_LEAST_OCTETS, b"\0")


def _octets(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))
