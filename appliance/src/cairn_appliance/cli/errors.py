"""What ends a command early: a cause, a remedy, and the exit code for scripts."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """The exit codes of all commands of Cairn."""

    OK = 0
    BUG = 1
    BAD_INPUT = 2
    UNREACHABLE = 3
    REFUSED = 4
    LOCAL_STATE = 5
    ENVIRONMENT = 6


class CommandError(Exception):
    """Ends the command; `lines` are shown between cause and remedy."""

    def __init__(
        self, code: Exit, cause: str, remedy: str = "", *, lines: tuple[str, ...] = ()
    ) -> None:
        super().__init__(cause)
        self.exit_code = code
        self.cause = cause
        self.remedy = remedy
        self.lines = lines


class ApiProblem(CommandError):
    """The appliance refused; `code` is its stable name for why."""

    def __init__(self, status: int, code: str, cause: str, remedy: str) -> None:
        super().__init__(_exit_code(status), cause, remedy)
        self.status = status
        self.code = code


def _exit_code(status: int) -> Exit:
    if status in (401, 403, 409, 412, 429):
        return Exit.REFUSED
    if status in (408, 502, 503, 504):
        return Exit.UNREACHABLE
    return Exit.BUG if status >= 500 else Exit.BAD_INPUT
