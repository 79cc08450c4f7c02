"""What a run measured: values, the bars on them, and how they are told."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tests import proofs

FILE = Path(__file__).resolve().parents[2] / "build" / "scale.json"


@dataclass(frozen=True, slots=True)
class Figure:
    """A measured value and its bar; `size` is that of the bar, `agents` what there were.

    `is_whole` is false for a run that was shorter, or slower, than the bar is about.
    """

    id: str
    what: str
    bar: str
    value: float
    unit: str
    is_met: bool
    size: int
    agents: int
    is_whole: bool = True

    @property
    def holds(self) -> bool:
        """True where the bar is met, at its own size or above, by all that it is about."""
        return self.is_met and self.is_whole and self.agents >= self.size

    @property
    def verdict(self) -> str:
        """Return it in words; a bar that is met at another size is not claimed."""
        if not self.is_met:
            return "NO"
        if not self.is_whole:
            return "not shown: too short"
        return "yes" if self.holds else f"at {self.agents:,}; not shown at {self.size:,}"


@dataclass
class Run:
    """All that one run found."""

    agents: int
    vsubnets: int
    processes: int
    command: str
    figures: list[Figure] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    load_before: float = field(default_factory=lambda: os.getloadavg()[0])

    def add(
        self,
        id_: str,
        what: str,
        bar: str,
        value: float,
        unit: str,
        *,
        met: bool,
        size: int,
        whole: bool = True,
    ) -> None:
        """Note a figure."""
        self.figures.append(Figure(id_, what, bar, value, unit, met, size, self.agents, whole))

    def write(self) -> None:
        """Write build/scale.json, and the proofs."""
        FILE.parent.mkdir(exist_ok=True)
        kept = asdict(self) | {"machine": machine()}
        FILE.write_text(json.dumps(kept, indent=2) + "\n")
        for each in self.figures:
            proofs.record(
                each.id,
                what=each.what,
                bar=f"{each.bar}, {each.size:,} agents",
                value=f"{shown(each.value)} with {self.agents:,} agents",
                unit=each.unit,
                holds=each.holds,
                command=self.command,
            )

    def text(self) -> str:
        """Return the table, with what was used."""
        head = (
            f"{self.at}  {machine()}\n{self.agents:,} agents in {self.vsubnets} vSubnets, "
            f"{self.processes} processes; load average before: {self.load_before:.1f}"
        )
        rows = [["id", "what", "bar", "measured", "holds"]]
        rows += [
            [f.id, f.what, f.bar, f"{shown(f.value)} {f.unit}", f.verdict] for f in self.figures
        ]
        notes = [f"  {name}: {text}" for name, text in self.notes.items()]
        return "\n".join(["", head, "", _aligned(rows), "", *notes, ""])


def machine() -> str:
    """Return what it was measured on."""
    return f"{os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}"


def shown(value: float) -> str:
    """Return a number with three digits that mean something."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value that a share of all don't exceed; of none: infinity."""
    if not values:
        return float("inf")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
