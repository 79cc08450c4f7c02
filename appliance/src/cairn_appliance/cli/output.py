"""What people see: tables, facts, ages, questions; and JSON for programs.

Text that came from agents or operators is shown as text: no markup, and control and
bidirectional characters are made visible, so that no name can rewrite the screen.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Container, Iterable, Sequence
from datetime import UTC, datetime, timedelta

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cairn_appliance.cli.errors import CommandError, Exit
from cairn_appliance.domain.visible import visible

Cell = str | Text
Value = Cell | Sequence[Cell]
_HOURS = (3600, "h", 60, "min")
_DAYS = (86_400, "d", 3600, "h")
_WIDTH_OF_A_FILE = 240
_WIDTH_AT_LEAST = 80

GOOD, WARN, BAD, DIM = "green", "yellow", "bold red", "dim"


def console(*, to_stderr: bool = False) -> Console:
    """Return a console as wide as the terminal; into a file or pipe, lines are not cut."""
    stream = sys.stderr if to_stderr else sys.stdout
    is_screen = stream.isatty() or "COLUMNS" in os.environ
    width = None if is_screen else _WIDTH_OF_A_FILE
    return Console(file=stream, width=width, highlight=False, markup=False, emoji=False)


def clean(text: str) -> str:
    """Return the text with everything that draws nothing written as an escape."""
    return visible(text)


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


def table(
    headings: Sequence[str], rows: Iterable[Sequence[Value]], *, fold: Container[str], empty: str
) -> None:
    """Print a table, or the sentence `empty` if there is nothing in it.

    The columns in `fold` are broken into lines where the screen is too narrow.
    """
    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading in headings:
        drawn.add_column(heading, overflow="fold", no_wrap=heading not in fold)
    for row in rows:
        drawn.add_row(*(_cell(cell) for cell in row))
    if drawn.row_count:
        _print_without_tails(drawn)
    else:
        say(empty)


def facts(title: Cell, pairs: Iterable[tuple[str, Value]]) -> None:
    """Print a title and below it names with values; what is empty is left out."""
    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    drawn.add_column(style=DIM, no_wrap=True)
    drawn.add_column(overflow="fold")
    for name, value in pairs:
        if value:
            drawn.add_row(name, _cell(value))
    say(Text(title, style="bold") if isinstance(title, str) else title)
    _print_without_tails(drawn)


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


def of_ms(milliseconds: int) -> datetime:
    """Return the time that is so many milliseconds after 1970."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def span(length: timedelta) -> str:
    """Return a length of time as people say it: "45 s", "12 min", "3 h 20 min", "30 d"."""
    seconds = max(0, round(length.total_seconds()))
    if seconds < 60:
        return f"{seconds} s"
    if round(seconds / 60) < 60:
        return f"{round(seconds / 60)} min"
    unit, name, smaller, smaller_name = _HOURS if round(seconds / 3600) < 48 else _DAYS
    if seconds >= 10 * unit:
        return f"{round(seconds / unit)} {name}"
    whole, rest = divmod(round(seconds / smaller), unit // smaller)
    return f"{whole} {name} {rest} {smaller_name}" if rest else f"{whole} {name}"


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


def _print_without_tails(drawn: Table) -> None:
    """Print a table without the spaces that fill its last column."""
    out = console()
    out.width = max(out.width, _WIDTH_AT_LEAST)  # a narrower terminal breaks the lines itself
    with out.capture() as capture:
        out.print(drawn)
    for line in capture.get().splitlines():
        print(line.rstrip())


def _cell(value: Value) -> Text:
    if isinstance(value, Text):
        return value
    if isinstance(value, str):
        return Text(clean(value))
    return Text("\n").join(_cell(each) for each in value)
