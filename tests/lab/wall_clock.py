"""A wall clock of its own for a program, which can be set while the program runs.

A shim of ours (wall_clock.c): libfaketime changes sleeps too, and Python's `time.sleep` then
fails now and then with EINVAL.
"""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

_SOURCE = Path(__file__).with_name("wall_clock.c")
_BUILT = Path(__file__).parents[2] / "build" / "lab-tools"


def wrong_clock(clock: Path) -> list[str]:
    """Return what to put before a command line, so that `clock` says by how much it is off."""
    return ["env", f"LD_PRELOAD={_library()}", f"WALL_CLOCK_OFFSET={clock}"]


def set_clock(clock: Path, offset_s: int) -> None:
    """Let the clock be off by so much from now on."""
    new = clock.with_suffix(".new")
    new.write_text(f"{offset_s:+d}\n")
    new.replace(clock)


@functools.cache
def _library() -> Path:
    """Return the shim, compiled once; many tests may do so at once."""
    library = _BUILT / "wall_clock.so"
    if not library.exists() or library.stat().st_mtime < _SOURCE.stat().st_mtime:
        _BUILT.mkdir(parents=True, exist_ok=True)
        new = _BUILT / f".wall_clock.{id(library):x}.so"
        command = ["cc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", new, _SOURCE]
        subprocess.run(command, check=True, timeout=60)
        new.replace(library)
    return library
