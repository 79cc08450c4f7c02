"""What stands around gateways: a VM in the vSubnet, nodes with a NIC on a LAN, a guest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tests.lab.cairn import Appliance, Network, Node
from tests.lab.lan import Lan
from tests.lab.topology import Host, Lab


def joined(
    appliance: Appliance, prod: Network, vm: Host, on: Mapping[Lan, Sequence[Host]]
) -> tuple[Node, dict[str, Node]]:
    """Have a VM join a vSubnet, and nodes with `eth1` on a LAN that are in no vSubnet yet."""
    member = Node(vm)
    gateways = {host.name: Node(host) for hosts in on.values() for host in hosts}
    for lan, hosts in on.items():
        for host in hosts:
            lan.plug(host, "eth1")
    for node in (member, *gateways.values()):
        node.start()
    member.join(appliance.token(prod))
    for node in gateways.values():
        node.join(appliance.token())
    return member, gateways


class Guest:
    """A machine with one MAC and one address that is carried from LAN to LAN."""

    def __init__(self, lab: Lab, lans: Sequence[Lan], mac: str, address: str) -> None:
        self.machine = lab.machine("guest")
        self._address = address
        self._at = {lan.switch.name: f"eth{number}" for number, lan in enumerate(lans)}
        for lan in lans:
            interface = self._at[lan.switch.name]
            lan.plug(self.machine, interface)
            self.machine.ip(f"link set {interface} down", f"link set {interface} address {mac}")
            self.machine.sysctl(**{f"net__ipv4__conf__{interface}__arp_notify": 1})

    def carry(self, to: str) -> None:
        """Have it on another LAN; it says so there, as whatever gets a link does."""
        here = self._at[to]
        for interface in self._at.values():
            self.machine.ip(f"link set {interface} down", f"addr flush dev {interface}")
        self.machine.ip(f"addr add {self._address}/24 dev {here}", f"link set {here} up")
