"""What a run of the bench has measured, and build/bench.json."""

from __future__ import annotations

import datetime
import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.bench.systems import SYSTEMS, System
from tests.lab import ROOT

VALUES = ROOT / "build" / "bench.json"
ABOUT = ROOT / "build" / "bench-about.json"


class Results:
    """The values of a run: figure, system, one value per round (None where it failed)."""

    def __init__(
        self, systems: Sequence[System], reasons: Mapping[str, str], *, command: str
    ) -> None:
        self.systems = list(systems)
        self.reasons = dict(reasons)  # of those not measured
        self.command = command
        self.versions = {one.name: one.built() for one in systems}
        self.at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self.machine = f"{_cpu_model()}, {os.cpu_count()} CPUs, Linux {platform.release()}"
        self.values: dict[str, dict[str, list[float | None]]] = {}
        self.failures: list[str] = []
        self.rounds = 0
        self.took_s = 0.0

    def add(self, system: str, number: int, values: Mapping[str, float]) -> None:
        """Take the values of a system's round (the first is 0)."""
        self.rounds = max(self.rounds, number + 1)
        for figure, value in values.items():
            row = self.values.setdefault(figure, {}).setdefault(system, [])
            row += [None] * (number - len(row)) + [value]

    def pad(self) -> None:
        """Make all rows as long as there were rounds."""
        for row in self.rows():
            row += [None] * (self.rounds - len(row))

    def rows(self) -> list[list[float | None]]:
        """Return every row of values."""
        return [row for figure in self.values.values() for row in figure.values()]

    def taken(self, figure: str, system: str) -> list[float]:
        """Return the values that there are."""
        row = self.values.get(figure, {}).get(system, [])
        return [value for value in row if value is not None]

    def median(self, figure: str, system: str) -> float | None:
        """Return the median, or None where nothing was measured."""
        values = self.taken(figure, system)
        return statistics.median(values) if values else None

    def peers(self, *, layer: int = 0, figure: str) -> dict[str, float]:
        """Return the medians of the encrypted peers (of one layer, if given)."""
        return {
            one.name: median
            for one in self.systems
            if one.is_peer and layer in (0, one.layer)
            if (median := self.median(figure, one.name)) is not None
        }

    @property
    def has_all_peers(self) -> bool:
        """Say whether every peer the bench knows how to run was measured in this run."""
        return all(self.taken("tcp1_gbit_s", one.name) for one in SYSTEMS if one.is_peer)

    def line(self, system: str, number: int) -> str:
        """Return a line of progress."""
        seen = []
        for figure in ("tcp1_gbit_s", "tcp4_gbit_s", "udp64_pps", "rtt_p50_us", "cpu_s_per_gb"):
            row = self.values.get(figure, {}).get(system, [])
            value = row[number] if len(row) > number else None
            seen.append(f"{figure} {'-' if value is None else format(value, ',.4g')}")
        return f"round {number + 1} {system:<13} {'  '.join(seen)}"


def write(taken: Results) -> None:
    """Write the values, and beside them what they were measured on."""
    taken.pad()
    _replace(VALUES, taken.values)
    about = {
        "at": taken.at,
        "machine": taken.machine,
        "command": taken.command,
        "rounds": taken.rounds,
        "took_s": round(taken.took_s),
        "versions": taken.versions,
        "not_measured": taken.reasons,
        "failures": taken.failures,
    }
    _replace(ABOUT, about)


def _replace(path: Path, content: object) -> None:
    new = path.with_suffix(".new")
    new.write_text(json.dumps(content, indent=1) + "\n")
    new.replace(path)


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()
