"""What people see: tables, facts, ages, questions; and JSON for programs.

Text that came from agents or operators is shown as text: no markup, and control and
bidirectional characters are made visible, so that no name can rewrite the screen.
"""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cairn_appliance.cli.errors import CommandError, Exit

Cell = str | Text
Value = Cell | Sequence[Cell]
_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))
_WIDTH_OF_A_FILE = 240
# Unicode categories that draw nothing themselves: control, format (bidi), surrogate, unassigned.
_INVISIBLE = ("Cc", "Cf", "Cs", "Cn", "Zl", "Zp")

GOOD, WARN, BAD, DIM = "green", "yellow", "bold red", "dim"


def console(*, to_stderr: bool = False) -> Console:
    """Return a console as wide as the terminal; into a file or pipe, lines are not cut."""
    stream = sys.stderr if to_stderr else sys.stdout
    is_screen = stream.isatty() or "COLUMNS" in os.environ
    width = None if is_screen else _WIDTH_OF_A_FILE
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def clean(text: str) -> str:
    """Return the text with everything that draws nothing written as an escape."""
    return "".join(_visible(character) for character in text)


def say(*lines: Cell) -> None:
    """Print lines for people."""
    out = console()
    for line in lines:
        out.print(line, soft_wrap=True)


def print_json(value: object) -> None:
    """Print JSON for programs; ASCII only, so that nothing in it can steer a terminal."""
    print(json.dumps(value, indent=2))


def print_json_line(value: object) -> None:
    """Print JSON as one line, at once: for streams."""
    print(json.dumps(value), flush=True)


def table(headings: Sequence[str], rows: Iterable[Sequence[Cell]], *, empty: str) -> None:
    """Print a table, or the sentence `empty` if there is nothing in it."""
    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in headings:
        drawn.add_column(heading, overflow="fold")
    for row in rows:
        drawn.add_row(*(_cell(cell) for cell in row))
    if drawn.row_count:
        console().print(drawn)
    else:
        say(empty)


def facts(title: Cell, pairs: Iterable[tuple[str, Value]]) -> None:
    """Print a title and below it names with values; what is empty is left out."""
    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    drawn.add_column(style=DIM, no_wrap=True)
    drawn.add_column(overflow="fold")
    for name, value in pairs:
        values = [value] if isinstance(value, str | Text) else list(value)
        for position, each in enumerate(value for value in values if value):
            drawn.add_row(name if position == 0 else "", _cell(each))
    out = console()
    out.print(Text(title, style="bold") if isinstance(title, str) else title)
    out.print(drawn)


def confirm(question: str, lost: Sequence[str], *, yes: bool) -> None:
    """Ask before something is lost; raise CommandError unless the answer is yes."""
    if yes:
        return
    err = console(to_stderr=True)
    err.print(clean(question), style="bold", soft_wrap=True)
    for line in lost:
        err.print(f"  - {clean(line)}", soft_wrap=True)
    if not ask("Go on? [y/N] ", unattended="add --yes to go on without being asked"):
        raise CommandError(Exit.REFUSED, "not confirmed: nothing was changed")


def ask(prompt: str, *, unattended: str) -> bool:
    """Return whether the person says yes; raise CommandError where nobody can be asked."""
    if not sys.stdin.isatty():
        raise CommandError(
            Exit.BAD_INPUT,
            "this needs a confirmation and there is no terminal to ask on",
            unattended,
        )
    sys.stderr.write(prompt)
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def print_error(error: CommandError) -> None:
    """Print cause and remedy to stderr."""
    err = console(to_stderr=True)
    err.print(Text.assemble(("error: ", BAD), clean(error.cause)), soft_wrap=True)
    for line in error.lines:
        err.print(f"  {clean(line)}", soft_wrap=True)
    if error.remedy:
        err.print(Text.assemble(("  what to do: ", "bold"), clean(error.remedy)), soft_wrap=True)


def now() -> datetime:
    """Return the time of the wall clock."""
    return datetime.now(UTC)


def span(length: timedelta) -> str:
    """Return a length of time in its one or two largest units: "2 d 3 h", "45 s"."""
    seconds = max(0, int(length.total_seconds()))
    for position, (size, unit) in enumerate(_UNITS):
        if seconds < size:
            continue
        first, rest = divmod(seconds, size)
        if position + 1 < len(_UNITS) and first < 10:
            smaller, smaller_unit = _UNITS[position + 1]
            if rest >= smaller and unit != "min":
                return f"{first} {unit} {rest // smaller} {smaller_unit}"
        return f"{first} {unit}"
    return "0 s"


def ago(moment: datetime | None) -> str:
    """Return how long ago it was; empty where it never was."""
    return f"{span(now() - moment)} ago" if moment else ""


def until(moment: datetime) -> str:
    """Return how long from now, or how long ago."""
    left = moment - now()
    return f"in {span(left)}" if left > timedelta(0) else ago(moment)


def local(moment: datetime) -> str:
    """Return date and time in the zone of this machine."""
    return moment.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def short(identifier: str) -> str:
    """Return the part of an ID that people read; it is accepted as long as it is unique."""
    return identifier[:8]


def counted(number: int, one: str, many: str = "") -> str:
    """Return "1 member", "3 members"."""
    return f"{number} {one if number == 1 else many or one + 's'}"


def _cell(cell: Cell) -> Text:
    return cell if isinstance(cell, Text) else Text(clean(cell))


def _visible(character: str) -> str:
    if unicodedata.category(character) not in _INVISIBLE:
        return character
    return character.encode("unicode_escape").decode()
