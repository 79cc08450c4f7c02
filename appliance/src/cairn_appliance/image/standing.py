"""How this machine stands with its slots, on disk: root writes it, the appliance reads it."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Callable
from pathlib import Path

import msgspec

from cairn_appliance.cluster.files import PUBLIC, write_whole
from cairn_appliance.domain.update import Standing
from cairn_appliance.image import places

log = logging.getLogger(__name__)


def read(path: Path = places.STANDING) -> Standing:
    """Return it; as of a machine that was never updated where there is none to be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Standing)
    except FileNotFoundError:
        return Standing()
    except (OSError, msgspec.MsgspecError) as error:
        log.warning("what was kept of the last update can't be read reason=%s", error)
        return Standing()


def change(how: Callable[[Standing], Standing], path: Path = places.STANDING) -> Standing:
    """Write down what becomes of it, durably, and return that; one at a time."""
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    lock = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)  # nobody holds it for longer than a read and a write
        standing = how(read(path))
        write_whole(path, msgspec.json.encode(standing), PUBLIC)
    finally:
        os.close(lock)
    return standing
