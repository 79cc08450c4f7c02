"""Moves octets that are known and says what arrived; a stand-alone script.

`receive KIND ADDRESS PORT` says `ready` and then prints how many octets came and their SHA-256;
`send KIND ADDRESS PORT` prints what it sent. KIND is `tcp` (one stream), `udp` (datagrams of 1 to
4,000 octets) or `train` (datagrams that the kernel divides, as QUIC sends them).
"""

import hashlib
import random
import socket
import sys
import time

_STREAM_OCTETS = 8_000_001
_SOL_UDP, _UDP_SEGMENT = 17, 103
_SEGMENT, _TRAINS, _TRAIN_OCTETS = 1201, 40, 30_007
_DATAGRAMS = 400
_END = b"end"


def _pieces(kind: str) -> list[bytes]:
    dice = random.Random(3)
    if kind == "tcp":
        return [dice.randbytes(_STREAM_OCTETS)]
    if kind == "train":
        return [dice.randbytes(_TRAIN_OCTETS) for _ in range(_TRAINS)]
    return [dice.randbytes(1 + size % 4000) for size in range(0, _DATAGRAMS * 97, 97)]


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _say(octets: int, digest: "hashlib._Hash") -> None:
    print(octets, digest.hexdigest(), flush=True)


def receive(kind: str, address: str, port: int) -> None:
    """Take everything, in the order in which it comes."""
    digest, octets = hashlib.sha256(), 0
    if kind == "tcp":
        listener = socket.create_server((address, port), family=_family(address))
        listener.settimeout(20)
        print("ready", flush=True)
        source, _ = listener.accept()
    else:
        source = socket.socket(_family(address), socket.SOCK_DGRAM)
        source.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        source.bind((address, port))
        print("ready", flush=True)
    source.settimeout(20)
    while (piece := source.recv(65_536)) and piece != _END:
        octets += len(piece)
        digest.update(piece)
    _say(octets, digest)


def send(kind: str, address: str, port: int) -> None:
    """Send everything; datagrams no faster than a receiver takes them."""
    digest, octets = hashlib.sha256(), 0
    if kind == "tcp":
        target = socket.create_connection((address, port), timeout=20)
    else:
        target = socket.socket(_family(address), socket.SOCK_DGRAM)
        target.connect((address, port))
    if kind == "train":
        target.setsockopt(_SOL_UDP, _UDP_SEGMENT, _SEGMENT)
    for piece in _pieces(kind):
        target.sendall(piece)
        octets += len(piece)
        digest.update(piece)
        if kind != "tcp":
            time.sleep(0.001)
    if kind == "train":
        target.setsockopt(_SOL_UDP, _UDP_SEGMENT, 0)
    if kind != "tcp":
        target.send(_END)
    target.close()
    _say(octets, digest)


if __name__ == "__main__":
    _act = {"receive": receive, "send": send}[sys.argv[1]]
    _act(sys.argv[2], sys.argv[3], int(sys.argv[4]))
