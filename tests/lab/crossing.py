"""Numbered frames across a gateway, and when the kernel saw them; a stand-alone script.

`send INTERVAL_MS INTERFACE=LABEL ...` sends a numbered broadcast out of each interface every so
often, until SIGTERM. `watch FILE INTERFACE ...` appends a record to FILE for each such frame that
comes *in* by an interface: when (CLOCK_REALTIME in nanoseconds, by the kernel), by which
interface (its place in the list), the frame's label and its number.
"""

import contextlib
import select
import signal
import socket
import struct
import sys
import time

ETHERTYPE = 0x88B6  # IEEE 802 local experimental 2; gateways keep the other for themselves
RECORD = struct.Struct("=QBBxxI")

_FRAME = struct.Struct("!6s6sH4sBI")
_MAGIC = b"crss"
_LEAST = 60
_ALL = 0x0003  # ETH_P_ALL
_PACKET, _IGNORE_OUTGOING, _TIMESTAMPNS, _RCVBUFFORCE = 263, 23, 35, 33


def _opened(interface: str, protocol: int) -> socket.socket:
    """Return a packet socket of an interface; protocol 0 hears nothing."""
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    opened.setblocking(False)
    opened.bind((interface, protocol))
    return opened


def send(interval_s: float, places: dict[str, int]) -> None:
    """Send on a fixed grid until stopped; what was missed is not made up for."""
    stopping: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopping.append(number))
    ports = [(_opened(interface, 0), label) for interface, label in places.items()]
    # The TAP of a member may send with its own MAC only; a switch's port speaks for any station.
    sources = [
        port.getsockname()[4] if len(ports) == 1 else bytes([2, 0xC3, 0, 0, 0, label])
        for port, label in ports
    ]
    print("ready", flush=True)
    number, due = 0, time.monotonic()
    while not stopping:
        for (port, label), source in zip(ports, sources, strict=True):
            frame = _FRAME.pack(b"\xff" * 6, source, ETHERTYPE, _MAGIC, label, number)
            with contextlib.suppress(OSError):  # the cable is out
                port.send(frame.ljust(_LEAST, b"\0"))
        number += 1
        due = max(due + interval_s, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))


def watch(file: str, interfaces: list[str]) -> None:
    """Note what comes in until killed."""
    ports = {}
    for place, interface in enumerate(interfaces):
        port = _opened(interface, _ALL)  # one for an EtherType comes after the bridge: too late
        port.setsockopt(_PACKET, _IGNORE_OUTGOING, 1)
        port.setsockopt(socket.SOL_SOCKET, _TIMESTAMPNS, 1)
        port.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, 8 << 20)
        ports[port] = place
    print("ready", flush=True)
    with open(file, "ab", buffering=0) as out:  # noqa: PTH123 - no pathlib in a fast script
        while True:
            for port in select.select(list(ports), [], [])[0]:
                record = _record(port, ports[port])
                if record:
                    out.write(record)


def _record(port: socket.socket, place: int) -> bytes:
    try:
        octets, ancillary, _, _ = port.recvmsg(2048, 256)
    except OSError:  # the interface was set down
        return b""
    if len(octets) < _FRAME.size:
        return b""
    _, _, ethertype, magic, label, number = _FRAME.unpack_from(octets)
    if (ethertype, magic) != (ETHERTYPE, _MAGIC):
        return b""
    for _level, kind, data in ancillary:
        if kind == _TIMESTAMPNS:
            seconds, nanoseconds = struct.unpack("=qq", data)
            return RECORD.pack(seconds * 10**9 + nanoseconds, place, label, number)
    return b""


if __name__ == "__main__":
    if sys.argv[1] == "send":
        named = (argument.partition("=") for argument in sys.argv[3:])
        send(float(sys.argv[2]) / 1000, {name: int(label) for name, _, label in named})
    else:
        watch(sys.argv[2], sys.argv[3:])
