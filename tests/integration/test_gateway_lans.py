"""Two LANs of one vSubnet, a gateway each: a machine that is carried from one to the other.

cloud        dc            office
vm           appliance     g1      g2           (each with eth0 for the underlay)
                            |eth1   |eth1
                        [north]   [south]---anchor
                           |eth0    |eth1
                           +--guest-+           (one MAC and one address, up at one end only)
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.integration.test_gateway import Office
from tests.integration.world import assert_no_program_crashed, start_appliance
from tests.lab import Lab, Machine, until
from tests.lab.cairn import missing_programs
from tests.lab.lan import Lan
from tests.lab.office import Guest, joined
from tests.proofs import record_seconds

pytestmark = [
    pytest.mark.root,
    pytest.mark.tun,
    pytest.mark.etcd,
    pytest.mark.slow,
    pytest.mark.timeout(240),
]

GUEST, ANCHOR, STAY = "10.7.0.210", "10.7.0.201", "10.7.0.202"
TWICE = "10.7.0.211"
MAC = "02:aa:00:00:00:21"
SEGMENTS = {"north": "g1", "south": "g2"}


@dataclass
class Lans(Office):
    """An office with a second LAN, and a guest that is on one of them."""

    guest: Guest


@pytest.fixture(scope="module")
def office() -> Iterator[Lans]:
    if missing := missing_programs():
        pytest.fail(f"not built: {', '.join(missing)}; run make setup")
    with Lab("gateway-lans") as lab:
        yield _build(lab)
        assert_no_program_crashed(lab)


def _build(lab: Lab) -> Lans:
    cloud, site = lab.site("cloud"), lab.site("office")
    appliance = start_appliance(lab.site("dc"))
    prod = appliance.network("prod", "10.7.0.0/24")
    lans = {name: Lan(lab, name) for name in SEGMENTS}
    on = {lans[name]: [site.host(gateway)] for name, gateway in SEGMENTS.items()}
    vm, gateways = joined(appliance, prod, cloud.host("vm"), on)
    lans["north"].machine("stay", f"{STAY}/24")
    anchor = lans["south"].machine("anchor", f"{ANCHOR}/24")
    guest = Guest(lab, list(lans.values()), MAC, GUEST)
    made = Lans(lab, appliance, prod, vm, gateways, lans["north"], anchor, guest)
    for name, gateway in SEGMENTS.items():
        made.gateway("segment", "create", name, "--vsubnet", "prod")
        made.gateway("attach", name, gateway, "--port", "eth1")
    vm.wait_for_ping(STAY, within_s=30)
    vm.wait_for_ping(ANCHOR, within_s=30)
    return made


def _machine(office: Office, name: str) -> Machine:
    return next(each for each in office.lab.machines if each.name == name)


def _is_reached(machine: Machine) -> bool:
    asked = ["ping", "-n", "-c", "1", "-W", "0.2", GUEST]
    return machine.run(asked, check=False).returncode == 0


def _listed(office: Office, segment: str) -> bool:
    text = office.appliance.host.run(["cairn", "gateway", "stations", segment]).stdout
    return any(MAC in line and GUEST in line for line in text.splitlines())


def _held(office: Office, gateway: str) -> int:
    (report,) = office.gateways[gateway].status()["gateways"]
    return int(report["counters"].get("frozen_from_lan", 0))


def test_a_machine_is_carried_from_lan_to_lan_and_frozen_where_that_happens_too_often(
    office: Lans,
) -> None:
    askers = (office.vm.host, office.printer, _machine(office, "stay"))
    office.guest.carry("north")
    for asker in askers:
        until(f"{asker.name} reaches it", lambda asker=asker: _is_reached(asker), within_s=10)
    until("it is listed with its address", lambda: _listed(office, "north"), within_s=10)
    took = []
    for to in ("south", "north", "south", "north"):
        office.guest.carry(to)
        begun = time.monotonic()
        for asker in askers:
            until(f"{asker.name} reaches it", lambda asker=asker: _is_reached(asker), within_s=10)
        took.append(time.monotonic() - begun)
        until(f"it is listed in {to}", lambda to=to: _listed(office, to), within_s=10)
    worst = max(took)
    assert record_seconds(
        "GW-lan-move",
        worst,
        at_most_s=1,
        what="a machine goes from one LAN of a vSubnet to another and back, twice: until a VM and "
        "a host on each LAN reach it",
    ), took

    office.guest.carry("south")  # the fifth time
    guest = office.guest.machine
    office.wait_for_event("frozen")

    def is_held() -> bool:
        guest.run(["ping", "-n", "-c", "1", "-W", "0.2", ANCHOR], check=False)
        guest.run(["ping", "-n", "-c", "1", "-W", "0.2", STAY], check=False)
        return _held(office, "g2") > 0

    until("nothing of it crosses", is_held, within_s=10)
    assert not _is_reached(office.vm.host)
    assert _is_reached(office.printer), "on its own LAN it goes on"
    assert _listed(office, "north")
    office.gateway("unfreeze", "north", MAC)
    until("it is let go", lambda: _listed(office, "south"), within_s=15)
    office.guest.carry("south")  # says again where it is
    until("the VM reaches it", lambda: _is_reached(office.vm.host), within_s=10)


def test_an_address_that_two_machines_of_a_lan_have_is_an_alarm(office: Lans) -> None:
    twins = [office.lan.machine(name, f"{TWICE}/24") for name in ("twin-a", "twin-b")]
    macs = [twin.run(["cat", "/sys/class/net/eth0/address"]).stdout.strip() for twin in twins]
    asked = iter(twins * 50)

    def is_told() -> bool:
        """Have them speak by turns: the gateway looks each two seconds who spoke last."""
        twin = next(asked)
        twin.ip("neigh flush dev eth0")
        twin.run(["ping", "-n", "-c", "1", "-W", "0.2", STAY], check=False)
        time.sleep(2.5)
        return "duplicate_ip" in office.appliance.host.run(["cairn", "status", "--json"]).stdout

    until("it is an alarm", is_told, within_s=90)
    events = office.events()
    assert f"{TWICE} is the address of two machines" in events
    assert all(mac in events for mac in macs)
    table = office.appliance.host.run(["cairn", "vsubnet", "table", "prod"]).stdout
    assert "address is there twice" in table
