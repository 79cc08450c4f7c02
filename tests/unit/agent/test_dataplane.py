"""The client of the data plane's socket."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from cairn_agent.dataplane import DataPlane, DataPlaneRefused, connected
from cairn_agent.errors import Environment, Unreachable
from cairn_agent.netmap.desired import DataPlaneState, NodeKey

from tests.unit.agent.fakes.dataplane import FakeDataPlane
from tests.unit.agent.fakes.netmaps import Cluster, node_id

STATE = DataPlaneState(
    Cluster().id, NodeKey(node_id(1), base64.b64encode(bytes(32)).decode()), 8002, 5, False, []
)


@pytest_asyncio.fixture
async def fake(tmp_path: Path) -> AsyncIterator[FakeDataPlane]:
    dataplane = FakeDataPlane(tmp_path / "dataplane.sock")
    await dataplane.start()
    yield dataplane
    await dataplane.stop()


@pytest_asyncio.fixture
async def client(fake: FakeDataPlane) -> AsyncIterator[DataPlane]:
    async with connected(fake.path) as dataplane:
        pump = asyncio.ensure_future(dataplane.pump())
        yield dataplane
        pump.cancel()
        await asyncio.gather(pump, return_exceptions=True)


async def test_answers_find_their_questions_in_any_number(client: DataPlane) -> None:
    hello, applied, stats = await asyncio.gather(
        client.hello(), client.apply(4, STATE), client.stats()
    )
    assert (hello.instance, applied.generation, stats.instance) == ("00000001", 4, "00000001")


async def test_a_refusal_has_its_reason(client: DataPlane, fake: FakeDataPlane) -> None:
    fake.refuse_apply = "the port is in use"
    with pytest.raises(DataPlaneRefused, match="the port is in use") as refused:
        await client.apply(1, STATE)
    assert refused.value.code == "bad_state"


async def test_what_waits_fails_when_the_data_plane_dies(
    client: DataPlane, fake: FakeDataPlane
) -> None:
    fake.is_silent = True
    waiting = asyncio.ensure_future(client.stats())
    await asyncio.sleep(0.05)
    for writer in list(fake._writers):
        writer.transport.abort()
    with pytest.raises(Unreachable):
        await waiting
    with pytest.raises(Unreachable):
        await client.stats()


async def test_nobody_there_is_said_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(Unreachable) as error:
        async with connected(tmp_path / "nothing.sock"):
            pass
    assert "cairn-dataplane" in error.value.remedy


async def test_another_protocol_is_refused(client: DataPlane, fake: FakeDataPlane) -> None:
    answer = fake._answer
    fake._answer = lambda request: answer(request) | {"protocol": 2}  # type: ignore[method-assign]
    with pytest.raises(Environment, match="protocol 2"):
        await client.hello()


async def test_events_beyond_the_bound_push_out_the_oldest_and_are_counted(
    client: DataPlane, fake: FakeDataPlane
) -> None:
    await client.hello()
    for number in range(1100):
        fake.emit(event="session_up", vni=number, peer="p", of_tomorrow=1)
    async with asyncio.timeout(5):
        while client.lost_events < 76:
            await asyncio.sleep(0.01)
    assert client.events.qsize() == 1024
    assert client.events.get_nowait().vni == 76


async def test_events_have_the_names_that_the_protocol_gives_them(
    client: DataPlane, fake: FakeDataPlane
) -> None:
    """docs/protocol.md 2.3: the name of an event is in `event`."""
    await client.hello()
    fake.emit(event="degraded", what="tap cairn7", reason="it is gone", at_ms=5)
    async with asyncio.timeout(5):
        event = await client.events.get()
    assert (event.type, event.what, event.reason) == ("degraded", "tap cairn7", "it is gone")


async def test_the_private_key_is_not_in_what_is_printed() -> None:
    assert STATE.node.private_key not in repr(STATE)


async def test_a_data_plane_left_alone_is_cleared(fake: FakeDataPlane) -> None:
    async with connected(fake.path) as dataplane:
        await dataplane.clear(STATE)
    assert fake.applied == [], "it had nothing to forget"
    fake.generation = 7
    async with connected(fake.path) as dataplane:
        await dataplane.clear(STATE)
    assert fake.generation == 8


async def test_a_gate_is_opened_and_an_older_term_refused(
    client: DataPlane, fake: FakeDataPlane
) -> None:
    await client.gate(7, 4, 1_500_000_000)
    assert fake.gates == {7: (4, 1_500_000_000)}
    with pytest.raises(DataPlaneRefused) as refused:
        await client.gate(7, 3, 9_000_000_000)
    assert refused.value.code == "older_term"


async def test_what_was_behind_a_peer_is_forgotten(client: DataPlane, fake: FakeDataPlane) -> None:
    assert await client.forget(7, node_id(2)) == 3
    assert fake.forgotten == [(7, node_id(2))]
