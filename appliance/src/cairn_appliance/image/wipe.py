"""Factory reset: at the next start all of /var goes, before anything has used it."""

from __future__ import annotations

import logging
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

from cairn_appliance.cluster.files import PUBLIC, sync_directory, write_whole
from cairn_appliance.image import environment, health, places

log = logging.getLogger(__name__)

_TRIM_S = 120.0


def mark() -> None:
    """Have it done at the next start, by the slot that was well: a machine that isn't set up shows
    nothing of whether a trial serves. It gets another number, too."""
    with health.esp():
        known = environment.read(places.GRUBENV)
        environment.write(places.GRUBENV, replace(known, machine_id="", trial=None, tried=None))
    write_whole(places.RESET, b"", PUBLIC)


def wipe() -> None:
    """Remove all state; the mark goes last, so that a power failure in between changes nothing."""
    empty(places.RESET)
    # The keys were there: a disk that can forget what is not in use is told to.
    trimmed = subprocess.run(
        ["fstrim", str(places.RESET.parent)], check=False, timeout=_TRIM_S, capture_output=True
    )
    log.info("all state was removed trimmed=%s", trimmed.returncode == 0)


def empty(keep_to_the_end: Path) -> None:
    """Remove all that is beside a file, then the file."""
    for path in list(keep_to_the_end.parent.iterdir()):
        if path.name in (keep_to_the_end.name, "lost+found"):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
    sync_directory(keep_to_the_end.parent)
    keep_to_the_end.unlink()
    sync_directory(keep_to_the_end.parent)
