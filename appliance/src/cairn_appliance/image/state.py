"""Files by which the steps of the first boot tell each other, and the screen, how it is."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from cairn_appliance.domain.errors import CairnError
from cairn_appliance.image import places


def is_set_up() -> bool:
    """Say whether this machine is an appliance of a cluster already."""
    return (places.DATA_DIR / "settings.toml").exists()


def make_run_directory() -> None:
    """Make the directory by which the steps tell each other, and the screen."""
    places.RUN_DIR.mkdir(mode=0o750, exist_ok=True)
    shutil.chown(places.RUN_DIR, places.USER, places.USER)


def tell(problem: CairnError | None) -> None:
    """Leave a problem for the screen, or take the last one back."""
    if problem is None:
        places.PROBLEM.unlink(missing_ok=True)
    else:
        write(places.PROBLEM, f"{problem.cause}\n{problem.remedy}\n".encode(), 0o644)


def write(path: Path, octets: bytes, mode: int) -> None:
    """Write a file whole or not at all; never readable for more than `mode` says."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    file = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(file, "wb") as stream:
        stream.write(octets)
        stream.flush()
        os.fsync(stream.fileno())
    new.replace(path)
