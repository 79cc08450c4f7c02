"""Two LANs on a vSubnet by clicks alone: real gateways, a real machine that is carried about.

browser ---- TCP 8443 ---- appliance (office)         vm (cloud)
                              g1   g2       g3        (office; eth0 is the underlay)
                               |eth1|        |eth1
                     printer--[north]      [south]
                                 |eth0       |eth1
                                 +---guest---+        (one MAC, up at one end only)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.chromium import Person, person
from tests.browser.test_pages import settle
from tests.integration.world import assert_no_program_crashed, start_appliance
from tests.lab import Lab, Machine, until
from tests.lab.cairn import Appliance, Network, Node, missing_programs
from tests.lab.lan import Lan
from tests.lab.office import Guest, joined

pytestmark = [
    pytest.mark.browser,
    pytest.mark.etcd,
    pytest.mark.root,
    pytest.mark.tun,
    pytest.mark.slow,
    pytest.mark.timeout(400),
]

PRINTER, GUEST = "10.7.0.200", "10.7.0.210"
PRINTER_MAC, MAC = "02:aa:00:00:00:20", "02:aa:00:00:00:21"
LANS = {"north": ("g1", "g2"), "south": ("g3",)}
HEARS_MS, MOVES_MS = 30_000, 30_000
COUNTED_MS = 60_000  # two reports of an agent that has nothing else to say


@dataclass
class Office:
    """Nodes that have joined, and LANs that nobody bridges yet."""

    appliance: Appliance
    prod: Network
    vm: Node
    gateways: dict[str, Node]
    lans: dict[str, Lan]
    guest: Guest

    def stations(self, segment: str) -> dict[str, Any]:
        """What the appliance knows of the machines on a LAN, by MAC."""
        listed = self.appliance.cairn("gateway", "stations", segment)
        return {each["mac"]: each for each in listed}

    def reaches(self, address: str) -> None:
        """Wait until the VM reaches a machine."""
        self.vm.wait_for_ping(address, within_s=20)


@pytest.fixture
def office() -> Iterator[Office]:
    if missing := missing_programs():
        pytest.fail(f"not built: {', '.join(missing)}; run make setup")
    with Lab("console-gateway") as lab:
        yield _build(lab)
        assert_no_program_crashed(lab)


def _build(lab: Lab) -> Office:
    cloud, site = lab.site("cloud"), lab.site("office")
    appliance = start_appliance(site)
    lab.reach(appliance.host)
    prod = appliance.network("prod", "10.7.0.0/24")
    lans = {name: Lan(lab, name) for name in LANS}
    on = {lans[lan]: [site.host(name) for name in names] for lan, names in LANS.items()}
    vm, gateways = joined(appliance, prod, cloud.host("vm"), on)
    printer = lans["north"].machine("printer", f"{PRINTER}/24")
    printer.ip("link set eth0 down", f"link set eth0 address {PRINTER_MAC}", "link set eth0 up")
    guest = Guest(lab, list(lans.values()), MAC, GUEST)
    return Office(appliance, prod, vm, gateways, lans, guest)


def test_lans_are_bridged_switched_over_freed_and_let_go_by_clicks_alone(
    browser: Browser, office: Office
) -> None:
    with person(browser, office.appliance.url) as operator:
        page = operator.page
        operator.go("/gateways")
        operator.log_in(office.appliance.password)
        settle(operator)

        _pre_flight(operator, "g1", "eth1", go=True)
        _create_segment(page, "north")
        _attach(page, "g1")
        expect(_row(page, "g1").get_by_text("forwards", exact=True)).to_be_visible(timeout=MOVES_MS)
        office.reaches(PRINTER)
        _attach(page, "g2")
        expect(_row(page, "g2").get_by_text("stands by")).to_be_visible(timeout=MOVES_MS)
        stations = page.get_by_role("grid", name="Stations")
        row = stations.get_by_role("row").filter(has_text=PRINTER_MAC)
        expect(row).to_contain_text(PRINTER, timeout=HEARS_MS)
        operator.screen("gateway-real-segment")
        assert operator.faults() == []

        _switch_over(page, "g2", before="g1")
        assert office.gateways["g2"].status()["gateways"][0]["state"] == "forwarding"
        office.reaches(PRINTER)

        _stop_and_resume(operator, office)

        _link(page, "Gateways")
        _listen_where_an_address_is_taken(operator, office)

        _create_segment(page, "south")
        _attach(page, "g3")
        expect(_row(page, "g3").get_by_text("forwards", exact=True)).to_be_visible(timeout=MOVES_MS)

        _freeze_and_free(operator, office)

        _see_who_sends_to_many(operator)
        _link(page, "Gateways")
        page.get_by_role("link", name="north", exact=True).click()
        _detach_all_and_delete(operator, office)


def _listen_where_an_address_is_taken(operator: Person, office: Office) -> None:
    """Somebody on the other LAN has what the appliance gave the VM; a member's pre-flight knows."""
    south, host = office.lans["south"], office.gateways["g1"].host
    south.plug(host, "eth2")
    stranger = south.machine("stranger", f"{office.vm.address(office.prod)}/24")
    asking = stranger.start(["ping", "-i", "0.5", "10.7.0.99"], name="ping")
    _pre_flight(operator, "g1", "eth2", go=False)
    asking.stop()
    stranger.ip("link set eth0 down")
    host.ip("link del eth2")


def _pre_flight(operator: Person, node: str, port: str, *, go: bool) -> None:
    """Listen on a node's port, and read what it says."""
    page = operator.page
    page.get_by_label("Node that is to listen").select_option(label=node)
    page.get_by_label("vSubnet to compare with").select_option(label="prod")
    page.get_by_label("Port").fill(port)
    page.get_by_label("How long to listen").fill("3")
    page.get_by_role("button", name="Listen", exact=True).click()
    if go:
        expect(page.get_by_text("Go: nothing was heard")).to_be_visible(timeout=HEARS_MS)
    else:
        expect(page.get_by_text(re.compile("No go$"))).to_be_visible(timeout=HEARS_MS)
        heard = page.get_by_role("grid", name="What was heard")
        expect(heard.get_by_role("row").filter(has_text="no go")).to_contain_text("vm")
    operator.screen(f"gateway-real-preflight-{node}-{port}")
    assert operator.faults() == []
    page.get_by_role("button", name="Another pre-flight").click()


def _create_segment(page: Page, name: str) -> None:
    page.get_by_role("button", name="Create a segment").click()
    dialogue = page.get_by_role("dialog")
    dialogue.get_by_label("Name").fill(name)
    dialogue.get_by_label("vSubnet that the LAN").select_option(label="prod")
    dialogue.get_by_role("button", name="Create", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(name)


def _attach(page: Page, node: str) -> None:
    page.get_by_role("button", name="Attach a gateway").click()
    dialogue = page.get_by_role("dialog")
    dialogue.get_by_label("Node").select_option(label=node)
    dialogue.get_by_label("Port").fill("eth1")
    dialogue.get_by_role("button", name="Attach", exact=True).click()
    expect(dialogue).to_have_count(0)


def _row(page: Page, node: str) -> Locator:
    """Return the line of a gateway."""
    link = page.get_by_role("link", name=node, exact=True)
    return page.get_by_role("grid", name="Gateways").get_by_role("row").filter(has=link)


def _confirm(page: Page, act: str) -> None:
    dialogue = page.get_by_role("dialog")
    dialogue.get_by_role("button", name=act, exact=True).click()
    expect(dialogue).to_have_count(0)


def _link(page: Page, name: str) -> None:
    page.get_by_role("navigation", name="Pages").get_by_role("link", name=name).click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(name)


def _switch_over(page: Page, to: str, *, before: str) -> None:
    _row(page, to).get_by_role("button", name="Switch over to it").click()
    expect(page.get_by_role("dialog")).to_contain_text(before)
    _confirm(page, "Switch over")
    expect(_row(page, to).get_by_text("forwards", exact=True)).to_be_visible(timeout=MOVES_MS)
    expect(_row(page, before).get_by_text("stands by")).to_be_visible(timeout=MOVES_MS)


def _stop_and_resume(operator: Person, office: Office) -> None:
    page = operator.page
    page.get_by_role("button", name="Stop bridging").click()
    expect(page.get_by_role("dialog")).to_contain_text(PRINTER)
    _confirm(page, "Stop bridging")
    expect(page.get_by_text("bridging stopped", exact=True)).to_be_visible()
    until("nothing crosses", lambda: office.vm.pings(PRINTER, wait_s=0.3) == 0, within_s=10)
    expect(page.get_by_text("Nothing crosses")).to_be_visible()
    operator.screen("gateway-real-stopped")
    page.get_by_role("button", name="Resume bridging").click()
    _confirm(page, "Resume bridging")
    office.reaches(PRINTER)
    forwards = page.get_by_role("grid", name="Gateways").get_by_text("forwards", exact=True)
    expect(forwards).to_have_count(1, timeout=MOVES_MS)


def _freeze_and_free(operator: Person, office: Office) -> None:
    """Carry the guest to and fro until it is frozen, and free it by a click."""
    page = operator.page
    frozen_at, is_at = _frozen(office)
    _link(page, "Gateways")
    page.get_by_role("link", name=frozen_at, exact=True).click()
    stations = page.get_by_role("grid", name="Stations")
    guest = stations.get_by_role("row").filter(has_text=MAC)
    expect(guest.get_by_text("moved too often: frozen here")).to_be_visible(timeout=HEARS_MS)
    operator.screen("gateway-real-frozen")
    assert operator.faults() == []
    until("nothing of it crosses", lambda: not office.vm.pings(GUEST, wait_s=0.3), within_s=15)

    guest.get_by_role("button", name="Unfreeze").click()
    expect(page.get_by_role("dialog")).to_contain_text(MAC)
    _confirm(page, "Unfreeze")
    until("it is let go", lambda: MAC in office.stations(is_at), within_s=20)
    office.guest.carry(is_at)  # says again where it is
    office.reaches(GUEST)
    expect(guest).to_have_count(0, timeout=HEARS_MS)


def _see_who_sends_to_many(operator: Person) -> None:
    """Questions of the LANs have gone to the VM: the data planes have counted them."""
    page = operator.page
    _link(page, "vSubnets")
    page.get_by_role("link", name="prod", exact=True).click()
    expect(page.get_by_text(re.compile(r"members send [\d.,]+ frames/s"))).to_be_visible(
        timeout=COUNTED_MS
    )
    gateway = page.get_by_role("link", name="g3", exact=True)
    row = page.get_by_role("grid", name="Addresses").get_by_role("row").filter(has=gateway)
    expect(row.filter(has_text="member")).to_contain_text("frames")
    operator.screen("gateway-real-table")
    assert operator.faults() == []


def _frozen(office: Office) -> tuple[str, str]:
    """Carry the guest from LAN to LAN until it may not move; return where it stays, and is."""

    def frozen_at() -> list[str]:
        known = {lan: office.stations(lan).get(MAC) for lan in LANS}
        return [lan for lan, station in known.items() if station and station["frozen"]]

    office.guest.carry("north")
    office.reaches(GUEST)
    for to in ("south", "north") * 5:
        office.guest.carry(to)

        def is_told(to: str = to) -> bool:
            return MAC in office.stations(to) or bool(frozen_at())

        until(f"the appliance knows that it is on {to}", is_told, within_s=20)
        if stays := frozen_at():
            return stays[0], to
    raise AssertionError("it moved ten times and was not frozen")


def _detach_all_and_delete(operator: Person, office: Office) -> None:
    """Let go of the first LAN: its port is the host's again."""
    page = operator.page
    (forwarder,) = (
        name
        for name in LANS["north"]
        if office.gateways[name].status()["gateways"][0]["state"] == "forwarding"
    )
    (other,) = (name for name in LANS["north"] if name != forwarder)
    _row(page, forwarder).get_by_role("button", name="Detach").click()
    expect(page.get_by_role("dialog")).to_contain_text("Another gateway forwards")
    _confirm(page, "Detach")
    expect(_row(page, forwarder)).to_have_count(0)
    expect(_row(page, other).get_by_text("forwards", exact=True)).to_be_visible(timeout=MOVES_MS)
    office.reaches(PRINTER)

    _row(page, other).get_by_role("button", name="Detach").click()
    expect(page.get_by_role("dialog")).to_contain_text("cut off from all members")
    _confirm(page, "Detach")
    expect(page.get_by_text("It has no gateway yet: attach a node.")).to_be_visible()
    for name in LANS["north"]:
        host = office.gateways[name].host

        def interfaces(host: Machine = host) -> set[str]:
            return set(host.run(["ls", "/sys/class/net"]).stdout.split())

        until(
            f"{name} has no bridge any more",
            lambda seen=interfaces: seen() == {"lo", "eth0", "eth1"},
            within_s=15,
        )
    page.get_by_role("button", name="Delete", exact=True).click()
    page.get_by_label("Type north to go on").fill("north")
    _confirm(page, "Delete")
    expect(page).to_have_url(re.compile("/gateways$"))
    expect(page.get_by_role("grid", name="Segments")).to_contain_text("south")
    expect(page.get_by_role("link", name="north", exact=True)).to_have_count(0)
    operator.screen("gateway-real-gateways")
    assert operator.faults() == []
