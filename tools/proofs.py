"""Prints the proofs of build/proofs as a table, oldest commit first.

Those that are listed in expected-proofs.txt and missing are shown, and those that aren't listed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.proofs import DIRECTORY, ROOT, listed

_WIDTH_OF_A_FILE = 200


def main() -> int:
    """Print the table; 0 if just the listed proofs are there and all hold, else 1."""
    console = Console() if sys.stdout.isatty() else Console(width=_WIDTH_OF_A_FILE)
    found = [json.loads(file.read_text("utf-8")) for file in sorted(DIRECTORY.glob("*.json"))]
    found.sort(key=lambda proof: (_age_of(proof["commit"]), proof["at"]))
    table, summary, is_good = report(found, listed())
    console.print(table)
    print(summary)
    return 0 if is_good else 1


def report(
    found: Iterable[Mapping[str, Any]], expected: Mapping[str, str]
) -> tuple[Table, str, bool]:
    """Return the table, a summary, and whether just what is expected was found and holds."""
    found = list(found)
    have = {proof["id"] for proof in found}
    missing = [name for name in expected if name not in have]
    unknown = sorted(have - expected.keys())
    table = Table(title=f"Proofs under {DIRECTORY.relative_to(ROOT)}", box=box.SIMPLE)
    for column in ("id", "holds", "measured", "bar", "what", "commit", "at"):
        table.add_column(column, overflow="fold", no_wrap=column in ("id", "holds", "commit"))
    for proof in found:
        table.add_row(*_row(proof, is_listed=proof["id"] in expected))
    for name in missing:
        table.add_row(name, "[red]missing[/]", "", "", escape(expected[name]), "", "")
    broken = [proof["id"] for proof in found if not proof["holds"]]
    summary = f"{len(found) - len(broken)} hold, {len(broken)} do not, {len(missing)} are missing"
    if unknown:
        summary += f", {len(unknown)} are not listed: {', '.join(unknown)}"
    return table, summary, not (broken or missing or unknown)


def _row(proof: Mapping[str, Any], *, is_listed: bool) -> list[str]:
    holds = "[green]yes[/]" if proof["holds"] else "[red]NO[/]"
    if not is_listed:
        holds += " [red]not listed[/]"
    measured = f"{proof['value']} {proof['unit']}".strip()
    words = [escape(text) for text in (measured, proof["bar"], proof["what"])]
    return [proof["id"], holds, *words, proof["commit"], proof["at"][:16]]


def _age_of(commit: str) -> int:
    """Return how many commits the commit has behind it, so that the oldest comes first."""
    command = ["git", "-C", str(ROOT), "rev-list", "--count", commit.rstrip("+")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return int(done.stdout) if done.returncode == 0 else -1


if __name__ == "__main__":
    sys.exit(main())
