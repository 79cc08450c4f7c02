"""One TCP connection that says something every 10 ms and hears it again; a stand-alone script.

`answer ADDRESS PORT` says `ready` and sends back what comes on one connection. `ask ADDRESS PORT`
says `ready` when it is connected, goes on until SIGTERM, and prints how many it asked and heard
and the longest silence in seconds as JSON; it fails where the connection ends before.
"""

import json
import select
import signal
import socket
import sys
import time

_EVERY_S, _OCTETS, _LAST_S = 0.01, 8, 5.0


def answer(address: str, port: int) -> None:
    """Send back what comes until the far end closes."""
    with socket.create_server((address, port)) as listener:
        print("ready", flush=True)
        stream, _ = listener.accept()
    while octets := stream.recv(65536):
        stream.sendall(octets)


def ask(address: str, port: int) -> None:
    """Number the questions; the answers must be the same octets in the same order."""
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: ended.append(number))
    stream = socket.create_connection((address, port), timeout=10)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    print("ready", flush=True)
    asked, heard, longest, rest = 0, 0, 0.0, b""
    last = at = time.monotonic()
    while not ended or (heard < asked and time.monotonic() - at < _LAST_S):
        if not ended and time.monotonic() - at >= _EVERY_S:
            at = time.monotonic()
            stream.sendall(asked.to_bytes(_OCTETS, "big"))
            asked += 1
        if not select.select([stream], [], [], _EVERY_S)[0]:
            continue
        octets = stream.recv(65536)
        if not octets:
            sys.exit(f"the connection ended after {heard} of {asked}")
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
        rest += octets
        while len(rest) >= _OCTETS:
            if int.from_bytes(rest[:_OCTETS], "big") != heard:
                sys.exit(f"answer {heard} is another")
            heard, rest = heard + 1, rest[_OCTETS:]
    longest = max(longest, time.monotonic() - last) if heard < asked else longest
    print(json.dumps({"asked": asked, "heard": heard, "longest_s": longest}), flush=True)


if __name__ == "__main__":
    {"answer": answer, "ask": ask}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
