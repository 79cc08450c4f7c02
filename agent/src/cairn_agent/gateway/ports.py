"""Packet sockets on the LAN port and on the TAP: loop probes in and out, announcements out.

A socket gets what comes in by its interface before the bridge does, also on a port that is
blocked. Only loop probes are let in, by a filter in the kernel; of those, so many a second.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import logging
import socket
import struct
from types import TracebackType
from typing import Final, Self

from cairn_agent.errors import Environment
from cairn_agent.gateway.probe import ETHERTYPE, GROUP

log = logging.getLogger(__name__)

_ETH_P_ALL: Final = 0x0003
_SOL_PACKET: Final = 263
_PACKET_IGNORE_OUTGOING: Final = 23
_SO_ATTACH_FILTER: Final = 26
_VLAN_TAG_PRESENT: Final = 0xFFFFF000 + 48  # SKF_AD_OFF + SKF_AD_VLAN_TAG_PRESENT
_LOAD_WORD, _LOAD_HALF, _JUMP_EQUAL, _RETURN = 0x20, 0x28, 0x15, 0x06
_HEADER: Final = 14
_MOST_OCTETS: Final = 2048
_MOST_A_SECOND: Final = 500  # 16 gateways speak 80 times; more is a loop or an attack
_BUFFER_OCTETS: Final = 256 * 1024
_GONE: Final = frozenset({errno.ENETDOWN, errno.ENXIO, errno.ENODEV, errno.ENOBUFS, errno.EAGAIN})


class ProbePort:
    """One interface's socket; made by `open_port`, a context manager."""

    def __init__(self, interface: str, opened: socket.socket, source: str) -> None:
        self.interface = interface
        self._socket = opened
        self._prefix = _octets(GROUP) + _octets(source) + ETHERTYPE.to_bytes(2, "big")
        self._second = 0
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def send_probe(self, payload: bytes) -> None:
        """Send a loop probe; one that can't be sent is lost, as on the wire."""
        self.send(self._prefix + payload)

    def send(self, frame: bytes) -> None:
        """Send a frame; lost where the interface is down or its queue full."""
        try:
            self._socket.send(frame)
        except OSError as error:
            if error.errno not in _GONE:
                log.warning("a frame can't be sent port=%s: %s", self.interface, error)

    async def payload(self) -> bytes:
        """Return the payload of the next loop probe; raise Environment where the port is gone."""
        loop = asyncio.get_running_loop()
        while True:
            second = int(loop.time())
            if second != self._second:
                self._second, self._count = second, 0
            if self._count >= _MOST_A_SECOND:
                await asyncio.sleep(second + 1 - loop.time())
                continue
            self._count += 1
            try:
                frame = await loop.sock_recv(self._socket, _MOST_OCTETS)
            except OSError as error:
                if error.errno == errno.ENETDOWN:  # told once; it goes on when it is up again
                    continue
                raise _gone(self.interface, error) from error
            return frame[_HEADER:]


def open_port(interface: str, source: str) -> ProbePort:
    """Open an interface for probes that have the MAC `source`; raise Environment."""
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    try:
        opened.setblocking(False)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_OCTETS)
        opened.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        _attach(opened, _only_probes())
        opened.bind((interface, _ETH_P_ALL))
    except OSError as error:
        opened.close()
        raise _gone(interface, error) from error
    return ProbePort(interface, opened, source)


def open_listener(interface: str) -> socket.socket:
    """Return a socket that gets all frames of an interface; raise Environment."""
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    try:
        opened.setblocking(False)
        opened.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        opened.bind((interface, _ETH_P_ALL))
    except OSError as error:
        opened.close()
        raise _gone(interface, error) from error
    return opened


def _only_probes() -> list[tuple[int, int, int, int]]:
    """Return the filter: untagged, our EtherType, to our group.

    What the NIC took a tag off is another VLAN's, which has a socket of its own.
    """
    group = _octets(GROUP)
    return [
        (_LOAD_WORD, 0, 0, _VLAN_TAG_PRESENT),
        (_JUMP_EQUAL, 0, 7, 0),
        (_LOAD_HALF, 0, 0, 12),
        (_JUMP_EQUAL, 0, 5, ETHERTYPE),
        (_LOAD_WORD, 0, 0, 0),
        (_JUMP_EQUAL, 0, 3, int.from_bytes(group[:4], "big")),
        (_LOAD_HALF, 0, 0, 4),
        (_JUMP_EQUAL, 0, 1, int.from_bytes(group[4:], "big")),
        (_RETURN, 0, 0, _MOST_OCTETS),
        (_RETURN, 0, 0, 0),
    ]


def _attach(opened: socket.socket, program: list[tuple[int, int, int, int]]) -> None:
    octets = b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
    buffer = ctypes.create_string_buffer(octets)
    fprog = struct.pack("@HP", len(program), ctypes.addressof(buffer))
    opened.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)


def _octets(mac: str) -> bytes:
    return bytes.fromhex(mac.replace(":", ""))


def _gone(interface: str, error: OSError) -> Environment:
    if error.errno in (errno.EPERM, errno.EACCES):
        return Environment(f"listening on {interface} is not permitted", "run as root")
    return Environment(
        f"{interface} can't be listened on: {error.strerror}", "check that it is there (ip link)"
    )
