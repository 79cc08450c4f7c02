"""A pair of gateways by the collection: attached one by one, upgraded with the forwarder last.

cloud-a          cloud-b     office
g1    g2         peer        appliance  control
|eth1 |eth1
[  lan  ]---desk             (no agent; it pings the peer)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tests import proofs
from tests.integration.world import start_appliance
from tests.lab import Host, Lab, Machine, Probes
from tests.lab.cairn import Appliance, Network, Node
from tests.lab.lan import Lan
from tests.lab.wait import until
from tests.packages.guest import Guest, booted
from tests.playbooks.control import Control, Played, api_token
from tests.playbooks.test_playbooks import COMMAND, DIST

pytestmark = [pytest.mark.root, pytest.mark.tun, pytest.mark.slow, pytest.mark.timeout(600)]

DESK = "10.7.0.200"
MOST_SILENCE_S = 1.5  # of a LAN whose forwarder is upgraded (docs/operate.md)


@dataclass
class Office:
    """Two systems on a LAN, and a machine that has no agent."""

    lab: Lab
    appliance: Appliance
    prod: Network
    peer: Node
    control: Control
    desk: Machine
    hosts: dict[str, Host]
    guests: dict[str, Guest]

    def play(self, playbook: str, *options: str, release: int = 1, check: bool = True) -> Played:
        """Run a playbook with the packages of a release."""
        return self.control.play(
            playbook,
            *options,
            check=check,
            cairn_hosts="cairn",
            cairn_packages_dir=str(DIST / ("dist" if release == 1 else f"dist-{release}")),
            cairn_url=self.appliance.url,
            cairn_fingerprint=self.appliance.fingerprint,
            cairn_api_token_file=str(self.control.directory / "api-token"),
            cairn_gateway_segment="office-lan",
            cairn_gateway_vsubnet="prod",
            cairn_gateway_port="eth1",
            cairn_gateway_listen_s=2,
            cairn_gateway_guards={"mac_limit": 64},
        )

    def forwarder(self) -> str:
        """Return who forwards; empty: nobody."""
        segment = self.appliance.cairn("gateway", "segment", "show", "office-lan")
        forwards = [each["node"]["name"] for each in segment["gateways"] if each["forwards"]]
        return str(forwards[0]) if forwards else ""


@pytest.fixture(scope="module")
def office() -> Iterator[Office]:
    """Boot the systems; nothing of Cairn is on them."""
    with Lab("gateways") as lab, ExitStack() as stack:
        place, cloud = lab.site("office"), lab.site("cloud-a")
        for site in (place, cloud):
            site.let_pass("tcp dport 22")
        appliance = start_appliance(place)
        prod = appliance.network("prod", "10.7.0.0/24", reserve="10.7.0.200-10.7.0.250")
        peer = Node(lab.site("cloud-b").host("peer"))
        peer.start()
        peer.join(appliance.token(prod))
        control = Control(place.host("control"))
        made = appliance.cairn("api-token", "create", "ansible", "--scope", "operator")
        control.secrets.append(made["token"])
        api_token(control.directory / "api-token", made["token"])
        lan = Lan(lab, "lan")
        desk = lan.machine("desk", f"{DESK}/24")
        hosts, guests = {}, {}
        for name in ("g1", "g2"):
            hosts[name] = cloud.host(name)
            lan.plug(hosts[name], "eth1")
            guests[name] = stack.enter_context(booted("debian-12-ssh", hosts[name], lab.directory))
            control.add(guests[name], hosts[name])
        yield Office(lab, appliance, prod, peer, control, desk, hosts, guests)


def test_hosts_become_gateways_and_a_second_run_changes_nothing(office: Office) -> None:
    """The segment is made, each listens before it is attached, one forwards."""
    checked = office.play("gateways", "--check", "--diff")
    assert checked.changed == 8 and "+eth1" in checked.text, checked.text
    assert office.appliance.cairn("gateway", "segment", "list") == []
    played = office.play("gateways")
    assert {name: host.changed for name, host in played.hosts.items()} == {"g1": 4, "g2": 3}
    segment = office.appliance.cairn("gateway", "segment", "show", "office-lan")
    assert segment["guards"]["mac_limit"] == 64 and len(segment["gateways"]) == 2
    address = office.peer.address(office.prod)
    until("the LAN reaches the peer", lambda: _pings(office.desk, address), within_s=20)
    for options in ((), ("--check",)):
        again = office.play("gateways", *options)
        assert again.changed == 0, again.text


def test_an_upgrade_takes_the_forwarder_last(office: Office) -> None:
    """And the LAN goes on."""
    first = until("somebody forwards", office.forwarder, within_s=20)
    addresses: dict[Machine, str] = {
        office.desk: DESK, office.peer.host: office.peer.address(office.prod)
    }  # fmt: skip
    probes = Probes(addresses, directory=office.lab.directory)
    try:
        played = office.play("upgrade", release=2)
    finally:
        probes.stop()
    order = re.findall(r"(?m)^changed: \[(g\d)\]", played.text)
    longest = probes.worst().outage_s
    print(first, order, probes.worst())
    assert proofs.record(
        "ANSIBLE-gateways",
        what="longest silence between a LAN and a VM while both gateways are upgraded, "
        "the forwarder last",
        bar=f"<= {MOST_SILENCE_S:g}",
        value=round(longest, 3),
        unit="s",
        holds=len(order) == 2 and order[-1] == first and longest <= MOST_SILENCE_S,
        command=COMMAND,
    ), (first, order, longest)


def test_removed_gateways_leave_their_ports_as_they_were(office: Office) -> None:
    """No bridge, no table; the action itself fails where a trace is left."""
    played = office.play("removal")
    assert {host.changed for host in played.hosts.values()} == {2}, played.text
    for host in office.hosts.values():
        links = host.run(["ip", "-d", "link"]).stdout
        assert "cairn" not in links and "bridge" not in links, links
        assert "cairn" not in host.run(["nft", "list", "tables"]).stdout


def _pings(machine: Machine, address: str) -> bool:
    command = ["ping", "-c1", "-W1", address]
    return ", 1 received" in machine.run(command, check=False).stdout
