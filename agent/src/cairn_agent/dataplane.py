"""Client of the data plane's control socket (docs/protocol.md section 2). Never a packet."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from cairn_agent.errors import AgentError, Environment, Unreachable
from cairn_agent.netmap.desired import DataPlaneState

log = logging.getLogger(__name__)

PROTOCOL: Final = 1
_MAX_LINE_OCTETS: Final = 64 * 1024 * 1024
_ANSWER_TIMEOUT_S: Final = 10.0
_CONNECT_TIMEOUT_S: Final = 2.0
_MAX_EVENTS: Final = 1024
_T = TypeVar("_T")


class DataPlaneRefused(AgentError):
    """The data plane answered an operation with an error; `code` is its own."""

    def __init__(self, code: str, message: str) -> None:
        cause, _, remedy = message.partition("; ")  # docs/protocol.md 2: cause and remedy
        super().__init__(f"the data plane says: {cause}", remedy or "look at its log")
        self.code = code


class Hello(msgspec.Struct, frozen=True):
    """Who the data plane is."""

    version: str
    protocol: int
    pid: int
    instance: str
    generation: int | None = None
    offloads: dict[str, str] = {}
    entropy: str = ""


class Applied(msgspec.Struct, frozen=True):
    """The answer to `apply`."""

    generation: int
    changed: bool = False


class Probe(msgspec.Struct, frozen=True):
    """The answer to `probe`."""

    rtt_us: int
    endpoint: str = ""


class PeerStats(msgspec.Struct, frozen=True):
    """One peer in one vSubnet."""

    id: str
    endpoint: str | None = None
    session: str = "down"
    path: str = ""
    rtt_us: int | None = None
    session_age_s: float | None = None
    last_received_s: float | None = None
    tx_octets: int = 0
    rx_octets: int = 0
    tx_frames: int = 0
    rx_frames: int = 0
    handshakes: int = 0
    mtu: int | None = None


class GateStats(msgspec.Struct, frozen=True):
    """Whether this gateway may forward; `until_ns` is of CLOCK_BOOTTIME, 0 where it was closed."""

    term: int
    is_open: bool = False
    until_ns: int = 0


class LearnedStats(msgspec.Struct, frozen=True):
    """A station learned behind a gateway."""

    mac: str
    peer: str
    age_s: float = 0.0


class VSubnetStats(msgspec.Struct, frozen=True):
    """One vSubnet; `gate` where this node is a gateway of it."""

    vni: int
    tx_frames: int = 0
    tx_octets: int = 0
    rx_frames: int = 0
    rx_octets: int = 0
    drops: dict[str, int] = {}
    peers: list[PeerStats] = []
    counters: dict[str, int] = {}
    learned: list[LearnedStats] = []
    gate: GateStats | None = None


class Stats(msgspec.Struct, frozen=True):
    """The answer to `stats`."""

    instance: str
    uptime_s: float = 0.0
    generation: int | None = None
    counters: dict[str, int] = {}
    drops: dict[str, int] = {}
    vsubnets: list[VSubnetStats] = []


class Event(msgspec.Struct, frozen=True):
    """Something that happened (docs/protocol.md 2.3); each type fills its own fields."""

    type: str = msgspec.field(default="", name="event")
    vni: int = 0
    peer: str = ""
    reason: str = ""
    what: str = ""
    mac: str = ""
    count: int = 0
    endpoint: str | None = None
    term: int = 0


class _Forgotten(msgspec.Struct, frozen=True):
    forgotten: int = 0


class _Line(msgspec.Struct, frozen=True):
    id: int | None = None
    ok: bool = True
    error: _Error | None = None
    events: list[Event] | None = None
    lost: int = 0


class _Error(msgspec.Struct, frozen=True):
    code: str = ""
    message: str = ""


_line = msgspec.json.Decoder(_Line)


class DataPlane:
    """One connection to the data plane; made by `connected`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._closed = False
        self.events: asyncio.Queue[Event] = asyncio.Queue(_MAX_EVENTS)
        self.lost_events = 0

    async def hello(self) -> Hello:
        """Return who answers; raise Environment for a version that can't be spoken with."""
        hello = await self._ask("hello", Hello)
        if hello.protocol != PROTOCOL:
            raise Environment(
                f"the data plane speaks protocol {hello.protocol}, this agent {PROTOCOL}",
                "install agent and data plane of the same version and restart both",
            )
        return hello

    async def apply(self, generation: int, state: DataPlaneState) -> Applied:
        """Make the data plane what `state` says; raise DataPlaneRefused, Unreachable."""
        return await self._ask("apply", Applied, generation=generation, state=state)

    async def stats(self) -> Stats:
        """Return the counters of now."""
        return await self._ask("stats", Stats)

    async def probe(self, vni: int, peer: str, timeout_ms: int) -> Probe:
        """Measure the way to a peer inside its session."""
        return await self._ask(
            "probe",
            Probe,
            wait_s=timeout_ms / 1000 + _ANSWER_TIMEOUT_S,
            vni=vni,
            peer=peer,
            timeout_ms=timeout_ms,
        )

    async def gate(self, vni: int, term: int, forward_until_ns: int) -> None:
        """Let this gateway forward until then, on CLOCK_BOOTTIME; 0 closes its gate at once.

        When this returns after closing, no frame passes any more. Raise DataPlaneRefused with
        the code `older_term` where a later holder's term was seen, `no_gateway` where the node's
        role in what was applied last is another.
        """
        await self._ask("gate", Any, vni=vni, term=term, forward_until_ns=forward_until_ns)

    async def forget(self, vni: int, peer: str) -> int:
        """Forget the stations learned behind a peer, and return how many those were."""
        return (await self._ask("forget", _Forgotten, vni=vni, peer=peer)).forgotten

    async def subscribe(self) -> None:
        """Begin to receive events."""
        await self._ask("subscribe", Any)

    async def underlay_changed(self) -> None:
        """Say that addresses or routes of the underlay changed: try all paths now."""
        await self._ask("underlay_changed", Any)

    async def warm_all(self) -> None:
        """Get a session with each peer that there is none with, 128 a second."""
        await self._ask("warm_all", Any)

    async def pump(self) -> None:
        """Read answers and events until the connection ends; then raise Unreachable."""
        try:
            while line := await self._reader.readline():
                self._dispatch(line)
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            raise self._lost(str(error)) from error
        finally:
            self._close()
        raise self._lost("it closed the connection")

    def _dispatch(self, octets: bytes) -> None:
        line = _line.decode(octets)
        if line.events is not None:
            self.lost_events += line.lost
            for event in line.events:
                self._keep(event)
        elif line.id is not None and (future := self._waiting.pop(line.id, None)):
            if future.done():
                return
            if line.ok:
                future.set_result(octets)
            else:
                error = line.error or _Error("unknown", "it gives no reason")
                future.set_exception(DataPlaneRefused(error.code, error.message))

    def _keep(self, event: Event) -> None:
        if self.events.full():
            self.events.get_nowait()
            self.lost_events += 1
        self.events.put_nowait(event)

    async def clear(self, state: DataPlaneState) -> None:
        """Greet a data plane that was alone, and apply a state without vSubnets to it."""
        pump = asyncio.ensure_future(self.pump())
        try:
            hello = await self.hello()
            if hello.generation is not None:
                await self.apply(hello.generation + 1, state)
        finally:
            pump.cancel()
            with contextlib.suppress(asyncio.CancelledError, Unreachable):
                await pump

    async def _ask(
        self, op: str, answer: type[_T], *, wait_s: float = _ANSWER_TIMEOUT_S, **fields: object
    ) -> _T:
        if self._closed:
            raise self._lost("the connection is closed")
        number = next(self._ids)
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        request = {"id": number, "op": op, **fields}
        try:
            async with asyncio.timeout(wait_s):
                self._writer.write(msgspec.json.encode(request) + b"\n")
                await self._writer.drain()
                octets = await future
            return msgspec.json.decode(octets, type=answer)
        except (OSError, TimeoutError) as error:
            raise self._lost(f"no answer to {op}") from error
        except msgspec.MsgspecError as error:
            raise self._lost(f"an answer to {op} that can't be read: {error}") from error
        finally:
            self._waiting.pop(number, None)

    def _close(self) -> None:
        self._closed = True
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(self._lost("it closed the connection"))
        self._waiting.clear()
        self._writer.close()

    def _lost(self, reason: str) -> Unreachable:
        return Unreachable(
            f"the data plane can't be spoken with: {reason}",
            "check that cairn-dataplane runs (systemctl status cairn-dataplane)",
        )


def user_of(path: Path) -> int | None:
    """Return the user that the data plane at `path` runs as, None where there is no trace of it."""
    for place in (path, path.parent):
        with contextlib.suppress(OSError):
            return place.stat().st_uid
    return None


@contextlib.asynccontextmanager
async def connected(path: Path) -> AsyncIterator[DataPlane]:
    """Connect to the data plane; raise Unreachable where it doesn't run."""
    try:
        async with asyncio.timeout(_CONNECT_TIMEOUT_S):
            reader, writer = await asyncio.open_unix_connection(path, limit=_MAX_LINE_OCTETS)
    except (OSError, TimeoutError) as error:
        raise Unreachable(
            f"the data plane doesn't answer at {path}: {error}",
            "start it (systemctl start cairn-dataplane) and look at its log",
        ) from error
    try:
        yield DataPlane(reader, writer)
    finally:
        writer.close()
