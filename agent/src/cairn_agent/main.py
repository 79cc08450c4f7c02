"""The program `cairn-agent`: runs a command and tells its errors to a person."""

from __future__ import annotations

import os
import sys
import traceback

from cairn_agent.errors import AgentError
from cairn_agent.hardening import harden

_BUG = 1


def main() -> None:
    """Run the command line; exit with the codes of `cairn_agent.errors`."""
    harden()
    try:
        _run_command()
    except AgentError as error:
        sys.exit(_told(error.cause, error.remedy, error.exit_code))
    except ExceptionGroup as group:
        sys.exit(_told_group(group))
    except Exception as error:  # noqa: BLE001 - the last place that can tell a person
        sys.exit(_told_bug(error))


def _run_command() -> None:
    """`run` alone, as the unit has it, needs no command line: 3 MiB less for as long as it runs."""
    if sys.argv[1:] == ["run"]:
        from cairn_agent import running, settings

        running.run(settings.from_environment(os.environ, None, None))
    else:
        from cairn_agent.cli import app

        app(prog_name="cairn-agent")


def _told(cause: str, remedy: str, exit_code: int) -> int:
    sys.stderr.write(f"error: {cause}\n")
    if remedy:
        sys.stderr.write(f"  what to do: {remedy}\n")
    return exit_code


def _told_group(group: ExceptionGroup[Exception]) -> int:
    error: Exception = group
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, AgentError):
        return _told(error.cause, error.remedy, error.exit_code)
    return _told_bug(error)


def _told_bug(error: Exception) -> int:
    if os.environ.get("CAIRN_AGENT_LOG") == "debug":
        traceback.print_exception(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    return _told(
        f"internal error: {type(error).__name__}: {error} ({place.name}, line {place.lineno})",
        "report this with the output of the same command under CAIRN_AGENT_LOG=debug",
        _BUG,
    )
