"""sendmmsg and recvmmsg for the stand-alone scripts beside this file: 64 datagrams a call.

A batch is one piece of memory, so that a script fills in or checks all of it in a few steps.
"""

import ctypes
import socket

MOST = 64
PR_SET_TIMERSLACK, SO_RCVBUFFORCE = 29, 33
LIBC = ctypes.CDLL(None, use_errno=True)


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


class Batch:
    """Memory for `count` datagrams of `octets` each, one after the other in `memory`."""

    def __init__(self, octets: int, count: int = MOST) -> None:
        self.octets, self.count = octets, count
        self.memory = bytearray(octets * count)
        self._pinned = (ctypes.c_char * len(self.memory)).from_buffer(self.memory)
        self._parts = (_Part * count)()
        self._messages = (_Multiple * count)()
        start = ctypes.addressof(self._pinned)
        for number in range(count):
            part = self._parts[number]
            part.base, part.length = start + number * octets, octets
            self._messages[number].head.parts = ctypes.pointer(part)
            self._messages[number].head.part_count = 1
        words = ctypes.sizeof(_Multiple) // 4
        at = _Multiple.octets.offset // 4
        self._lengths = memoryview(self._messages).cast("B").cast("I")[at::words]

    def send(self, opened: socket.socket, first: int, count: int) -> int:
        """Send `count` datagrams from number `first` on; return how many went."""
        at = ctypes.byref(self._messages, first * ctypes.sizeof(_Multiple))
        sent: int = LIBC.sendmmsg(opened.fileno(), at, count, 0)
        return max(0, sent)

    def receive(self, opened: socket.socket) -> int:
        """Return how many of those that wait were received; not more than fit."""
        flags = socket.MSG_DONTWAIT
        got: int = LIBC.recvmmsg(opened.fileno(), self._messages, self.count, flags, None)
        return max(0, got)

    def lengths(self, count: int) -> list[int]:
        """Return how long each of the first `count` received datagrams is."""
        return self._lengths[:count].tolist()
