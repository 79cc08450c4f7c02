"""`cairn gateway`: what it prints and how it ends, against a live API."""

from __future__ import annotations

import json
import threading
import time
import zlib

from cairn_agent.protocol import gateway as wire
from cairn_appliance.domain.gateway import Station, StationBatch
from cairn_appliance.domain.identity import SYSTEM
from cairn_appliance.services.vsubnets import VSubnetOrder
from cairn_appliance.store import keys, records
from cairn_appliance.store.port import Put, Reset

from tests.unit.appliance.cli.conftest import Live, Shell


def look(live: Live) -> None:
    """Let the appliance see its own store, which its watches would."""

    async def take() -> None:
        services, store = live.operations.services, live.operations.store
        listing = await store.list(keys.MAP)
        services.netmaps.take([Reset(listing.revision, listing.items)])
        listing = await store.list(keys.GATEWAYS)
        services.board.take(Reset(listing.revision, listing.items))

    live.do(take())


def beat(live: Live, node: str, segment: str, **state: object) -> wire.Grant:
    said = wire.SegmentState(segment, **{"is_able": True, **state})  # type: ignore[arg-type]
    body = wire.GatewayBeat([said], "b1")
    return live.do(live.operations.services.election.beat(node, body)).grants[0]


def office(live: Live, cairn: Shell) -> tuple[str, str, str]:
    """Make a vSubnet and a segment with two gateways; return the IDs of segment and nodes."""
    services = live.operations.services
    live.do(services.vsubnets.create(VSubnetOrder("red", ("10.7.0.0/24",)), SYSTEM))
    first, second = (live.do(live.operations.join(name)) for name in ("g1", "g2"))
    cairn.ok("gateway", "segment", "create", "lan", "--vsubnet", "red", "--bum-pps", "500")
    cairn.ok("gateway", "attach", "lan", "g1", "--port", "eth1")
    cairn.ok("gateway", "attach", "lan", "g2", "--port", "eth1", "--vlan", "7")
    look(live)
    segment = json.loads(cairn.ok("gateway", "segment", "show", "lan", "--json"))["id"]
    return segment, first, second


def test_a_segment_from_its_making_to_its_end(live: Live, logged_in: Shell) -> None:
    assert "There are no segments yet" in logged_in.ok("gateway", "segment", "list")
    office(live, logged_in)
    shown = logged_in.ok("gateway", "segment", "show", "lan")
    assert "lan on red" in shown
    assert "DHCP servers are stopped" in shown
    assert "500 BUM frames" in shown
    assert "g2 at eth1 VLAN 7, unable: not heard of late" in shown
    changed = logged_in.ok("gateway", "segment", "set", "lan", "--dhcp", "--prefer", "availability")
    assert "DHCP servers cross" in changed
    assert "500 BUM frames" in changed
    assert "it goes on while all other gateways stand by" in changed
    refused = logged_in("gateway", "segment", "delete", "lan", "--yes")
    assert refused.code == 4
    assert "detach them first" in refused.err
    for name in ("g1", "g2"):
        assert "no gateway of lan any more" in logged_in.ok(
            "gateway", "detach", "lan", name, "--yes"
        )
    assert "is deleted" in logged_in.ok("gateway", "segment", "delete", "lan", "--yes")


def test_the_list_says_who_forwards_and_why_the_others_don_t(live: Live, logged_in: Shell) -> None:
    segment, first, second = office(live, logged_in)
    grant = beat(live, first, segment, stations=3, counters={"dhcp": 12, "ra": 0})
    beat(
        live,
        first,
        segment,
        is_forwarding=True,
        term=grant.term,
        stations=3,
        counters={"dhcp": 12, "ra": 0},
    )
    beat(live, second, segment, is_able=False, why_not="eth1 has no link", code="port_down")
    listed = logged_in.ok("gateway", "list").splitlines()
    assert listed[0].split()[:6] == ["SEGMENT", "VSUBNET", "NODE", "PORT", "STATE", "SINCE"]
    (mine,) = [line for line in listed if " g1 " in line]
    assert "forwards" in mine
    assert str(grant.term) in mine
    assert "dhcp 12" in mine
    (theirs,) = [line for line in listed if " g2 " in line]
    assert "unable: eth1" in theirs
    (whole,) = json.loads(logged_in.ok("gateway", "list", "--json"))
    assert whole["forwarder"]["name"] == "g1"
    assert [each["forwards"] for each in whole["gateways"]] == [True, False]


def test_a_switch_over_waits_until_the_other_forwards(live: Live, logged_in: Shell) -> None:
    segment, first, second = office(live, logged_in)
    grant = beat(live, first, segment)
    beat(live, second, segment)

    def gateways() -> None:
        """Beat as gateways do, until the holder is told to make way."""
        until = time.monotonic() + 20
        while time.monotonic() < until:
            beat(live, second, segment)
            if beat(live, first, segment, term=grant.term).yield_to == second:
                election = live.operations.services.election
                live.do(election.release(first, segment, grant.term))
                beat(live, second, segment)
                return
            time.sleep(0.05)

    acting = threading.Thread(target=gateways)
    acting.start()
    told = logged_in.ok("gateway", "switch-over", "lan", "--to", "g2")
    acting.join(25)
    assert told == "g2 forwards for lan.\n"


def test_a_switch_over_to_one_that_can_t_says_why(live: Live, logged_in: Shell) -> None:
    office(live, logged_in)
    refused = logged_in("gateway", "switch-over", "lan", "--to", "g2")
    assert refused.code == 4
    assert "g2 can't forward for segment lan: it was not heard" in refused.err


def test_bridging_is_stopped_and_goes_on(live: Live, logged_in: Shell) -> None:
    office(live, logged_in)
    assert "forwarder             stopped" in logged_in.ok("gateway", "stop", "lan", "--yes")
    assert "forwarder             nobody" in logged_in.ok("gateway", "resume", "lan")


def test_stations_are_listed(live: Live, logged_in: Shell) -> None:
    segment, first, _ = office(live, logged_in)
    assert "No machine" in logged_in.ok("gateway", "stations", "lan")
    grant = beat(live, first, segment)
    seen = [wire.Station("02:00:00:00:00:07", ["10.7.0.77"])]
    report = wire.StationReport(segment, grant.term, True, seen, [])
    live.do(live.operations.services.lan_reports.stations(first, report, ""))
    look(live)
    assert "10.7.0.77" in logged_in.ok("gateway", "stations", "lan")


def test_a_frozen_station_is_shown_and_let_go(live: Live, logged_in: Shell) -> None:
    segment, _, _ = office(live, logged_in)
    mac, now = "02:00:00:00:00:07", time.time()
    frozen = StationBatch((Station(mac, since=now, moves=(now,) * 5, frozen_at=now),))
    batch = f"{zlib.crc32(mac.encode()) % 64:02d}"
    put = Put(keys.stations(segment, batch), records.station_batches.encode(frozen))
    live.do(live.operations.store.commit([], [put]))
    look(live)
    assert "frozen: moved too often" in logged_in.ok("gateway", "stations", "lan")
    missing = logged_in("gateway", "unfreeze", "lan", "02:00:00:00:00:09")
    assert missing.code == 2
    assert "there is no machine 02:00:00:00:00:09" in missing.err
    told = logged_in.ok("gateway", "unfreeze", "lan", mac.upper())
    assert told == f"{mac} may be on any LAN of red again.\n"
    look(live)
    assert "frozen" not in logged_in.ok("gateway", "stations", "lan")
    assert "lan_station_unfrozen" in logged_in.ok("event", "list", "--json")


def answer(live: Live, node: str, *, is_go: bool, error: str = "") -> threading.Thread:
    """Answer the pre-flight that comes, as the node."""

    def act() -> None:
        services = live.operations.services
        until = time.monotonic() + 5
        while time.monotonic() < until:
            look(live)
            tasks = services.netmaps.node_document(node).preflights
            if tasks:
                level = "handled" if is_go else "no_go"
                finding = wire.Finding(
                    "dhcp_server", level, "02:00:00:00:00:07 answers", "the guard `dhcp`"
                )
                report = wire.PreflightReport(tasks[0].task, is_go, 1.0, 42, [finding], error)
                live.do(services.preflights.take(node, report))
                return
            time.sleep(0.05)

    thread = threading.Thread(target=act)
    thread.start()
    return thread


def test_a_pre_flight_says_go_or_no_go_with_the_guard_of_each_finding(
    live: Live, logged_in: Shell
) -> None:
    _, first, _ = office(live, logged_in)
    live.operations.services.presence.connected(first)
    asked = ["gateway", "preflight", "g1", "--port", "eth2", "--vsubnet", "red", "--listen", "1"]
    for is_go, code, word in ((True, 0, "go"), (False, 1, "no-go")):
        acting = answer(live, first, is_go=is_go)
        ended = logged_in(*asked)
        acting.join(5)
        assert ended.code == code, ended.err
        assert f"verdict  {word}" in ended.out
        assert "02:00:00:00:00:07 answers" in ended.out
        assert "the guard `dhcp`" in ended.out
    acting = answer(live, first, is_go=False, error="there is no eth2")
    ended = logged_in(*asked, "--json")
    acting.join(5)
    assert ended.code == 1
    assert json.loads(ended.out)["error"] == "there is no eth2"


def test_a_node_that_is_away_can_t_be_asked(live: Live, logged_in: Shell) -> None:
    office(live, logged_in)
    ended = logged_in("gateway", "preflight", "g1", "--port", "eth2", "--vsubnet", "red")
    assert ended.code == 4
    assert "no link to an appliance" in ended.err


def test_status_shows_what_is_wrong_with_gateways(live: Live, logged_in: Shell) -> None:
    segment, first, second = office(live, logged_in)
    board = live.operations.services.board
    board._begun_at -= 10  # it has listened for a while
    for node in (first, second):
        beat(live, node, segment, is_able=False, why_not="eth1 has no link")
    shown = logged_in.ok("status")
    assert "segment lan: no gateway can forward: g1: eth1 has no link" in shown
