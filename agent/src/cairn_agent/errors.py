"""What goes wrong, as the person at the terminal must hear it: cause and remedy.

AgentError
+-- BadInput          exit code 2   the command or its input is wrong
+-- Unreachable       exit code 3   nobody answered in time
+-- Refused           exit code 4   somebody answered no
+-- StateUnusable     exit code 5   our own files can't be used
+-- Environment       exit code 6   this machine lacks something
"""

from __future__ import annotations

from typing import ClassVar


class AgentError(Exception):
    """The root of everything that the agent raises; exit code 1 means a bug."""

    exit_code: ClassVar[int] = 1

    def __init__(self, cause: str, remedy: str = "") -> None:
        super().__init__(cause)
        self.cause = cause
        self.remedy = remedy


class BadInput(AgentError):
    """The command or what was given to it is wrong."""

    exit_code = 2


class Unreachable(AgentError):
    """Nobody answered within the bound."""

    exit_code = 3


class NoAnswer(Unreachable):
    """Packets are swallowed: to try it costs the whole bound, not a round trip."""


class Busy(Unreachable):
    """The appliance can't serve now; it may say when to come back."""

    def __init__(self, cause: str, remedy: str, retry_after_s: float = 0.0, code: str = "") -> None:
        super().__init__(cause, remedy)
        self.retry_after_s = retry_after_s
        self.code = code


class TurnedAway(Busy):
    """The appliance has more newcomers than it can serve in time; this one has cost it nothing."""


class Refused(AgentError):
    """The other side said no; `code` is its machine-readable reason."""

    exit_code = 4

    def __init__(self, cause: str, remedy: str = "", code: str = "") -> None:
        super().__init__(cause, remedy)
        self.code = code


class StateUnusable(AgentError):
    """The agent's own files can't be read or written."""

    exit_code = 5


class Environment(AgentError):
    """The machine lacks what the command needs."""

    exit_code = 6
