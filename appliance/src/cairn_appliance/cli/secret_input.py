"""How commands are given passwords and codes: asked for, or from a file, never as arguments."""

from __future__ import annotations

import getpass
import sys
from pathlib import Path
from typing import Annotated

import typer

from cairn_appliance.cli.errors import CommandError, Exit

PROMPT = "prompt"
_MAX_OCTETS = 4096

PasswordFile = Annotated[
    str, typer.Option(metavar="FILE", help="File with the password; - reads stdin.")
]


def password(source: str, prompt: str) -> str:
    """Return the first line of a file or of stdin (-), or what a person types."""
    if source == "-":
        return sys.stdin.readline(_MAX_OCTETS).rstrip("\r\n")
    if source != PROMPT:
        return _of_file(Path(source))
    _check_terminal("add --password-file FILE, or --password-file - and send it to stdin")
    return getpass.getpass(prompt)


def new_password(source: str, whose: str) -> str:
    """Return a new password; a person types it twice. Raise CommandError."""
    first = password(source, f"New password of {whose}: ")
    if source == PROMPT and getpass.getpass("The same again: ") != first:
        raise CommandError(Exit.BAD_INPUT, "the two are not the same: nothing was changed")
    if not first:
        raise CommandError(Exit.BAD_INPUT, "the password is empty: nothing was changed")
    return first


def code(source: str, prompt: str) -> str:
    """Return a code: it opens once, so what is typed may be seen."""
    if source != PROMPT:
        return password(source, prompt).strip()
    _check_terminal("add --code-file FILE, or --code-file - and send it to stdin")
    sys.stderr.write(prompt)
    sys.stderr.flush()
    return sys.stdin.readline(_MAX_OCTETS).strip()


def _check_terminal(unattended: str) -> None:
    if not sys.stdin.isatty():
        raise CommandError(
            Exit.BAD_INPUT, "there is no terminal to ask for the password on", unattended
        )


def _of_file(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            return file.readline(_MAX_OCTETS).rstrip("\r\n")
    except OSError as error:
        raise CommandError(
            Exit.LOCAL_STATE, f"{path} can't be read: {error.strerror}", "name a readable file"
        ) from error
    except UnicodeDecodeError as error:
        raise CommandError(
            Exit.BAD_INPUT, f"{path} is no text", "put the password into its first line"
        ) from error
