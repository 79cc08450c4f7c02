"""Rounds of netmaps: one change goes out at once, a flood of them in few versions."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

import pytest
from cairn_agent.protocol import netmap as wire
from cairn_appliance.domain import cluster as cluster_module
from cairn_appliance.domain.cluster import Appliance
from cairn_appliance.domain.errors import Unavailable
from cairn_appliance.domain.identity import SYSTEM
from cairn_appliance.services import streams as streams_module
from cairn_appliance.services.streams import Say
from cairn_appliance.store import keys, records
from cairn_appliance.store.port import Put

from tests.simulated_node import SimulatedNode
from tests.unit.appliance.replica import Replica


@contextlib.asynccontextmanager
async def followed(
    replica: Replica, node: SimulatedNode, say: Say | None = None
) -> AsyncIterator[list[bytes]]:
    """Yield the lines of a node's stream as they come."""
    lines: list[bytes] = []

    def said(octets: bytes) -> bool:
        lines.append(octets)
        return True

    async def follow() -> None:
        async for line in replica.services.streams.lines(node.id, 0, 0, say=say or said):
            lines.append(line)

    running = asyncio.create_task(replica.services.streams.run())
    following = asyncio.create_task(follow())
    try:
        await until(lambda: any(b"in_sync" in line for line in lines))
        yield lines
    finally:
        for task in (following, running):
            task.cancel()
        await asyncio.wait([following, running])


async def until(condition: object) -> None:
    async with asyncio.timeout(5):
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
        before, begun = versions(lines), time.monotonic()
        await replica.register(other, endpoints=("192.0.2.99:8002",))
        await until(lambda: versions(lines) > before)
        assert time.monotonic() - begun < 0.3


async def test_under_steady_change_rounds_are_as_far_apart_as_serving_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams_module, "PER_STREAM_S", 0.3)  # as if there were hundreds
    replica = Replica()
    await replica.vsubnet()
    node, other = await replica.joined("a", "red"), await replica.joined("b", "red")
    async with followed(replica, node) as lines:
        before, begun = versions(lines), time.monotonic()
        while time.monotonic() - begun < 1.5:
            await replica.register(other, endpoints=(f"192.0.2.{len(lines) % 200 + 1}:8002",))
            await replica.register(other, endpoints=("192.0.2.250:8002",))
            await asyncio.sleep(0.01)
        assert 2 <= versions(lines) - before <= 8
        await until(lambda: b"192.0.2.250" in b"".join(lines[-3:]))


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


async def test_a_reader_who_can_take_no_more_at_once_gets_it_all_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replica = Replica()
    await replica.vsubnet()
    node, other = await replica.joined("a", "red"), await replica.joined("b", "red")
    offered: list[bytes] = []

    def refuse(octets: bytes) -> bool:
        offered.append(octets)
        return False

    async with followed(replica, node, refuse) as lines:
        await replica.register(other, endpoints=("192.0.2.98:8002",))
        await until(lambda: b"192.0.2.98" in b"".join(lines))
        monkeypatch.setattr(streams_module, "SAID_OCTETS", 100)
        offered.clear()
        await replica.register(other, endpoints=("192.0.2.99:8002",))
        await until(lambda: b"192.0.2.99" in b"".join(lines))
        assert not offered, "what is long isn't even offered"
        assert sum(b"192.0.2.98" in line for line in lines) == 1
        told = [wire.decode_line(line) for line in b"".join(lines).splitlines()]
        assert isinstance(told[-1], wire.InSync), "and nothing is in sync before it is sent"


async def test_who_waits_gets_news_at_once_and_its_task_is_not_woken() -> None:
    replica = Replica()
    await replica.vsubnet()
    node, other = await replica.joined("a", "red"), await replica.joined("b", "red")
    said: list[bytes] = []

    def say(octets: bytes) -> bool:
        said.append(octets)
        return True

    async with followed(replica, node, say) as lines:
        begun = len(lines)
        for number in range(3):
            await replica.register(other, endpoints=(f"192.0.2.{90 + number}:8002",))
            await until(lambda: len(said) > number)  # noqa: B023
            assert f"192.0.2.{90 + number}".encode() in said[-1]
        await replica.services.nodes.remove(node.id, SYSTEM)
        await until(lambda: any(b"removed" in line for line in lines))
        assert len(lines) == begun + 1, "but for the last line, after which the stream ends"
        assert all(b"in_sync" in octets for octets in said)


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
            await anext(streams.lines(late.id, 0, 0))
        with pytest.raises(Unavailable):
            streams.check_open()
