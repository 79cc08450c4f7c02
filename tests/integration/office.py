"""A gateway's data plane with a real bridge; the test stands in the place of its agent.

a --- [underlay] --- b: bridge of TAP and LAN port --- leaf, a machine without an agent
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from tests.integration.test_dataplane import TAP, VNI, JsonObject, Node
from tests.lab import Lab, Program, until

LAN = "lan"  # the port of the LAN, at both ends of the wire
BRIDGE = "office"
_S = 1_000_000_000


@dataclass(frozen=True)
class Office:
    """The machines, and what runs on two of them."""

    a: Node
    b: Node
    leaf: Node  # without a data plane
    running: Program  # b's data plane

    def open(self, seconds: float = 1000, term: int = 1) -> int:
        """Let b forward for so long from now on; return until when."""
        until_ns = now_ns() + int(seconds * _S)
        answer = self.set_gate(term, until_ns)
        assert answer["ok"], answer
        return until_ns

    def set_gate(self, term: int, until_ns: int) -> JsonObject:
        """Set b's gate."""
        control = self.b.control or self.b.connect()
        return control.ask("gate", vni=VNI, term=term, forward_until_ns=until_ns)

    def vsubnet(self) -> JsonObject:
        """Return b's statistics of the vSubnet."""
        stats: JsonObject = self.b.stats()["vsubnets"][0]
        return stats

    def settle(self) -> None:
        """Open the gate and wait until the leaf is reached."""
        self.open()
        until("the leaf answers", lambda: self.a.pings(self.leaf.ips[0]), within_s=10)


def now_ns() -> int:
    """Return the clock of gates."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def build_office(lab: Lab, *, lan_mtu: int = 1500, prefix: tuple[str, ...] = ()) -> Office:
    """Start a's and b's data planes, and make b's bridge as an agent does; its gate is closed.

    The TAP has the LAN's MTU: the bridge would drop longer frames without a word.
    """
    site = lab.site("cloud")
    a, b = Node(site.host("a"), 1), Node(site.host("b"), 2)
    leaf = Node(site.host("leaf"), 0x50)
    running = []
    for node in (a, b):
        node.make_tap()
        running.append(node.start(prefix=prefix))
        node.connect()
    b.host.ip(f"link add {LAN} mtu {lan_mtu} type veth peer name {LAN} netns {leaf.host.pid}")
    b.host.ip(
        f"addr flush dev {TAP}",
        f"link add {BRIDGE} type bridge forward_delay 0 mcast_snooping 0",
        f"link set {TAP} mtu {lan_mtu} txqueuelen 8192 master {BRIDGE}",
        f"link set {LAN} master {BRIDGE} up",
        f"link set {BRIDGE} up",
    )
    leaf.host.sysctl(net__ipv6__conf__default__accept_dad=0)
    leaf.host.ip(
        f"link set {LAN} address {leaf.mac} mtu {lan_mtu} up",
        f"addr add {leaf.ips[0]}/24 dev {LAN}",
        f"addr add {leaf.ips[1]}/64 dev {LAN} nodad",
    )
    b.ips = []
    assert a.apply(peers=[b.as_peer() | {"role": "gateway"}])["ok"]
    assert b.apply(a, role="gateway")["ok"]
    return Office(a, b, leaf, running[1])
