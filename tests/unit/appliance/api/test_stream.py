"""The netmap stream as a response: it ends with its reader, and does not wait for a slow one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, MutableMapping
from typing import Any

import pytest
from cairn_appliance.api import limits as limits_module
from cairn_appliance.api.agent_v1 import stream as stream_module
from cairn_appliance.api.agent_v1.stream import (
    Afterwards,
    NetmapStream,
    StreamConnection,
    Unwound,
)
from cairn_appliance.api.client_certificate import PIECE_OCTETS
from cairn_appliance.api.limits import StrangerLimit, source_of
from cairn_appliance.domain.errors import TokenRefused, TooMany
from cairn_appliance.services.streams import Stream
from starlette.responses import Response

from tests.unit.appliance.replica import FakeClock, Replica

Message = MutableMapping[str, Any]


async def never() -> Message:
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


class Wire(asyncio.Transport):
    """A transport that keeps what is written; the test says how fast it is read."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.is_closed = self.is_aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.is_closed
        self.written += bytes(data)

    def close(self) -> None:
        self.is_closed = True

    def abort(self) -> None:
        self.is_aborted = True

    def chunks(self) -> list[bytes]:
        """Return what HTTP's chunks hold."""
        found, left = [], self.written
        while left:
            size, _, left = left.partition(b"\r\n")
            found.append(left[: int(size, 16)])
            assert left[int(size, 16) :][:2] == b"\r\n"
            left = left[int(size, 16) + 2 :]
        return found


class Connected:
    """A stream's connection over such a transport, and what its parts have said."""

    def __init__(self, stream: Stream, *, is_slow: bool = False) -> None:
        self.wire, self.came, self.left = Wire(), [], []
        self.reader = StreamConnection(stream, self.came.append)
        self.reader.inherit(self.wire, self.left.append, is_slow=is_slow)

    came: list[bytes]
    left: list[Any]


@pytest.fixture
async def stream() -> AsyncIterator[Stream]:
    """The stream of a node that is a member of nothing; none is left open."""
    replica = Replica()
    node = await replica.joined("n")
    running = asyncio.create_task(replica.services.streams.run())
    yield await replica.services.streams.open(node.id, 0, 0)
    running.cancel()
    await asyncio.wait([running])
    assert replica.services.streams.count == 0


async def test_lines_go_down_as_chunks_and_the_end_is_said(stream: Stream) -> None:
    connected = Connected(stream)
    connected.reader.begin()
    connected.reader.say([b"1\n", b"2\n"])
    connected.reader.data_received(b"up")
    connected.reader.end()
    *_, last, end = connected.wire.chunks()
    assert (last, end) == (b"1\n2\n", b"")
    assert connected.wire.is_closed
    connected.reader.data_received(b"what comes after the end")
    assert connected.came == [b"up"]
    stream.over()


async def test_a_long_line_goes_out_in_pieces_that_make_it_up(stream: Stream) -> None:
    connected, line = Connected(stream), bytes(range(256)) * 300
    connected.reader.say([b"1\n", line])
    chunks = connected.wire.chunks()
    assert b"".join(chunks) == b"1\n" + line
    assert max(map(len, chunks)) <= PIECE_OCTETS


async def test_who_is_slow_gets_the_rest_when_it_reads(stream: Stream) -> None:
    connected = Connected(stream, is_slow=True)
    connected.reader.say([b"1\n"])
    connected.reader.say([b"2\n"])
    assert connected.wire.written == b""
    connected.reader.resume_writing()
    assert connected.wire.chunks() == [b"1\n", b"2\n"]
    connected.reader.pause_writing()
    connected.reader.say([b"3\n"])
    connected.reader.end()
    assert not connected.wire.is_closed
    connected.reader.resume_writing()
    assert connected.wire.chunks() == [b"1\n", b"2\n", b"3\n", b""]
    assert connected.wire.is_closed


async def test_a_reader_that_goes_away_ends_the_stream(stream: Stream) -> None:
    connected = Connected(stream)
    connected.reader.begin()
    connected.reader.connection_lost(None)
    assert connected.left == [connected.reader]
    connected.reader.say([b"too late\n"])
    assert b"too late" not in connected.wire.written


async def test_a_reader_that_does_not_read_is_cut_off(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "SLOW_READER_S", 0.05)
    for is_read in (True, False):
        connected = Connected(stream)
        connected.reader.pause_writing()
        connected.reader.say([b"1\n"])
        if is_read:
            connected.reader.resume_writing()
        await asyncio.sleep(0.2)
        assert connected.wire.is_aborted is not is_read


async def test_a_stream_is_not_begun_where_the_connection_has_ended(stream: Stream) -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    connected = Connected(stream)
    await NetmapStream(connected.reader, lambda _: False)({}, never, send)
    assert [message["status"] for message in sent] == [200]
    assert not [name for name, _ in sent[0]["headers"] if name == b"content-length"]
    assert connected.wire.written == b""


async def test_what_has_led_to_a_stream_is_over_before_it_begins() -> None:
    has_returned, sent = asyncio.Event(), []

    async def routed(scope: Message, receive: Any, send: Any) -> None:
        await Afterwards(Response(b"it"))(scope, receive, send)
        has_returned.set()

    async def send(message: Message) -> None:
        assert has_returned.is_set()
        sent.append(message)

    scope = {"type": "http", "extensions": {"other": 1}, "fastapi_inner_astack": object()}
    await Unwound(routed)(scope, never, send)
    assert [message["body"] for message in sent[1:]] == [b"it"]
    assert scope == {"type": "http", "extensions": {"other": 1}}


async def test_an_answer_without_a_stream_passes() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    await Unwound(Response(b"it"))({"type": "http"}, never, send)
    assert [message.get("body") for message in sent] == [None, b"it"]


async def refuse(limit: StrangerLimit, address: str) -> None:
    with pytest.raises(TokenRefused):
        async with limit.attempt(address):
            raise TokenRefused("wrong")


async def test_ten_refusals_a_minute_and_then_the_source_waits() -> None:
    clock = FakeClock()
    limit = StrangerLimit(clock=clock)
    for _ in range(10):
        await refuse(limit, "192.0.2.1")
        clock.now += 1
    with pytest.raises(TooMany) as caught:
        async with limit.attempt("192.0.2.1"):
            pytest.fail("let in")
    assert caught.value.retry_after_s == 50
    await refuse(limit, "192.0.2.2")
    clock.now += 50
    await refuse(limit, "192.0.2.1")


async def test_any_number_of_good_enrolments_is_let_through() -> None:
    limit = StrangerLimit(clock=FakeClock())
    for _ in range(100):
        async with limit.attempt("192.0.2.1"):
            pass


async def test_a_newcomer_does_not_wait_long_for_those_who_hang(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits_module, "SLOT_WITHIN_S", 0.05)
    limit = StrangerLimit(clock=FakeClock())
    goes_on = asyncio.Event()

    async def hang() -> None:
        async with limit.attempt("192.0.2.1"):
            await goes_on.wait()

    hanging = [asyncio.create_task(hang()) for _ in range(16)]
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        with pytest.raises(TooMany):
            async with limit.attempt("192.0.2.2"):
                pytest.fail("let in")
    goes_on.set()
    await asyncio.gather(*hanging)
    async with limit.attempt("192.0.2.2"):
        pass


async def test_guesses_made_at_once_count_all_the_same() -> None:
    limit = StrangerLimit(clock=FakeClock())

    async def guess() -> None:
        async with limit.attempt("192.0.2.1"):
            await asyncio.sleep(0)
            raise TokenRefused("wrong")

    outcomes = await asyncio.gather(*(guess() for _ in range(200)), return_exceptions=True)
    tried = sum(isinstance(each, TokenRefused) for each in outcomes)
    assert 10 <= tried <= 26  # the ten, and those that were under way
    assert sum(isinstance(each, TooMany) for each in outcomes) == 200 - tried


@pytest.mark.parametrize(
    ("address", "source"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_a_source_is_what_one_stranger_has(address: str, source: str) -> None:
    assert source_of(address) == source
