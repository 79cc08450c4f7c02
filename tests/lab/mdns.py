"""Multicast DNS as a stand-alone script: an answerer and a question.

`python -I -S mdns.py answer OWN_ADDRESS NAME` answers A questions for NAME.local with its
own address (RFC 6762: to the group). `python -I -S mdns.py ask OWN_ADDRESS NAME` asks, and
prints the address that came back.
"""

import socket
import struct
import sys
import time

_GROUP, _PORT = "224.0.0.251", 5353


def name_octets(name: str) -> bytes:
    """Return NAME.local in DNS labels."""
    labels = [name.encode(), b"local"]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def question(name: str) -> bytes:
    """Return a query for the A record."""
    return struct.pack("!6H", 0, 0, 1, 0, 0, 0) + name_octets(name) + struct.pack("!2H", 1, 1)


def answer(name: str, address: str) -> bytes:
    """Return the response: authoritative, one A record, cache-flush bit, TTL 120 s."""
    record = name_octets(name) + struct.pack("!HHIH", 1, 0x8001, 120, 4)
    header = struct.pack("!6H", 0, 0x8400, 0, 1, 0, 0)
    return header + record + socket.inet_aton(address)


def group_socket(own: str) -> socket.socket:
    """Return a socket that has joined the group on the interface with address `own`."""
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    opened.bind(("", _PORT))
    membership = socket.inet_aton(_GROUP) + socket.inet_aton(own)
    opened.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
    opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(own))
    opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 0)
    opened.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
    return opened


def serve(own: str, name: str) -> None:
    """Answer until killed."""
    opened = group_socket(own)
    print("ready", flush=True)
    while True:
        if opened.recv(2000) == question(name):
            opened.sendto(answer(name, own), (_GROUP, _PORT))


def ask(own: str, name: str) -> int:
    """Ask up to three times, a second apart; print the address that was answered."""
    opened = group_socket(own)
    prefix = answer(name, "0.0.0.0")[:-4]
    opened.settimeout(0.2)
    for _ in range(3):
        opened.sendto(question(name), (_GROUP, _PORT))
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            try:
                octets = opened.recv(2000)
            except TimeoutError:
                continue
            if octets.startswith(prefix):
                print(socket.inet_ntoa(octets[-4:]))
                return 0
    return 1


if __name__ == "__main__":
    if sys.argv[1] == "answer":
        serve(sys.argv[2], sys.argv[3])
    sys.exit(ask(sys.argv[2], sys.argv[3]))
