"""Sends and receives sequence-numbered probes; a stand-alone script.

`python -I -S probe.py RESULT INTERVAL_MS NUMBER ADDRESS=NUMBER...`: sends to each peer
every INTERVAL_MS until SIGTERM, goes on receiving until SIGUSR1, then writes RESULT (JSON):
sent {peer: [seconds...]} indexed by sequence, received {peer: [[sequence, seconds]...]}.
Times are CLOCK_MONOTONIC, the same for all machines of a lab.
"""

import json
import os
import selectors
import signal
import socket
import struct
import sys
import time

_PORT = 9876
_FORMAT = struct.Struct("!4sHI")  # magic, sender, sequence
_MAGIC = b"prb1"
_LINGER_MAX_S = 10.0  # where nobody says SIGUSR1


class Probe:
    """One end: sends to all its peers, and notes what comes from them."""

    def __init__(self, number: int, peers: dict[int, str]) -> None:
        self._number = number
        self._targets = {peer: (address, _PORT) for peer, address in peers.items()}
        self.sent: dict[int, list[float]] = {peer: [] for peer in peers}
        self.received: dict[int, list[tuple[int, float]]] = {peer: [] for peer in peers}
        self.stopping = False
        self._sockets = {
            socket.AF_INET: _socket(socket.AF_INET),
            socket.AF_INET6: _socket(socket.AF_INET6),
        }

    def run(self, interval_s: float) -> None:
        """Send on a fixed grid until stopped; a late tick is sent late, never skipped."""
        selector = selectors.DefaultSelector()
        for each in self._sockets.values():
            selector.register(each, selectors.EVENT_READ, each)
        due = time.monotonic()
        end = None
        while True:
            now = time.monotonic()
            if self.stopping and end is None:
                end = now + _LINGER_MAX_S
            if end is not None and (now >= end or signal.sigtimedwait([signal.SIGUSR1], 0)):
                self._receive_all()
                return
            if end is None and now >= due:
                self._send()
                due += interval_s
            wait = (end if end is not None else due) - time.monotonic()
            for key, _ in selector.select(max(0.0, min(wait, 0.05))):
                self._receive(key.data)

    def _send(self) -> None:
        for peer, target in self._targets.items():
            sequence = len(self.sent[peer])
            self.sent[peer].append(time.monotonic())
            family = socket.AF_INET6 if ":" in target[0] else socket.AF_INET
            try:
                self._sockets[family].sendto(_FORMAT.pack(_MAGIC, self._number, sequence), target)
            except OSError:
                continue  # counts as lost: the interface is away, or has no carrier

    def _receive_all(self) -> None:
        for each in self._sockets.values():
            while self._receive(each):
                pass

    def _receive(self, source: socket.socket) -> bool:
        """Take some; return whether there may be more."""
        for _ in range(256):
            try:
                octets = source.recv(2048)
            except OSError:
                return False
            if len(octets) == _FORMAT.size:
                magic, peer, sequence = _FORMAT.unpack(octets)
                if magic == _MAGIC and peer in self.received:
                    self.received[peer].append((sequence, time.monotonic()))
        return True


def _socket(family: socket.AddressFamily) -> socket.socket:
    opened = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    opened.bind(("", _PORT))
    opened.setblocking(False)
    return opened


def main() -> None:
    """Run the probe named on the command line."""
    result, interval_ms, number, *peers = sys.argv[1:]
    named = dict(peer.rpartition("=")[::2] for peer in peers)
    probe = Probe(int(number), {int(peer): address for address, peer in named.items()})

    def stop(_number: int, _frame: object) -> None:
        probe.stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])
    print("ready", flush=True)
    signal.sigwait([signal.SIGUSR1])  # all probes listen before the first one sends
    probe.run(float(interval_ms) / 1000)
    with open(result + ".new", "w") as file:  # noqa: PTH123 - no pathlib in a fast script
        json.dump({"sent": probe.sent, "received": probe.received}, file)
    os.replace(result + ".new", result)  # noqa: PTH105


if __name__ == "__main__":
    main()
