"""What the agent reports of itself: what has news, bounded, measured inside the sessions."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from cairn_agent import telemetry as telemetry_module
from cairn_agent.dataplane import LearnedStats, PeerStats, Stats, VSubnetStats, connected
from cairn_agent.protocol import telemetry as wire
from cairn_agent.report import DataPlaneReport, PeerReport, Status, VSubnetReport
from cairn_agent.telemetry import Teller, Way, Ways, encode, sessions_up

from tests.unit.agent.fakes.dataplane import FakeDataPlane
from tests.unit.agent.fakes.running import beside


def stats(*peers: PeerStats, learned: int = 0, drops: dict[str, int] | None = None) -> Stats:
    macs = [LearnedStats(f"02:00:00:00:00:{n:02x}", "p0", float(n)) for n in range(learned)]
    return Stats(
        "i", vsubnets=[VSubnetStats(7, peers=list(peers), learned=macs)], drops=drops or {}
    )


def status(problem: str = "") -> Status:
    return Status(
        "approved",
        "0.1.0",
        dataplane=DataPlaneReport(is_up=True, version="0.1.0"),
        vsubnets=[VSubnetReport(7, "office", "t", "m", [], 1400, 1400, 3, problem)],
    )


def up(name: str, **more: object) -> PeerStats:
    return PeerStats(name, "192.0.2.2:8002", "up", "direct", **more)  # type: ignore[arg-type]


def told(teller: Teller, what: Stats, *, full: bool = False) -> wire.Report:
    """Return the report; an empty one where there is none."""
    return teller.report(status(), what, full=full, measured_s=0.0) or wire.Report()


def test_the_first_report_is_full_and_the_next_has_what_is_new() -> None:
    teller = Teller(Ways())
    first = told(teller, stats(up("p1"), PeerStats("p2")), full=True)
    assert first.full
    assert [peer.node for peer in first.peers] == ["p1"]  # nobody asks for those without a session
    assert first.vsubnets is not None
    assert first.dataplane == wire.DataPlaneSaid(is_up=True, version="0.1.0")

    second = told(teller, stats(up("p1"), PeerStats("p2")))
    assert not second.full
    assert (second.vsubnets, second.dataplane, second.problems) == (None, None, None)


def test_a_session_that_ends_is_told_once_and_a_peer_that_is_gone_too() -> None:
    teller = Teller(Ways())
    told(teller, stats(up("p1"), up("p2")), full=True)
    report = told(teller, stats(PeerStats("p1"), up("p2")))
    assert {peer.node: peer.session for peer in report.peers} == {"p1": "down"}
    assert told(teller, stats(PeerStats("p1"), up("p2"))).peers == []
    assert [(p.node, p.session) for p in told(teller, stats()).peers] == [("p2", "down")]


def test_changes_come_first_then_whom_nothing_was_told_of_for_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wire, "PEERS_MAX", 2)
    monkeypatch.setattr(telemetry_module, "CALM_S", 0.0)
    teller = Teller(Ways())
    everybody = [up(f"p{n}") for n in range(4)]
    assert len(told(teller, stats(*everybody), full=True).peers) == 2
    second = told(teller, stats(*everybody)).peers
    assert {peer.node for peer in second} == {"p2", "p3"}
    moved = PeerStats("p3", "192.0.2.9:8002", "up", "direct")
    third = told(teller, stats(*everybody[:3], moved)).peers
    assert third[0].node == "p3"
    assert third[1].node in ("p0", "p1")


@pytest.mark.parametrize(
    ("of_now", "is_news"),
    [
        (up("p1", rtt_us=1240, tx_octets=40_000, rx_octets=20_000), False),
        (up("p1", rtt_us=1260), True),
        (up("p1", rtt_us=740), True),
        (up("p1", rtt_us=None), True),
        (up("p1", rtt_us=1000, tx_octets=40_000, rx_octets=40_000), True),
        (PeerStats("p1", "192.0.2.9:8002", "up", "direct", rtt_us=1000), True),
        (PeerStats("p1", "192.0.2.2:8002", "up", "relayed", rtt_us=1000), True),
    ],
)
def test_a_peer_that_nothing_happens_with_is_told_of_now_and_then(
    of_now: PeerStats, is_news: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(telemetry_module.time, "monotonic", lambda: now)
    teller = Teller(Ways())
    told(teller, stats(up("p1", rtt_us=1000)), full=True)
    now += 10.0
    assert bool(told(teller, stats(of_now)).peers) is is_news
    now += 10.0
    assert bool(told(teller, stats(of_now)).peers) is not is_news  # it was told 10 or 20 s ago
    assert told(teller, stats(of_now), full=True).peers


def test_counters_alone_are_told_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(telemetry_module.time, "monotonic", lambda: now)
    teller = Teller(Ways())

    def said(frames: int, *, dropped: int = 0) -> bool:
        of = VSubnetStats(7, tx_frames=frames, drops={"storm_limit": dropped})
        report = teller.report(status(), Stats("i", vsubnets=[of]), full=False, measured_s=0.5)
        return report is not None

    assert said(1)
    now += 10.0
    assert not said(2)
    assert said(2, dropped=1)  # a limit that drops is news
    now += 17.0
    assert not said(3, dropped=1)
    now += 1.0
    assert said(3, dropped=1)


def test_a_line_is_never_longer_than_an_appliance_reads() -> None:
    names = {f"{n:060d}": 1 << 60 for n in range(64)}
    peers = [wire.PeerSaid(f"{n:064d}", 7, "up", endpoint="x" * 64) for n in range(wire.PEERS_MAX)]
    learned = [wire.LearnedSaid("x" * 64, "y" * 64) for _ in range(wire.LEARNED_MAX)]
    vsubnets = [
        wire.VSubnetSaid(n, problem="p" * 100, learned=learned, counters=names) for n in range(64)
    ]
    line = encode(wire.Report(peers=peers, vsubnets=vsubnets))
    assert len(line) <= wire.LINE_MAX_OCTETS
    assert line.endswith(b"\n")
    assert len(msgspec.json.decode(line, type=wire.Report).vsubnets or ()) == 64


def test_an_older_reader_passes_over_what_it_does_not_know() -> None:
    line = b'{"full":true,"invented":{"later":1},"peers":[{"node":"p","vni":7,"newer":3}]}'
    assert msgspec.json.decode(line, type=wire.Report).peers == [wire.PeerSaid("p", 7)]


def test_loss_and_jitter_are_of_the_last_ten_probes() -> None:
    way = Way()
    for rtt_us in (None, 100, 300, 200):
        way.note(rtt_us, 1.0)
    assert (way.known, way.jitter_us, len(way.answers)) == ([100, 300, 200], 150, 4)
    for _ in range(10):
        way.note(50, 2.0)
    assert (len(way.answers), way.jitter_us) == (10, 0)


async def test_peers_with_a_session_are_probed_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(telemetry_module, "PROBED_AT_ONCE", 2)
    fake = FakeDataPlane(tmp_path / "dp.sock")
    await fake.start()
    ways, what = Ways(), stats(up("p1"), up("p2"), up("p3"), PeerStats("p4"))
    async with connected(fake.path) as dataplane, beside(dataplane.pump()):
        for _ in range(3):
            await ways.measure(dataplane, sessions_up(what))
        assert fake.probes == 6
        assert [len(ways.of((7, f"p{n}")).answers) for n in (1, 2, 3, 4)] == [2, 2, 2, 0]
        fake.answers_probes = False
        await ways.measure(dataplane, sessions_up(stats(up("p1"))))
    await fake.stop()
    assert list(ways.of((7, "p1")).answers) == [420, 420, None]
    peer = told(Teller(ways), stats(up("p1")), full=True).peers[0]
    assert (peer.rtt_us, peer.probes, peer.lost) == (420, 3, 1)
    assert not ways.of((7, "p2")).answers  # it has no session any more


def test_what_is_wrong_has_a_cause_and_what_to_do() -> None:
    narrow = PeerReport(
        "p", "b1", "s", 7, "office", "host", [], [], [], "up", mtu=1300, wanted_mtu=1400
    )
    of_now = msgspec.structs.replace(status("no TAP"), peers=[narrow])
    report = Teller(Ways()).report(of_now, Stats(""), full=True, measured_s=0.0)
    assert report is not None and report.problems is not None
    assert [each.name for each in report.problems] == ["vsubnet", "path_mtu"]
    assert report.problems[1].remedy
