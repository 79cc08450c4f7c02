"""Takes a trunk's VLANs apart, for kernels that have no VLAN devices; a stand-alone script.

`trunk.py NIC VLAN=INTERFACE ...`: what comes in by the NIC with a VLAN's tag goes out by the
interface without it, and what comes in by the interface goes out by the NIC with the tag.
"""

import select
import socket
import struct
import sys

_PACKET, _AUXDATA, _IGNORE_OUTGOING = 263, 8, 23
_VLAN_VALID, _TAG = 0x10, 0x8100


def opened(interface: str) -> socket.socket:
    """Return a socket that hears what comes in by an interface."""
    found = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    found.setsockopt(_PACKET, _AUXDATA, 1)
    found.setsockopt(_PACKET, _IGNORE_OUTGOING, 1)
    found.bind((interface, 3))
    return found


def received(heard: socket.socket) -> tuple[int, bytes]:
    """Return (VLAN, frame without its tag); 0 where it had none."""
    octets, ancillary, _, _ = heard.recvmsg(65_600, 256)
    for _level, kind, data in ancillary:
        if kind == _AUXDATA:
            status, _, _, _, _, tci, _ = struct.unpack("IIIHHHH", data)
            if status & _VLAN_VALID:
                return tci & 0xFFF, octets
    return 0, octets


def main() -> None:
    """Relay until killed."""
    nic = opened(sys.argv[1])
    named = (argument.partition("=") for argument in sys.argv[2:])
    ports = {int(vlan): opened(interface) for vlan, _, interface in named}
    print("ready", flush=True)
    while True:
        for heard in select.select([nic, *ports.values()], [], [])[0]:
            try:
                vlan, octets = received(heard)
            except OSError:  # the interface was set down; it comes up again
                continue
            if heard is nic:
                if vlan in ports:
                    ports[vlan].send(octets)
                continue
            tag = next(vlan for vlan, port in ports.items() if port is heard)
            nic.send(octets[:12] + struct.pack("!HH", _TAG, tag) + octets[12:])


if __name__ == "__main__":
    main()
