"""Peers that proved to be two machines: kept for a while, told to the appliance and to people."""

from __future__ import annotations

import io
from pathlib import Path

import msgspec
import pytest
from cairn_agent import clones as clones_module
from cairn_agent import reporting, screens
from cairn_agent.clones import KEPT_S, Clones
from cairn_agent.dataplane import Event, Stats
from cairn_agent.protocol import telemetry as wire
from cairn_agent.report import CloneReport, DataPlaneReport, PeerReport, Status
from cairn_agent.telemetry import Teller, Ways
from rich.console import Console

from tests.unit.agent.test_daemon import an_agent

CLONE = CloneReport("p1", "web-1", 7, "office")


def peer(node_id: str, vni: int = 7) -> PeerReport:
    return PeerReport(node_id, f"name-{node_id}", "", vni, "office", "host", [], [], [])


def status() -> Status:
    healthy = DataPlaneReport(is_up=True, version="0.1.0")
    return Status("approved", "0.1.0", dataplane=healthy, clones=[CLONE])


def test_who_was_seen_is_kept_for_ten_minutes_after_the_last_time() -> None:
    clones = Clones()
    clones.note(7, "p1", now=100.0)
    clones.note(8, "p2", now=200.0)
    clones.note(7, "p1", now=300.0)
    assert clones.seen(now=300.0) == [(7, "p1"), (8, "p2")]
    assert clones.seen(now=200.0 + KEPT_S) == [(7, "p1")]
    assert clones.seen(now=300.0 + KEPT_S) == []
    assert KEPT_S == 600.0


def test_so_many_are_kept_the_newest_and_in_an_order_that_makes_no_news(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clones_module, "KEPT_MAX", 2)
    clones = Clones()
    for number in range(4):
        clones.note(7, f"p{number}", now=float(number))
    clones.note(7, "p2", now=5.0)
    assert clones.seen(now=5.0) == [(7, "p2"), (7, "p3")]


def test_what_the_data_plane_tells_is_noted(tmp_path: Path) -> None:
    agent = an_agent(tmp_path)
    for kind in ("clone_seen", "spoofed"):
        agent._note(Event(kind, vni=7, peer=f"by-{kind}"))
    assert agent.clones.seen() == [(7, "by-clone_seen")]


def test_a_clone_is_told_by_name_while_it_is_a_member(tmp_path: Path) -> None:
    agent = an_agent(tmp_path)
    for vni, node in ((7, "p1"), (7, "gone"), (9, "p1")):
        agent._note(Event("clone_seen", vni=vni, peer=node))
    told = reporting.clones_of(agent, [peer("p1"), peer("p2")])
    assert told == [CloneReport("p1", "name-p1", 7, "office")]


def test_the_appliance_is_told_whose_clone_it_is_and_people_what_to_do() -> None:
    teller = Teller(Ways())
    report = teller.report(status(), Stats(""), full=True, measured_s=0.0)
    assert report is not None and report.problems is not None
    (problem,) = report.problems
    assert (problem.name, problem.node, problem.vni) == (wire.CLONE_SEEN, "p1", 7)
    assert "web-1" in problem.cause and "office" in problem.cause
    assert "cairn-agent seal-image" in problem.remedy
    assert teller.report(status(), Stats(""), full=False, measured_s=0.0) is None, "told once"


def test_clones_leave_room_for_no_more_problems_than_an_appliance_reads() -> None:
    many = [CloneReport(f"p{n}", f"web-{n}", 7, "office") for n in range(40)]
    narrow = msgspec.structs.replace(peer("q"), session="up", mtu=1300, wanted_mtu=1400)
    of_now = msgspec.structs.replace(status(), clones=many, peers=[narrow])
    report = Teller(Ways()).report(of_now, Stats(""), full=True, measured_s=0.0)
    assert report is not None and report.problems is not None
    assert len(report.problems) == wire.PROBLEMS_MAX


def test_the_status_shows_it_with_what_to_do() -> None:
    out = Console(file=io.StringIO(), width=400)
    screens.show_status(out, status())
    shown = out.file.getvalue()  # type: ignore[attr-defined]
    assert "web-1 is two machines" in shown
    assert "what to do: " in shown and "cairn-agent seal-image" in shown


def test_an_older_appliance_passes_over_whose_it_is() -> None:
    said = wire.ProblemSaid("clone_seen", "cause", "remedy", "p1", 7)
    plain = msgspec.json.decode(msgspec.json.encode(said))
    assert plain == {
        "name": "clone_seen",
        "cause": "cause",
        "remedy": "remedy",
        "node": "p1",
        "vni": 7,
    }
    assert b"node" not in msgspec.json.encode(wire.ProblemSaid("vsubnet", "cause"))
