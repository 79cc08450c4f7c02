"""Three VMs at two sites, an appliance with its own etcd at a third.

cloud-a               cloud-b        office
a1  a2                b1             appliance
 |   |                 |               |
[router]------------[internet]------[router]     only UDP and TCP 8002 pass
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tests.lab import Lab, Machine, Probes, Site
from tests.lab.cairn import Appliance, Network, Node

# Rekeys every few seconds, so that an outage of seconds has several (a test setting). A session is
# good for longer, as in production: the machine may stand still for seconds when a rekey is due.
FAST_TIMERS = {"rekey_after_ms": 3000, "rekey_jitter_ms": 500, "reject_after_ms": 30_000}


@dataclass(slots=True)
class World:
    """What the tests share; each leaves it as it found it."""

    lab: Lab
    sites: dict[str, Site]
    appliance: Appliance
    prod: Network
    nodes: dict[str, Node] = field(default_factory=dict)
    first_ping_s: dict[str, float] = field(default_factory=dict)  # from `join` on

    def node(self, name: str) -> Node:
        """Return one of a1, a2, b1."""
        return self.nodes[name]

    def address(self, name: str, family: int = 4) -> str:
        """Return a node's address in `prod`."""
        return self.nodes[name].address(self.prod, family)

    def new_node(self, name: str, site: str, **settings: object) -> Node:
        """Add a host with a running, not yet joined node."""
        node = Node(self.sites[site].host(name), **settings)  # type: ignore[arg-type]
        node.start()
        return node

    def join(self, name: str, node: Node) -> None:
        """Join a node to `prod`, and note the time until its first answered ping."""
        token = self.appliance.token(self.prod)
        begun = time.monotonic()
        node.join(token)
        node.address(self.prod)
        for other in self.nodes:
            node.wait_for_ping(self.address(other), within_s=20)
            self.first_ping_s[name] = time.monotonic() - begun
            break
        self.nodes[name] = node

    def settle(self) -> None:
        """Wait until every pair of nodes has a session both ways."""
        for name, node in self.nodes.items():
            for other in self.nodes:
                if other != name:
                    node.wait_for_ping(self.address(other), within_s=20)

    def probes(self, names: Iterable[str] = (), family: int = 4) -> Probes:
        """Start probes between nodes (all unless named) inside `prod`."""
        chosen = list(names) or list(self.nodes)
        addresses: dict[Machine, str] = {
            self.nodes[name].host: self.address(name, family) for name in chosen
        }
        return Probes(addresses, directory=self.lab.directory)


@contextmanager
def build_world() -> Iterator[World]:
    """Build it; takes a few seconds."""
    with Lab("world") as lab:
        sites = {name: lab.site(name) for name in ("cloud-a", "cloud-b", "office")}
        appliance = start_appliance(sites["office"])
        prod = appliance.network("prod", "10.7.0.0/24", "fd00:7::/64")
        world = World(lab, sites, appliance, prod)
        for name, site in (("a1", "cloud-a"), ("a2", "cloud-a"), ("b1", "cloud-b")):
            world.join(name, world.new_node(name, site, timers=FAST_TIMERS))
        world.settle()
        yield world
        assert_no_program_crashed(lab)


def assert_no_program_crashed(lab: Lab) -> None:
    """No log of any program, whatever was done to it, has a traceback or a panic."""
    crashed = []
    for log in lab.directory.rglob("*.log"):
        text = log.read_text(errors="replace")
        if "Traceback (most recent call last)" in text or "panicked at" in text:
            crashed.append(str(log.relative_to(lab.directory)))
    if crashed:
        raise AssertionError(f"crashes in {crashed}, kept in {lab.keep('crashes')}")


def start_appliance(site: Site) -> Appliance:
    """Start a new appliance with its own etcd in a site, and log in."""
    appliance = Appliance(site.host("appliance", number=10))
    appliance.init()
    appliance.start()
    appliance.login()
    return appliance
