"""The command `cairn`: its groups, and how it ends."""

from __future__ import annotations

import re
import sys
from typing import Annotated

import typer
from typer.exceptions import TyperException

from cairn_appliance import __version__
from cairn_appliance.cli.commands import event, member, node, session, site, status, token, vsubnet
from cairn_appliance.cli.errors import CommandError, Exit
from cairn_appliance.cli.options import group
from cairn_appliance.cli.output import print_error

_INTERRUPTED = 130
# What the parser says of itself helps nobody who mistyped a number.
_ABOUT_THE_PARSER = re.compile(r"Value error, |, unable to parse string as an? \w+")

app = group("Operate a Cairn cluster: vSubnets, enrolment tokens, nodes, members, events.")


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    if version:
        print(f"cairn {__version__}")
        raise typer.Exit


app.command("login")(session.login)
app.command("logout")(session.logout)
app.command("status")(status.status)
app.add_typer(vsubnet.app, name="vsubnet")
app.add_typer(token.app, name="token")
app.add_typer(node.app, name="node")
app.add_typer(member.app, name="member")
app.add_typer(event.app, name="event")
app.add_typer(site.app, name="site")


def main() -> None:
    """Run the command line and exit."""
    sys.exit(run())


def run(arguments: list[str] | None = None) -> int:
    """Run a command line and return its exit code; errors are on stderr by then."""
    try:
        command = typer.main.get_command(app)
        result = command.main(args=arguments, prog_name="cairn", standalone_mode=False)
        return result if isinstance(result, int) else Exit.OK
    except CommandError as error:
        print_error(error)
        return error.exit_code
    except TyperException as error:
        return _bad_usage(error)
    except (KeyboardInterrupt, typer.Abort):
        return _INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # whoever read our output (head, less) has had enough
        return Exit.OK


def _bad_usage(error: TyperException) -> int:
    if type(error).__name__ == "NoArgsIsHelpError":  # the help is on the screen already
        return Exit.OK
    cause = _ABOUT_THE_PARSER.sub("", error.format_message()).rstrip(".")
    remedy = f"look at `{_command_path(error)} --help`"
    print_error(CommandError(Exit.BAD_INPUT, cause, remedy))
    return Exit.BAD_INPUT


def _command_path(error: TyperException) -> str:
    context = getattr(error, "ctx", None)
    return context.command_path if context is not None else "cairn"
