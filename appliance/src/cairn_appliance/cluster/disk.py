"""Whether a disk is quick enough for etcd: the slowest appliance that leads sets the pace."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from pathlib import Path

from cairn_appliance.cluster.files import cannot

log = logging.getLogger(__name__)

SLOW_S = 0.010  # etcd's own advice for the 99th percentile
_WRITES = 100
_ENTRY = bytes(2300)  # about what etcd appends for one change


def sync_p99_s(directory: Path) -> float:
    """Return how long the slowest but one of a hundred small durable writes took."""
    took = []
    try:
        with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
            for _ in range(_WRITES):
                begun = time.perf_counter()
                file.write(_ENTRY)
                os.fdatasync(file.fileno())
                took.append(time.perf_counter() - begun)
    except OSError as error:
        raise cannot("write", directory, error) from error
    return sorted(took)[-2]


def warn_if_slow(directory: Path) -> None:
    """Say so where every change will wait for this disk; it works all the same."""
    p99_s = sync_p99_s(directory)
    if p99_s > SLOW_S:
        log.warning(
            "the disk is slow: a durable write takes p99_ms=%.1f, etcd wants %.0f or less; "
            "what to do: put %s on a local SSD",
            p99_s * 1000,
            SLOW_S * 1000,
            directory.parent,
        )
