"""What gateways report of their LANs: machines, moves, spoofs, and how often they may."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cairn_agent.protocol import gateway as wire
from cairn_appliance.domain.alarm import Alarm
from cairn_appliance.domain.errors import Clash, Invalid, NotFound, Refused, TooMany
from cairn_appliance.domain.event import Severity
from cairn_appliance.domain.gateway import ALARMS, FROZEN_S, MOVES_WINDOW_S, TROUBLE_S, TWICE_S
from cairn_appliance.domain.identity import SYSTEM
from cairn_appliance.domain.segment import STATIONS_MAX, Guards
from cairn_appliance.domain.vsubnet import VSubnet
from cairn_appliance.services.lan_reports import EVENTS_AT_ONCE
from cairn_appliance.services.segments import SegmentChange, SegmentOrder
from cairn_appliance.services.vsubnets import VSubnetChange
from cairn_appliance.store import keys

from tests.unit.appliance.gateways import Office

PRINTER, CAMERA = "02:00:00:00:00:01", "02:00:00:00:00:02"
ADDRESS = "198.51.100.9"


class Lans:
    """Two LANs on one vSubnet, each with its forwarder."""

    def __init__(self, office: Office) -> None:
        self.office = office
        self.terms: dict[str, int] = {}
        self.segments: list[str] = [office.segment]

    @classmethod
    async def make(cls) -> Lans:
        office = await Office().open("g1")
        office.wait(4.0)
        lans = cls(office)
        segments = office.replica.services.segments
        lans.segments.append((await segments.create(SegmentOrder("far", "red"), SYSTEM)).value.id)
        office.gateways.append(await office.replica.joined("g2"))
        await segments.attach("far", "g2", "eth1", 0, SYSTEM)
        for number, node in enumerate(office.gateways):
            grant = await office.first.beat(node, lans.segments[number])
            lans.terms[lans.segments[number]] = grant.term
        return lans

    async def report(self, number: int, *seen: str, gone: tuple[str, ...] = (), **more: object):  # type: ignore[no-untyped-def]
        segment = self.segments[number]
        stations = [wire.Station(mac, list(ips.split())) for mac, _, ips in
                    (each.partition(" ") for each in seen)]  # fmt: skip
        fields = {"term": self.terms[segment], "is_full": False, **more}
        report = wire.StationReport(segment, seen=stations, gone=list(gone), **fields)  # type: ignore[arg-type]
        node = self.office.gateways[number].id
        await self.office.look()
        await self.office.replica.services.lan_reports.stations(node, report, ADDRESS)
        await self.office.look()

    def macs(self, number: int) -> list[str]:
        on = self.office.replica.services.lan_reports.on(self.segments[number])
        return [each.mac for each in on]

    async def event(self, code: str, detail: str = "what was seen", number: int = 0) -> None:
        body = wire.GatewayEvent(self.segments[number], code, detail)
        node = self.office.gateways[number].id
        await self.office.replica.services.lan_reports.event(node, body, ADDRESS)
        await self.office.look()

    async def vsubnet(self) -> VSubnet:
        return (await self.office.replica.services.vsubnets.get("red")).value

    async def problems(self) -> list[str]:
        return [each.name for each in self.office.replica.services.gateway_health.problems()]


async def test_stations_come_and_go_and_what_is_known_costs_no_write() -> None:
    lans = await Lans.make()
    await lans.report(0, f"{PRINTER} 192.0.2.7", CAMERA)
    assert lans.macs(0) == [PRINTER, CAMERA]
    before = (await lans.office.memory.list(keys.ROOT)).revision
    await lans.report(0, f"{PRINTER} 192.0.2.7", CAMERA)
    await lans.report(0, f"{PRINTER} 192.0.2.7", CAMERA, is_full=True)
    assert (await lans.office.memory.list(keys.ROOT)).revision == before
    await lans.report(0, gone=(CAMERA,))
    assert lans.macs(0) == [PRINTER]
    await lans.report(0, CAMERA, is_full=True)
    assert lans.macs(0) == [CAMERA]


async def test_any_replica_shows_them() -> None:
    lans = await Lans.make()
    await lans.report(0, f"{PRINTER} 192.0.2.7 fe80::7")
    (station,) = lans.office.second.replica.services.lan_reports.on(lans.segments[0])
    assert (station.mac, station.ips) == (PRINTER, ("192.0.2.7", "fe80::7"))


async def test_the_forwarder_reports_and_nobody_else() -> None:
    lans = await Lans.make()
    with pytest.raises(Clash) as refused:
        await lans.report(0, PRINTER, term=1)
    assert refused.value.code == "not_the_forwarder"
    with pytest.raises(Refused):
        body = wire.GatewayEvent(lans.segments[1], "storm", "?")
        node = lans.office.gateways[0].id
        await lans.office.replica.services.lan_reports.event(node, body, ADDRESS)


async def test_the_mac_of_a_member_from_a_lan_is_refused_and_reported() -> None:
    lans = await Lans.make()
    web = await lans.office.replica.joined("web", "red")
    member = (await lans.office.replica.services.members.get("red", web.id)).value
    await lans.report(0, member.mac, PRINTER)
    assert lans.macs(0) == [PRINTER]
    (told,) = [
        each
        for each in await lans.office.replica.services.events.latest()
        if each.kind == "lan_spoofed_mac"
    ]
    assert f"claims {member.mac}, the MAC of member web" in told.text
    assert told.severity is Severity.ALARM
    assert await lans.problems() == ["lan_spoof"]


async def test_an_address_of_a_member_is_reported_and_not_shown_as_the_station_s() -> None:
    lans = await Lans.make()
    web = await lans.office.replica.joined("web", "red")
    member = (await lans.office.replica.services.members.get("red", web.id)).value
    await lans.report(0, f"{PRINTER} {member.ips[0]} 192.0.2.9")
    (station,) = lans.office.replica.services.lan_reports.on(lans.segments[0])
    assert station.ips == ("192.0.2.9",)
    assert "lan_spoofed_ip" in await lans.office.replica.kinds()


async def test_five_moves_in_three_minutes_freeze_a_mac() -> None:
    lans = await Lans.make()
    await lans.report(0, PRINTER)
    for number in (1, 0, 1, 0):
        lans.office.wait(10.0)
        await lans.report(number, PRINTER)
        assert lans.macs(number) == [PRINTER]
        assert lans.macs(1 - number) == []
    lans.office.wait(10.0)
    await lans.report(1, PRINTER)
    assert (lans.macs(0), lans.macs(1)) == ([PRINTER], [])
    await lans.report(1, PRINTER)
    assert (await lans.office.replica.kinds()).count("lan_station_frozen") == 1
    assert "station_frozen" in await lans.problems()
    lans.office.wait(FROZEN_S)
    await lans.report(1, PRINTER)
    assert lans.macs(1) == [PRINTER]


IP = "10.7.0.77"


async def fought_for(lans: Lans, moves: int, *, apart_s: float = 10.0) -> None:
    """Have printer and camera speak for one address by turns; as a gateway says it."""
    await lans.report(0, f"{PRINTER} {IP}", CAMERA)
    for number in range(moves):
        lans.office.wait(apart_s)
        has, lacks = (CAMERA, PRINTER) if number % 2 == 0 else (PRINTER, CAMERA)
        await lans.report(0, f"{has} {IP}", lacks)


def ips(lans: Lans, number: int = 0) -> dict[str, tuple[str, ...]]:
    on = lans.office.replica.services.lan_reports.on(lans.segments[number])
    return {each.mac: each.ips for each in on}


async def test_an_address_that_goes_back_and_forth_is_frozen_with_an_alarm() -> None:
    lans = await Lans.make()
    await fought_for(lans, 4)
    assert "lan_duplicate_ip" not in await lans.office.replica.kinds()
    assert ips(lans) == {PRINTER: (IP,), CAMERA: ()}
    lans.office.wait(10.0)
    await lans.report(0, PRINTER, f"{CAMERA} {IP}")
    told = [e for e in await lans.office.replica.services.events.latest() if "duplicate" in e.kind]
    assert [(each.kind, each.severity) for each in told] == [("lan_duplicate_ip", Severity.ALARM)]
    for part in (IP, PRINTER, CAMERA, "since 20", "frozen with the first"):
        assert part in told[0].text
    assert "--shared-ip" in told[0].details["remedy"]
    assert "duplicate_ip" in await lans.problems()
    assert ips(lans) == {PRINTER: (IP,), CAMERA: (IP,)}, "it stays where it was"


async def test_a_frozen_address_moves_no_more_and_is_let_go_by_itself() -> None:
    lans = await Lans.make()
    await fought_for(lans, 8)
    assert ips(lans)[PRINTER] == (IP,)
    lans.office.wait(10.0)
    await lans.report(0, PRINTER, f"{CAMERA} {IP}")
    lans.office.wait(FROZEN_S)
    await lans.office.replica.services.lan_reports.tidy()
    await lans.office.look()
    assert ips(lans) == {PRINTER: (), CAMERA: (IP,)}, "the one that spoke last has it"


async def test_an_operator_lets_a_frozen_address_go() -> None:
    lans = await Lans.make()
    await fought_for(lans, 5)
    segment = lans.office.replica.services.netmaps.snapshot.segments[lans.segments[0]]
    await lans.office.replica.services.lan_reports.unfreeze(segment, PRINTER, SYSTEM)
    await lans.office.look()
    assert ips(lans) == {PRINTER: (), CAMERA: (IP,)}


async def test_an_address_that_moves_seldom_or_is_shared_is_nobodys_duplicate() -> None:
    lans = await Lans.make()
    await fought_for(lans, 7, apart_s=MOVES_WINDOW_S / 3)
    assert "lan_duplicate_ip" not in await lans.office.replica.kinds()
    policy = replace((await lans.vsubnet()).policy, shared_ips=(IP,))
    await lans.office.replica.services.vsubnets.change("red", VSubnetChange(policy=policy), SYSTEM)
    await fought_for(lans, 7, apart_s=1.0)
    assert "lan_duplicate_ip" not in await lans.office.replica.kinds()


async def test_an_address_on_two_lans_is_told_when_both_have_spoken_for_it_long_enough() -> None:
    """Each gateway says it once, as nothing changes on its LAN."""
    lans = await Lans.make()
    tidy = lans.office.replica.services.lan_reports.tidy
    await lans.report(0, f"{PRINTER} {IP}")
    lans.office.wait(10.0)
    await lans.report(1, f"{CAMERA} {IP}")
    lans.office.wait(TWICE_S - 1.0)
    await tidy()
    assert "lan_duplicate_ip" not in await lans.office.replica.kinds()
    lans.office.wait(1.0)
    for _ in range(3):
        await tidy()
    await lans.office.look()
    told = [e for e in await lans.office.replica.services.events.latest() if "duplicate" in e.kind]
    assert len(told) == 1
    assert f"{PRINTER} on segment" in told[0].text
    assert f"{CAMERA} on segment far" in told[0].text
    assert "duplicate_ip" in await lans.problems()


async def frozen_at_first(lans: Lans) -> None:
    """Have the printer move from one LAN to the other and back until it is frozen at the first."""
    await lans.report(0, PRINTER)
    for number in (1, 0, 1, 0, 1):
        lans.office.wait(1.0)
        await lans.report(number, PRINTER)
    assert (lans.macs(0), lans.macs(1)) == ([PRINTER], [])


async def frozen_by_grants(lans: Lans) -> list[list[str]]:
    """Return the MACs that each segment's gateway is told to take nothing of."""
    grants = [
        await lans.office.first.beat(node, segment, term=lans.terms[segment])
        for node, segment in zip(lans.office.gateways, lans.segments, strict=True)
    ]
    return [[each.mac for each in grant.frozen] for grant in grants]


async def test_gateways_of_other_lans_are_told_whom_to_hold_and_until_when() -> None:
    lans = await Lans.make()
    await frozen_at_first(lans)
    assert await frozen_by_grants(lans) == [[], [PRINTER]]
    lans.office.wait(FROZEN_S - 1.0)
    (left,) = (await lans.office.first.beat(lans.office.gateways[1], lans.segments[1])).frozen
    assert left.left_s == pytest.approx(1.0)
    lans.office.wait(1.0)
    assert await frozen_by_grants(lans) == [[], []]


async def test_a_grant_holds_so_many_and_the_newest() -> None:
    lans = await Lans.make()
    macs = [f"02:00:00:00:{n >> 8:02x}:{n & 255:02x}" for n in range(wire.MAX_FROZEN + 5)]
    for number in (0, 1, 0, 1, 0, 1):
        await lans.report(number, *macs[:5])
    lans.office.wait(20.0)
    for number in (0, 1, 0, 1, 0, 1):
        await lans.report(number, *macs[5:])
    told = (await frozen_by_grants(lans))[1]
    assert told == macs[5:]


async def test_a_frozen_mac_that_isn_t_heard_any_more_stays_frozen() -> None:
    lans = await Lans.make()
    await frozen_at_first(lans)
    await lans.report(0, gone=(PRINTER,))
    await lans.report(0, CAMERA, is_full=True)
    assert await frozen_by_grants(lans) == [[], [PRINTER]]
    lans.office.wait(FROZEN_S)
    await lans.office.replica.services.lan_reports.tidy()
    await lans.office.look()
    assert lans.macs(0) == [CAMERA]


async def test_moves_count_whichever_lan_reports_first() -> None:
    lans = await Lans.make()
    await lans.report(0, PRINTER)
    for number in (1, 0, 1, 0, 1):
        lans.office.wait(1.0)
        await lans.report(1 - number, gone=(PRINTER,))
        assert (lans.macs(0), lans.macs(1)) == ([], [])
        await lans.report(number, PRINTER)
    assert (lans.macs(0), lans.macs(1)) == ([PRINTER], [])
    assert "lan_station_frozen" in await lans.office.replica.kinds()


async def test_one_that_went_is_forgotten_and_takes_no_room_meanwhile() -> None:
    lans = await Lans.make()
    segments = lans.office.replica.services.segments
    revision = (await segments.get(lans.segments[0])).revision
    change = SegmentChange(guards=Guards(mac_limit=16))
    await segments.change(lans.segments[0], change, SYSTEM, expected=revision)
    macs = [f"02:00:00:00:01:{n:02x}" for n in range(48)]
    for turn in range(3):
        await lans.report(0, *macs[16 * turn : 16 * turn + 16], is_full=True)
    assert lans.macs(0) == macs[32:]
    assert "lan_mac_limit" not in await lans.office.replica.kinds()
    kept = lans.office.replica.services.board.stations(lans.segments[0])
    assert len(kept) == 32
    lans.office.wait(MOVES_WINDOW_S)
    await lans.office.replica.services.lan_reports.tidy()
    await lans.office.look()
    assert len(lans.office.replica.services.board.stations(lans.segments[0])) == 16


async def test_an_operator_lets_a_frozen_mac_go() -> None:
    lans = await Lans.make()
    await frozen_at_first(lans)
    reports, segments = lans.office.replica.services.lan_reports, lans.office.replica.services
    (lan, far) = [(await segments.segments.get(each)).value for each in lans.segments]
    with pytest.raises(NotFound):
        await reports.unfreeze(far, PRINTER, SYSTEM)
    await reports.unfreeze(lan, PRINTER.upper(), SYSTEM)
    await reports.unfreeze(lan, PRINTER, SYSTEM)  # and again: nothing
    await lans.office.look()
    assert await frozen_by_grants(lans) == [[], []]
    assert (await lans.office.replica.kinds()).count("lan_station_unfrozen") == 1
    await lans.report(1, PRINTER)
    assert (lans.macs(0), lans.macs(1)) == ([], [PRINTER])


async def test_moves_that_take_their_time_are_none_too_many() -> None:
    lans = await Lans.make()
    await lans.report(0, PRINTER)
    for turn in range(12):
        lans.office.wait(50.0)
        await lans.report((turn + 1) % 2, PRINTER)
    assert "lan_station_frozen" not in await lans.office.replica.kinds()


async def test_more_machines_than_the_limit_are_left_out_and_told_of() -> None:
    lans = await Lans.make()
    macs = [f"02:00:00:00:{n >> 8:02x}:{n & 255:02x}" for n in range(1030)]
    await lans.report(0, *macs)
    assert len(lans.macs(0)) == 1024
    assert (await lans.office.replica.kinds()).count("lan_mac_limit") == 1


async def test_what_is_no_address_is_left_out_and_few_are_kept() -> None:
    lans = await Lans.make()
    many = " ".join(f"192.0.2.{n}" for n in range(1, 30))
    await lans.report(0, f"{PRINTER} nonsense FE80::7 {many}")
    (station,) = lans.office.replica.services.lan_reports.on(lans.segments[0])
    assert len(station.ips) == 8
    assert "nonsense" not in station.ips
    await lans.report(0, f"{PRINTER} FE80::7", is_full=True)
    (station,) = lans.office.replica.services.lan_reports.on(lans.segments[0])
    assert station.ips == ("fe80::7",)


async def test_as_many_machines_as_there_may_be_fit_into_the_store() -> None:
    lans = await Lans.make()
    guards = replace(Guards(), mac_limit=STATIONS_MAX)
    segments = lans.office.replica.services.segments
    await segments.change("far", SegmentChange(guards=guards), SYSTEM)
    macs = [f"02:00:00:01:{n >> 8:02x}:{n & 255:02x}" for n in range(STATIONS_MAX)]
    ips = " ".join(f"2001:db8:aaaa:bbbb:cccc:dddd:eeee:{n:x}" for n in range(8))
    await lans.report(1, *(f"{mac} {ips}" for mac in macs), is_full=True)
    assert len(lans.macs(1)) == STATIONS_MAX
    items = (await lans.office.memory.list(keys.stations_of(lans.segments[1]))).items
    assert max(len(item.value) for item in items) < 100_000


@pytest.mark.parametrize("mac", ["ff:ff:ff:ff:ff:ff", "01:00:5e:00:00:01", "nonsense", ""])
async def test_what_is_no_machine_is_no_station(mac: str) -> None:
    lans = await Lans.make()
    await lans.report(0, mac)
    assert lans.macs(0) == []


ALARMED = {
    "loop_blocked": Alarm.LAN_LOOP,
    "rogue_dhcp": Alarm.ROGUE_SERVER,
    "rogue_ra": Alarm.ROGUE_SERVER,
    "spoofed_mac": Alarm.LAN_SPOOF,
    "spoofed_ip": Alarm.LAN_SPOOF,
    "storm": Alarm.LAN_STORM,
    "station_frozen": Alarm.STATION_FROZEN,
    "duplicate_ip": Alarm.DUPLICATE_IP,
}


def test_each_code_has_its_alarm() -> None:
    assert ALARMS == ALARMED


@pytest.mark.parametrize("code", ALARMED)
async def test_what_is_reported_is_an_alarm_with_a_remedy_until_it_is_over(code: str) -> None:
    lans = await Lans.make()
    await lans.event(code, "02:00:00:00:00:66 at eth1")
    assert await lans.problems() == [ALARMED[code]]
    (problem,) = lans.office.replica.services.gateway_health.problems()
    assert "02:00:00:00:00:66 at eth1" in problem.cause
    assert problem.remedy
    told = (await lans.office.replica.services.events.latest())[-1]
    assert (told.kind, told.severity) == (f"lan_{code}", Severity.ALARM)
    assert told.details["remedy"]
    for _ in range(int(TROUBLE_S)):
        lans.office.wait(1.0)
    for number, node in enumerate(lans.office.gateways):
        await lans.office.first.beat(node, lans.segments[number])
    assert await lans.problems() == []
    await lans.office.replica.services.lan_reports.tidy()
    assert not (await lans.office.memory.list(keys.TROUBLES)).items


async def test_a_loop_is_an_alarm_while_a_gateway_says_so() -> None:
    lans = await Lans.make()
    gateway = lans.office.gateways[0]
    await lans.office.first.beat(
        gateway, lans.segments[0], is_able=False, code="loop", why_not="eth1 and eth2 are one LAN"
    )
    assert set(await lans.problems()) == {"no_forwarder", "lan_loop"}


async def test_the_same_again_is_one_event_a_minute_with_its_number() -> None:
    lans = await Lans.make()
    for _ in range(6):
        await lans.event("storm")
        lans.office.wait(5.0)
    assert (await lans.office.replica.kinds()).count("lan_storm") == 1
    lans.office.wait(40.0)
    await lans.event("storm")
    told = (await lans.office.replica.services.events.latest())[-1]
    assert told.details["count"] == "6"


async def test_a_node_with_too_many_events_is_refused_and_no_other_node() -> None:
    lans = await Lans.make()
    with pytest.raises(TooMany):
        for number in range(int(EVENTS_AT_ONCE) + 5):
            await lans.event(f"code_{number}")
    await lans.event("storm", number=1)
    assert "lan_storm" in await lans.office.replica.kinds()


@pytest.mark.parametrize("code", ["", "Storm", "a b", "x" * 33, "../x"])
async def test_what_is_no_code_is_refused(code: str) -> None:
    lans = await Lans.make()
    with pytest.raises(Invalid):
        await lans.event(code)
