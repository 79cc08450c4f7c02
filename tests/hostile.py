"""`make hostile`: hostile requests at length to every operation of both APIs, and two proofs.

CAIRN_HOSTILE_EXAMPLES says how many of an operation (1000 unless given: what the proofs take).
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests import proofs
from tests.unit.appliance.api.hostile import EXAMPLES, FIGURES

AT_LEAST = 1000
_FILES = {
    "agent": "tests/unit/appliance/api/test_hostile_agent_input.py",
    "operations": "tests/unit/appliance/api/test_hostile_input.py",
}
_A_TEST_TAKES_AT_MOST_S = 3600


@dataclass
class Figures:
    """What came back of one API."""

    cases: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    undescribed: int = 0

    @property
    def server_errors(self) -> int:
        """How many answers were 5xx."""
        return sum(count for status, count in self.statuses.items() if status >= 500)

    @property
    def operations(self) -> int:
        """How many operations there are, once for each kind of caller."""
        return sum(1 for name in self.cases if ":other-method:" not in name)

    @property
    def fewest(self) -> int:
        """How many cases the operation had that had the fewest."""
        own = (count for name, count in self.cases.items() if ":other-method:" not in name)
        return min(own, default=0)


def main() -> int:
    """Run both; 0 if nothing was found."""
    os.environ.setdefault(EXAMPLES, str(AT_LEAST))
    return max([_run(api, file) for api, file in _FILES.items()])


def _run(api: str, file: str) -> int:
    with tempfile.TemporaryDirectory(prefix="cairn-hostile-") as directory:
        # By twos: what fails is told by pytest, what came back by the files.
        command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "worksteal"]
        command += ["--timeout", str(_A_TEST_TAKES_AT_MOST_S), file, *sys.argv[1:]]
        environment = {**os.environ, FIGURES: directory}
        code = subprocess.run(command, env=environment, check=False).returncode
        figures = counted(
            line for each in Path(directory).iterdir() for line in each.read_text().splitlines()
        )
    _tell(api, figures)
    return 0 if _record(api, figures, is_passed=code == 0) else 1


def counted(lines: Iterable[str]) -> Figures:
    """Add up lines of the form "operation status described|undescribed"."""
    figures = Figures()
    for line in lines:
        operation, status, word = line.rsplit(maxsplit=2)
        figures.cases[operation] += 1
        figures.statuses[int(status)] += 1
        figures.undescribed += word != "described"
    return figures


def _tell(api: str, figures: Figures) -> None:
    print(f"\n{api}: {figures.cases.total():,} cases of {figures.operations} operations,")
    print(f"  {figures.fewest:,} of the one with the fewest;")
    for status, count in sorted(figures.statuses.items()):
        print(f"  {status}: {count:,}")
    print(f"  5xx: {figures.server_errors}, undescribed: {figures.undescribed}", flush=True)


def _record(api: str, figures: Figures, *, is_passed: bool) -> bool:
    bad = figures.server_errors + figures.undescribed
    return proofs.record(
        f"HOSTILE-{api}",
        what=f"{figures.cases.total():,} hostile requests to {figures.operations} operations, "
        f"{figures.fewest:,} or more each: 5xx or undescribed answers",
        bar=f"0, of >= {AT_LEAST:,} cases each, each answer as its schema says",
        value=bad,
        unit="answers",
        holds=is_passed and bad == 0 and figures.fewest >= AT_LEAST,
        command="make hostile",
    )


if __name__ == "__main__":
    sys.exit(main())
