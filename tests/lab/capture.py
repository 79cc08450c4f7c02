"""A running tcpdump, and the packets of its file."""

from __future__ import annotations

import contextlib
import signal
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.lab.errors import LabError, NotInTimeError
from tests.lab.program import Program
from tests.lab.wait import until

_IPV4, _IPV6, _TCP, _UDP = 0x0800, 0x86DD, 6, 17
_READ_WITHIN_S = 20.0


@dataclass(frozen=True, slots=True)
class Packet:
    """One captured Ethernet frame; the IP fields are empty where it is none."""

    at: float  # seconds since the epoch
    frame: bytes
    ethertype: int
    source: bytes = b""
    destination: bytes = b""
    protocol: int = 0
    source_port: int = 0
    destination_port: int = 0
    payload: bytes = b""  # of UDP or TCP


class Capture:
    """tcpdump into a file; `stop` ends it cleanly, `packets` reads the file."""

    def __init__(self, program: Program, file: Path) -> None:
        self.file = file
        self.program = program

    def stop(self) -> Path:
        """End the capture with everything written that came until now; return the file."""
        # At a signal it leaves unread what the kernel has for it: it sleeps once that is nothing.
        with contextlib.suppress(NotInTimeError):
            until("all is read", self.program.is_asleep, within_s=_READ_WITHIN_S)
        self.program.stop(number=signal.SIGINT)
        return self.file

    def packets(self) -> list[Packet]:
        """Stop and return all packets of the capture."""
        self.stop()
        return list(read_pcap(self.file))


def read_pcap(file: Path) -> Iterator[Packet]:
    """Yield the packets of a little-endian pcap file of Ethernet frames, as tcpdump writes."""
    octets = file.read_bytes()
    if len(octets) < 24:
        return
    magic, link = struct.unpack_from("<I16xI", octets)
    if magic != 0xA1B2C3D4 or link != 1:
        raise LabError(f"{file} is no Ethernet pcap file")
    offset = 24
    while offset + 16 <= len(octets):
        seconds, micros, length = struct.unpack_from("<III", octets, offset)
        frame = octets[offset + 16 : offset + 16 + length]
        if len(frame) < length:
            return  # the last record was being written when tcpdump was killed
        yield parse(frame, seconds + micros / 1e6)
        offset += 16 + length


def parse(frame: bytes, at: float = 0.0) -> Packet:
    """Return the frame with the IP and UDP/TCP fields that it has."""
    if len(frame) < 14:
        return Packet(at, frame, 0)
    ethertype = int.from_bytes(frame[12:14], "big")
    if ethertype == _IPV4 and len(frame) >= 34:
        start = 14 + (frame[14] & 15) * 4
        first = int.from_bytes(frame[20:22], "big") & 0x1FFF == 0
        end = 14 + int.from_bytes(frame[16:18], "big")
        addresses, protocol = (frame[26:30], frame[30:34]), frame[23]
    elif ethertype == _IPV6 and len(frame) >= 54:
        start, first, end = 54, True, 54 + int.from_bytes(frame[18:20], "big")
        addresses, protocol = (frame[22:38], frame[38:54]), frame[20]
    else:
        return Packet(at, frame, ethertype)
    body = frame[start:end] if first else b""
    if protocol not in (_TCP, _UDP) or len(body) < 8:
        return Packet(at, frame, ethertype, *addresses, protocol)
    source_port, destination_port = struct.unpack_from("!HH", body)
    header = 8 if protocol == _UDP else (body[12] >> 4) * 4 if len(body) > 12 else len(body)
    return Packet(
        at,
        frame,
        ethertype,
        *addresses,
        protocol,
        source_port=source_port,
        destination_port=destination_port,
        payload=body[header:],
    )
