"""Sends frames from ever new stations; a stand-alone script.

`stations.py INTERFACE RATE SECONDS STATIONS DESTINATION`: says `ready`, then sends RATE frames a
second from STATIONS source addresses in turn (0: never one twice), 02:ee:..., to DESTINATION, and
prints as JSON how many were sent in how many seconds.
"""

import json
import socket
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from batch import LIBC, MOST, PR_SET_TIMERSLACK, Batch

_OCTETS = 64
_SOURCE = 0x02EE_0000_0000
_SOL_PACKET, _PACKET_QDISC_BYPASS = 263, 20


def main() -> None:
    """Send the frames."""
    interface, rate, seconds = sys.argv[1], float(sys.argv[2]), float(sys.argv[3])
    stations = int(sys.argv[4]) or 1 << 32
    head = bytes.fromhex(sys.argv[5].replace(":", ""))
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    opened.bind((interface, 0))
    opened.setsockopt(_SOL_PACKET, _PACKET_QDISC_BYPASS, 1)
    batch = Batch(_OCTETS)
    for at in range(0, MOST * _OCTETS, _OCTETS):
        batch.memory[at : at + 6] = head
        batch.memory[at + 12 : at + 14] = b"\x81\x37"
    LIBC.prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
    print("ready", flush=True)
    sent, begun = 0, time.monotonic()
    while (now := time.monotonic() - begun) < seconds:
        due = min(MOST, int(now * rate) - sent)
        if due < 16:
            time.sleep(0.0001)
            continue
        for number in range(due):
            source = _SOURCE + (sent + number) % stations
            at = number * _OCTETS + 6
            batch.memory[at : at + 6] = source.to_bytes(6, "big")
        sent += batch.send(opened, 0, due)
    print(json.dumps({"sent": sent, "seconds": time.monotonic() - begun}), flush=True)


if __name__ == "__main__":
    main()
