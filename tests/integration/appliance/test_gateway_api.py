"""Gateways at a running appliance: duties by the stream, beats over one connection, its death."""

from __future__ import annotations

import asyncio
import signal
import statistics
import time
from collections.abc import Iterator

import httpx
import msgspec
import pytest
from cairn_agent.protocol import gateway as wire
from cairn_agent.protocol import netmap as netmap_wire
from cairn_appliance.domain.identity import SYSTEM
from cairn_appliance.services.segments import SegmentOrder

from tests.integration.appliance.running import Member, RunningAppliance
from tests.simulated_node import SimulatedNode

pytestmark = pytest.mark.etcd


@pytest.fixture(scope="module")
def appliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAppliance]:
    appliance = RunningAppliance(tmp_path_factory.mktemp("appliance"))
    appliance.start()
    yield appliance
    if appliance.process and appliance.process.poll() is None:
        appliance.end(signal.SIGTERM)


class Gateway:
    """A node with one kept-alive connection, as an agent has it."""

    def __init__(self, member: Member) -> None:
        self.member = member
        self.id = member.node.id
        self._client = httpx.AsyncClient(
            base_url=f"https://{member.appliance.address}/agent/v1/gateway",
            verify=member.context(),
            trust_env=False,
        )

    async def beat(self, segment: str, **state: object) -> wire.Grant:
        said = wire.SegmentState(segment, **{"is_able": True, **state})  # type: ignore[arg-type]
        body = msgspec.json.encode(wire.GatewayBeat([said], "b1"))
        answer = await self._client.post("/beat", content=body)
        assert answer.status_code == 200, answer.text
        (grant,) = msgspec.json.decode(answer.content, type=wire.BeatAnswer).grants
        return grant

    async def close(self) -> None:
        await self._client.aclose()


async def joined(appliance: RunningAppliance, name: str) -> Member:
    """Return a node that is a member of nothing."""
    node = SimulatedNode(name)
    answer = await appliance.enrol(node, await appliance.token())
    member = Member(appliance, node, answer)
    await member.register()
    return member


async def duties(member: Member) -> list[wire.GatewayDuty]:
    """Return the duties in the first document that comes."""
    async with member.client() as replica:
        async for line in replica.netmap_lines(0, 0, quiet_s=5.0):
            message = netmap_wire.decode_line(line)
            if isinstance(message, netmap_wire.NodeUpdate):
                return message.document.gateways
    return []


async def test_gateways_at_a_real_appliance_that_dies(appliance: RunningAppliance) -> None:
    members = [await joined(appliance, name) for name in ("g1", "g2")]
    async with appliance.operator() as services:
        segment = (await services.segments.create(SegmentOrder("lan", "red"), SYSTEM)).value.id
        for member in members:
            await services.segments.attach("lan", member.node.id, "eth1", 0, SYSTEM)
    async with asyncio.timeout(5):
        while not all([await duties(member) for member in members]):
            await asyncio.sleep(0.1)
    (one,), (other,) = [await duties(member) for member in members]
    assert one.key == other.key
    assert sorted(one.gateways) == sorted(member.node.id for member in members)

    gateways = [Gateway(member) for member in members]
    holder, standby = gateways
    first = await holder.beat(segment)
    assert (first.holder, first.hold_s) == (holder.id, wire.HOLD_S)
    took = []
    for _ in range(20):
        begun = time.monotonic()
        assert (await holder.beat(segment, term=first.term)).hold_s == wire.HOLD_S
        took.append(time.monotonic() - begun)
        assert not (await standby.beat(segment)).hold_s
        await asyncio.sleep(0.05)
    assert statistics.median(took) < wire.BEAT_S / 2  # of an answer that is of any use

    for gateway in gateways:
        await gateway.close()
    appliance.end(signal.SIGKILL)
    appliance.start()
    gateways = [Gateway(member) for member in members]
    holder, standby = gateways
    # It was away for longer than any silence: nobody could be heard, so nothing moves.
    assert (await standby.beat(segment)).holder == holder.id
    again = await holder.beat(segment, term=first.term)
    assert (again.hold_s, again.term) == (wire.HOLD_S, first.term)
    until = time.monotonic() + 6
    while not (taken := await standby.beat(segment)).hold_s:
        assert time.monotonic() < until
        await asyncio.sleep(0.25)
    assert taken.term > again.term
    for gateway in gateways:
        await gateway.close()
