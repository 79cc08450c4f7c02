"""Without a quorum: refused at once, what waits is ended, streams are sent elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import httpx
import pytest
from cairn_appliance.api.quorum_guard import QuorumGuard
from cairn_appliance.api.waiting import wait_for_quorum
from cairn_appliance.services import quorum as module
from cairn_appliance.services.quorum import Quorum
from cairn_appliance.store.memory import MemoryStore
from cairn_appliance.store.port import Item, Unavailable
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from tests.awake import AwakeClock


class Store(MemoryStore):
    """A store that loses its quorum when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.is_lost = False
        self.takes_s = 0.0

    async def get(self, key: str) -> Item | None:
        await asyncio.sleep(self.takes_s)
        if self.is_lost:
            raise Unavailable("no quorum")
        return await super().get(key)


class World:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, seconds in (
            ("ASKED_EVERY_S", 0.01),
            ("LOST_S", 0.1),
            ("AWAY_S", 0.3),
            ("SLOW_S", 1.0),
            ("TOGETHER_ASKED_AFTER_S", 0.03),
            ("_TOGETHER_ASKED_EVERY_S", 0.01),
            ("_TOGETHER_HOLDS_S", 0.05),
            ("_LOOKED_AT_EVERY_S", 0.01),
            ("_STOOD_STILL_S", 0.05),
            ("_ANSWERED_WITHIN_S", 0.08),
        ):
            monkeypatch.setattr(module, name, seconds)
        self.store, self.sent_away = Store(), 0
        self.has_others, self.are_together = True, False
        self.quorum = Quorum(self.store, lambda: self.has_others, self._away, self._are_together)
        self.begun = asyncio.Event()
        app = QuorumGuard(self._serve, self.quorum, frozenset({"/healthz"}))
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="https://appliance"
        )

    async def _are_together(self) -> bool:
        return self.are_together

    def _away(self) -> None:
        self.sent_away += 1

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/waits":
            self.begun.set()
            await asyncio.Event().wait()
        answer: Response = PlainTextResponse("served")
        if scope["path"] == "/stream":
            answer = StreamingResponse(self._lines())
        await answer(scope, receive, send)

    async def _lines(self) -> AsyncIterator[str]:
        yield "first "
        self.begun.set()
        await self.until(lost=True)
        yield "last"

    async def until(self, *, lost: bool) -> None:
        async with asyncio.timeout(5):
            while self.quorum.is_lost is not lost:
                await asyncio.sleep(0.01)


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    made = World(monkeypatch)
    watching = asyncio.create_task(made.quorum.run())
    async with made.client:
        yield made
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


async def test_with_a_quorum_everything_is_served(world: World) -> None:
    await asyncio.sleep(0.2)
    assert (await world.client.get("/anything")).text == "served"
    assert world.sent_away == 0


async def test_without_one_everything_is_refused_but_whether_it_lives(world: World) -> None:
    world.store.is_lost = True
    await world.until(lost=True)

    refused = await world.client.get("/anything")

    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["code"] == "unavailable"
    assert "no quorum" in refused.json()["detail"]
    assert refused.json()["remedy"]
    assert (await world.client.get("/healthz")).status_code == 200
    world.store.is_lost = False
    await world.until(lost=False)
    assert (await world.client.get("/anything")).status_code == 200


async def test_what_the_appliance_itself_stood_still_is_no_silence_of_the_store(
    world: World,
) -> None:
    world.store.takes_s = 0.02
    waiting = asyncio.create_task(world.client.get("/waits"))
    await world.begun.wait()
    for _ in range(3):
        time.sleep(0.3)  # as where the machine has no processor for it  # noqa: ASYNC251
        await asyncio.sleep(0.15)
        assert not waiting.done()
        assert not world.quorum.is_lost

    world.store.is_lost = True
    time.sleep(0.3)  # noqa: ASYNC251
    with AwakeClock() as clock:
        await world.until(lost=True)
        assert clock.passed_s < 1.0
    assert (await waiting).status_code == 503


async def test_a_request_under_way_is_ended_when_the_quorum_goes(world: World) -> None:
    waiting = asyncio.create_task(world.client.get("/waits"))
    await world.begun.wait()
    world.store.is_lost = True

    with AwakeClock() as clock:
        async with asyncio.timeout(10):
            answer = await waiting
        assert clock.passed_s < 2.0

    assert answer.status_code == 503
    assert "may have been made" in answer.json()["detail"]


async def test_after_a_pause_of_all_of_it_the_watch_goes_on(world: World) -> None:
    """Then all that is due comes in one round of the loop: a request's own time is over, too."""

    async def waits() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.5) as deadline:
                with world.quorum.ending(deadline):
                    await asyncio.Event().wait()

    waiting = asyncio.create_task(waits())
    await asyncio.sleep(0.01)
    world.store.is_lost = True
    time.sleep(0.6)  # noqa: ASYNC251 - the loop stands still, as in a process that is paused
    await world.until(lost=True)
    await waiting
    world.store.is_lost = False
    await world.until(lost=False)


async def test_an_answer_that_has_begun_is_not_cut(world: World) -> None:
    streaming = asyncio.create_task(world.client.get("/stream"))
    await world.begun.wait()
    world.store.is_lost = True

    assert (await streaming).text == "first last"


async def test_a_store_that_is_only_slow_is_waited_for_but_not_for_ever(world: World) -> None:
    world.are_together = world.store.is_lost = True
    begun = time.monotonic()
    await asyncio.sleep(0.5)  # five times as long as one that is cut off is

    assert (await world.client.get("/anything")).text == "served"
    assert world.sent_away == 0
    await world.until(lost=True)
    assert time.monotonic() - begun >= 0.9


async def test_a_slow_store_that_is_cut_off_then_is_lost_at_once(world: World) -> None:
    world.are_together = world.store.is_lost = True
    await asyncio.sleep(0.3)
    assert not world.quorum.is_lost
    world.are_together = False
    with AwakeClock() as clock:
        await world.until(lost=True)
        assert clock.passed_s < 0.5


async def test_agents_are_sent_away_once_for_each_loss(world: World) -> None:
    for losses in (1, 2):
        world.store.is_lost = True
        async with asyncio.timeout(5):
            while world.sent_away < losses:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert world.sent_away == losses
        world.store.is_lost = False
        await world.until(lost=False)


async def test_one_that_is_alone_speaks_of_its_store_and_sends_nobody_away(world: World) -> None:
    world.has_others = False
    world.store.is_lost = True
    await world.until(lost=True)
    await asyncio.sleep(0.5)

    refused = await world.client.get("/anything")

    assert refused.json()["detail"] == "the store gives no answer in time"
    assert world.sent_away == 0


async def test_while_it_waits_for_the_others_both_ports_say_so() -> None:
    transport = httpx.ASGITransport(wait_for_quorum)
    async with httpx.AsyncClient(transport=transport, base_url="https://appliance") as client:
        assert (await client.get("/healthz")).status_code == 200
        waiting = await client.post("/agent/v1/register", content=b"{}")
    assert waiting.status_code == 503
    assert "waits for a quorum" in waiting.json()["detail"]
