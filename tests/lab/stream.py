"""One TCP stream whose content both ends hash; a stand-alone script.

`receive ADDRESS PORT` says `ready`, takes one stream to its end and prints what came as JSON.
`send ADDRESS PORT WINDOW OCTETS SECONDS SEED` sends until OCTETS or SECONDS are reached, with at
most WINDOW octets on their way (so that no queue overflows), and prints what it sent.
"""

import hashlib
import json
import random
import socket
import sys
import time

_POOL, _PIECE = 8 << 20, 256 << 10


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _say(octets: int, begun: float, digest: "hashlib._Hash") -> None:
    took = time.monotonic() - begun
    print(json.dumps({"octets": octets, "seconds": took, "sha256": digest.hexdigest()}), flush=True)


def receive(address: str, port: int) -> None:
    """Take one stream to its end."""
    listener = socket.create_server((address, port), family=_family(address))
    listener.settimeout(30)
    print("ready", flush=True)
    stream, _ = listener.accept()
    stream.settimeout(60)
    digest, octets, buffer = hashlib.sha256(), 0, bytearray(1 << 20)
    view, begun = memoryview(buffer), time.monotonic()
    while count := stream.recv_into(buffer):
        digest.update(view[:count])
        octets += count
    _say(octets, begun, digest)


def send(address: str, port: int, window: int, most: int, seconds: float, seed: int) -> None:
    """Send pieces of a pool of random octets from random places: nothing repeats."""
    dice = random.Random(seed)
    pool = memoryview(dice.randbytes(_POOL))
    stream = socket.socket(_family(address), socket.SOCK_STREAM)
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, window)
    stream.settimeout(60)
    stream.connect((address, port))
    digest, octets, begun = hashlib.sha256(), 0, time.monotonic()
    while octets < most and time.monotonic() - begun < seconds:
        at = dice.randrange(_POOL - _PIECE)
        piece = pool[at : at + min(_PIECE - dice.randrange(9000), most - octets)]
        stream.sendall(piece)
        digest.update(piece)
        octets += len(piece)
    stream.shutdown(socket.SHUT_WR)
    stream.recv(1)  # the far end closes when it has everything
    _say(octets, begun, digest)


if __name__ == "__main__":
    if sys.argv[1] == "receive":
        receive(sys.argv[2], int(sys.argv[3]))
    else:
        where, number, limit, total = sys.argv[2], *map(int, sys.argv[3:6])
        send(where, number, limit, total, float(sys.argv[6]), int(sys.argv[7]))
