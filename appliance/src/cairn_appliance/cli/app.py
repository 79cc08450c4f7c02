"""The command `cairn`: its groups, and how it ends."""

from __future__ import annotations

import sys

import typer
from typer.exceptions import TyperException

from cairn_appliance.cli.commands import event, member, node, session, site, status, token, vsubnet
from cairn_appliance.cli.errors import CommandError, Exit
from cairn_appliance.cli.options import group
from cairn_appliance.cli.output import print_error

_INTERRUPTED = 130

app = group("Operate a Cairn cluster: vSubnets, enrolment tokens, nodes, members, events.")
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
    message = error.format_message()
    if type(error).__name__ == "NoArgsIsHelpError":
        print(message)
        return Exit.OK
    path = _command_path(error)
    print_error(CommandError(Exit.BAD_INPUT, message.rstrip("."), f"look at `{path} --help`"))
    return Exit.BAD_INPUT


def _command_path(error: TyperException) -> str:
    context = getattr(error, "ctx", None)
    return context.command_path if context is not None else "cairn"
