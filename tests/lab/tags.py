"""Puts VLAN tags on all that leaves by an interface, and takes them off what comes; a script.

`tags.py INTERFACE 1` for 802.1Q, `2` for 802.1Q in 802.1ad, `0` for none any more. As a VLAN
device would do it, superframes included, but for kernels that have no VLAN devices: by two small
BPF programs in tc.
"""

import ctypes
import os
import platform
import struct
import subprocess
import sys
from pathlib import Path

_BPF = {"x86_64": 321, "aarch64": 280}[platform.machine()]
_PROG_LOAD, _OBJ_PIN, _SCHED_CLS = 5, 6, 3
_VLAN_PUSH, _VLAN_POP = 18, 19
_LIBC = ctypes.CDLL(None, use_errno=True)
_PLACE = Path("/run/bpf")


def step(opcode: int, registers: int = 0, value: int = 0) -> bytes:
    """Return one instruction."""
    return struct.pack("<BBhi", opcode, registers, 0, value)


def program(*calls: tuple[int, int, int]) -> bytes:
    """Return a program that calls helpers with two numbers each, and lets the packet pass."""
    code = step(0xBF, 0x16)  # r6 = r1, the packet
    for helper, first, second in calls:
        code += step(0xBF, 0x61) + step(0xB7, 2, first) + step(0xB7, 3, second)
        code += step(0x85, 0, helper)
    return code + step(0xB7) + step(0x95)


def bpf(command: int, attributes: bytes) -> int:
    """Call bpf(2)."""
    room = ctypes.create_string_buffer(attributes.ljust(128, b"\0"), 128)
    done: int = _LIBC.syscall(_BPF, command, room, 128)
    if done < 0:
        raise OSError(ctypes.get_errno(), f"bpf({command}): {os.strerror(ctypes.get_errno())}")
    return done


def pin(name: str, code: bytes) -> Path:
    """Load a program and give it a name for tc."""
    octets, licence = ctypes.create_string_buffer(code), ctypes.create_string_buffer(b"GPL")
    at, says = ctypes.addressof(octets), ctypes.addressof(licence)
    loaded = bpf(_PROG_LOAD, struct.pack("<IIQQ", _SCHED_CLS, len(code) // 8, at, says))
    path = _PLACE / name
    path.unlink(missing_ok=True)
    text = ctypes.create_string_buffer(os.fsencode(path))
    bpf(_OBJ_PIN, struct.pack("<QI", ctypes.addressof(text), loaded))
    return path


def main() -> None:
    """Change an interface."""
    device, count = sys.argv[1], int(sys.argv[2])
    subprocess.run(["tc", "qdisc", "del", "dev", device, "clsact"], capture_output=True)
    if not count:
        return
    if not _PLACE.exists():
        _PLACE.mkdir()
        subprocess.run(["mount", "-t", "bpf", "none", str(_PLACE)], check=True)
    # EtherTypes in network order, of which this is the other one.
    tags = [(_VLAN_PUSH, 0x0081, 5), (_VLAN_PUSH, 0xA888, 9)][:count]
    ways = {"egress": program(*tags), "ingress": program(*[(_VLAN_POP, 0, 0)] * count)}
    subprocess.run(["tc", "qdisc", "add", "dev", device, "clsact"], check=True)
    for way, code in ways.items():
        path = pin(f"{device}-{way}", code)
        filter_ = ["tc", "filter", "add", "dev", device, way, "bpf", "da", "object-pinned"]
        subprocess.run([*filter_, str(path)], check=True)


if __name__ == "__main__":
    main()
