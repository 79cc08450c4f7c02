"""The demo's stage: three sites, one appliance, three VMs and a desktop on one vSubnet.

And a LAN of the office with a printer, which knows nothing of all that, behind two gateways.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from tests.demo.show import Show
from tests.lab import Lab, Machine, Site
from tests.lab.cairn import Appliance, Network, Node
from tests.lab.lan import Lan

PICTURE = """
    cloud-a               cloud-b              office                     a LAN without agents
    web-1  web-2          db-1                 desk-1   appliance   .- gate-1 -.
      |      |              |                    |       |          |          |--- printer
     -+------+-            -+-                  -+-------+----------+- gate-2 -'
         |                  |                        |
      [router]           [router]                 [router]     only UDP and TCP 8002 pass
          \\                 |                     /
           `------------ internet --------------'              (all of it inside this machine)
"""
PLACES = {"web-1": "cloud-a", "web-2": "cloud-a", "db-1": "cloud-b", "desk-1": "office"}
GATEWAYS = ("gate-1", "gate-2")
PRINTER = {4: "10.7.0.200", 6: "fd00:7::200"}


@dataclass(slots=True)
class Stage:
    """Everything that the proofs need."""

    lab: Lab
    appliance: Appliance
    network: Network
    nodes: dict[str, Node]
    addresses: dict[str, dict[int, str]]  # name -> 4 or 6 -> address in the vSubnet
    gateways: dict[str, Node]
    printer: Machine

    def address(self, name: str, family: int = 4) -> str:
        """Return a node's address in the vSubnet."""
        return self.addresses[name][family]


def build(lab: Lab, show: Show) -> Stage:
    """Build the sites, start the appliance, and let every node join with a token."""
    sites = {name: lab.site(name) for name in ("cloud-a", "cloud-b", "office")}
    show.step("three sites, each behind a router that lets only UDP 8002 and TCP 8002 through")
    appliance = Appliance(sites["office"].host("appliance", number=10))
    appliance.init()
    appliance.start()
    appliance.login()
    show.step(f"the appliance runs with an etcd of its own at {appliance.host.v4} (office)")
    network = appliance.network("demo", "10.7.0.0/24", "fd00:7::/64")
    prefixes = " and ".join(network.prefixes)
    show.step(f"vSubnet demo: {prefixes}, VNI {network.vni} on the wire")

    lan = Lan(lab, "floor")
    printer = lan.machine("printer", f"{PRINTER[4]}/24", f"{PRINTER[6]}/64")
    stage = Stage(lab, appliance, network, {}, {}, {}, printer)
    for name, place in PLACES.items():
        stage.nodes[name] = Node(sites[place].host(name))
        stage.nodes[name].start()
    for name, node in stage.nodes.items():
        token = appliance.token(network)
        begun = time.monotonic()
        node.join(token)
        found = {family: node.address(network, family) for family in (4, 6)}
        took = time.monotonic() - begun
        stage.addresses[name] = found
        show.step(
            f"{name} ({PLACES[name]}, {node.host.v4}) joined with a token in {took:.1f} s: "
            f"{found[4]} and {found[6]}"
        )
    _bridge(stage, sites["office"], lan, show)
    return stage


def _bridge(stage: Stage, office: Site, lan: Lan, show: Show) -> None:
    """Put the LAN on the vSubnet by two gateways."""
    begun = time.monotonic()
    for name in GATEWAYS:
        node = stage.gateways[name] = Node(office.host(name))
        lan.plug(node.host, "eth1")
        node.start()
    for node in stage.gateways.values():
        node.join(stage.appliance.token())
    stage.appliance.cairn("gateway", "segment", "create", "floor", "--vsubnet", stage.network.name)
    for name in GATEWAYS:
        stage.appliance.cairn("gateway", "attach", "floor", name, "--port", "eth1")
    took = time.monotonic() - begun
    show.step(f"{' and '.join(GATEWAYS)} (office) bridge a LAN with a printer: {took:.1f} s")
