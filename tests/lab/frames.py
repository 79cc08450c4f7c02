"""Sends raw Ethernet frames; a stand-alone script.

`python -I -S frames.py INTERFACE COUNT INTERVAL_MS HEX...`: sends each frame COUNT times,
one after the other, INTERVAL_MS apart.
"""

import socket
import sys
import time


def main() -> None:
    """Send the frames named on the command line."""
    interface, count, interval_ms, *frames = sys.argv[1:]
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    opened.bind((interface, 0))
    for number in range(int(count)):
        if number:
            time.sleep(float(interval_ms) / 1000)
        for frame in frames:
            opened.send(bytes.fromhex(frame))


if __name__ == "__main__":
    main()
