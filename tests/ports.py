"""TCP ports for programs under test."""

from __future__ import annotations

import random
import socket

# Below the kernel's ephemeral ports (32768 on): one of those could become the near end of anybody's
# connection between our look and the program's use of it.
_RANGE = range(10_000, 32_000)
_given: set[int] = set()


def free_port() -> int:
    """Return a TCP port that nobody uses just now and that no other caller was given."""
    while True:
        port = random.choice(_RANGE)
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        _given.add(port)
        return port
