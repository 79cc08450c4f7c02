"""A UDP flow whose datagrams are numbered and whose every octet is known; a stand-alone script.

`receive ADDRESS PORT OCTETS` says `ready`, and on SIGTERM prints as JSON how many datagrams of the
one flow came, and how many of them were changed, doubled or behind a later one.
`send ADDRESS PORT OCTETS RATE SECONDS HOW` sends RATE datagrams a second; HOW is `each`, or
`train` for what the kernel divides (UDP_SEGMENT), as QUIC does. It ends by itself or on SIGTERM,
and prints how many it sent.
"""

import json
import select
import signal
import socket
import sys
import time
from array import array
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from batch import LIBC, MOST, PR_SET_TIMERSLACK, SO_RCVBUFFORCE, Batch

_NUMBER = 8  # octets at the beginning of each datagram
_SOL_UDP, _UDP_SEGMENT = 17, 103
_TRAIN_OCTETS = 60_000
_RECEIVE_BUFFER = 16 << 20
_GATHER_S = 200e-6
_MOST_MISSING = 1 << 20


def pattern(octets: int) -> bytes:
    """Return what follows the number in a datagram."""
    return bytes((7 * at * at + 13 * at) & 0xFF for at in range(octets - _NUMBER))


def family(address: str) -> socket.AddressFamily:
    """Return the family of an address."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


class Account:
    """What came, by the numbers."""

    def __init__(self) -> None:
        self.received = self.changed = self.doubled = self.reordered = 0
        self.next = 0
        self.missing: set[int] = set()

    def take(self, numbers: list[int]) -> None:
        """Note numbers in the order in which they came."""
        self.received += len(numbers)
        if numbers == list(range(self.next, self.next + len(numbers))):
            self.next += len(numbers)
            return
        for number in numbers:
            if number >= self.next:
                if len(self.missing) < _MOST_MISSING:
                    self.missing.update(range(self.next, number))
                self.next = number + 1
            elif number in self.missing:
                self.missing.remove(number)
                self.reordered += 1
            else:
                self.doubled += 1


def receive(address: str, port: int, octets: int) -> None:
    """Count until SIGTERM, and what waits then."""
    stopping: list[bool] = []
    signal.signal(signal.SIGTERM, lambda *_: stopping.append(True))
    flow = socket.socket(family(address), socket.SOCK_DGRAM)
    flow.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, _RECEIVE_BUFFER)
    flow.bind((address, port))
    LIBC.prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
    room = octets + 8 - octets % 8 + 8  # a longer one than was sent would be seen
    batch, account = Batch(room), Account()
    numbers = memoryview(batch.memory).cast("Q")
    right = pattern(octets)
    print("ready", flush=True)
    while True:
        count = batch.receive(flow)
        if not count:
            if stopping:
                break
            select.select([flow], [], [], 0.1)
            continue
        for at, length in enumerate(batch.lengths(count)):
            start = at * room
            if length != octets or batch.memory[start + _NUMBER : start + octets] != right:
                account.changed += 1
        account.take(numbers[: count * room // 8 : room // 8].tolist())
        if count < MOST:
            time.sleep(_GATHER_S)  # a wake-up for every datagram would be what is measured
    counts = ("received", "changed", "doubled", "reordered")
    print(json.dumps({name: getattr(account, name) for name in counts}), flush=True)


def send(address: str, port: int, octets: int, rate: float, seconds: float, how: str) -> None:
    """Send numbered datagrams; print how many."""
    stopping: list[bool] = []
    signal.signal(signal.SIGTERM, lambda *_: stopping.append(True))
    flow = socket.socket(family(address), socket.SOCK_DGRAM)
    flow.connect((address, port))
    LIBC.prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
    most = MOST if how == "each" else min(MOST, _TRAIN_OCTETS // octets)
    if how == "train":
        flow.setsockopt(_SOL_UDP, _UDP_SEGMENT, octets)
    batch, right = Batch(octets, most), pattern(octets)
    for at in range(most):
        batch.memory[at * octets + _NUMBER : (at + 1) * octets] = right
    numbers, words = memoryview(batch.memory).cast("Q"), octets // 8
    sent, refused, begun = 0, 0, time.monotonic()
    while (now := time.monotonic() - begun) < seconds and not stopping:
        due = min(most, int(now * rate) - sent)
        if due < min(most, 1 + rate / 1000):
            time.sleep(0.0003)
            continue
        numbers[: due * words : words] = memoryview(array("Q", range(sent, sent + due)))
        if how == "train":
            flow.send(memoryview(batch.memory)[: due * octets])
            went = due
        else:
            went = batch.send(flow, 0, due)
        refused += due - went
        sent += went
    print(json.dumps({"sent": sent, "seconds": time.monotonic() - begun, "refused": refused}))


if __name__ == "__main__":
    if sys.argv[1] == "receive":
        receive(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        to, to_port, size = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
        send(to, to_port, size, float(sys.argv[5]), float(sys.argv[6]), sys.argv[7])
