"""What the menu, which is nobody in particular, may ask root for: these things and no others.

One line of JSON each way on a socket that only the menu's group may use; each request is
answered by a process of its own (cairn-request@.service), which checks everything again.
"""

from __future__ import annotations

import socket
from pathlib import Path

import msgspec

from cairn_appliance.domain.errors import CairnError
from cairn_appliance.image.seed import Cluster, Network

SOCKET = Path("/run/cairn-request.sock")
MOST_OCTETS = 64 * 1024
ANSWER_S = 180.0


class _Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="do"):
    pass


class TryNetwork(_Request, frozen=True, tag="try-network"):
    """Change the network; it goes back by itself unless KeepNetwork follows in time."""

    network: Network


class KeepNetwork(_Request, frozen=True, tag="keep-network"):
    """The change that is tried is to stay."""


class RevertNetwork(_Request, frozen=True, tag="revert-network"):
    """The change that is tried is to go back at once."""


class SetUp(_Request, frozen=True, tag="set-up"):
    """Make or join a cluster, as a seed would say."""

    hostname: str
    cluster: Cluster


class SetTimeServers(_Request, frozen=True, tag="set-time-servers"):
    """Ask these servers for the time; none: the system's own."""

    servers: list[str]


class SetClock(_Request, frozen=True, tag="set-clock"):
    """Set the clock by hand, where no server is answering."""

    at: int  # seconds since 1970, UTC


class WriteBundle(_Request, frozen=True, tag="write-bundle"):
    """Write a support bundle to the medium with the label CAIRN-OUT."""


class Restart(_Request, frozen=True, tag="restart"):
    """Start the machine again."""


class PowerOff(_Request, frozen=True, tag="power-off"):
    """Switch the machine off."""


class FactoryReset(_Request, frozen=True, tag="factory-reset"):
    """Remove all state, and start as a machine that was never set up."""

    hostname: str  # as typed by who wants it


Request = (
    TryNetwork
    | KeepNetwork
    | RevertNetwork
    | SetUp
    | SetTimeServers
    | SetClock
    | WriteBundle
    | Restart
    | PowerOff
    | FactoryReset
)


class Answer(msgspec.Struct, frozen=True):
    """What root says: a text to show, or why it was not done."""

    text: str = ""
    cause: str = ""
    remedy: str = ""


class NotDone(CairnError):
    """Root refused it, or could not do it."""

    code = "not_done"
    remedy = "look into the journal (the support bundle has it)"


def decode(octets: bytes) -> Request:
    """Return the request in a line; raise NotDone."""
    try:
        return msgspec.json.decode(octets, type=Request)  # type: ignore[no-any-return]
    except msgspec.MsgspecError as error:
        raise NotDone(f"that is no request: {error}") from error


def ask_root(request: Request, place: Path = SOCKET) -> str:
    """Have it done; return what there is to say; raise NotDone."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(ANSWER_S)
            connection.connect(str(place))
            connection.sendall(msgspec.json.encode(request) + b"\n")
            answer = msgspec.json.decode(read_line(connection), type=Answer)
    except (OSError, msgspec.MsgspecError) as error:
        raise NotDone(f"the machine gave no answer: {error}") from error
    if answer.cause:
        raise NotDone(answer.cause, answer.remedy)
    return answer.text


def read_line(connection: socket.socket) -> bytes:
    """Return the octets before the first line's end, or all up to the limit."""
    got = b""
    while b"\n" not in got and len(got) <= MOST_OCTETS:
        octets = connection.recv(MOST_OCTETS)
        if not octets:
            break
        got += octets
    return got.partition(b"\n")[0]
