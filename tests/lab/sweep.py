"""What an earlier lab left behind: only files, and only if it was killed outright.

Namespaces, processes and interfaces are held by the lab's process through the kernel
(PR_SET_PDEATHSIG and PID namespaces). Run directories name their owner, so that the next
lab can tell a dead owner's from a living one's.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_PREFIX = "run-"


def runs_directory() -> Path:
    """Return the directory of all run directories (made if missing)."""
    directory = ROOT / "build" / "lab"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def run_directory(name: str) -> Path:
    """Make the directory of a new lab of this process."""
    import os

    pid = os.getpid()
    prefix = f"{_PREFIX}{pid}-{_started(pid)}-{name}-"
    return Path(tempfile.mkdtemp(prefix=prefix, dir=runs_directory()))


def sweep() -> list[Path]:
    """Remove the run directories of owners that are gone; return what was removed."""
    removed = []
    for directory in runs_directory().glob(f"{_PREFIX}*"):
        parts = directory.name.split("-")
        if len(parts) > 2 and parts[1].isdigit() and _started(int(parts[1])) != parts[2]:
            shutil.rmtree(directory, ignore_errors=True)
            removed.append(directory)
    for link in (ROOT / "build").iterdir():
        if link.is_symlink() and not link.exists():  # the door of a demo that was killed
            link.unlink(missing_ok=True)
    return removed


def _started(pid: int) -> str:
    """Return when `pid` was started (clock ticks since boot), or "" if it is gone."""
    try:
        # The command name may have spaces and parentheses; the fields follow its last ")".
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return fields[19]
