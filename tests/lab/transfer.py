"""Sends what is known and tells what arrived; a stand-alone script.

`receive KIND ADDRESS PORT` says `ready` and then prints how many octets came and their SHA-256;
`send KIND ADDRESS PORT` prints what it sent. KIND is `tcp` (one stream), `short` (a shorter one),
`pieces` (a stream in pieces of any size to 9,000 octets, none of which waits for the next), `udp`
(datagrams of 0 to 9,000 octets), `sizes` (of each such size) or `train` (datagrams that the kernel
divides, as QUIC sends them). With `+options` the sender's packets have IPv4 options, or IPv6
hop-by-hop and destination options. Of datagrams the lengths are hashed too.
"""

import hashlib
import random
import socket
import sys
import time
from collections.abc import Iterator

_STREAM_OCTETS = {"tcp": 4_000_001, "short": 1_000_001}
_STREAMS = ("tcp", "short", "pieces")
_SOL_UDP, _UDP_SEGMENT, _SO_RCVBUFFORCE = 17, 103, 33
_SEGMENT, _TRAINS, _TRAIN_OCTETS = 1201, 40, 30_007
_SIZES = {"udp": range(0, 9001, 27), "sizes": range(9001)}  # odd and even ones
_END = b"the end of the transfer"
_PACE_OCTETS = 16_384  # after so many there is a pause of a millisecond
# An experimental option (RFC 4727) that is copied into fragments; the same for IPv6, to be skipped.
_IPV4_OPTIONS = b"\x9e\x08cairn!"
_IPV6_OPTIONS = b"\0\0\x1e\x04cair"
_IPV6_HOPOPTS, _IPV6_DSTOPTS = 54, 59


def _pieces(kind: str) -> list[bytes]:
    dice = random.Random(3)
    if kind in _STREAM_OCTETS:
        return [dice.randbytes(_STREAM_OCTETS[kind])]
    if kind == "pieces":
        return [dice.randbytes(dice.randrange(1, 9001)) for _ in range(250)]
    if kind == "train":
        return [dice.randbytes(_TRAIN_OCTETS) for _ in range(_TRAINS)]
    return [dice.randbytes(size) for size in _SIZES[kind]]


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


class _Content:
    """What was sent or received, in its order."""

    def __init__(self, kind: str) -> None:
        self._is_stream = kind in _STREAMS
        self._octets, self._digest = 0, hashlib.sha256()

    def add(self, piece: bytes) -> None:
        self._octets += len(piece)
        if not self._is_stream:
            self._digest.update(len(piece).to_bytes(4, "big"))
        self._digest.update(piece)

    def say(self) -> None:
        print(self._octets, self._digest.hexdigest(), flush=True)


def receive(kind: str, address: str, port: int) -> None:
    """Take everything, in the order in which it comes."""
    content, is_stream = _Content(kind), kind in _STREAMS
    if is_stream:
        listener = socket.create_server((address, port), family=_family(address))
        listener.settimeout(20)
        print("ready", flush=True)
        source, _ = listener.accept()
    else:
        source = socket.socket(_family(address), socket.SOCK_DGRAM)
        # Room for all of it: what is lost was lost on the way.
        source.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 64 << 20)
        source.bind((address, port))
        print("ready", flush=True)
    source.settimeout(20)
    while (piece := source.recv(65_536)) != _END and (piece or not is_stream):
        content.add(piece)
    content.say()


def send(kind: str, address: str, port: int, *, with_options: bool) -> None:
    """Send everything; datagrams no faster than a receiver takes them."""
    content, is_stream = _Content(kind), kind in _STREAMS
    how = socket.SOCK_STREAM if is_stream else socket.SOCK_DGRAM
    target = socket.socket(_family(address), how)
    if with_options:
        _put_options(target)
    target.settimeout(20)
    target.connect((address, port))
    if kind == "pieces":
        target.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if kind == "train":
        target.setsockopt(_SOL_UDP, _UDP_SEGMENT, _SEGMENT)
    unpaced = 0
    for piece in _pieces(kind):
        target.sendall(piece)
        for part in _datagrams(piece) if kind == "train" else [piece]:
            content.add(part)
        unpaced += len(piece) + 256
        if unpaced > _PACE_OCTETS and not is_stream:
            time.sleep(0.001)
            unpaced = 0
    if kind == "train":
        target.setsockopt(_SOL_UDP, _UDP_SEGMENT, 0)
    if not is_stream:
        target.send(_END)
    target.close()
    content.say()


def _datagrams(train: bytes) -> Iterator[bytes]:
    for at in range(0, len(train), _SEGMENT):
        yield train[at : at + _SEGMENT]


def _put_options(target: socket.socket) -> None:
    if target.family == socket.AF_INET:
        target.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, _IPV4_OPTIONS)
        return
    for where in (_IPV6_HOPOPTS, _IPV6_DSTOPTS):
        target.setsockopt(socket.IPPROTO_IPV6, where, _IPV6_OPTIONS)


if __name__ == "__main__":
    _what, _, _options = sys.argv[2].partition("+")
    if sys.argv[1] == "receive":
        receive(_what, sys.argv[3], int(sys.argv[4]))
    else:
        send(_what, sys.argv[3], int(sys.argv[4]), with_options=bool(_options))
