"""The netmap stream as a response: it ends with its reader, and does not wait for a slow one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, MutableMapping
from typing import Any

import pytest
from cairn_appliance.api import limits as limits_module
from cairn_appliance.api.agent_v1 import stream as stream_module
from cairn_appliance.api.agent_v1.stream import Afterwards, NetmapStream, Unwound
from cairn_appliance.api.limits import StrangerLimit, source_of
from cairn_appliance.domain.errors import TokenRefused, TooMany
from starlette.responses import Response

from tests.unit.appliance.replica import FakeClock

Message = MutableMapping[str, Any]


class Lines:
    """Lines that never end by themselves; knows whether they were closed."""

    def __init__(self, *lines: bytes, ends: bool = False) -> None:
        self.is_closed = False
        self._lines = lines
        self._ends = ends

    async def __call__(self) -> AsyncGenerator[bytes, None]:
        try:
            for line in self._lines:
                yield line
            if not self._ends:
                await asyncio.Event().wait()
        finally:
            self.is_closed = True


async def never() -> Message:
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


async def test_lines_go_out_one_by_one_and_the_end_is_said() -> None:
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    lines = Lines(b"2\n", b"3\n", ends=True)
    await NetmapStream("n", b"1\n", lines(), lambda: None)({}, never, send)
    assert sent[0]["status"] == 200
    assert not [name for name, _ in sent[0]["headers"] if name == b"content-length"]
    assert [message["body"] for message in sent[1:]] == [b"1\n", b"2\n", b"3\n", b""]
    assert sent[-1]["more_body"] is False
    assert lines.is_closed


async def test_a_long_line_goes_out_in_pieces_that_make_it_up() -> None:
    sent: list[bytes] = []

    async def send(message: Message) -> None:
        sent.append(message.get("body", b""))

    line = bytes(range(256)) * 300
    await NetmapStream("n", b"1\n", Lines(line, ends=True)(), lambda: None)({}, never, send)
    assert b"".join(sent) == b"1\n" + line
    assert max(map(len, sent)) <= stream_module.PIECE_OCTETS


async def test_a_reader_that_goes_away_ends_the_stream() -> None:
    gone = asyncio.Event()

    async def receive() -> Message:
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message.get("body") == b"2\n":
            gone.set()

    lines = Lines(b"2\n")
    async with asyncio.timeout(5):
        await NetmapStream("n", b"1\n", lines(), lambda: None)({}, receive, send)
    assert lines.is_closed


async def test_a_reader_that_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "SLOW_READER_S", 0.05)
    aborted = asyncio.Event()

    async def send(message: Message) -> None:
        if message.get("body") == b"2\n":
            await asyncio.Event().wait()

    lines = Lines(b"2\n", b"3\n")
    async with asyncio.timeout(5):
        await NetmapStream("n", b"1\n", lines(), aborted.set)({}, never, send)
    assert aborted.is_set()
    assert lines.is_closed


async def test_what_can_go_at_once_passes_by_the_layers_of_http() -> None:
    sent: list[bytes] = []

    async def send(message: Message) -> None:
        sent.append(message.get("body", b"start"))

    def say(piece: bytes) -> bool:
        if len(sent) == 2:
            return False  # the reader is slow for once
        sent.append(b"said " + piece)
        return True

    lines = Lines(b"2\n", b"3\n", ends=True)
    await NetmapStream("n", b"1\n", lines(), lambda: None, say=say)({}, never, send)
    assert sent == [b"start", b"said 1\n", b"2\n", b"said 3\n", b""]


async def test_what_has_led_to_a_stream_is_over_before_it_begins() -> None:
    has_returned, sent = asyncio.Event(), []

    async def routed(scope: Message, receive: Any, send: Any) -> None:
        await Afterwards(NetmapStream("n", b"1\n", lines(), lambda: None))(scope, receive, send)
        has_returned.set()

    async def send(message: Message) -> None:
        assert has_returned.is_set()
        sent.append(message)

    lines = Lines(b"2\n", ends=True)
    scope = {"type": "http", "extensions": {"other": 1}, "fastapi_inner_astack": object()}
    await Unwound(routed)(scope, never, send)
    assert [message["body"] for message in sent[1:]] == [b"1\n", b"2\n", b""]
    assert scope == {"type": "http", "extensions": {"other": 1}}
    assert lines.is_closed


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
    limit = StrangerLimit(clock)
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
    limit = StrangerLimit(FakeClock())
    for _ in range(100):
        async with limit.attempt("192.0.2.1"):
            pass


async def test_a_newcomer_does_not_wait_long_for_those_who_hang(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits_module, "SLOT_WITHIN_S", 0.05)
    limit = StrangerLimit(FakeClock())
    goes_on = asyncio.Event()

    async def hang() -> None:
        async with limit.attempt("192.0.2.1"):
            await goes_on.wait()

    hanging = [asyncio.create_task(hang()) for _ in range(16)]
    await asyncio.sleep(0)
    async with asyncio.timeout(2):
        with pytest.raises(TooMany):
            async with limit.attempt("192.0.2.2"):
                pytest.fail("let in")
    goes_on.set()
    await asyncio.gather(*hanging)
    async with limit.attempt("192.0.2.2"):
        pass


async def test_guesses_made_at_once_count_all_the_same() -> None:
    limit = StrangerLimit(FakeClock())

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
