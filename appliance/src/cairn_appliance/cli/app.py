"""The command `cairn`: its groups, and how it ends."""

from __future__ import annotations

import os
import re
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException

from cairn_appliance import __version__
from cairn_appliance.cli import token_file
from cairn_appliance.cli.commands import (
    api_token,
    audit,
    backup,
    ca,
    cluster,
    event,
    event_output,
    gateway,
    member,
    node,
    oidc,
    session,
    sessions,
    site,
    status,
    token,
    user,
    views,
    vsubnet,
)
from cairn_appliance.cli.errors import CommandError, Exit
from cairn_appliance.cli.options import group
from cairn_appliance.cli.output import print_error
from cairn_appliance.cli.watching import OPTION, is_wanted, watch

_INTERRUPTED = 130
# What the parser says of itself helps nobody who mistyped a number.
_ABOUT_THE_PARSER = re.compile(r"Value error, |, unable to parse string as an? \w+")

HELP = (
    "Operate a Cairn cluster: vSubnets, enrolment tokens, nodes, members, gateways, events, users."
)
app = group(HELP)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"cairn {__version__}")
        raise typer.Exit


@app.callback(help=HELP, no_args_is_help=True)
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version and exit.", callback=_print_version, is_eager=True
        ),
    ] = False,
    _watch: Annotated[
        bool, typer.Option(OPTION, help="Show a list, show or status anew every 2 s, until Ctrl-C.")
    ] = False,
    api_token_file: Annotated[
        str,
        typer.Option(
            token_file.OPTION,
            metavar="FILE",
            help=f"File with an API token, for scripts; also {token_file.VARIABLE}.",
        ),
    ] = "",
) -> None:
    """Take what stands before the command; `run` has seen to --watch by then."""
    token_file.choose(api_token_file)


app.command("login")(session.login)
app.command("logout")(session.logout)
app.command("status")(status.status)
app.command("topology")(views.topology)
app.command("latency")(views.latency)
app.command("search")(views.search)
node.app.command("report")(views.report)
vsubnet.app.command("table")(views.table)
app.add_typer(cluster.app, name="cluster")
app.add_typer(backup.app, name="backup")
app.add_typer(ca.app, name="ca")
app.add_typer(ca.map_key_app, name="map-key")
app.add_typer(vsubnet.app, name="vsubnet")
app.add_typer(token.app, name="token")
app.add_typer(node.app, name="node")
app.add_typer(member.app, name="member")
app.add_typer(gateway.app, name="gateway")
app.add_typer(event.app, name="event")
app.add_typer(audit.app, name="audit")
app.add_typer(event_output.app, name="event-output")
app.add_typer(site.app, name="site")
app.add_typer(user.app, name="user")
app.add_typer(sessions.app, name="session")
app.add_typer(api_token.app, name="api-token")
app.add_typer(oidc.app, name="oidc")


def main() -> None:
    """Run the command line and exit."""
    sys.exit(run())


def run(arguments: list[str] | None = None) -> int:
    """Run a command line and return its exit code; errors are on stderr by then."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        if is_wanted(given):
            return watch(given, _ended)
        return _run(given)
    except CommandError as error:
        print_error(error)
        return error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _INTERRUPTED
    except BrokenPipeError:  # whoever read our output (head, less) has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.OK
    except Exception as error:  # noqa: BLE001 - a person gets a sentence, not a traceback
        print_error(_bug(error))
        return Exit.BUG


def _ended(arguments: list[str]) -> int:
    """Run a command line once and return its exit code; errors that may pass are printed."""
    try:
        return _run(arguments)
    except CommandError as error:
        print_error(error)
        return error.exit_code


def _run(arguments: list[str]) -> int:
    command = typer.main.get_command(app)
    try:
        result = command.main(args=arguments, prog_name="cairn", standalone_mode=False)
    except TyperException as error:
        return _bad_usage(error)
    return result if isinstance(result, int) else Exit.OK


def _bug(error: Exception) -> CommandError:
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(place.filename).name}:{place.lineno}"
    return CommandError(
        Exit.BUG,
        f"cairn has a bug: {type(error).__name__}: {error} ({where})",
        "report this line and the command",
    )


def _bad_usage(error: TyperException) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":  # its message is the help
        print(error.format_message())
        return Exit.OK
    cause = _ABOUT_THE_PARSER.sub("", error.format_message()).rstrip(".")
    remedy = f"look at `{_command_path(error)} --help`"
    print_error(CommandError(Exit.BAD_INPUT, cause, remedy))
    return Exit.BAD_INPUT


def _command_path(error: TyperException) -> str:
    context = getattr(error, "ctx", None)
    return context.command_path if context is not None else "cairn"
