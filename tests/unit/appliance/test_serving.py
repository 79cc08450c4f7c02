"""The door of the servers: who is let in, how many at once, and who is not waited for."""

from __future__ import annotations

import asyncio
import gc
import itertools
import socket
import ssl
import time
import weakref
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest
import uvloop
from cairn_agent.control import replica as agent
from cairn_agent.control import tls
from cairn_agent.control.backoff import turned_away_backoff
from cairn_agent.control.tls import CONNECT_TIMEOUT_S
from cairn_agent.errors import TurnedAway
from cairn_agent.protocol.enrolment import LeaveRequest
from cairn_appliance import serving
from cairn_appliance.api.agent_v1 import app as agent_api
from cairn_appliance.api.client_certificate import CertificateProtocol, server_context
from cairn_appliance.serving import Door, server

from tests.awake import AwakeClock
from tests.sim import connection as simulated
from tests.unit.appliance.replica import AUTHORITY, Replica


class Newcomer(asyncio.Protocol):
    """Counts who was let in; the first answer is given when the test says so."""

    let_in: list[Newcomer]
    answered: asyncio.Event

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        Newcomer.let_in.append(self)

    async def settled(self) -> None:
        await Newcomer.answered.wait()


@pytest.fixture
async def port() -> AsyncIterator[int]:
    Newcomer.let_in, Newcomer.answered = [], asyncio.Event()
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        door = Door(Newcomer, None)  # type: ignore[arg-type]
        accepting = asyncio.create_task(door.accept(listening))
        yield listening.getsockname()[1]
        accepting.cancel()
        await asyncio.wait([accepting])
        for each in Newcomer.let_in:
            each.transport.close()
        await asyncio.sleep(0.01)  # the loop closes the sockets


SOURCES = itertools.cycle(["127.0.0.1", "127.0.0.2"])  # one alone doesn't get all places


async def connect(port: int, *, says: bytes, source: str = "") -> socket.socket:
    plain = socket.socket()
    plain.setblocking(False)
    plain.bind((source or next(SOURCES), 0))
    await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", port))
    if says:
        plain.send(says)
    return plain


async def let_in(count: int) -> None:
    async with asyncio.timeout(5):
        while len(Newcomer.let_in) < count:
            await asyncio.sleep(0.01)


async def test_one_source_leaves_room_for_others(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "COUNTED_S", 60.0)
    monkeypatch.setattr(serving, "IN_LINE", 100)
    hostile = [
        await connect(port, says=b"hello", source="127.0.0.3")
        for _ in range(serving.AT_ONCE + serving.IN_LINE)
    ]
    await let_in(int(serving.AT_ONCE * serving.OF_ONE_SOURCE))
    honest = [await connect(port, says=b"hello", source="127.0.0.4") for _ in range(16)]
    await let_in(serving.AT_ONCE)
    peers = [each.transport.get_extra_info("peername")[0] for each in Newcomer.let_in]
    assert peers.count("127.0.0.4") == len(honest)
    for each in (*hostile, *honest):
        each.close()


async def test_no_more_than_so_many_are_let_in_before_answers_are_given(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "COUNTED_S", 60.0)
    many = [await connect(port, says=b"hello") for _ in range(serving.AT_ONCE + 20)]
    await let_in(serving.AT_ONCE)
    await asyncio.sleep(0.2)
    assert len(Newcomer.let_in) == serving.AT_ONCE

    Newcomer.answered.set()
    await let_in(len(many))
    for each in many:
        each.close()


async def test_who_is_slow_keeps_others_out_for_a_bounded_time(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "COUNTED_S", 0.2)
    many = [await connect(port, says=b"hello") for _ in range(serving.AT_ONCE + 20)]
    await let_in(len(many))
    for each in many:
        each.close()


async def test_who_says_nothing_takes_no_place(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "COUNTED_S", 60.0)
    many = [await connect(port, says=b"") for _ in range(serving.AT_ONCE + 20)]
    speaking = await connect(port, says=b"hello")
    await let_in(1)
    for each in (*many, speaking):
        each.close()


async def test_who_gave_up_while_waiting_costs_nothing(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "COUNTED_S", 60.0)
    many = [await connect(port, says=b"hello") for _ in range(serving.AT_ONCE + 1)]
    await let_in(serving.AT_ONCE)
    await asyncio.sleep(0.1)
    impatient = await connect(port, says=b"hello")
    impatient.close()
    Newcomer.answered.set()
    late = await connect(port, says=b"hello")
    await let_in(len(many) + 1)
    await asyncio.sleep(0.1)
    assert len(Newcomer.let_in) == len(many) + 1  # the late one, not the impatient one
    for each in (*many, late):
        each.close()


async def all_places_taken(port: int) -> list[socket.socket]:
    """Return those who have all places at the door, until they are answered."""
    inside = [await connect(port, says=b"hello") for _ in range(serving.AT_ONCE)]
    await let_in(serving.AT_ONCE)
    return inside


async def turned_away(newcomers: list[socket.socket]) -> None:
    """Wait until each was told so: what it said was read, and the connection closed."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(20):
        for each in newcomers:
            assert await loop.sock_recv(each, 100) == b""
            each.close()


async def test_who_has_no_turn_in_time_is_turned_away(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would give up soon, maybe in the middle of its handshake."""
    monkeypatch.setattr(serving, "COUNTED_S", 60.0)
    monkeypatch.setattr(serving, "IN_TIME_S", 2.5)
    inside = await all_places_taken(port)
    await turned_away([await connect(port, says=b"hello") for _ in range(300)])
    assert len(Newcomer.let_in) == serving.AT_ONCE
    for each in inside:
        each.close()


async def test_who_finds_the_line_full_is_turned_away_at_once(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "COUNTED_S", 60.0)
    monkeypatch.setattr(serving, "IN_TIME_S", 600.0)
    monkeypatch.setattr(serving, "IN_LINE", 10)
    inside = await all_places_taken(port)
    waiting = [await connect(port, says=b"hello") for _ in range(serving.IN_LINE)]
    await asyncio.sleep(0.2)
    await turned_away([await connect(port, says=b"hello") for _ in range(20)])

    Newcomer.answered.set()
    await let_in(len(inside) + len(waiting))
    for each in (*inside, *waiting):
        each.close()


async def test_what_was_waited_in_the_kernel_counts(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As while the process was paused: who has waited for long has little patience left."""
    monkeypatch.setattr(serving, "COUNTED_S", 60.0)
    monkeypatch.setattr(serving, "IN_TIME_S", 600.0)
    inside = await all_places_taken(port)
    patient = await connect(port, says=b"hello")
    await asyncio.sleep(0.2)
    monkeypatch.setattr(serving, "IN_TIME_S", 2.5)
    late = [socket.create_connection(("127.0.0.1", port)) for _ in range(5)]
    for each in late:
        each.send(b"hello")
        each.setblocking(False)
    time.sleep(1.5)  # noqa: ASYNC251  # nobody is accepted meanwhile
    with AwakeClock() as clock:
        await turned_away(late)
        assert clock.passed_s < 0.9
    for each in (*inside, patient):
        each.close()


class Served(asyncio.Protocol):
    """Is answered a while after it was let in, as a newcomer's registration is."""

    SERVED_S: ClassVar[float] = 0.64

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    async def settled(self) -> None:
        await asyncio.sleep(self.SERVED_S)
        assert isinstance(self.transport, asyncio.Transport)
        self.transport.write(b"welcome")


async def test_in_a_storm_nobody_is_left_without_a_word_and_all_are_served() -> None:
    """Six times as many as are served in a second come at once, each with an agent's patience."""
    silences = 0

    async def newcomer(port: int) -> None:
        nonlocal silences
        backoff, loop = turned_away_backoff(), asyncio.get_running_loop()
        while True:
            plain = socket.socket()
            plain.setblocking(False)
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    await loop.sock_connect(plain, ("127.0.0.1", port))
                    plain.send(b"hello")
                    if await loop.sock_recv(plain, 100):
                        return
            except TimeoutError:
                silences += 1
            finally:
                plain.close()
            await asyncio.sleep(backoff.next_s())

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        accepting = asyncio.create_task(Door(Served, None).accept(listening))  # type: ignore[arg-type]
        port = listening.getsockname()[1]
        async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
            for _ in range(600):
                tasks.create_task(newcomer(port))
        accepting.cancel()
        await asyncio.wait([accepting])
    assert silences == 0


async def test_where_handshakes_take_long_the_line_is_shorter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a slow machine: who begins late would give up in the middle."""
    monkeypatch.setattr(serving, "AT_ONCE", 8)
    monkeypatch.setattr(serving, "COUNTED_S", 60.0)
    monkeypatch.setattr(serving, "RECKONED_S", 0.0)
    context = agent_api_context(tmp_path)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        Newcomer.let_in, Newcomer.answered = [], asyncio.Event()
        door = Door(Newcomer, context)  # type: ignore[arg-type]
        accepting = asyncio.create_task(door.accept(listening))
        assert door._line_s() == serving.IN_TIME_S
        port = listening.getsockname()[1]
        async with asyncio.TaskGroup() as tasks:
            for _ in range(serving.AT_ONCE):
                tasks.create_task(asyncio.to_thread(shake_hands_slowly, port, 1.0))
        await let_in(serving.AT_ONCE)
        assert door._line_s() < serving.IN_TIME_S - 2 * 0.5
        accepting.cancel()
        await asyncio.wait([accepting])
        for each in Newcomer.let_in:
            each.transport.close()


def shake_hands_slowly(port: int, waits_s: float) -> None:
    """Say hello, and the last word of the handshake only some time after the server's first."""
    context = tls.server_context(AUTHORITY.certificate.decode())
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    secure = context.wrap_bio(incoming, outgoing, server_hostname=None)
    source = next(SOURCES), 0
    with socket.create_connection(("127.0.0.1", port), 10, source) as plain:
        while True:
            try:
                secure.do_handshake()
                break
            except ssl.SSLWantReadError:
                plain.sendall(outgoing.read())
                incoming.write(plain.recv(16384))
        time.sleep(waits_s)
        plain.sendall(outgoing.read())
        time.sleep(0.5)


async def test_an_agent_understands_that_it_is_turned_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real one and the simulated one: it is neither dead nor of another cluster."""
    monkeypatch.setattr(serving, "AT_ONCE", 0)
    monkeypatch.setattr(serving, "IN_TIME_S", 1.6)
    client = tls.server_context(AUTHORITY.certificate.decode())
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        door = Door(Newcomer, agent_api_context(tmp_path))  # type: ignore[arg-type]
        accepting = asyncio.create_task(door.accept(listening))
        place = f"127.0.0.1:{listening.getsockname()[1]}"
        async with agent.Replica(place, client) as replica:
            with pytest.raises(TurnedAway, match="more newcomers"):
                await replica.leave(LeaveRequest())
        with pytest.raises(TurnedAway):
            await tls.pinned_authority(place, "0" * 64)
        with pytest.raises(simulated.TurnedAway):
            await simulated.Connection.open(place, client)
        accepting.cancel()
        await asyncio.wait([accepting])


def agent_api_context(directory: Path) -> ssl.SSLContext:
    pair = AUTHORITY.issue_pair("api", "server", ["127.0.0.1"], datetime.now(UTC))
    certificate, key, ca = (directory / name for name in ("api.pem", "api-key.pem", "ca.pem"))
    certificate.write_bytes(pair.certificate)
    key.write_bytes(pair.private_key)
    ca.write_bytes(AUTHORITY.certificate)
    return server_context(certificate, key, ca)


class Counted(CertificateProtocol):
    """Says which connections are still in memory."""

    alive: weakref.WeakSet[Counted]

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        Counted.alive.add(self)


def test_a_connection_that_has_ended_leaves_nothing_that_waits_for_the_collector(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent's acknowledgements come on connections of their own, seldom and for ever.

    What they leave in cycles lies there until the collector looks at all there is, which it does
    when much is new: with idle agents never.
    """
    context = agent_api_context(tmp_path)
    client = ssl.create_default_context(cadata=AUTHORITY.certificate.decode())
    Counted.alive = weakref.WeakSet()
    monkeypatch.setattr(serving, "CertificateProtocol", Counted)
    seen = []

    def ask(port: int, how: str) -> None:
        """End it after an answer, within a request that is not finished, or without a word."""
        head = {
            "answered": b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
            "refused": b"POST /agent/v1/ack HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}",
            "broken": b"POST /agent/v1/enrol HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{",
            "silent": b"",
        }[how]
        with (
            socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
            client.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
        ):
            secure.sendall(head)
            if how in ("answered", "refused"):
                assert secure.recv(4096).startswith(b"HTTP/1.1 ")

    async def serve() -> dict[str, int]:
        app = agent_api.create_app(Replica().services)
        listening = socket.create_server(("127.0.0.1", 0))
        stop, left = asyncio.Event(), {}
        running = server(app, context, Counted, lifespan=False)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(running.run_until(stop, [listening]))
            for how in ("answered", "refused", "broken", "silent"):
                for _ in range(3):
                    await asyncio.to_thread(ask, listening.getsockname()[1], how)
                    seen.append(len(Counted.alive))
                await asyncio.sleep(0.3)
                left[how] = len(Counted.alive)
            stop.set()
        return left

    gc.collect()
    gc.disable()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            left = runner.run(serve())
    finally:
        gc.enable()
    assert max(seen) > 0
    assert left == dict.fromkeys(left, 0)
