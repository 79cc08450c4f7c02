"""Gateway mode end to end: a LAN without agents on a vSubnet, through a pair of gateways.

cloud        dc            office
vm           appliance     g1   g2          (each with eth0 for the underlay)
                            |eth1|
                           [floor]---printer (knows Ethernet and IP, and nothing else)
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.integration.world import assert_no_program_crashed, start_appliance
from tests.lab import Lab, Machine, Probes, until
from tests.lab.cairn import Appliance, Network, Node, missing_programs, pings
from tests.lab.lan import Lan
from tests.lab.office import joined
from tests.lab.probes import Pair
from tests.proofs import record, record_seconds

pytestmark = [
    pytest.mark.root,
    pytest.mark.tun,
    pytest.mark.etcd,
    pytest.mark.timeout(300),
]

PRINTER, PRINTER6 = "10.7.0.200", "fd00:7::200"
_BRPORT = Path(__file__).parents[1] / "lab" / "brport.py"
_SWITCH_OVER_S = 0.3
_QUIET_PORT = ("link_local", "stats", "stats64")  # what may differ without anybody's doing


@dataclass
class Office:
    """What the tests share; each leaves it as it found it."""

    lab: Lab
    appliance: Appliance
    prod: Network
    vm: Node
    gateways: dict[str, Node]
    lan: Lan
    printer: Machine

    def gateway(self, *arguments: str) -> Any:
        return self.appliance.cairn("gateway", *arguments)

    def report(self, name: str) -> dict[str, Any]:
        """What `cairn-agent status` says of the segment on a gateway."""
        node = self.gateways[name]
        reports = node.status()["gateways"] if node.answers() else []
        return dict(reports[0]) if reports else {}

    def forwarders(self) -> list[str]:
        return [name for name in self.gateways if self.report(name).get("state") == "forwarding"]

    def forwarder(self) -> tuple[str, str]:
        """Wait until one forwards and the other stands by; return both names."""

        def found() -> tuple[str, str] | None:
            states = {name: self.report(name).get("state") for name in self.gateways}
            if sorted(map(str, states.values())) != ["forwarding", "standby"]:
                return None
            first, second = sorted(states, key=lambda name: str(states[name]))
            return first, second

        return until("one gateway forwards, the other stands by", found, within_s=30)

    def outage(self, what: Callable[[], object], *, wait_s: float) -> Pair:
        """Probe between printer and VM while something is done; return the worse direction."""
        addresses: dict[Machine, str] = {
            self.printer: PRINTER,
            self.vm.host: self.vm.address(self.prod),
        }
        probes = Probes(addresses, directory=self.lab.directory)
        for _ in range(5):  # anew where this machine stood still: that ends a right for a moment
            self.forwarder()
            steady = probes.now()
            time.sleep(1.0)
            begun = probes.now()
            if begun - steady < 1.3:
                break
        what()
        time.sleep(wait_s)
        probes.stop()
        before = probes.pairs(since=steady, until=begun - 0.2)
        assert all(pair.lost == 0 for pair in before), "it did work before"
        return probes.worst(since=begun - 0.2)

    def events(self) -> str:
        return self.appliance.host.run(["cairn", "event", "list"]).stdout

    def whys(self) -> str:
        """What the gateways say of why they don't forward."""
        return "\n".join(str(self.report(name).get("why", "")) for name in self.gateways)

    def wait_for_event(self, told: str) -> None:
        """Wait until an event says this; gateways tell with a call of its own."""
        until(f"an event: {told}", lambda: told in self.events(), within_s=10)


def _build(lab: Lab) -> Office:
    cloud, office = lab.site("cloud"), lab.site("office")
    appliance = start_appliance(lab.site("dc"))
    prod = appliance.network("prod", "10.7.0.0/24", "fd00:7::/64")
    lan = Lan(lab, "floor")
    pair = [office.host(name) for name in ("g1", "g2")]
    return bridged(
        lab, appliance, prod, lan, *joined(appliance, prod, cloud.host("vm"), {lan: pair})
    )


def bridged(
    lab: Lab,
    appliance: Appliance,
    prod: Network,
    lan: Lan,
    vm: Node,
    gateways: dict[str, Node],
) -> Office:
    """Have a pair of gateways put the LAN `floor`, with its printer, on the vSubnet."""
    printer = lan.machine("printer", f"{PRINTER}/24", f"{PRINTER6}/64")
    made = Office(lab, appliance, prod, vm, gateways, lan, printer)
    made.gateway("segment", "create", "floor", "--vsubnet", "prod")
    for name in gateways:
        made.gateway("attach", "floor", name, "--port", "eth1")
    made.forwarder()
    vm.wait_for_ping(PRINTER, within_s=20)
    return made


@pytest.fixture(scope="module")
def office() -> Iterator[Office]:
    if missing := missing_programs():
        pytest.fail(f"not built: {', '.join(missing)}; run make setup")
    with Lab("gateway") as lab:
        yield _build(lab)
        assert_no_program_crashed(lab)


def _pings(machine: Machine, address: str) -> bool:
    return pings(machine, address, count=3) == 3


def test_a_printer_and_a_vm_reach_each_other_and_a_switch_over_takes_a_blink(
    office: Office,
) -> None:
    for family, theirs in ((4, PRINTER), (6, PRINTER6)):
        ours = office.vm.address(office.prod, family)
        for machine in (office.printer, office.vm.host):
            machine.run(["ip", "neigh", "flush", "all"])
        assert _pings(office.printer, ours), "the printer asks first"
        for machine in (office.printer, office.vm.host):
            machine.run(["ip", "neigh", "flush", "all"])
        assert _pings(office.vm.host, theirs), "the VM asks first"

    for _ in range(3):  # other tests may have the processors
        first, second = office.forwarder()
        worst = office.outage(
            lambda to=second: office.gateway("switch-over", "floor", "--to", to), wait_s=2.0
        )
        assert office.forwarder() == (second, first)
        if worst.outage_s <= _SWITCH_OVER_S:
            break
    assert record(
        "C2",
        what="planned switch-over between two gateways: no probe between LAN and VM gets through",
        bar="<= 300 ms",
        value=round(worst.outage_s * 1000),
        unit="ms",
        holds=worst.outage_s <= _SWITCH_OVER_S,
    ), worst
    status = json.loads(
        office.gateways[second].host.run(["cairn-agent", "doctor", "--json"]).stdout or "[]"
    )
    (check,) = [each for each in status if each["name"] == "gateway floor on eth1"]
    assert check["verdict"] == "ok" and check["found"].startswith("forwarding"), check


@contextmanager
def _recorded(proof: str, what: str) -> Iterator[list[Pair]]:
    """Take an outage, and record it as a part of C1."""
    pairs: list[Pair] = []
    yield pairs
    (pair,) = pairs
    assert record_seconds(
        proof,
        pair.outage_s,
        at_most_s=4,
        what=f"the forwarder dies ({what}): no probe between LAN and VM gets through",
    ), pair


@pytest.mark.slow
def test_c1_the_forwarder_is_killed_with_its_data_plane(office: Office) -> None:
    first, second = _act(office)
    node = office.gateways[first]

    def kill() -> None:
        for program in (node.dataplane, node.agent):
            assert program is not None
            program.kill_for_good()

    with _recorded("C1-kill", "agent and data plane killed") as pairs:
        pairs.append(office.outage(kill, wait_s=6.0))
    assert office.forwarders() == [second]
    node.start()
    assert office.forwarder() == (second, first), "who holds it keeps it"


@pytest.mark.slow
def test_c1_the_forwarder_loses_only_its_data_plane_and_says_so(office: Office) -> None:
    first, second = _act(office)
    node = office.gateways[first]
    assert node.dataplane is not None
    with _recorded("C1-dataplane", "its data plane alone killed") as pairs:
        pairs.append(office.outage(node.dataplane.kill_for_good, wait_s=6.0))
    report = office.report(first)
    assert report["state"] == "unable" and "data plane" in report["why"]
    node.start_dataplane()
    assert office.forwarder() == (second, first)


@pytest.mark.slow
def test_c1_the_forwarder_is_cut_off_from_everything(office: Office) -> None:
    first, second = _act(office)
    host = office.gateways[first].host
    with _recorded("C1-host", "all its cables pulled") as pairs:
        pairs.append(
            office.outage(lambda: host.ip("link set eth0 down", "link set eth1 down"), wait_s=6.0)
        )
    host.ip("link set eth1 up")
    host.uncut()  # type: ignore[attr-defined]
    assert office.forwarder() == (second, first)


@pytest.mark.slow
def test_c1_the_forwarders_lan_cable_is_pulled(office: Office) -> None:
    first, second = _act(office)
    host = office.gateways[first].host
    with _recorded("C1-cable", "its LAN cable pulled") as pairs:
        pairs.append(office.outage(lambda: office.lan.pull(host, "eth1"), wait_s=6.0))
    report = office.report(first)
    assert report["code"] == "port_down" and "carrier" in report["why"], report
    office.lan.put_back(host, "eth1")
    assert office.forwarder() == (second, first)


def _act(office: Office) -> tuple[str, str]:
    """Switch over, after which the count of automatic moves begins anew (C5: three)."""
    first, second = office.forwarder()
    office.gateway("switch-over", "floor", "--to", second)
    assert office.forwarder() == (second, first)
    return second, first


@pytest.mark.slow
def test_an_agents_restart_on_the_forwarder_costs_less_than_a_crash(office: Office) -> None:
    first, _ = _act(office)
    agent = office.gateways[first].agent
    assert agent is not None

    def restart() -> None:
        agent.stop()
        office.gateways[first].start_agent()

    worst = office.outage(restart, wait_s=6.0)
    assert worst.outage_s <= 4.0, worst
    office.forwarder()


@pytest.mark.slow
def test_c4_a_patch_cable_on_the_lan_blocks_both_ports(office: Office) -> None:
    _act(office)
    hosts = [node.host for node in office.gateways.values()]
    with _watched(hosts) as blocked_at:
        cable = office.lan.cable()
        begun = time.monotonic()
        office.lan.patch(cable)
        until("both ports are blocked", lambda: len(blocked_at()) == 2, within_s=10)
        reports = [office.report(name) for name in office.gateways]
        office.lan.unpatch(cable)
    took = max(blocked_at().values()) - begun
    assert all(report["code"] == "loop" for report in reports), reports
    assert all("eth1" in report["why"] for report in reports), reports
    office.wait_for_event("two ports of this LAN are joined")
    assert record(
        "C4-patch",
        what="two ports of the LAN's switch joined: until both gateways have blocked their port",
        bar="<= 500 ms",
        value=round(took * 1000),
        unit="ms",
        holds=took <= 0.5,
    )
    _freed(office)


@pytest.mark.slow
def test_c4_a_vm_that_bridges_the_vsubnet_to_the_lan_blocks_the_ports(office: Office) -> None:
    _act(office)
    hosts = [node.host for node in office.gateways.values()]
    vm = office.vm.host
    office.lan.plug(vm, "eth1")
    vm.ip("link add br0 type bridge forward_delay 0 mcast_snooping 0", "link set br0 up")
    with _watched(hosts) as blocked_at:
        begun = time.monotonic()
        vm.ip("link set eth1 master br0", f"link set {office.prod.tap} master br0")
        until("both ports are blocked", lambda: len(blocked_at()) == 2, within_s=10)
        # Not by the log of events: within a minute it tells of one loop of a segment.
        until(
            "a gateway says why", lambda: "bridges it to the vSubnet" in office.whys(), within_s=10
        )
        vm.ip("link del br0")
    took = max(blocked_at().values()) - begun
    vm.ip("link set eth1 down")
    assert record(
        "C4-bridged",
        what="a member bridges vSubnet and LAN: until both gateways have blocked their port",
        bar="<= 500 ms",
        value=round(took * 1000),
        unit="ms",
        holds=took <= 0.5,
    )
    _freed(office)


def _freed(office: Office) -> None:
    """The ports open by themselves when the loop is gone, later if it was there before."""
    until("one forwards again", office.forwarders, within_s=100)
    office.forwarder()
    office.vm.wait_for_ping(PRINTER, within_s=20)


@contextmanager
def _watched(hosts: list[Machine]) -> Iterator[Callable[[], dict[str, float]]]:
    """Watch the LAN ports; yield what returns when each was blocked."""
    programs = {
        host.name: host.start(host.python(_BRPORT, "eth1", "isolated"), name="brport")
        for host in hosts
    }
    for program in programs.values():
        program.wait_for_log(" 0", within_s=5)

    def blocked_at() -> dict[str, float]:
        lines = {name: program.text().splitlines() for name, program in programs.items()}
        return {
            name: float(line.split()[0])
            for name, all_of_it in lines.items()
            for line in all_of_it[:2]
            if line.endswith(" 1")
        }

    try:
        yield blocked_at
    finally:
        for program in programs.values():
            program.stop()


@pytest.mark.slow
def test_a_pre_flight_transmits_nothing_and_says_no_go_where_nothing_helps(
    office: Office,
) -> None:
    first, _ = office.forwarder()
    g1 = office.gateways[first].host
    quiet = Lan(office.lab, "attic")
    quiet.plug(g1, "eth2")
    g1.sysctl(net__ipv6__conf__eth2__disable_ipv6=1)  # the kernel solicits routers by itself
    stranger = quiet.machine("stranger", f"{office.vm.address(office.prod)}/24")
    asking = stranger.start(["ping", "-i", "0.5", "10.7.0.99"], name="ping")
    capture = quiet.switch.capture("lan")
    command = ["cairn-agent", "preflight", "--port", "eth2", "--vsubnet", "prod", "--json"]
    listening = g1.start([*command, "--seconds", "4"], name="preflight")
    assert listening.wait(within_s=30) == 4, listening.text()
    asking.stop()
    mac = json.loads(g1.run(["ip", "-j", "link", "show", "eth2"]).stdout)[0]["address"]
    sent = [p for p in capture.packets() if p.frame[6:12] == bytes.fromhex(mac.replace(":", ""))]
    assert not sent, "it transmits nothing"
    report = json.loads(listening.text())
    (found,) = [each for each in report["findings"] if each["code"] == "duplicate_ip"]
    assert not report["is_go"] and found["level"] == "no_go" and "vm" in found["what"]
    g1.ip("link del eth2")


@pytest.mark.slow
def test_a_detached_gateway_leaves_nothing(office: Office) -> None:
    first, second = office.forwarder()
    host = office.gateways[second].host
    office.lan.plug(host, "eth9")  # what a port is that nobody ever bridged
    office.gateway("detach", "floor", second, "--yes")

    def names() -> set[str]:
        return set(host.run(["ls", "/sys/class/net"]).stdout.split())

    until("bridge and TAP are gone", lambda: names() == {"lo", "eth0", "eth1", "eth9"}, within_s=15)
    assert not host.run(["nft", "list", "ruleset"]).stdout.strip()
    assert _shape(host, "eth1") == _shape(host, "eth9")
    assert office.report(second) == {}
    host.ip("link del eth9")
    assert office.vm.pings(PRINTER, count=3) == 3, "the other one goes on"
    office.gateway("attach", "floor", second, "--port", "eth1")
    assert office.forwarder() == (first, second)


def _shape(host: Machine, port: str) -> dict[str, Any]:
    """What of a port must be as it was: all but its name, numbers and MAC."""
    (link,) = json.loads(host.run(["ip", "-d", "-j", "addr", "show", "dev", port]).stdout)
    own = {"ifname", "ifindex", "link_index", "address", "addr_info", *_QUIET_PORT}
    count = len(link["addr_info"])
    return {key: value for key, value in link.items() if key not in own} | {"addresses": count}
