"""Beats: who is asked when, and what is told later."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest
from cairn_agent.control.replica import Replica
from cairn_agent.errors import Unreachable
from cairn_agent.gateway.beats import Beats
from cairn_agent.gateway.clock import now_ns
from cairn_agent.protocol.gateway import (
    BeatAnswer,
    GatewayBeat,
    GatewayEvent,
    Grant,
    SegmentState,
)
from cairn_agent.racing import first_to_end

SEGMENT = "00000000-0000-4000-8000-00000000000a"


@dataclass
class Appliance:
    """Answers after a while, or not at all."""

    address: str
    delay_s: float = 0.0
    is_down: bool = False
    beats: int = 0
    events: list[str] = field(default_factory=list)

    async def gateway_beat(self, _beat: GatewayBeat) -> BeatAnswer:
        self.beats += 1
        if self.is_down:
            raise Unreachable(f"{self.address} is down", "")
        await asyncio.sleep(self.delay_s)
        return BeatAnswer([Grant(SEGMENT, 1, self.address)])

    async def gateway_event(self, event: GatewayEvent) -> None:
        if self.is_down:
            raise Unreachable(f"{self.address} is down", "")
        self.events.append(event.code)


class Identity:
    """The part of an identity that is asked for."""

    def __init__(self, appliances: list[str]) -> None:
        self.appliances = appliances


@dataclass
class Speaker:
    """Notes what was answered."""

    boot: str = "b"
    heard: list[tuple[int, str]] = field(default_factory=list)

    def states(self) -> list[SegmentState]:
        return [SegmentState(SEGMENT, True)]

    def answered(self, sent: int, answer: BeatAnswer) -> None:
        self.heard.append((now_ns() - sent, answer.grants[0].holder))

    def is_hurried(self) -> bool:
        return False


def _beats(monkeypatch: pytest.MonkeyPatch, *appliances: Appliance) -> Beats:
    known = {each.address: each for each in appliances}
    beats = Beats(lambda: Identity(list(known)), lambda: appliances[0].address)  # type: ignore[arg-type,return-value]

    async def replica(address: str) -> Replica:
        return known[address]  # type: ignore[return-value]

    monkeypatch.setattr(beats, "_replica", replica)
    return beats


async def _run(beats: Beats, speaker: Speaker, seconds: float) -> None:
    await first_to_end(beats.run(speaker), asyncio.sleep(seconds))


async def test_one_that_is_slow_is_not_waited_for_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    slow, quick = Appliance("192.0.2.1:8002", delay_s=30.0), Appliance("192.0.2.2:8002")
    speaker = Speaker()
    beats = _beats(monkeypatch, slow, quick)
    await _run(beats, speaker, 1.3)
    assert speaker.heard and all(holder == quick.address for _, holder in speaker.heard)
    assert speaker.heard[0][0] < 300_000_000, "counted from its own beat, not from the slow one's"
    assert slow.beats == 1, "whoever answered is asked from then on"


async def test_one_that_is_down_costs_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    down, up = Appliance("192.0.2.1:8002", is_down=True), Appliance("192.0.2.2:8002")
    speaker = Speaker()
    await _run(_beats(monkeypatch, down, up), speaker, 0.3)
    assert [holder for _, holder in speaker.heard] == [up.address]


async def test_an_event_is_told_once_when_somebody_takes_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    only = Appliance("192.0.2.1:8002", is_down=True)
    beats = _beats(monkeypatch, only)
    beats.tell(GatewayEvent(SEGMENT, "loop_blocked", "eth1; part them"))

    async def comes_back() -> None:
        await asyncio.sleep(0.3)
        only.is_down = False
        await asyncio.sleep(1.5)

    await first_to_end(beats.run(Speaker()), comes_back())
    assert only.events == ["loop_blocked"]


async def test_a_change_is_not_kept_for_the_next_beat(monkeypatch: pytest.MonkeyPatch) -> None:
    only = Appliance("192.0.2.1:8002")
    beats = _beats(monkeypatch, only)

    async def change() -> None:
        await asyncio.sleep(0.1)
        beats.beat_soon()
        await asyncio.sleep(0.1)

    await first_to_end(beats.run(Speaker()), change())
    assert only.beats == 2
