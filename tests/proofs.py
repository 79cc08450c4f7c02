"""Writes what a test has proved to build/proofs/ID.json (architecture.md, Proofs)."""

from __future__ import annotations

import datetime
import json
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIRECTORY = ROOT / "build" / "proofs"
LIST = ROOT / "tests" / "expected-proofs.txt"


def listed() -> dict[str, str]:
    """Return what each proof of expected-proofs.txt is, by its id."""
    lines = LIST.read_text("utf-8").splitlines()
    pairs = (line.split(maxsplit=1) for line in lines if line and not line.startswith("#"))
    return dict(pairs)


def record(
    proof: str,
    *,
    what: str,
    bar: str,
    value: float | str,
    unit: str,
    holds: bool,
    command: str = "",
) -> bool:
    """Write the proof `proof` (its id) and return `holds`, so that a test can assert on it.

    `value` was measured in this run and `holds` computed from it; `command` repeats it (the
    running pytest test unless given). An id that isn't listed is refused: if this proof went
    missing, nobody would notice.
    """
    if proof not in listed():
        raise ValueError(f"{proof} has no line in {LIST.relative_to(ROOT)}")
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    proved = {
        "id": proof,
        "what": what,
        "bar": bar,
        "value": value,
        "unit": unit,
        "holds": bool(holds),
        "command": command or _this_test(),
        "commit": _commit(),
        "at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }
    file = DIRECTORY / f"{proof}.json"
    new = file.with_suffix(".new")
    new.write_text(json.dumps(proved, indent=2) + "\n")
    new.replace(file)
    return bool(holds)


def record_seconds(
    proof: str, took_s: float, *, at_most_s: float, what: str, command: str = ""
) -> bool:
    """Write a proof of how long something took, to four figures; return whether that holds."""
    return record(
        proof,
        what=what,
        bar=f"<= {at_most_s:g} s",
        value=float(f"{took_s:.4g}"),
        unit="s",
        holds=took_s <= at_most_s,
        command=command,
    )


def _this_test() -> str:
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
    return f"make lab ARGS='{test}'" if "integration" in test else f"pytest '{test}'"


def _commit() -> str:
    """Return the commit, with `+` where tracked files differ from it."""
    head = _git("rev-parse", "--short=12", "HEAD")
    return head + ("+" if _git("status", "--porcelain", "--untracked-files=no") else "")


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else "unknown"
