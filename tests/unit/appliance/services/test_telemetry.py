"""The board of what nodes report: bounded, cleaned, and of each node's own only."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass

import msgspec
import pytest
from cairn_agent.protocol import telemetry as wire
from cairn_appliance.domain import telemetry as domain
from cairn_appliance.domain.identity import SYSTEM
from cairn_appliance.domain.telemetry import PeerKnown, extended, points_of
from cairn_appliance.services.picture import Health, Picture, heard
from cairn_appliance.services.telemetry import TelemetryBoard

from tests.simulated_node import SimulatedNode
from tests.unit.agent.fakes.running import beside, until
from tests.unit.appliance.replica import Replica


@dataclass
class Reporting:
    """A replica whose netmaps are loaded, with three nodes in `red`."""

    replica: Replica
    nodes: list[SimulatedNode]
    vsubnet: str
    vni: int

    @property
    def board(self) -> TelemetryBoard:
        return self.replica.services.telemetry

    @property
    def picture(self) -> Picture:
        return self.replica.services.picture

    def peer(self, number: int, **more: object) -> wire.PeerSaid:
        fields = {"session": "up", "path": "direct", "rtt_us": 1000, "probed_s": 1.0, **more}
        return wire.PeerSaid(self.nodes[number].id, self.vni, **fields)  # type: ignore[arg-type]

    def say(self, number: int, *peers: wire.PeerSaid, full: bool = True, **more: object) -> None:
        report = wire.Report(full=full, peers=list(peers), **more)  # type: ignore[arg-type]
        self.board.take(self.nodes[number].id, msgspec.json.encode(report))

    def health(self, number: int) -> Health:
        node = self.replica.services.netmaps.snapshot.nodes[self.nodes[number].id]
        return self.picture.health(node, heard(self.picture.ways()))


@pytest.fixture
async def reporting() -> AsyncIterator[Reporting]:
    replica = Replica()
    vsubnet = await replica.vsubnet("red")
    nodes = sorted([await replica.joined(f"n{n}", "red") for n in range(3)], key=lambda n: n.id)
    services = replica.services
    async with beside(services.streams.run()):
        await until(lambda: len(services.netmaps.snapshot.members_of(vsubnet)) == 3)
        vni = services.netmaps.snapshot.vsubnets[vsubnet].vni
        yield Reporting(replica, nodes, vsubnet, vni)


async def test_a_path_is_put_together_from_both_ends(reporting: Reporting) -> None:
    reporting.say(0, reporting.peer(1, probes=10, lost=1, mtu=1400, rtt_max_us=3000))
    reporting.say(1, reporting.peer(0, probes=10, lost=3, mtu=1380, probed_s=0.2, rtt_us=1200))
    (way,) = reporting.picture.ways()
    assert (way.a, way.b) == (reporting.nodes[0].id, reporting.nodes[1].id)
    assert way.is_up
    assert (way.rtt_ms, way.rtt_max_ms, way.loss, way.mtu) == (1.2, 3.0, 0.2, 1380)
    assert way.vsubnets == (reporting.vsubnet,)


async def test_a_node_reports_only_of_itself_and_its_own_peers(reporting: Reporting) -> None:
    stranger = await reporting.replica.joined("other")  # in no vSubnet
    await until(lambda: stranger.id in reporting.replica.services.netmaps.snapshot.nodes)
    forged = [
        wire.PeerSaid(stranger.id, reporting.vni, "up"),
        wire.PeerSaid("no node", reporting.vni, "up"),
        wire.PeerSaid(reporting.nodes[1].id, 16_000_000, "up"),
        reporting.peer(0),  # itself
    ]
    reporting.say(0, *forged)
    assert reporting.picture.ways() == []
    report = wire.Report(full=True, peers=[reporting.peer(1)])
    reporting.board.take(stranger.id, msgspec.json.encode(report))
    assert reporting.picture.ways() == []


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b'{"full":"yes"}',
        b'{"peers":[{"node":"%b","vni":7}]}' % (b"x" * 65),
        b'{"peers":[{"node":"n","vni":7,"rtt_us":-1}]}',
        b'{"peers":[{"node":"n","vni":7,"session":"excellent"}]}',
        b'{"peers":[%b]}' % b",".join([b'{"node":"n","vni":7}'] * 129),
        b'{"dataplane":{"drops":{%b}}}' % b",".join(b'"%d":1' % n for n in range(65)),
        b'{"measured_s":1e999}',
        b'{"problems":%b}' % (b"[" * 60_000),
        b'{"agent_version":"%b"}' % (b"v" * 70_000),
    ],
)
async def test_what_is_no_report_is_passed_over(reporting: Reporting, line: bytes) -> None:
    reporting.board.take(reporting.nodes[0].id, line)
    assert reporting.board.record(reporting.nodes[0].id) is None
    assert reporting.board.refused == 1


async def test_texts_of_agents_are_cleaned(reporting: Reporting) -> None:
    evil = "\x1b[2J\u202egood\u2066\n\u200b"
    problem = wire.ProblemSaid("path_mtu", f"caf\u00e9 {evil}", evil)
    reporting.say(
        0,
        reporting.peer(1, path="teleported", endpoint=f"192.0.2.1{evil}"),
        problems=[problem],
        agent_version=evil,
        dataplane=wire.DataPlaneSaid(True, version=evil, drops={evil: 3}),
    )
    record = reporting.board.record(reporting.nodes[0].id)
    assert record is not None
    assert record.problems == [wire.ProblemSaid("path_mtu", "caf\u00e9 [2Jgood", "[2Jgood")]
    assert (record.agent_version, record.dataplane.drops) == ("[2Jgood", {"[2Jgood": 3})
    (known,) = record.peers.values()
    assert known.said.endpoint == "192.0.2.1[2Jgood"
    (way,) = reporting.picture.ways()
    assert way.path == "direct"  # not what it invented


@pytest.mark.parametrize("text", ["\x7f", "\u202e", "\ud800", "\u0000"])
async def test_no_way_of_writing_a_text_gets_by_the_cleaning(
    reporting: Reporting, text: str
) -> None:
    """A line of plain ASCII is not looked at letter by letter: an escape is ASCII, too."""
    for written in (text.encode("utf-8", "replace"), b"\\u%04x" % ord(text)):
        line = b'{"full":true,"agent_version":"a%bb"}' % written
        reporting.board.take(reporting.nodes[0].id, line)
        record = reporting.board.record(reporting.nodes[0].id)
        assert record is None or record.agent_version in ("ab", "a?b")


async def test_more_losses_than_probes_are_all(reporting: Reporting) -> None:
    reporting.say(0, reporting.peer(1, probes=2, lost=900))
    assert reporting.picture.ways()[0].loss == 1.0


async def test_a_node_has_no_more_peers_than_are_kept(
    reporting: Reporting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cairn_appliance.services.telemetry.PEERS_KEPT", 1)
    reporting.say(0, reporting.peer(1), reporting.peer(2))
    assert len(reporting.picture.ways()) == 1


async def test_a_report_without_peers_keeps_those_that_were_told(reporting: Reporting) -> None:
    reporting.say(0, reporting.peer(1))
    reporting.say(0, full=False)
    assert len(reporting.picture.ways()) == 1
    reporting.say(0)  # a new stream: whatever was known is over
    assert reporting.picture.ways() == []


async def test_a_killed_node_is_stale_then_down_and_the_path_goes_with_the_peers_word(
    reporting: Reporting,
) -> None:
    presence, clock = reporting.replica.services.presence, reporting.replica.clock
    for number in (0, 1):
        presence.connected(reporting.nodes[number].id)
    reporting.say(0, reporting.peer(1))
    reporting.say(1, reporting.peer(0))
    assert (reporting.health(0), reporting.health(1)) == (Health.UP, Health.UP)

    presence.disconnected(reporting.nodes[1].id)  # it was killed
    assert reporting.health(1) is Health.STALE
    clock.now += 6
    reporting.say(0, reporting.peer(1, session="down"), full=False)
    (way,) = reporting.picture.ways()
    assert not way.is_up
    assert way.rtt_ms is None
    clock.now += wire.STALE_S
    reporting.say(0, full=False)
    assert reporting.health(1) is Health.DOWN
    assert reporting.health(0) is Health.UP


async def test_a_node_that_its_peers_hear_is_stale_and_not_down(reporting: Reporting) -> None:
    clock = reporting.replica.clock
    reporting.say(1, reporting.peer(0))
    clock.now += wire.STALE_S + 1
    reporting.say(0, reporting.peer(1))
    assert reporting.health(1) is Health.STALE  # its agent is away; its data plane is not


async def test_what_nobody_confirms_any_more_is_stale_and_then_forgotten(
    reporting: Reporting,
) -> None:
    reporting.say(0, reporting.peer(1))
    reporting.replica.clock.now += wire.STALE_S + 1
    (way,) = reporting.picture.ways()
    assert (way.is_up, way.is_stale, way.rtt_ms) == (False, True, None)
    reporting.replica.clock.now += domain.KEPT_S
    assert reporting.picture.ways() == []
    await reporting.board.tidy()
    assert reporting.board.record(reporting.nodes[0].id) is None


async def test_a_removed_node_is_forgotten(reporting: Reporting) -> None:
    reporting.say(0, reporting.peer(1))
    gone = reporting.nodes[1].id
    await reporting.replica.services.nodes.remove(gone, SYSTEM)
    snapshot = reporting.replica.services.netmaps.snapshot
    await until(lambda: gone not in snapshot.members_of(reporting.vsubnet))
    reporting.say(0, reporting.peer(1))
    assert reporting.picture.ways() == []


async def test_storms_are_frames_a_second(reporting: Reporting) -> None:
    for dropped in (100, 400):
        vsubnet = wire.VSubnetSaid(reporting.vni, drops={"storm_limit": dropped, "router": 9})
        reporting.say(0, vsubnets=[vsubnet], full=dropped == 100)
        reporting.replica.clock.now += 10
    record = reporting.board.record(reporting.nodes[0].id)
    assert record is not None
    assert record.storms == {reporting.vni: 30.0}
    assert record.bum == {}  # an older data plane doesn't count


async def test_bum_is_frames_a_second_from_the_second_report_on(reporting: Reporting) -> None:
    rates = []
    for sent in (1_000, 1_250, 1_250, 20):  # at last the data plane has begun anew
        vsubnet = wire.VSubnetSaid(reporting.vni, counters={"bum_sent": sent, "reflected": 9})
        reporting.say(0, vsubnets=[vsubnet], full=not rates)
        record = reporting.board.record(reporting.nodes[0].id)
        assert record is not None
        rates.append(record.bum.get(reporting.vni))
        reporting.replica.clock.now += 10
    assert rates == [None, 25.0, 0.0, 0.0]


def test_a_history_is_an_hour_of_points_half_a_minute_apart() -> None:
    history = b""
    for second in range(0, 7200, 10):
        history = extended(history, 1_800_000_000.0 + second, second / 10, 0.5)
    points = list(points_of(history))
    assert len(points) == domain.POINTS_MAX
    assert points[-1] == (1_800_000_000.0 + 7170, 717.0, 0.5)
    assert points[-1][0] - points[0][0] == 30 * (domain.POINTS_MAX - 1)


def test_a_history_knows_when_there_was_nothing_and_forgets_after_an_hour() -> None:
    history = extended(b"", 1_800_000_000.0, 1e9, 1.0)
    history = extended(history, 1_800_003_585.0, 12.345, 0.125)
    history = extended(history, 1_800_003_584.0, 99.0, 0.0)  # a clock that was set back
    assert [(at, loss) for at, _, loss in points_of(history)] == [
        (1_800_000_000.0, 1.0),
        (1_800_003_570.0, 0.125),
    ]
    history = extended(history, 1_800_003_600.4, 0.25, 0.0)
    assert [(at, loss) for at, _, loss in points_of(history)] == [
        (1_800_003_570.0, 0.125),
        (1_800_003_600.0, 0.0),
    ]
    assert [rtt for _, rtt, _ in points_of(history)] == pytest.approx([12.345, 0.25], rel=0.001)
    history = extended(history, 1_800_100_000.0, 1.0, 0.0)
    assert len(list(points_of(history))) == 1


async def test_what_twenty_sessions_of_a_node_take_for_an_hour_is_bounded(
    reporting: Reporting,
) -> None:
    """An idle agent may cost an appliance 64 KiB in all (SC-6)."""
    known = PeerKnown.of(reporting.peer(1, endpoint="198.51.100.200:8002"), 0.0)
    assert sys.getsizeof(known) < 200
    history = b""
    for point in range(10 * domain.POINTS_MAX):
        history = extended(history, 1_800_000_000.0 + 30 * point, 1.0, 0.1)
        assert sys.getsizeof(history) < 400, "from its first point on as large as it becomes"
    assert sys.getsizeof(history) == sys.getsizeof(extended(b"", 1_800_000_000.0, 1.0, 0.1))


async def test_what_another_replica_says_of_a_peer_is_looked_at(reporting: Reporting) -> None:
    reporting.say(0, reporting.peer(1))
    octets = reporting.board.since("", 0)
    assert domain.decoded_shared(octets).nodes
    with pytest.raises(msgspec.MsgspecError):
        domain.decoded_shared(octets.replace(b'"session":"up"', b'"session":"odd"'))


async def test_another_replica_has_what_this_one_has(reporting: Reporting) -> None:
    """Their clocks differ by a minute: ages are what counts."""
    other = Replica(reporting.replica.memory, "r2")
    other.clock.now += 60
    async with beside(other.services.streams.run()):
        snapshot = other.services.netmaps.snapshot
        await until(lambda: len(snapshot.members_of(reporting.vsubnet)) == 3)
        reporting.say(0, reporting.peer(1))
        theirs = other.services.telemetry
        first = domain.decoded_shared(reporting.board.since("", 0))
        theirs.merge("r1", first, is_anew=True)
        assert [way.is_up for way in other.services.picture.ways()] == [True]
        record = theirs.record(reporting.nodes[0].id)
        assert record is not None
        assert record.at == other.clock.now

        again = domain.decoded_shared(reporting.board.since(first.instance, first.version))
        assert again.nodes == []
        reporting.say(0, reporting.peer(1, session="down"), full=False)
        news = domain.decoded_shared(reporting.board.since(first.instance, first.version))
        theirs.merge("r1", news, is_anew=False)
        assert [way.is_up for way in other.services.picture.ways()] == [False]
        # What it has from others it does not pass on.
        assert domain.decoded_shared(theirs.since("", 0)).nodes == []
        theirs.forget_others([])
        assert other.services.picture.ways() == []


async def test_whoever_looks_first_waits_for_the_others_and_the_next_does_not(
    reporting: Reporting,
) -> None:
    asked = 0

    async def refresh() -> None:
        nonlocal asked
        asked += 1

    reporting.board.refresh = refresh
    assert not reporting.board.is_watched
    await reporting.board.look()
    await reporting.board.look()
    assert asked == 1
    assert reporting.board.is_watched
