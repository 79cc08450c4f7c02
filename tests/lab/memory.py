"""Puts the memory of running processes back to what it was: a restored snapshot, without a VM.

Kept are the registers of each thread and all private memory that can be written, of every
process at one moment. So a process goes on as it was then: with its counters, its keys and what
it believed. What is the kernel's stays as it is now: open files and sockets with what is under
way in them, connections, the time. x86-64 only.

Threads are stopped by ptrace, which no signal shows to anybody, and only while all of them wait
in a system call: then nothing is in their hands, and none of them is in the middle of a change.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.lab.errors import NotInTimeError

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_LIBC.ptrace.restype = ctypes.c_long
_CONT, _DETACH, _GETREGSET, _SETREGSET, _SEIZE, _INTERRUPT = 7, 17, 0x4204, 0x4205, 0x4206, 0x4207
_EVENT_STOP = 128  # what a wait shows for _INTERRUPT
_WALL = 0x40000000
_GENERAL, _EXTENDED = 1, 0x202  # NT_PRSTATUS, NT_X86_XSTATE
_MOST_OCTETS = 16384  # of a set of registers
_REGISTERS = struct.Struct("27q")  # struct user_regs_struct
_RAX, _ORIG_RAX, _RIP = 10, 15, 16
_EINTR = -4
_BEGUN_ANEW = range(-516, -511)  # what the kernel notes for a call that it would begin anew
_SYSCALL_OCTETS = 2  # of the instruction
_PAGE = 4096

_Threads = dict[int, list[int]]  # by process


class Memory:
    """What the memory of some processes was at one moment."""

    def __init__(self, images: list[_Image]) -> None:
        self._images = images

    @classmethod
    def of(cls, *pids: int, within_s: float = 20.0) -> Memory:
        """Keep the memory of these processes, as soon as all their threads wait."""
        with _stopped_when(pids, _awake, within_s) as threads:
            return cls([_Image.of(pid, threads[pid]) for pid in pids])

    def restore(self, within_s: float = 20.0) -> None:
        """Put it back, as soon as all threads wait, and they and the open files are those of
        then; not where memory was given back to the kernel meanwhile."""
        pids = [image.pid for image in self._images]
        with _stopped_when(pids, self._objection, within_s):
            for image in self._images:
                image.restore()

    def _objection(self, threads: _Threads) -> str:
        objections = (image.objection(threads[image.pid]) for image in self._images)
        return _awake(threads) or next(filter(None, objections), "")


@dataclass(frozen=True, slots=True)
class _Image:
    """One process. The registers are by thread and set, the memory by its address."""

    pid: int
    registers: dict[int, dict[int, bytes]]
    memory: dict[int, bytes]
    files: dict[str, str]

    @classmethod
    def of(cls, pid: int, threads: list[int]) -> _Image:
        registers = {
            thread: {kind: _registers(thread, kind) for kind in (_GENERAL, _EXTENDED)}
            for thread in threads
        }
        with _opened(pid, os.O_RDONLY) as file:
            memory = {start: os.pread(file, end - start, start) for start, end in _writable(pid)}
        return cls(pid, registers, memory, _files(pid))

    def objection(self, threads: list[int]) -> str:
        """Return why it can't be put back now; empty: it can."""
        if sorted(threads) != sorted(self.registers):
            return f"{self.pid} has other threads than then"
        if (files := _files(self.pid)) != self.files:
            return f"{self.pid} has other files open than then: {self.files}, now {files}"
        now = _writable(self.pid)
        for start, octets in self.memory.items():
            if not any(low <= start and start + len(octets) <= high for low, high in now):
                return f"{self.pid} has given back memory at {start:x}"
        return ""

    def restore(self) -> None:
        with _opened(self.pid, os.O_RDWR) as file:
            for start, then in self.memory.items():
                now = os.pread(file, len(then), start)
                for at in range(0, len(then), _PAGE) if now != then else ():
                    if now[at : at + _PAGE] != then[at : at + _PAGE]:
                        os.pwrite(file, then[at : at + _PAGE], start + at)
        for thread, sets in self.registers.items():
            _set_registers(thread, _EXTENDED, sets[_EXTENDED])
            _set_registers(thread, _GENERAL, _back_to_user_mode(sets[_GENERAL]))


@contextmanager
def _stopped_when(
    pids: Sequence[int], objection: Callable[[_Threads], str], within_s: float
) -> Iterator[_Threads]:
    """Stop all threads of these processes at a moment to which there is no objection."""
    deadline = time.monotonic() + within_s
    while True:
        with _stopped(pids) as threads:
            why = objection(threads)
            if not why:
                yield threads
                return
        if time.monotonic() >= deadline:
            raise NotInTimeError(f"after {within_s:g} s: {why}")
        time.sleep(0.003)


@contextmanager
def _stopped(pids: Sequence[int]) -> Iterator[_Threads]:
    """Stop all threads of these processes; yield them by process, and let them go on."""
    threads: _Threads = {pid: [] for pid in pids}
    try:
        for pid in pids:
            # A thread that isn't stopped yet may start another one.
            while new := [each for each in _threads(pid) if each not in threads[pid]]:
                for thread in new:
                    _ptrace(_SEIZE, thread)
                    threads[pid].append(thread)
                    _stop(thread)
        yield threads
    finally:
        for each in threads.values():
            for thread in each:
                with contextlib.suppress(ProcessLookupError):
                    _ptrace(_DETACH, thread)


def _stop(thread: int) -> None:
    _ptrace(_INTERRUPT, thread)
    deadline = time.monotonic() + 5.0
    while True:
        found, status = os.waitpid(thread, _WALL | os.WNOHANG)
        if found == 0:
            if time.monotonic() >= deadline:
                raise NotInTimeError(f"thread {thread} doesn't stop")
            time.sleep(0.0005)
        elif not os.WIFSTOPPED(status):
            raise ProcessLookupError(f"thread {thread} ended")
        elif status >> 16 == _EVENT_STOP:
            return
        else:  # a signal is on its way to it
            _ptrace(_CONT, thread, data=os.WSTOPSIG(status))


def _awake(threads: _Threads) -> str:
    for pid, each in threads.items():
        if not all(map(_waits, each)):
            return f"the threads of {pid} don't wait all at once"
    return ""


def _waits(thread: int) -> bool:
    """Whether a stopped thread was in a system call that waits."""
    registers = _REGISTERS.unpack(_registers(thread, _GENERAL))
    result = registers[_RAX]
    return registers[_ORIG_RAX] >= 0 and (result == _EINTR or result in _BEGUN_ANEW)


def _back_to_user_mode(octets: bytes) -> bytes:
    """Return registers in which the system call of then has ended, or is about to begin anew."""
    registers = list(_REGISTERS.unpack(octets))
    if registers[_RAX] in _BEGUN_ANEW:
        registers[_RAX] = registers[_ORIG_RAX]
        registers[_RIP] -= _SYSCALL_OCTETS
    registers[_ORIG_RAX] = -1  # so that the kernel adds nothing of its own
    return _REGISTERS.pack(*registers)


class _Vector(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("octets", ctypes.c_size_t))


def _registers(thread: int, kind: int) -> bytes:
    room = ctypes.create_string_buffer(_MOST_OCTETS)
    vector = _Vector(ctypes.addressof(room), _MOST_OCTETS)
    _ptrace(_GETREGSET, thread, kind, ctypes.addressof(vector))
    return room.raw[: vector.octets]


def _set_registers(thread: int, kind: int, octets: bytes) -> None:
    room = ctypes.create_string_buffer(octets, len(octets))
    vector = _Vector(ctypes.addressof(room), len(octets))
    _ptrace(_SETREGSET, thread, kind, ctypes.addressof(vector))


def _ptrace(request: int, thread: int, address: int = 0, data: int = 0) -> None:
    if _LIBC.ptrace(request, thread, address, data) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"ptrace {request:#x} of {thread}: {os.strerror(number)}")


def _threads(pid: int) -> list[int]:
    return [int(each.name) for each in Path(f"/proc/{pid}/task").iterdir()]


def _files(pid: int) -> dict[str, str]:
    """Return what is open, by descriptor; of sockets only that they are some."""
    found = {each.name: str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir()}
    return {number: name.partition(":[")[0] for number, name in found.items()}


def _writable(pid: int) -> list[tuple[int, int]]:
    """Return from where to where there is private memory that can be written, joined."""
    found: list[tuple[int, int]] = []
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        addresses, permissions = line.split()[:2]
        start, end = (int(each, 16) for each in addresses.split("-"))
        if permissions[1] != "w" or permissions[3] != "p":
            continue  # shared memory is not of one process
        if found and found[-1][1] == start:
            start = found.pop()[0]
        found.append((start, end))
    return found


@contextmanager
def _opened(pid: int, flags: int) -> Iterator[int]:
    file = os.open(f"/proc/{pid}/mem", flags)
    try:
        yield file
    finally:
        os.close(file)
