"""Rounds of netmaps: one change goes out at once, a flood of them in few versions."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Sequence

import pytest
from cairn_agent.protocol import netmap as wire
from cairn_appliance.domain import cluster as cluster_module
from cairn_appliance.domain.cluster import Appliance
from cairn_appliance.domain.errors import Unavailable
from cairn_appliance.domain.generation import Attempt
from cairn_appliance.domain.identity import SYSTEM
from cairn_appliance.services import streams as streams_module
from cairn_appliance.store import keys, records
from cairn_appliance.store.port import Put

from tests.awake import AwakeClock
from tests.simulated_node import SimulatedNode
from tests.unit.appliance.following import Following
from tests.unit.appliance.replica import Replica


@contextlib.asynccontextmanager
async def following(replica: Replica, node: SimulatedNode) -> AsyncIterator[Following]:
    """Follow a node's stream."""
    reader = Following()
    streams = replica.services.streams
    running = asyncio.create_task(streams.run())
    try:
        reader.stream = await streams.open(node.id, 0, 0, is_believed=lambda: reader.is_believed)
        reader.stream.begin(reader)
        assert b"in_sync" in reader.lines[-1]
        yield reader
    finally:
        if reader.stream is not None:
            reader.stream.over()
        running.cancel()
        await asyncio.wait([running])


@contextlib.asynccontextmanager
async def followed(replica: Replica, node: SimulatedNode) -> AsyncIterator[list[bytes]]:
    """Yield the lines of a node's stream as they come."""
    async with following(replica, node) as reader:
        yield reader.lines


async def until(condition: object) -> None:
    async with asyncio.timeout(20):
        while not condition():  # type: ignore[operator]
            await asyncio.sleep(0.005)


def versions(lines: list[bytes]) -> int:
    return sum(b'"type":"vsubnet"' in line for line in lines)


async def test_a_change_after_a_quiet_time_goes_out_at_once() -> None:
    replica = Replica()
    await replica.vsubnet()
    node, other = await replica.joined("a", "red"), await replica.joined("b", "red")
    async with followed(replica, node) as lines:
        await asyncio.sleep(0.6)
        before = versions(lines)
        with AwakeClock() as clock:
            await replica.register(other, endpoints=("192.0.2.99:8002",))
            await until(lambda: versions(lines) > before)
            assert clock.passed_s < 0.3


async def test_under_steady_change_rounds_are_as_far_apart_as_serving_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams_module, "PER_STREAM_S", 0.3)  # as if there were hundreds
    replica = Replica()
    await replica.vsubnet()
    node, other = await replica.joined("a", "red"), await replica.joined("b", "red")
    async with followed(replica, node) as lines:
        before = versions(lines)
        with AwakeClock() as clock:
            while clock.passed_s < 1.5:
                await replica.register(other, endpoints=(f"192.0.2.{len(lines) % 200 + 1}:8002",))
                await replica.register(other, endpoints=("192.0.2.250:8002",))
                await asyncio.sleep(0.01)
        assert 2 <= versions(lines) - before <= 8
        await until(lambda: b"192.0.2.250" in b"".join(lines[-3:]))


class Slow(Following):
    """A reader whom to tell anything takes the appliance's processor for a while."""

    def __init__(self, told: list[str]) -> None:
        super().__init__()
        self._told = told

    def say(self, lines: Sequence[bytes]) -> None:
        super().say(lines)
        if len(self.lines) > 1:
            self._told.append("")
            time.sleep(0.05)


async def test_a_newcomer_does_not_wait_for_the_end_of_a_long_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With all streams in a round a newcomer would give up, and come again, and again."""
    monkeypatch.setattr(streams_module, "SERVED_AT_ONCE", 1)
    monkeypatch.setattr(streams_module, "ROUNDS_APART_S", 0.1)
    monkeypatch.setattr(streams_module, "OVERLOADED_S", 0.2)
    replica = Replica()
    await replica.vsubnet()
    node = await replica.joined("a", "red")
    others = [await replica.joined(f"o{number}", "red") for number in range(40)]
    streams, told = replica.services.streams, list[str]()
    async with following(replica, node):
        opened = [await streams.open(other.id, 0, 0) for other in others]
        readers = [Slow(told) for _ in opened]
        for stream, reader in zip(opened, readers, strict=True):
            stream.begin(reader)
        newcomer = await replica.joined("n", "red")
        await until(lambda: told)
        await replica.register(newcomer, endpoints=("192.0.2.77:8002",))
        known_at = await replica.services.registry.known_at(newcomer.id)
        before = len(told)
        await streams.open(newcomer.id, 0, 0, known_at=known_at)
        assert len(told) - before < 20, "the round was not over"
        await until(lambda: all(b"192.0.2.77" in b"".join(each.lines) for each in readers))
        for stream in opened:
            stream.over()


async def test_a_removal_does_not_wait_where_serving_takes_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams_module, "REST", 100.0)
    monkeypatch.setattr(streams_module, "ROUNDS_APART_S", 0.1)
    replica = Replica()
    await replica.vsubnet()
    node, slow = await replica.joined("a", "red"), await replica.joined("b", "red")
    streams, told = replica.services.streams, list[str]()
    async with following(replica, node) as reader:
        stream = await streams.open(slow.id, 0, 0)
        stream.begin(Slow(told))
        await replica.register(slow, endpoints=("192.0.2.77:8002",))
        await until(lambda: told and b"192.0.2.77" in reader.lines[-1])  # now it rests for 3 s
        await asyncio.sleep(0.1)
        await replica.register(slow, endpoints=("192.0.2.78:8002",))
        await asyncio.sleep(0.4)
        assert b"192.0.2.78" not in reader.lines[-1]
        await replica.services.members.delete("red", "b", SYSTEM)
        with AwakeClock() as clock:
            await until(lambda: slow.id.encode() in reader.lines[-1].partition(b'"remove"')[2])
            assert clock.passed_s < 1.0
        stream.over()


async def test_where_a_node_could_go_elsewhere_its_stream_has_a_word_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster_module, "FAILOVER_HEARTBEAT_S", 0.05)
    replica = Replica()
    await replica.vsubnet()
    node = await replica.joined("a", "red")
    async with followed(replica, node) as lines:
        await asyncio.sleep(0.3)
        assert len(lines) == 1, "alone there is nowhere to go: 15 s between two words"
        for name in ("m1", "m2"):
            put = Put(keys.appliance(name), records.appliances.encode(Appliance(name, ())))
            await replica.services.store.commit([], [put])
        await until(lambda: len(lines) >= 6)
        assert b'"heartbeat_s":0.05' in lines[1]
        assert lines[-1] == lines[-2]
        assert b"in_sync" in lines[-1]
        await replica.register(node, endpoints=("192.0.2.99:8002",))
        await until(lambda: b"192.0.2.99" in b"".join(lines))


async def test_a_reader_who_can_take_no_more_at_once_gets_it_all_later() -> None:
    replica = Replica()
    await replica.vsubnet()
    node, other = await replica.joined("a", "red"), await replica.joined("b", "red")
    async with following(replica, node) as reader:
        await replica.register(other, endpoints=("192.0.2.97:8002",))
        await until(lambda: b"192.0.2.97" in reader.lines[-1])
        reader.is_slow, before = True, len(reader.lines)
        await replica.register(other, endpoints=("192.0.2.98:8002",))
        await asyncio.sleep(0.2)
        await replica.register(other, endpoints=("192.0.2.99:8002",))
        await asyncio.sleep(0.2)
        assert len(reader.lines) == before
        reader.keep_up()
        (said,) = reader.lines[before:]
        assert b"192.0.2.99" in said
        told = [wire.decode_line(line) for line in said.splitlines()]
        assert isinstance(told[-1], wire.InSync), "and nothing is in sync before it is sent"
        reader.keep_up()
        assert len(reader.lines) == before + 1, "nothing is new"


async def test_a_removed_node_is_told_so_and_its_stream_ends() -> None:
    replica = Replica()
    await replica.vsubnet()
    node, other = await replica.joined("a", "red"), await replica.joined("b", "red")
    async with following(replica, node) as reader:
        for number in range(3):
            await replica.register(other, endpoints=(f"192.0.2.{90 + number}:8002",))
            await until(lambda: f"192.0.2.{90 + number}".encode() in reader.lines[-1])  # noqa: B023
            assert b"in_sync" in reader.lines[-1]
        await replica.services.nodes.remove(node.id, SYSTEM)
        await until(lambda: reader.is_ended)
        assert isinstance(wire.decode_line(reader.lines[-1]), wire.Removed)
        assert replica.services.streams.count == 0


async def test_who_shows_a_certificate_that_proves_nothing_any_more_is_sent_to_show_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams_module, "LOOKED_AT_EVERY_S", 0.3)  # though nothing is new
    replica = Replica()
    node = await replica.joined("a")
    async with following(replica, node) as reader:
        await asyncio.sleep(0.5)
        assert not reader.is_ended
        reader.is_believed = False
        await until(lambda: reader.is_ended)
        assert isinstance(wire.decode_line(reader.lines[-1]), wire.GoAway)


async def test_two_streams_of_a_node_end_on_their_own() -> None:
    replica = Replica()
    node = await replica.joined("a")
    streams = replica.services.streams
    async with following(replica, node):
        second = Following()
        second.stream = await streams.open(node.id, 0, 0)
        second.stream.begin(second)
        assert streams.count == 2
        second.stream.over()
        second.stream.over()
        assert streams.count == 1
        assert replica.services.presence.is_connected(node.id)
        assert await streams.answers(node.id)
    assert streams.count == 0
    assert await streams.answers(node.id) is None


async def test_a_machine_that_acknowledges_within_a_tick_of_the_kernels_clock_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Jiffies of 4 ms: what came 0.1 ms after the question may look as if it came before it."""
    replica = Replica()
    node = await replica.joined("a")
    async with following(replica, node) as reader:
        asked_at = time.monotonic()
        monkeypatch.setattr(reader, "heard_s", lambda: time.monotonic() - asked_at + 0.003)
        assert await replica.services.streams.answers(node.id)
        monkeypatch.setattr(reader, "heard_s", lambda: time.monotonic() - asked_at + 0.1)
        assert await replica.services.streams.answers(node.id) is False


async def test_an_appliance_that_itself_stood_still_looks_on_before_it_holds_a_machine_dead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replica = Replica()
    node = await replica.joined("a")
    looks = iter([*[9.0] * 5, 0.0])

    def heard_s() -> float:
        time.sleep(streams_module.ANSWER_S / 5)
        return next(looks)

    async with following(replica, node) as reader:
        monkeypatch.setattr(reader, "heard_s", heard_s)
        assert await replica.services.streams.answers(node.id)


async def test_a_stream_ends_the_one_before_it_where_the_machines_can_be_told_apart() -> None:
    replica = Replica()
    node = await replica.joined("a")
    await replica.register(node, attempt=Attempt(1, "drawn"))
    streams = replica.services.streams
    async with following(replica, node) as first:
        second = Following()
        second.stream = await streams.open(node.id, 0, 0)
        second.stream.begin(second)
        assert first.is_ended
        assert b"go_away" in first.lines[-1]
        assert not second.is_ended
        assert streams.count == 1
        assert replica.services.presence.is_connected(node.id)
        second.stream.over()
    assert streams.count == 0


async def test_who_is_here_when_the_replica_closes_is_sent_on_and_nobody_else_comes() -> None:
    replica = Replica()
    await replica.vsubnet()
    node, late = await replica.joined("a", "red"), await replica.joined("b", "red")
    streams = replica.services.streams
    async with followed(replica, node) as lines:
        streams.close()
        await until(lambda: streams.count == 0)
        away = wire.decode_line(lines[-1])
        assert isinstance(away, wire.GoAway)
        assert away.after_ms < 300, "one alone has no reason to wait"
        with pytest.raises(Unavailable, match="about to stop"):
            await streams.open(late.id, 0, 0)
        with pytest.raises(Unavailable):
            streams.check_open()
