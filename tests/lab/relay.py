"""A wire between two interfaces that delays, reorders, duplicates and loses frames.

`python -I -S relay.py A B JSON`, JSON as topology.Impairment. Each direction has its own
seeded generator, so that a run can be repeated.
"""

import heapq
import json
import random
import selectors
import signal
import socket
import sys
import time

_ALL = 0x0003  # ETH_P_ALL
_OUTGOING = 4  # PACKET_OUTGOING
_LARGEST = 65_600


class Direction:
    """One direction of the wire."""

    def __init__(
        self, source: socket.socket, sink: socket.socket, spec: dict[str, float], seed: int
    ) -> None:
        self.source = source
        self._sink = sink
        self._delay_s = spec["delay_ms"] / 1000
        self._reorder_s = spec["reorder_ms"] / 1000
        self._duplicate = spec["duplicate"]
        self._loss = spec["loss"]
        self._random = random.Random(seed)
        self._waiting: list[tuple[float, int, bytes]] = []
        self._count = 0

    def take(self, now: float) -> None:
        """Read what has come in and schedule it."""
        for _ in range(64):
            try:
                frame, address = self.source.recvfrom(_LARGEST)
            except BlockingIOError:
                return
            if address[2] == _OUTGOING or self._random.random() < self._loss:
                continue
            self._schedule(frame, now)
            if self._random.random() < self._duplicate:
                self._schedule(frame, now)

    def send(self, now: float) -> float | None:
        """Send what is due; return the seconds until the next is, or None."""
        while self._waiting and self._waiting[0][0] <= now:
            frame = heapq.heappop(self._waiting)[2]
            try:
                self._sink.send(frame)
            except OSError as error:
                print(f"relay: not sent: {error}", flush=True)
        return self._waiting[0][0] - now if self._waiting else None

    def _schedule(self, frame: bytes, now: float) -> None:
        at = now + self._delay_s + self._random.random() * self._reorder_s
        self._count += 1
        heapq.heappush(self._waiting, (at, self._count, frame))


def packet_socket(interface: str) -> socket.socket:
    """Return a non-blocking packet socket of one interface."""
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL))
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    opened.bind((interface, _ALL))
    opened.setblocking(False)
    return opened


def main() -> None:
    """Relay until killed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    spec = json.loads(sys.argv[3])
    a, b = packet_socket(sys.argv[1]), packet_socket(sys.argv[2])
    ways = [Direction(a, b, spec, int(spec["seed"])), Direction(b, a, spec, int(spec["seed"]) + 1)]
    selector = selectors.DefaultSelector()
    for way in ways:
        selector.register(way.source, selectors.EVENT_READ, way)
    print("ready", flush=True)
    while True:
        now = time.monotonic()
        waits = [wait for way in ways if (wait := way.send(now)) is not None]
        for key, _ in selector.select(min(waits, default=1.0)):
            key.data.take(time.monotonic())


if __name__ == "__main__":
    main()
