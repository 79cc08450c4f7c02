"""Options and connections that several commands share."""

from __future__ import annotations

import contextlib
import re
import threading
from datetime import timedelta
from typing import Annotated

import msgspec
import typer

from cairn_appliance.cli import token_file
from cairn_appliance.cli.connection import Connection, base_url, path_of
from cairn_appliance.cli.errors import CommandError, Exit
from cairn_appliance.cli.replies import NodeRef
from cairn_appliance.cli.session import Session, load

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
RevokeNow = Annotated[
    bool,
    typer.Option(
        "--revoke-now",
        help="End the vSubnets' old secrets at once; members out of reach lose their sessions.",
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask for a confirmation.")]


def _complete_vsubnet(incomplete: str) -> list[str]:
    return completed("vsubnets", incomplete)


def _complete_node(incomplete: str) -> list[str]:
    return completed("nodes", incomplete)


Vsubnet = Annotated[
    str,
    typer.Argument(metavar="VSUBNET", help="Name, ID or VNI.", autocompletion=_complete_vsubnet),
]
Node = Annotated[
    str,
    typer.Argument(
        metavar="NODE",
        help="Name, ID, or the first characters of the ID.",
        autocompletion=_complete_node,
    ),
]

_COMPLETED_WITHIN_S = 1.0
_LENGTH = re.compile(r"(\d{1,6})\s*(s|m|min|h|d|w)")
_UNIT_S = {"s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


def group(help_text: str) -> typer.Typer:
    """Return a group of commands; alone it shows its help."""
    return typer.Typer(
        help=help_text,
        no_args_is_help=True,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
        pretty_exceptions_enable=False,
    )


def connect(*, at: str = "") -> Connection:
    """Return a connection with the remembered session; raise CommandError where there is none.

    A script's API token, where a file with one was named, goes before the session. `at` is
    another appliance of the cluster: both are good at each.
    """
    path = token_file.chosen()
    session = token_file.session_of(path) if path else load()
    if session is None:
        raise CommandError(
            Exit.REFUSED, "you are not logged in", "cairn login https://APPLIANCE:8443"
        )
    return connection_of(msgspec.structs.replace(session, url=base_url(at)) if at else session)


def connection_of(session: Session) -> Connection:
    """Return a connection with this session; raise CommandError if it has ended."""
    if not session.token:
        raise CommandError(Exit.REFUSED, f"you are logged out of {session.url}", "cairn login")
    return Connection(session)


def completed(kind: str, incomplete: str) -> list[str]:
    """Return the names that a shell may complete, as many as come within a second.

    It is silent: a shell that waits for Tab has no place for an error.
    """
    found: list[str] = []
    asking = threading.Thread(target=_collect_names, args=(kind, found), daemon=True)
    asking.start()
    asking.join(_COMPLETED_WITHIN_S)
    return sorted(name for name in list(found) if name.startswith(incomplete))


def _collect_names(kind: str, found: list[str]) -> None:
    with contextlib.suppress(CommandError, msgspec.ValidationError), connect() as connection:
        for reply in connection.pages(path_of(kind), NodeRef):
            found.append(reply.value.name)


def length_of_time(text: str) -> timedelta:
    """Return the length that "90s", "30m", "24h", "7d" or "2w" names; raise CommandError."""
    match = _LENGTH.fullmatch(text.strip().lower())
    if match is None or not int(match[1]):
        raise CommandError(
            Exit.BAD_INPUT,
            f"{text!r} is no length of time",
            "write a number and a unit: 90s, 30m, 24h, 7d, 2w",
        )
    return timedelta(seconds=int(match[1]) * _UNIT_S[match[2]])
