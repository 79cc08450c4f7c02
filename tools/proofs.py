"""Prints the proofs of build/proofs as a table, oldest commit first, missing ones included."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
EXPECTED = ROOT / "tests" / "expected-proofs.txt"
PROOFS = ROOT / "build" / "proofs"


def main() -> int:
    """Print the table; 0 if every expected proof is there and holds, else 1."""
    expected = _expected()
    found = [json.loads(file.read_text()) for file in sorted(PROOFS.glob("*.json"))]
    found.sort(key=lambda proof: (_age_of(proof["commit"]), proof["at"]))
    missing = [(name, what) for name, what in expected.items() if name not in _ids(found)]

    table = Table(title=f"Proofs under {PROOFS.relative_to(ROOT)}")
    for column in ("id", "what", "bar", "measured", "holds", "commit", "at"):
        table.add_column(column, overflow="fold")
    for proof in found:
        measured = f"{proof['value']} {proof['unit']}".strip()
        holds = "[green]yes[/]" if proof["holds"] else "[red]NO[/]"
        row = [proof["id"], proof["what"], proof["bar"], measured, holds]
        table.add_row(*row, proof["commit"], proof["at"])
    for name, what in missing:
        table.add_row(name, what, "", "", "[red]missing[/]", "", "")
    Console().print(table)

    broken = [proof["id"] for proof in found if not proof["holds"]]
    print(f"{len(found) - len(broken)} hold, {len(broken)} do not, {len(missing)} are missing")
    return 1 if broken or missing else 0


def _expected() -> dict[str, str]:
    lines = EXPECTED.read_text().splitlines()
    pairs = (line.split(maxsplit=1) for line in lines if line and not line.startswith("#"))
    return {name: what for name, what in pairs}


def _ids(proofs: list[dict[str, str]]) -> set[str]:
    return {proof["id"] for proof in proofs}


def _age_of(commit: str) -> int:
    """Return how many commits the commit has behind it, so that the oldest comes first."""
    command = ["git", "-C", str(ROOT), "rev-list", "--count", commit.rstrip("+")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(done.stdout) if done.returncode == 0 else -1


if __name__ == "__main__":
    sys.exit(main())
