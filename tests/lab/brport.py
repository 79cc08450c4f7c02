"""Prints when a bridge port's flag changes: `python brport.py INTERFACE FLAG`; stand-alone.

A line each, CLOCK_MONOTONIC seconds and the value; looks every 5 ms.
"""

import sys
import time


def main() -> None:
    """Look until killed."""
    interface, flag = sys.argv[1:]
    known = ""
    while True:
        try:
            with open(f"/sys/class/net/{interface}/brport/{flag}") as file:  # noqa: PTH123
                value = file.read().strip()
        except OSError:
            value = "gone"
        if value != known:
            print(time.monotonic(), value, flush=True)
            known = value
        time.sleep(0.005)


if __name__ == "__main__":
    main()
