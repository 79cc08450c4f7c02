"""Measures what one TCP stream carries; a stand-alone script.

`python -I -S rate.py receive ADDRESS PORT` says `ready`, takes one stream to its end, and
prints octets and seconds. `python -I -S rate.py send ADDRESS PORT SECONDS` sends.
"""

import socket
import sys
import time

_CHUNK = bytes(256 * 1024)


def receive(address: str, port: int) -> None:
    """Take one stream and print `octets seconds`."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    listener = socket.create_server((address, port), family=family)
    listener.settimeout(30)
    print("ready", flush=True)
    stream, _ = listener.accept()
    stream.settimeout(30)
    begun, octets, buffer = time.monotonic(), 0, bytearray(len(_CHUNK))
    while count := stream.recv_into(buffer):
        octets += count
    print(octets, time.monotonic() - begun, flush=True)


def send(address: str, port: int, seconds: float) -> None:
    """Send as fast as it goes for `seconds`."""
    stream = socket.create_connection((address, port), timeout=10)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        stream.sendall(_CHUNK)
    stream.close()


if __name__ == "__main__":
    if sys.argv[1] == "receive":
        receive(sys.argv[2], int(sys.argv[3]))
    else:
        send(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
