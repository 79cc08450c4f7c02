"""Reports over real TLS: up the netmap stream from a node, and from one appliance to another."""

from __future__ import annotations

import asyncio

import httpx
import msgspec
from cairn_agent.protocol import telemetry as wire
from cairn_agent.protocol.enrolment import AckRequest
from cairn_appliance.cluster.telemetry_exchange import TelemetryExchange
from cairn_appliance.domain.cluster import Appliance
from cairn_appliance.domain.identity import SYSTEM
from cairn_appliance.domain.telemetry import SHARED_REPORTS
from cairn_appliance.services.presence import PresenceBoard

from tests.sim.connection import Connection
from tests.simulated_node import SimulatedNode
from tests.unit.agent.fakes.running import beside, until
from tests.unit.appliance.cluster.conftest import Served
from tests.unit.appliance.replica import Replica


def report(vni: int, peer: str, session: str = "up") -> bytes:
    said = wire.PeerSaid(peer, vni, session, "direct", rtt_us=700)  # type: ignore[arg-type]
    return msgspec.json.encode(wire.Report(full=True, peers=[said])) + b"\n"


async def two_nodes(replica: Replica) -> tuple[list[SimulatedNode], int]:
    vsubnet = await replica.vsubnet("red")
    nodes = [await replica.joined(name, "red") for name in ("n1", "n2")]
    snapshot = replica.services.netmaps.snapshot
    await until(lambda: len(snapshot.members_of(vsubnet)) == 2)
    return nodes, snapshot.vsubnets[vsubnet].vni


async def test_reports_come_up_the_stream_and_the_stream_goes_on(served: Served) -> None:
    (first, second), vni = await two_nodes(served.replica)
    lines: list[bytes] = []
    connection = await Connection.open(served.place, served.context(first))
    await connection.follow("netmap?incarnation=0&after=0", lines.append)
    octets = report(vni, second.id)
    connection.report(octets[:10])
    await asyncio.sleep(0.05)
    connection.report(octets[10:] + b"no report\n" + report(vni, second.id))
    board = served.replica.services.telemetry
    await until(lambda: board.record(first.id) is not None and board.refused == 1)
    assert [way.is_up for way in served.replica.services.picture.ways()] == [True]
    before = len(lines)
    await served.replica.services.vsubnets.rotate_secret("red", SYSTEM)
    await until(lambda: len(lines) > before)
    served.replica.services.streams.send_away()  # what comes after the end is passed over
    await until(lambda: not connection.is_open)


async def test_acknowledgements_come_up_the_stream_beside_reports(served: Served) -> None:
    (first, second), vni = await two_nodes(served.replica)
    connection = await served.stream(first)
    presence = served.replica.services.presence
    ack = AckRequest(7, 1, {"node": "aa", str(vni): "bb"}, trust="cc", issuer="dd")
    assert connection.ack(ack)
    await until(lambda: loaded(presence, first) == 7)
    known = presence.of(first.id)
    assert known is not None
    assert (known.digests, known.trust, known.issuer) == (ack.digests, "cc", "dd")
    # What is none changes nothing, and neither ends the stream nor keeps out what follows.
    for digests in ({"x" * 9: "aa"}, {"node": "a" * 65}):
        assert connection.ack(AckRequest(8, 1, digests))
    connection.report(b'{"type":"ack","revision":"nine"}\n{"type":"ack",\n')
    connection.report(report(vni, second.id))
    assert connection.ack(AckRequest(9, 1, refused="no room"))
    await until(lambda: presence.of(first.id).refused == "no room")  # type: ignore[union-attr]
    assert loaded(presence, first) == 7, "the last good netmap stays"
    assert served.replica.services.telemetry.record(first.id) is not None
    assert served.replica.services.telemetry.refused == 0
    assert connection.is_open


def loaded(presence: PresenceBoard, node: SimulatedNode) -> int:
    known = presence.of(node.id)
    return known.loaded_revision if known else 0


async def test_a_node_that_floods_is_cut_off(served: Served) -> None:
    (first, _), _ = await two_nodes(served.replica)
    connection = await served.stream(first)
    connection.report(b"x" * 300_000)
    await until(lambda: not connection.is_open)
    presence = served.replica.services.presence
    await until(lambda: not presence.is_connected(first.id))


async def test_an_appliance_reads_what_another_ones_nodes_report(served: Served) -> None:
    (first, second), vni = await two_nodes(served.replica)
    connection = await served.stream(first)
    other = Replica(served.replica.memory, "r2")
    appliances = [Appliance("r1", (served.place,)), Appliance("r2", ("192.0.2.2:8002",))]
    theirs = other.services.telemetry
    exchange = TelemetryExchange(theirs, other.services.keyring, "r2", lambda: appliances)
    async with beside(other.services.streams.run()), beside(exchange.run()):
        await until(lambda: other.services.netmaps.revision > 0)
        connection.report(report(vni, second.id))
        await until(lambda: served.replica.services.telemetry.record(first.id) is not None)
        await asyncio.sleep(0.6)
        assert theirs.record(first.id) is None  # nobody looks: nothing is asked
        await theirs.look()
        assert [way.is_up for way in other.services.picture.ways()] == [True]
        connection.report(report(vni, second.id, "down"))
        await until(lambda: not other.services.picture.ways()[0].is_up)
        appliances[0] = Appliance("r1", ("127.0.0.1:1",))
        await exchange.refresh()  # it gives no answer: what is known stays, and ages
        assert theirs.record(first.id) is not None


async def test_a_node_and_a_stranger_are_told_nothing_of_others(served: Served) -> None:
    (first, _), _ = await two_nodes(served.replica)
    url = f"https://{served.place}{SHARED_REPORTS}"
    for context in (served.context(first), served.context()):
        async with httpx.AsyncClient(verify=context) as client:
            answer = await client.get(url)
        assert answer.status_code == 403
        assert answer.json()["code"] == "certificate_required"
