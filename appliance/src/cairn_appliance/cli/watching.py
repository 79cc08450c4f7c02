"""`--watch`: a command that only shows is run again and again, until Ctrl-C."""

from __future__ import annotations

import contextlib
import io
import json
import random
import sys
import time
from collections.abc import Callable, Sequence

from cairn_appliance.cli import token_file
from cairn_appliance.cli.errors import CommandError, Exit

OPTION = "--watch"
EVERY_S = 2.0
SHOWING = frozenset({"list", "show", "status", "stations", "upgrade-check"})
_CLEAR = "\x1b[H\x1b[2J"


def is_wanted(arguments: Sequence[str]) -> bool:
    """Return whether the command line asks for it."""
    return OPTION in _options(arguments)


def watch(arguments: Sequence[str], once: Callable[[list[str]], int]) -> int:
    """Show every two seconds what the command shows; an appliance that is away may come back.

    With --json each round is one line. Ends with 0 by Ctrl-C, or with what the command ends with
    where that will not pass by itself.
    """
    rest = [each for each in arguments if each != OPTION]
    words = [
        each
        for before, each in zip(["", *rest], rest, strict=False)
        if not each.startswith("-") and before != token_file.OPTION
    ]
    if not SHOWING & set(words[:2]):
        raise CommandError(
            Exit.BAD_INPUT,
            f"{OPTION} is for commands that only show: {', '.join(sorted(SHOWING))}",
            f"leave {OPTION} out",
        )
    try:
        while True:
            code = _round(rest, once)
            if code not in (Exit.OK, Exit.UNREACHABLE):
                return code
            time.sleep(EVERY_S * random.uniform(0.9, 1.0))
    except KeyboardInterrupt:
        return Exit.OK


def _round(arguments: list[str], once: Callable[[list[str]], int]) -> int:
    """Run it once and print at once what it has printed, so that nothing flickers."""
    screen = _Screen()
    with contextlib.redirect_stdout(screen):
        code = once(arguments)
    shown = screen.getvalue()
    if "--json" in _options(arguments):
        shown = _one_line(shown)
    elif sys.stdout.isatty():
        shown = _CLEAR + shown
    sys.stdout.write(shown)
    sys.stdout.flush()
    return code


class _Screen(io.StringIO):
    """Keeps what is printed, drawn for where it will go."""

    def isatty(self) -> bool:
        """Return whether that is a terminal."""
        return sys.__stdout__ is not None and sys.__stdout__.isatty()


def _one_line(text: str) -> str:
    """Return a JSON document as one line; what is a line each already stays so."""
    try:
        return json.dumps(json.loads(text)) + "\n" if text else ""
    except ValueError:
        return text


def _options(arguments: Sequence[str]) -> Sequence[str]:
    """Return what stands before `--`: what follows are no options."""
    return arguments[: arguments.index("--")] if "--" in arguments else arguments
