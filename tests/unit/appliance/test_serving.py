"""The door of the servers: who is let in, how many at once, and who is not waited for."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import weakref
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import uvloop
from cairn_appliance import serving
from cairn_appliance.api.agent_v1 import app as agent_api
from cairn_appliance.api.client_certificate import CertificateProtocol, server_context
from cairn_appliance.serving import Door, server

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


async def connect(port: int, *, says: bytes) -> socket.socket:
    plain = socket.socket()
    plain.setblocking(False)
    await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", port))
    if says:
        plain.send(says)
    return plain


async def let_in(count: int) -> None:
    async with asyncio.timeout(5):
        while len(Newcomer.let_in) < count:
            await asyncio.sleep(0.01)


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
    pair = AUTHORITY.issue_pair("api", "server", ["127.0.0.1"], datetime.now(UTC))
    certificate, key, ca = (tmp_path / name for name in ("api.pem", "api-key.pem", "ca.pem"))
    certificate.write_bytes(pair.certificate)
    key.write_bytes(pair.private_key)
    ca.write_bytes(AUTHORITY.certificate)
    context = server_context(certificate, key, ca)
    client = ssl.create_default_context(cafile=ca)
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
