"""The results as text."""

from __future__ import annotations

from collections.abc import Sequence

from tests.bench.bars import Judged
from tests.bench.figures import FIGURES, SHOWN_PER
from tests.bench.results import Results


def whole(taken: Results, judged: Sequence[Judged]) -> str:
    """Return all there is to tell at the end of a run."""
    parts = [_figures(taken), _bars(judged)]
    if taken.reasons:
        parts.append("not measured:\n" + _pairs(taken.reasons))
    if taken.failures:
        parts.append("failed:\n" + "\n".join(f"  {line}" for line in taken.failures))
    parts.append("versions:\n" + _pairs(taken.versions))
    head = f"{taken.at}  {taken.machine}\nmedians of {taken.rounds} interleaved rounds"
    return "\n\n".join(["", head, *parts, ""])


def _figures(taken: Results) -> str:
    """Return the medians as a Markdown table that is also readable as it is."""
    names = [one.name for one in taken.systems]
    rows = [["figure", *names]]
    for figure in FIGURES:
        cells = []
        for name in names:
            median = taken.median(figure.key, name)
            scale = SHOWN_PER.get(figure.unit, 1.0)
            cells.append("-" if median is None else f"{median / scale:,.{figure.digits}f}")
        rows.append([f"{figure.title}, {figure.unit}", *cells])
    return _aligned(rows)


def _bars(judged: Sequence[Judged]) -> str:
    rows = [["bar", "what", "needed", "measured", "holds"]]
    rows += [[one.id, one.what, one.bar, one.value, one.verdict] for one in judged]
    return _aligned(rows)


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _pairs(pairs: dict[str, str]) -> str:
    return "\n".join(f"  {name}: {text}" for name, text in pairs.items())
