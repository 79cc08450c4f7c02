"""Listens on a port, promiscuously, and sends nothing: the ears of the pre-flight."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from typing import Final

from cairn_agent.errors import Environment
from cairn_agent.gateway.ports import open_listener

_SOL_PACKET: Final = 263
_ADD_MEMBERSHIP, _AUXDATA, _VNET_HDR = 1, 8, 15
_MR_PROMISC: Final = 1
_VLAN_VALID: Final = 1 << 4  # TP_STATUS_ of the auxiliary data
_AUX: Final = struct.Struct("=IIIHHHH")  # status, length, kept, MAC, network, TCI, TPID
_VIRTIO: Final = struct.Struct("=BBHHHH")  # flags, GSO type, header, segment, checksum
_KEPT: Final = 512  # octets of a frame that are looked at; DHCP's options begin at 282
_BATCH: Final = 64

Take = Callable[[bytes, int, int], None]


async def listen(port: str, seconds: float, take: Take) -> float:
    """Give each frame to `take` (beginning, length, VLAN); return for how long it listened.

    Raises Environment where the port isn't there or isn't up: it is not touched.
    """
    loop = asyncio.get_running_loop()
    with open_listener(port) as opened:
        _set_up(opened, port)
        begun = loop.time()
        gone: asyncio.Future[None] = loop.create_future()

        def readable() -> None:
            try:
                for _ in range(_BATCH):
                    _take_one(opened, take)
            except BlockingIOError:
                return
            except OSError as error:
                if not gone.done():
                    gone.set_exception(
                        Environment(f"{port} went away: {error.strerror}", "look at the cable")
                    )

        loop.add_reader(opened, readable)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await gone
        finally:
            loop.remove_reader(opened)
        return loop.time() - begun


def _set_up(opened: socket.socket, port: str) -> None:
    index = socket.if_nametoindex(port)
    membership = struct.pack("=IHH8s", index, _MR_PROMISC, 0, b"")
    try:
        opened.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, membership)
        opened.setsockopt(_SOL_PACKET, _AUXDATA, 1)
        opened.setsockopt(_SOL_PACKET, _VNET_HDR, 1)
    except OSError as error:
        raise Environment(
            f"{port} can't be listened on: {error.strerror}", f"set it up: ip link set {port} up"
        ) from error


def _take_one(opened: socket.socket, take: Take) -> None:
    octets, extra, _, _ = opened.recvmsg(_VIRTIO.size + _KEPT, 256)
    if len(octets) < _VIRTIO.size:
        return
    frame = octets[_VIRTIO.size :]
    _, gso, header, segment, _, _ = _VIRTIO.unpack_from(octets)
    length, tag = len(frame), 0
    for level, kind, data in extra:
        if (level, kind) == (_SOL_PACKET, _AUXDATA) and len(data) >= _AUX.size:
            status, length, _, _, _, tci, _ = _AUX.unpack_from(data)
            tag = tci & 0x0FFF if status & _VLAN_VALID else 0
    if gso:
        length = min(length, header + segment)  # as it was on the wire, before the kernel joined
    if not tag and frame[12:14] == b"\x81\x00" and len(frame) >= 18:
        tag = int.from_bytes(frame[14:16], "big") & 0x0FFF
        frame, length = frame[:12] + frame[16:], length - 4
    take(frame, length, tag)
