"""Prints the proofs of build/proofs as a table, oldest commit first, missing ones included."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
EXPECTED = ROOT / "tests" / "expected-proofs.txt"
PROOFS = ROOT / "build" / "proofs"
_WIDTH_OF_A_FILE = 200


def main() -> int:
    """Print the table; 0 if every expected proof is there and holds, else 1."""
    expected = _expected()
    found = [json.loads(file.read_text()) for file in sorted(PROOFS.glob("*.json"))]
    found.sort(key=lambda proof: (_age_of(proof["commit"]), proof["at"]))
    missing = [name for name in expected if not _is_proved(name, found)]

    console = Console() if sys.stdout.isatty() else Console(width=_WIDTH_OF_A_FILE)
    table = Table(title=f"Proofs under {PROOFS.relative_to(ROOT)}", box=box.SIMPLE)
    for column in ("id", "holds", "measured", "bar", "what", "commit", "at"):
        table.add_column(column, overflow="fold", no_wrap=column in ("id", "holds", "commit"))
    for proof in found:
        measured = f"{proof['value']} {proof['unit']}".strip()
        holds = "[green]yes[/]" if proof["holds"] else "[red]NO[/]"
        row = [proof["id"], holds, escape(measured), escape(proof["bar"]), escape(proof["what"])]
        table.add_row(*row, proof["commit"], proof["at"][:16])
    for name in missing:
        table.add_row(name, "[red]missing[/]", "", "", expected[name], "", "")
    console.print(table)

    broken = [proof["id"] for proof in found if not proof["holds"]]
    print(f"{len(found) - len(broken)} hold, {len(broken)} do not, {len(missing)} are missing")
    return 1 if broken or missing else 0


def _expected() -> dict[str, str]:
    lines = EXPECTED.read_text().splitlines()
    pairs = (line.split(maxsplit=1) for line in lines if line and not line.startswith("#"))
    return {name: what for name, what in pairs}


def _is_proved(name: str, proofs: list[dict[str, str]]) -> bool:
    """Say whether there is a proof `name`, or parts of it (`name-part`)."""
    return any(proof["id"] == name or proof["id"].startswith(f"{name}-") for proof in proofs)


def _age_of(commit: str) -> int:
    """Return how many commits the commit has behind it, so that the oldest comes first."""
    command = ["git", "-C", str(ROOT), "rev-list", "--count", commit.rstrip("+")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(done.stdout) if done.returncode == 0 else -1


if __name__ == "__main__":
    sys.exit(main())
