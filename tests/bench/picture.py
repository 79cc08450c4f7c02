"""The results as a picture: build/bench.svg, a panel of bars for each figure."""

from __future__ import annotations

from html import escape

from tests.bench.figures import FIGURES, SHOWN_PER, Figure
from tests.bench.results import Results
from tests.lab import ROOT

FILE = ROOT / "build" / "bench.svg"
_WIDTH, _COLUMNS, _MARGIN, _TOP = 1000, 2, 24, 84
_ROW, _HEAD, _GAP, _NAME, _VALUE = 22, 34, 18, 104, 84
_OWN, _KERNEL, _PEER, _INK, _PALE = "#0b6e4f", "#8a8f98", "#4c78a8", "#1c1e21", "#5f6570"


def write(taken: Results) -> None:
    """Write the picture, whole or not at all."""
    new = FILE.with_suffix(".new")
    new.write_text(drawn(taken))
    new.replace(FILE)


def drawn(taken: Results) -> str:
    """Return the picture as SVG."""
    figures = [figure for figure in FIGURES if taken.values.get(figure.key)]
    panel = _HEAD + _ROW * len(taken.systems) + _GAP
    height = _TOP + panel * -(-len(figures) // _COLUMNS) + _MARGIN
    wide = (_WIDTH - _MARGIN * (_COLUMNS + 1)) // _COLUMNS
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'font-family="system-ui, sans-serif" font-size="13" fill="{_INK}">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        _text(_MARGIN, 34, "Cairn beside other overlays", size=20, weight=600),
        _text(_MARGIN, 54, f"{taken.machine}; {taken.at[:10]}", fill=_PALE),
        _text(
            _MARGIN,
            72,
            f"Medians of {taken.rounds} interleaved rounds, the line from the least to the most. "
            "Green: Cairn; grey: plaintext in the kernel; blue: encrypted peers.",
            fill=_PALE,
        ),
    ]
    for number, figure in enumerate(figures):
        left = _MARGIN + (number % _COLUMNS) * (wide + _MARGIN)
        parts += _panel(taken, figure, left, _TOP + (number // _COLUMNS) * panel, wide)
    return "\n".join([*parts, "</svg>", ""])


def _panel(taken: Results, figure: Figure, left: int, top: int, wide: int) -> list[str]:
    scale = SHOWN_PER.get(figure.unit, 1.0)
    better = "more" if figure.more_is_better else "less"
    most = max(max(taken.taken(figure.key, one.name), default=0.0) for one in taken.systems) or 1.0
    room = wide - _NAME - _VALUE
    title = f"{figure.title} ({figure.unit}; {better} is better)"
    parts = [_text(left, top + 20, title, weight=600)]
    for row, system in enumerate(taken.systems):
        y = top + _HEAD + row * _ROW
        values, median = taken.taken(figure.key, system.name), taken.median(figure.key, system.name)
        parts.append(_text(left + _NAME - 8, y + 12, system.name, anchor="end"))
        if median is None:
            parts.append(_text(left + _NAME, y + 12, "not measured", fill=_PALE))
            continue
        colour = _OWN if system.name == "cairn" else _PEER if system.cipher else _KERNEL
        begins = left + _NAME
        least, middle, end = (room * value / most for value in (min(values), median, max(values)))
        parts += [
            f'<rect x="{begins}" y="{y}" width="{middle:.1f}" height="{_ROW - 7}" rx="2" '
            f'fill="{colour}"/>',
            f'<path d="M{begins + least:.1f} {y + 7.5}H{begins + end:.1f}" stroke="{_INK}" '
            'stroke-width="1.5"/>',
            _text(round(begins + end + 6), y + 12, f"{median / scale:,.{figure.digits}f}"),
        ]
    return parts


def _text(
    x: int,
    y: int,
    text: str,
    *,
    size: int = 13,
    weight: int = 400,
    fill: str = _INK,
    anchor: str = "start",
) -> str:
    return (
        f'<text x="{x}" y="{y}" font-size="{size}" font-weight="{weight}" fill="{fill}" '
        f'text-anchor="{anchor}">{escape(text)}</text>'
    )
