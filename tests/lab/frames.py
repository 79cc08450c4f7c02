"""Sends raw Ethernet frames; a stand-alone script.

`python -I -S frames.py INTERFACE COUNT INTERVAL_MS`: reads frames from standard input, one
a line in hex, and sends all of them COUNT times. Rounds are INTERVAL_MS apart; within a
round there is a pause of 1 ms after each 50 frames.
"""

import socket
import sys
import time


def main() -> None:
    """Send the frames named on the command line."""
    interface, count, interval_ms = sys.argv[1:]
    frames = [bytes.fromhex(line) for line in sys.stdin]
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    opened.bind((interface, 0))
    for number in range(int(count)):
        if number:
            time.sleep(float(interval_ms) / 1000)
        for sent, frame in enumerate(frames):
            opened.send(frame)
            if sent % 50 == 49:
                time.sleep(0.001)


if __name__ == "__main__":
    main()
