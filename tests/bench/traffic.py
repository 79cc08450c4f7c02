"""The UDP traffic of the bench; a stand-alone script (`python -I -S traffic.py ...`).

`sink CONTROL PORT` counts datagrams to PORT; on the TCP address CONTROL:PORT it answers each
line with the count since the line before. `search CONTROL TO PORT OCTETS SECONDS STEPS`
looks for the highest rate without more loss than 0.1 %. `echo PORT` sends back, and
`pingpong TO PORT SECONDS` measures round trips. Datagrams go by sendmmsg and recvmmsg, 64
a call, so that Python's share of a datagram's cost is small.
"""

import ctypes
import json
import select
import socket
import sys
import time

_BATCH = 64
_LOSS = 0.001
_RECEIVE_BUFFER = 2 << 20  # 2,700 small datagrams: a hiccup of the counter, not an overload
_DRAIN_S = 0.15
_GATHER_S = 100e-6  # a wake-up for every datagram would be what is measured
_SO_RCVBUFFORCE, _MSG_DONTWAIT, _PR_SET_TIMERSLACK = 33, 0x40, 29
_LIBC = ctypes.CDLL(None, use_errno=True)


class _Part(ctypes.Structure):  # struct iovec
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


class _Message(ctypes.Structure):  # struct msghdr
    _fields_ = [
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint32),
        ("parts", ctypes.POINTER(_Part)),
        ("part_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    ]


class _Multiple(ctypes.Structure):  # struct mmsghdr
    _fields_ = [("head", _Message), ("octets", ctypes.c_uint32)]


def batch(octets: int) -> tuple[object, list[object]]:
    """Return an array of struct mmsghdr for sendmmsg and recvmmsg, and what it points to."""
    kept: list[object] = []
    array = (_Multiple * _BATCH)()
    for one in array:
        data = ctypes.create_string_buffer(octets)
        part = _Part(ctypes.addressof(data), octets)
        one.head = _Message(parts=ctypes.pointer(part), part_count=1)
        kept += [data, part]
    return array, kept


def sink(control: str, port: int) -> None:
    """Count datagrams; answer when nothing is queued any more."""
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
    datagrams.bind(("", port))
    listener = socket.create_server((control, port))
    array, _kept = batch(2048)
    count, asked = 0, None
    _LIBC.prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    print("ready", flush=True)
    while True:
        got = _LIBC.recvmmsg(datagrams.fileno(), array, _BATCH, _MSG_DONTWAIT, None)
        if got > 0:
            count += got
            if got < _BATCH:
                time.sleep(_GATHER_S)
            continue
        waiting, _, _ = select.select([datagrams, listener, *([asked] if asked else [])], [], [])
        if listener in waiting:
            asked, _ = listener.accept()
        elif asked in waiting and datagrams not in waiting:
            if not asked.recv(64):
                asked = None
                continue
            asked.sendall(b"%d\n" % count)
            count = 0


def blast(stream: socket.socket, array: object, rate: float, seconds: float) -> tuple[int, float]:
    """Send at `rate` datagrams per second; return how many were sent in which time.

    Sleeps between batches: a spin would take a core from the system under test.
    """
    sent, begun = 0, time.perf_counter()
    number = stream.fileno()
    while (now := time.perf_counter() - begun) < seconds:
        due = min(_BATCH, int(now * rate) + 1 - sent) if rate else _BATCH
        if due <= 0:
            time.sleep(20e-6)
            continue
        sent += max(0, _LIBC.sendmmsg(number, array, due, 0))
    return sent, time.perf_counter() - begun


def search(control: str, to: str, port: int, octets: int, seconds: float, steps: int) -> None:
    """Print the datagrams per second that arrive without loss over 0.1 %, and in overload."""
    _LIBC.prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    counter = socket.create_connection((control, port), timeout=10)
    stream = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    stream.connect((to, port))
    array, _kept = batch(octets)

    def attempt(rate: float) -> tuple[float, float]:
        """Return what arrived per second, and which share was lost."""
        counter.sendall(b"reset\n")
        counter.recv(64)
        sent, took = blast(stream, array, rate, seconds)
        time.sleep(_DRAIN_S)
        counter.sendall(b"count\n")
        arrived = int(counter.recv(64))
        return arrived / took, 1 - arrived / max(1, sent)

    overload, loss = attempt(0)
    best, low, high = (overload if loss <= _LOSS else 0.0), 0.0, overload * 1.15
    for _ in range(steps if loss > _LOSS else 0):
        rate = (low + high) / 2
        arrived, loss = attempt(rate)
        if loss <= _LOSS:
            low, best = rate, max(best, arrived)
        else:
            high = rate
    print(json.dumps({"per_s": best, "overload_per_s": overload}))


def echo(port: int) -> None:
    """Send every datagram back."""
    stream = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    stream.bind(("", port))
    print("ready", flush=True)
    while True:
        data, sender = stream.recvfrom(2048)
        stream.sendto(data, sender)


def pingpong(to: str, port: int, seconds: float) -> None:
    """Print p50 and p99 of round trips of 64 octets, one after the other, in microseconds."""
    stream = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    stream.connect((to, port))
    stream.settimeout(0.2)
    taken: list[float] = []
    lost, number, begun = 0, 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        number += 1
        data = number.to_bytes(8, "big") + bytes(56)
        sent = time.perf_counter()
        stream.send(data)
        try:
            while stream.recv(2048) != data:
                pass  # a late answer to one that was given up
        except TimeoutError:
            lost += 1
            continue
        taken.append((time.perf_counter() - sent) * 1e6)
    taken = sorted(taken[len(taken) // 20 :])  # the first twentieth warms the path up
    print(
        json.dumps(
            {"p50": taken[len(taken) // 2], "p99": taken[len(taken) * 99 // 100], "lost": lost}
        )
    )


def main() -> None:
    """Run what the command line names."""
    what, *rest = sys.argv[1:]
    if what == "sink":
        sink(rest[0], int(rest[1]))
    elif what == "search":
        search(rest[0], rest[1], int(rest[2]), int(rest[3]), float(rest[4]), int(rest[5]))
    elif what == "echo":
        echo(int(rest[0]))
    else:
        pingpong(rest[0], int(rest[1]), float(rest[2]))


if __name__ == "__main__":
    main()
