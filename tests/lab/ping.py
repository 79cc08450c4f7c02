"""Pings a number of times, and waits for all the answers; a stand-alone script.

`python -I -S ping.py ADDRESS COUNT INTERVAL_S WAIT_S SIZE` prints how many of COUNT echo requests
of SIZE octets were answered, WAIT_S after the last one at the latest. ping(8) waits for no more
than two round trips once an answer has come, whatever its -W says: what comes later is lost to it.
"""

import os
import socket
import struct
import sys
import time

_REQUEST = {socket.AF_INET: 8, socket.AF_INET6: 128}  # RFC 792, RFC 4443
_ANSWER = {socket.AF_INET: 0, socket.AF_INET6: 129}
_HEAD = struct.Struct("!BBHHH")  # type, code, checksum, identifier, sequence


def main() -> None:
    """Run the ping named on the command line."""
    address, count, interval_s, wait_s, size = sys.argv[1], *map(float, sys.argv[2:])
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    protocol = socket.IPPROTO_ICMPV6 if family == socket.AF_INET6 else socket.IPPROTO_ICMP
    identifier = os.getpid() & 0xFFFF
    answered: set[int] = set()
    with socket.socket(family, socket.SOCK_RAW, protocol) as opened:
        for sequence in range(int(count)):
            if sequence:
                _take(opened, time.monotonic() + interval_s, family, identifier, answered)
            request = _request(_REQUEST[family], identifier, sequence, bytes(int(size)))
            try:
                opened.sendto(request, (address, 0))
            except OSError:
                continue  # no way there, for now: it counts as lost
        end = time.monotonic() + wait_s
        while True:
            _take(opened, end, family, identifier, answered, enough=int(count))
            if len(answered) >= count or time.monotonic() >= end:
                break
    print(len(answered))


def _request(kind: int, identifier: int, sequence: int, data: bytes) -> bytes:
    """Return an echo request; the kernel writes the checksum of an ICMPv6 one."""
    octets = _HEAD.pack(kind, 0, 0, identifier, sequence) + data
    total = sum(struct.unpack(f"!{(len(octets) + 1) // 2}H", octets + bytes(len(octets) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return octets[:2] + (~total & 0xFFFF).to_bytes(2, "big") + octets[4:]


def _take(
    opened: socket.socket,
    until: float,
    family: int,
    identifier: int,
    answered: set[int],
    enough: int = 1 << 16,
) -> None:
    """Note what is answered until then, or until all is; what has come by then counts."""
    while len(answered) < enough:
        opened.settimeout(max(0.0, until - time.monotonic()))
        try:
            packet = opened.recv(1 << 16)
        except OSError:
            return
        head = (packet[0] & 0xF) * 4 if family == socket.AF_INET else 0
        kind, _, _, whose, sequence = _HEAD.unpack_from(packet, head)
        if (kind, whose) == (_ANSWER[family], identifier):
            answered.add(sequence)


if __name__ == "__main__":
    main()
