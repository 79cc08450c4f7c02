"""Key material that two copies of one virtual machine can't share (design trust.md, rule 12).

VMs resumed from one snapshot draw the same first getrandom(2) and, for as long as one cares
to look, the same numbers from OpenSSL's generator; only the CPU's own generator and its
cycle counter differ. So keys are derived from all of these, and never by a library's
`generate()`.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import ssl
import time
import uuid
from collections.abc import Callable
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

# uint64_t f(uint64_t *out): rdrand rax; setc cl; mov [rdi], rax; movzx eax, cl; ret
_RDRAND = bytes.fromhex("480fc7f0 0f92c1 488907 0fb6c1 c3")
# uint64_t f(uint64_t *out): rdtsc; shl rdx, 32; or rax, rdx; mov [rdi], rax; mov eax, 1; ret
_RDTSC = bytes.fromhex("0f31 48c1e220 4809d0 488907 b801000000 c3")
_DRAWS = 4  # of 64 bits each
_RETRIES = 10  # Intel's advice for a generator that is briefly exhausted
_READ_EXECUTE = 1 | 4  # PROT_READ | PROT_EXEC


def key_octets(purpose: str, length: int = 32) -> bytes:
    """Return fresh secret octets for one key; `purpose` separates uses."""
    return HKDF(
        algorithm=hashes.SHA256(), length=length, salt=None, info=b"cairn " + purpose.encode()
    ).derive(_mix())


def new_node_id() -> str:
    """Return a random UUID that a clone made a moment ago can't have drawn too."""
    return str(uuid.UUID(bytes=key_octets("node id", 16), version=4))


def stir_tls() -> None:
    """Mix fresh octets into OpenSSL's generator; call before every TLS connection."""
    ssl.RAND_add(_mix(), 32.0)


def has_cpu_generator() -> bool:
    """Return whether RDRAND answers and isn't stuck."""
    return bool(_cpu_octets())


def _mix() -> bytes:
    clocks = (
        time.time_ns(),
        time.monotonic_ns(),
        time.clock_gettime_ns(time.CLOCK_BOOTTIME),
        _cycles(),
    )
    stamp = b"".join(clock.to_bytes(8, "big") for clock in clocks)
    return os.getrandom(32) + _cpu_octets() + stamp


def _cpu_octets() -> bytes:
    """Return 32 octets of the CPU's generator; none where it is missing or stuck."""
    draw = _machine_function(_RDRAND) if _flag("rdrand") else None
    if draw is None:
        return b""
    drawn: list[int] = []
    for _ in range(_DRAWS):
        value = next((v for v in (draw() for _ in range(_RETRIES)) if v is not None), None)
        if value in (None, 0xFFFF_FFFF_FFFF_FFFF) or value in drawn:
            return b""
        drawn.append(value)
    return b"".join(value.to_bytes(8, "big") for value in drawn)


def _cycles() -> int:
    read = _machine_function(_RDTSC) if _flag("tsc") else None
    return (read() if read else None) or time.perf_counter_ns()


@cache
def _flag(name: str) -> bool:
    if platform.machine() != "x86_64":
        return False
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    flags = next((line for line in text.splitlines() if line.startswith("flags")), "")
    return name in flags.split()


@cache
def _machine_function(code: bytes) -> Callable[[], int | None] | None:
    """Return a function that runs `code`; None where executable memory is forbidden.

    The page is written first and made executable after, never both at once.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    except OSError:
        return None
    page.write(code)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    if libc.mprotect(ctypes.c_void_p(address), mmap.PAGESIZE, _READ_EXECUTE) != 0:
        return None
    call = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_uint64))(address)

    def draw(_keep_mapped: mmap.mmap = page) -> int | None:
        out = ctypes.c_uint64()
        return out.value if call(ctypes.byref(out)) == 1 else None

    return draw
