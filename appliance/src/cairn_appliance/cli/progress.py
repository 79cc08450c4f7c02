"""Bars for work that takes a while: on stderr, and only where a person looks at it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

from cairn_appliance.cli import output

Advance = Callable[[int], None]
_EACH_S = 10  # draws in a second


@contextmanager
def working(what: str, *, octets: int = 0) -> Iterator[Advance]:
    """Show that it goes on until the block ends; yield what is told how many octets have come.

    Without a number of octets the bar moves to and fro beside the time that has passed.
    """
    columns = [TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()]
    bar = Progress(
        *(*columns, DownloadColumn(binary_units=True)) if octets else columns,
        console=output.console(to_stderr=True),
        transient=True,  # what is said at the end stands alone
        refresh_per_second=_EACH_S,
        disable=not sys.stderr.isatty(),
    )
    with bar:
        task = bar.add_task(output.clean(what), total=octets or None)
        yield lambda count: bar.advance(task, count)
