"""TCP ports for programs under test."""

from __future__ import annotations

import os
import random
import socket

# Below the kernel's ephemeral ports (32768 on): one of those could become the near end of anybody's
# connection between our look and the program's use of it.
_FIRST, _LAST = 10_000, 31_999
_WORKERS = 8  # processes of tests side by side; each has ports of its own
_given: set[int] = set()


def _own_ports() -> range:
    """Return the ports that no other process of the same run of tests is given."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    return range(_FIRST + worker % _WORKERS, _LAST + 1, _WORKERS)


def free_port() -> int:
    """Return a TCP port that nobody uses just now and that no other caller was given."""
    while True:
        port = random.choice(_own_ports())
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        _given.add(port)
        return port
