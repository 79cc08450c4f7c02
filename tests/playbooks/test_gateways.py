"""A pair of gateways by the collection: attached one by one, upgraded with the forwarder last.

cloud-a          cloud-b     office
g1    g2         peer        appliance  control
|eth1 |eth1
[  lan  ]---desk             (no agent; it pings the peer)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests import proofs
from tests.lab import Machine, Probes
from tests.lab.lan import Lan
from tests.lab.wait import until
from tests.playbooks.scene import COMMAND, Scene, pings, set_up

pytestmark = [pytest.mark.root, pytest.mark.tun, pytest.mark.slow, pytest.mark.timeout(600)]

DESK = "10.7.0.200"
MOST_SILENCE_S = 1.5  # of a LAN whose forwarder is upgraded (docs/operate.md)
WANTED = {
    "cairn_hosts": "cairn",
    "cairn_gateway_segment": "office-lan",
    "cairn_gateway_vsubnet": "prod",
    "cairn_gateway_port": "eth1",
    "cairn_gateway_listen_s": 2,
    "cairn_gateway_guards": {"mac_limit": 64},
}


@dataclass
class Office:
    """Two systems on a LAN, and a machine that has no agent."""

    scene: Scene
    desk: Machine

    def forwarder(self) -> str:
        """Return who forwards; empty: nobody."""
        segment = self.scene.appliance.cairn("gateway", "segment", "show", "office-lan")
        forwards = [each["node"]["name"] for each in segment["gateways"] if each["forwards"]]
        return str(forwards[0]) if forwards else ""


@pytest.fixture(scope="module")
def office() -> Iterator[Office]:
    """Boot the systems; nothing of Cairn is on them."""
    with set_up("gateways", reserve="10.7.0.200-10.7.0.250") as scene:
        scene.variables.update(WANTED)
        lan = Lan(scene.lab, "lan")
        desk = lan.machine("desk", f"{DESK}/24")
        for name in ("g1", "g2"):
            host = scene.lab.sites["cloud-a"].host(name)
            lan.plug(host, "eth1")
            scene.boot(name, "debian-12-ssh", host=host)
        yield Office(scene, desk)


def test_hosts_become_gateways_and_a_second_run_changes_nothing(office: Office) -> None:
    """The segment is made, each listens before it is attached, one forwards."""
    checked = office.scene.play("gateways", "--check", "--diff")
    assert checked.changed == 8 and "+eth1" in checked.text, checked.text
    assert office.scene.appliance.cairn("gateway", "segment", "list") == []
    played = office.scene.play("gateways")
    assert {name: host.changed for name, host in played.hosts.items()} == {"g1": 4, "g2": 3}
    segment = office.scene.appliance.cairn("gateway", "segment", "show", "office-lan")
    assert segment["guards"]["mac_limit"] == 64 and len(segment["gateways"]) == 2
    address = office.scene.peer.address(office.scene.prod)
    until("the LAN reaches the peer", lambda: pings(office.desk, address), within_s=20)
    for options in ((), ("--check",)):
        again = office.scene.play("gateways", *options)
        assert again.changed == 0, again.text


def test_an_upgrade_takes_the_forwarder_last(office: Office) -> None:
    """And the LAN goes on."""
    first = until("somebody forwards", office.forwarder, within_s=20)
    addresses: dict[Machine, str] = {
        office.desk: DESK, office.scene.peer.host: office.scene.peer.address(office.scene.prod)
    }  # fmt: skip
    probes = Probes(addresses, directory=office.scene.lab.directory)
    try:
        played = office.scene.play("upgrade", release=2)
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
    played = office.scene.play("removal")
    assert {host.changed for host in played.hosts.values()} == {2}, played.text
    for host in office.scene.hosts.values():
        links = host.run(["ip", "-d", "link"]).stdout
        assert "cairn" not in links and "bridge" not in links, links
        assert "cairn" not in host.run(["nft", "list", "tables"]).stdout
