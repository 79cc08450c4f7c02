"""One TCP connection that is never made anew; a stand-alone script.

`answer ADDRESS PORT` sends back what comes, for any number of connections. `ask ADDRESS PORT` sends
a numbered piece every 20 ms and waits for each to come back; on SIGTERM it prints as JSON how many
came back and the longest wait in seconds. It ends with an error where the connection breaks.
"""

import json
import signal
import socket
import sys
import threading
import time

_PIECE, _PAUSE_S, _PATIENCE_S = 1000, 0.02, 30.0


def answer(address: str, port: int) -> None:
    """Echo, until killed."""
    listener = socket.create_server((address, port))
    print("ready", flush=True)
    while True:
        stream, _ = listener.accept()
        threading.Thread(target=_echo, args=(stream,), daemon=True).start()


def ask(address: str, port: int) -> None:
    """Ask on one connection until SIGTERM."""
    is_over = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: is_over.set())
    stream = socket.create_connection((address, port), timeout=_PATIENCE_S)
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    print("ready", flush=True)
    count, longest = 0, 0.0
    while not is_over.is_set():
        piece = count.to_bytes(8, "big").ljust(_PIECE, b"\0")
        begun = time.monotonic()
        stream.sendall(piece)
        if _exactly(stream, _PIECE) != piece:
            sys.exit(f"piece {count} came back as another one, or the connection ended")
        longest = max(longest, time.monotonic() - begun)
        count += 1
        time.sleep(_PAUSE_S)
    print(json.dumps({"pieces": count, "longest_s": longest}), flush=True)


def _echo(stream: socket.socket) -> None:
    while octets := stream.recv(65_536):
        stream.sendall(octets)


def _exactly(stream: socket.socket, octets: int) -> bytes:
    whole = b""
    while len(whole) < octets and (piece := stream.recv(octets - len(whole))):
        whole += piece
    return whole


if __name__ == "__main__":
    {"answer": answer, "ask": ask}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
