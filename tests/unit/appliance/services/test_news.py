"""What has changed, as it is told to whoever looks on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from cairn_appliance.domain.event import Event
from cairn_appliance.services import news as news_module
from cairn_appliance.services.news import EVERY, Beat, Changed

from tests.awake import AwakeClock
from tests.unit.agent.fakes.running import beside, until
from tests.unit.appliance.replica import Replica


class Following:
    """Collects what is told."""

    def __init__(self, replica: Replica, after: int | None = None) -> None:
        self.got: list[Event | Changed | Beat] = []
        self._follow = replica.services.news.follow(after)

    async def run(self) -> None:
        async with aclosing(self._follow) as news:
            async for each in news:
                self.got.append(each)

    @property
    def changed(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for each in self.got:
            if isinstance(each, Changed):
                found.setdefault(each.what, set()).update(each.ids)
        return found

    @property
    def kinds(self) -> list[str]:
        return [each.kind for each in self.got if isinstance(each, Event)]


@pytest.fixture
async def replica() -> AsyncIterator[Replica]:
    made = Replica()
    await made.vsubnet("red")
    async with beside(made.services.streams.run()):
        await until(lambda: made.services.streams.is_loaded)
        yield made


async def test_a_change_is_told_within_a_second_with_its_event(replica: Replica) -> None:
    following = Following(replica)
    async with beside(following.run()):
        await until(lambda: replica.services.news.is_followed)
        await asyncio.sleep(0.1)
        vsubnet = await replica.vsubnet("blue", "10.8.0.0/24")
        with AwakeClock() as clock:
            await until(lambda: following.changed.get("vsubnets") and following.kinds)
            assert clock.passed_s < 1.0
        assert following.changed["vsubnets"] == {vsubnet}
        assert following.kinds == ["vsubnet_created"]
        await replica.joined("n", "red")
        await until(lambda: {"nodes", "members", "tokens"} <= following.changed.keys())
    assert not replica.services.news.is_followed


async def test_many_changes_are_two_a_second_and_very_many_are_everything(
    replica: Replica,
) -> None:
    following = Following(replica)
    async with beside(following.run()):
        await until(lambda: replica.services.news.is_followed)
        begun = time.monotonic()
        for number in range(1000):
            replica.services.news.changed("topology", [f"n{number}"])
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.6)
        took_s = time.monotonic() - begun
    told = [each for each in following.got if isinstance(each, Changed)]
    assert 2 <= len(told) <= 2 + 2 * took_s
    assert Changed("topology") in told


async def test_it_beats_also_while_much_happens(
    replica: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(news_module, "BEAT_S", 0.2)
    following = Following(replica)
    async with beside(following.run()):
        await until(lambda: replica.services.news.is_followed)
        for _ in range(50):
            replica.services.news.changed("nodes", ["n"])
            await asyncio.sleep(0.02)
        await until(lambda: sum(isinstance(each, Beat) for each in following.got) >= 3, 2)


async def test_whoever_comes_back_gets_what_was_missed(replica: Replica) -> None:
    (first,) = await replica.services.events.list()
    await replica.vsubnet("blue", "10.8.0.0/24")
    following = Following(replica, first.sequence)
    async with beside(following.run()):
        await until(lambda: following.kinds and set(EVERY) <= following.changed.keys())
    assert following.kinds == ["vsubnet_created"]
