"""The agent's own socket, from the side of its commands.

Newline-delimited JSON, one object a line, mode 0600: `{"op": "status"}` is answered by
`{"ok": true, "result": ...}` or `{"ok": false, "error": {...}}`. Imports little: a command
that only asks should start at once.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, Final

import msgspec

from cairn_agent.errors import (
    AgentError,
    BadInput,
    Environment,
    Refused,
    StateUnusable,
    Unreachable,
)
from cairn_agent.protocol.gateway import PreflightReport
from cairn_agent.report import Pinged, Status

_MAX_ANSWER_OCTETS: Final = 64 * 1024 * 1024
_ANSWER_TIMEOUT_S: Final = 30.0
_ERRORS: Final[dict[int, type[AgentError]]] = {
    kind.exit_code: kind
    for kind in (AgentError, BadInput, Unreachable, Refused, StateUnusable, Environment)
}


class Request(msgspec.Struct, frozen=True):
    """One question."""

    op: str
    peer: str = ""
    timeout_ms: int = 1000
    force: bool = False
    port: str = ""  # of a pre-flight, with what follows
    vlan: int = 0
    vsubnet: str = ""
    listen_s: float = 0.0


class Failure(msgspec.Struct, frozen=True):
    """An AgentError on its way to the terminal."""

    exit_code: int
    cause: str
    remedy: str = ""


class Answer(msgspec.Struct, frozen=True):
    """One answer."""

    ok: bool
    result: Any = None
    error: Failure | None = None


async def ask(path: Path, request: Request) -> Any:
    """Ask the running agent; raise Unreachable where none runs, or the error it answers."""
    try:
        async with asyncio.timeout(_ANSWER_TIMEOUT_S + request.listen_s):
            reader, writer = await asyncio.open_unix_connection(path, limit=_MAX_ANSWER_OCTETS)
            try:
                writer.write(msgspec.json.encode(request) + b"\n")
                line = await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError) as error:
        raise _not_running(path, error) from error
    if not line:
        raise Unreachable("the agent closed the connection", "look at its log, and try again")
    answer = msgspec.json.decode(line, type=Answer)
    if answer.error is not None:
        kind = _ERRORS.get(answer.error.exit_code, AgentError)
        raise kind(answer.error.cause, answer.error.remedy)
    return answer.result


def _not_running(path: Path, error: Exception) -> AgentError:
    if isinstance(error, PermissionError):
        return Environment(f"{path} may not be used by this user", "run the command as root")
    if isinstance(error, TimeoutError):
        return Unreachable(
            "the agent gives no answer", "look at its log (journalctl -u cairn-agent)"
        )
    return Unreachable(
        "the agent isn't running here",
        "start it (systemctl start cairn-agent, or `cairn-agent run`)",
    )


def as_status(result: Any) -> Status:
    """Return what `status` answered, typed."""
    return msgspec.convert(result, Status)


def as_preflight(result: Any) -> PreflightReport:
    """Return what `preflight` answered, typed."""
    return msgspec.convert(result, PreflightReport)


def as_pinged(result: Any) -> Pinged:
    """Return what `ping` answered, typed."""
    return msgspec.convert(result, Pinged)
