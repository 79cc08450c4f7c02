"""Whether the checksums of captured frames are right, computed apart from everything else.

Looks through VLAN tags and IPv6 extension headers, and puts fragments together again: the sum of
a fragmented datagram is over all of them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace

from tests.lab.capture import Packet

TCP, UDP, ICMPV6 = 6, 17, 58
_IPV4, _IPV6, _TAGS = 0x0800, 0x86DD, (0x8100, 0x88A8)
_EXTENSIONS, _FRAGMENT = (0, 43, 60), 44
_SUMMED = (TCP, UDP, ICMPV6)


@dataclass(frozen=True, slots=True)
class Segment:
    """What an IP packet carries, or a piece of it."""

    addresses: bytes  # source and destination
    protocol: int
    octets: bytes
    header_is_right: bool = True  # of IPv4
    tags: int = 0  # of VLANs
    extensions: int = 0  # octets of IPv6 extension headers, or of IPv4 options
    ecn: int = 0
    piece_of: int | None = None  # the identification that all fragments of a packet have
    offset: int = 0
    is_last: bool = True

    @property
    def sum_is_right(self) -> bool:
        """Say whether the sum of a whole TCP or UDP segment is right; true for others."""
        if self.protocol not in _SUMMED:
            return True
        if self.protocol == UDP and self.octets[6:8] == b"\0\0" and len(self.addresses) == 8:
            return True  # none
        pseudo = self.addresses + struct.pack("!II", len(self.octets), self.protocol)
        return ones_sum(pseudo + self.octets) == 0xFFFF


def segment_of(frame: bytes) -> Segment | None:
    """Return what an IP packet carries; None if the frame has none."""
    at = 12
    while int.from_bytes(frame[at : at + 2], "big") in _TAGS:
        at += 4
    ethertype, octets = int.from_bytes(frame[at : at + 2], "big"), frame[at + 2 :]
    if ethertype == _IPV4:
        return _of_ipv4(octets, (at - 12) // 4)
    return _of_ipv6(octets, (at - 12) // 4) if ethertype == _IPV6 else None


def _of_ipv4(octets: bytes, tags: int) -> Segment:
    length, (size, number, place) = (octets[0] & 15) * 4, struct.unpack_from("!HHH", octets, 2)
    return Segment(
        octets[12:20],
        octets[9],
        octets[length:size],
        header_is_right=ones_sum(octets[:length]) == 0xFFFF,
        tags=tags,
        extensions=length - 20,
        ecn=octets[1] & 3,
        piece_of=number if place & 0x3FFF else None,
        offset=(place & 0x1FFF) * 8,
        is_last=not place & 0x2000,
    )


def _of_ipv6(octets: bytes, tags: int) -> Segment:
    protocol, body = _strip(octets[6], octets[40 : 40 + int.from_bytes(octets[4:6], "big")])
    segment = Segment(
        octets[8:40],
        protocol,
        body,
        tags=tags,
        extensions=int.from_bytes(octets[4:6], "big") - len(body),
        ecn=octets[1] >> 4 & 3,
    )
    if protocol != _FRAGMENT:
        return segment
    protocol, place, number = struct.unpack_from("!BxHI", body)
    return replace(
        segment,
        protocol=protocol,  # of the header that follows in the first piece
        octets=body[8:],
        piece_of=number,
        offset=place & 0xFFF8,
        is_last=not place & 1,
    )


def _strip(protocol: int, body: bytes) -> tuple[int, bytes]:
    """Return what comes after extension headers, and its protocol."""
    while protocol in _EXTENSIONS:
        protocol, body = body[0], body[8 * (1 + body[1]) :]
    return protocol, body


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found in a capture."""

    wrong: list[Segment]
    segments: list[Segment]  # whole ones: of fragments, what they make together
    unfinished: int  # packets of which a fragment is missing


def verify(packets: Iterable[Packet]) -> Verdict:
    """Check every sum of TCP, UDP and ICMPv6 and every IPv4 header."""
    wrong: list[Segment] = []
    whole: list[Segment] = []
    pieces: dict[tuple[bytes, int, int], list[Segment]] = {}
    for packet in packets:
        segment = segment_of(packet.frame)
        if segment is None:
            continue
        if not segment.header_is_right:
            wrong.append(segment)
        elif segment.piece_of is None:
            whole.append(segment)
        else:
            key = (segment.addresses, segment.piece_of, segment.tags)
            pieces.setdefault(key, []).append(segment)
            if (joined := _join(pieces[key])) is not None:
                whole.append(joined)
                del pieces[key]
    wrong += [segment for segment in whole if not segment.sum_is_right]
    return Verdict(wrong, whole, len(pieces))


def _join(pieces: list[Segment]) -> Segment | None:
    pieces = sorted(pieces, key=lambda piece: piece.offset)
    octets = b""
    for piece in pieces:
        if piece.offset != len(octets):
            return None
        octets += piece.octets
    if not pieces[-1].is_last:
        return None
    protocol, body = pieces[0].protocol, octets
    if len(pieces[0].addresses) > 8:
        protocol, body = _strip(protocol, octets)
    return replace(pieces[0], protocol=protocol, octets=body, piece_of=None, is_last=True)


def ones_sum(octets: bytes) -> int:
    """Return the sum of RFC 1071, not complemented."""
    padded = octets + bytes(len(octets) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total
