"""Floods a node with INITs of spoofed sources, each with a right mac1; a stand-alone script.

`flood.py INTERFACE RATE SECONDS COUNT TARGET`, TARGET as JSON: `mac`, `ip` and `public_key` (hex),
`vni`, `epoch`, `suite`. COUNT different messages (ephemeral, index, source) are made first, then
`ready` is said and they are sent in turn. A mac1 takes nothing but the target's public key, which
all members of its vSubnets know.
"""

import hashlib
import hmac
import json
import os
import socket
import struct
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from batch import LIBC, MOST, PR_SET_TIMERSLACK, Batch

_INIT, _PORT = 0x11, 8002
_SOURCES = 100 << 24 | 64 << 16  # 100.64.0.0/10
_HOST_BITS = 22
_CAUGHT_UP_S = 0.02
_SOL_PACKET, _PACKET_QDISC_BYPASS = 263, 20


def init(target: dict[str, object], number: int) -> bytes:
    """Return an INIT that only its Noise payload gives away (docs/protocol.md 1.1)."""
    index = number.to_bytes(3, "big")
    head = struct.pack("!B3sIHB5x", _INIT, index, target["vni"], target["epoch"], target["suite"])
    body = head + os.urandom(32 + 48 + 40)
    key = hashlib.sha256(b"mac1" + bytes.fromhex(str(target["public_key"]))).digest()
    return body + hmac.digest(key, body, "sha256")[:16] + bytes(16)


def frame(macs: bytes, source: int, target: bytes, port: int, payload: bytes) -> bytes:
    """Return the datagram as a frame; its UDP checksum is 0: none."""
    total = 28 + len(payload)
    head = struct.pack("!BBHHHBBHI4s", 0x45, 0, total, 0, 0, 64, 17, 0, source, target)
    check = sum(struct.unpack("!10H", head))
    check = (check & 0xFFFF) + (check >> 16)
    check = 0xFFFF - ((check & 0xFFFF) + (check >> 16))
    udp = struct.pack("!4H", port, _PORT, 8 + len(payload), 0)
    return macs + b"\x08\x00" + head[:10] + check.to_bytes(2, "big") + head[12:] + udp + payload


def main() -> None:
    """Make the messages and send them."""
    interface, rate, seconds, count = sys.argv[1], *map(float, sys.argv[2:4]), int(sys.argv[4])
    target = json.loads(sys.argv[5])
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    opened.bind((interface, 0))
    opened.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, 1)
    macs = bytes.fromhex(target["mac"].replace(":", "")) + opened.getsockname()[4]
    address = socket.inet_aton(target["ip"])
    batch = None
    for number in range(count):
        source = _SOURCES | 1 + (number * 2_654_435_761 & (1 << _HOST_BITS) - 2)
        payload = init(target, number)
        made = frame(macs, source, address, 1024 + number % 60_000, payload)
        batch = batch or Batch(len(made), count)
        batch.memory[number * len(made) : (number + 1) * len(made)] = made
    assert batch is not None
    LIBC.prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
    print("ready", flush=True)
    sent, begun = 0, time.monotonic()
    behind = 0  # what this machine had no time to send: it is no burst afterwards
    while (now := time.monotonic() - begun) < seconds:
        overdue = int(now * rate) - sent - behind
        behind += max(0, overdue - int(_CAUGHT_UP_S * rate))
        due = min(MOST, overdue, count - sent % count)
        if due < min(16, count - sent % count):
            time.sleep(0.0002)
            continue
        sent += batch.send(opened, sent % count, due)
    print(json.dumps({"sent": sent, "seconds": time.monotonic() - begun}), flush=True)


if __name__ == "__main__":
    main()
