"""What a person sees while the demo runs: one line per fact, with the time it took."""

from __future__ import annotations

import time

from rich.console import Console
from rich.markup import escape


class Show:
    """Prints the demo's lines; times are since the demo's start."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._begun = time.monotonic()
        self._last = self._begun

    def title(self, text: str) -> None:
        """Print a heading."""
        self._console.print(f"\n[bold]{escape(text)}[/]")

    def plain(self, text: str = "") -> None:
        """Print text as it is."""
        self._console.print(escape(text))

    def step(self, text: str) -> None:
        """Say that something has been done, and when."""
        self._console.print(f"  [dim]{self._elapsed()}[/]  {escape(text)}")

    def proof(self, text: str, value: str) -> None:
        """Say that something has been proved."""
        line = f"[green]ok[/]  {escape(text)}  [bold]{escape(value)}[/]"
        self._console.print(f"  [dim]{self._elapsed()}[/]  {line}")

    def failed(self, text: str, why: str) -> None:
        """Say that a proof failed."""
        self._console.print(f"  [dim]{self._elapsed()}[/]  [red]FAILED[/]  {escape(text)}")
        for line in why.splitlines():
            self._console.print(f"          {escape(line)}")

    def _elapsed(self) -> str:
        return f"{time.monotonic() - self._begun:5.1f} s"
