"""A wall clock of its own for a program (libfaketime), which can be set while the program runs."""

from __future__ import annotations

from pathlib import Path


def faketime(clock: Path) -> list[str]:
    """Return what to put before a command line, so that `clock` says by how much it is off.

    The file is read again at each look at the clock. Only the wall clock is changed:
    monotonic clocks do not step when someone sets the time.
    """
    library = next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    return [
        "env",
        f"LD_PRELOAD={library}",
        f"FAKETIME_TIMESTAMP_FILE={clock}",
        "FAKETIME_NO_CACHE=1",
        "DONT_FAKE_MONOTONIC=1",
        "FAKETIME_DONT_FAKE_MONOTONIC=1",
    ]


def set_clock(clock: Path, offset_s: int) -> None:
    """Let the clock be off by so much from now on."""
    new = clock.with_suffix(".new")
    new.write_text(f"{offset_s:+d}\n")
    new.replace(clock)
