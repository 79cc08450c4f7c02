"""The door of the servers: who is let in, how many at once, and who is not waited for."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest
from cairn_appliance import serving
from cairn_appliance.serving import Door


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
