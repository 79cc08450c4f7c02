"""A LAN without any agent: a switch, cables, and machines that only know Ethernet and IP."""

from __future__ import annotations

from tests.lab.machine import Machine
from tests.lab.topology import Lab

_PATCH_KBIT = 2000  # what a patch cable carries: a loop of a whole switch would take the machine


class Lan:
    """A switch as its own machine; each cable is a veth pair."""

    def __init__(self, lab: Lab, name: str, *, mtu: int = 1500) -> None:
        self.switch = lab.machine(name)
        self._mtu = mtu
        self._ports: dict[tuple[str, str], str] = {}
        self._patches = 0
        self._lab = lab
        # Without STP and without a delay: nothing but the gateways is to find a loop.
        self.switch.ip(
            f"link add lan mtu {mtu} type bridge forward_delay 0 mcast_snooping 0",
            "link set lan up",
        )

    def plug(self, machine: Machine, interface: str, *addresses: str) -> None:
        """Put a cable into a new interface of a machine, which is up afterwards."""
        port = f"p{len(self._ports)}"
        self._ports[machine.name, interface] = port
        self.switch.ip(
            f"link add {port} mtu {self._mtu} type veth peer name {interface} mtu {self._mtu} "
            f"netns {machine.pid}",
            f"link set {port} master lan up",
        )
        machine.ip(
            f"link set {interface} up",
            *(f"addr add {each} dev {interface}{_nodad(each)}" for each in addresses),
        )

    def machine(self, name: str, *addresses: str) -> Machine:
        """Add a machine with one interface `eth0` on this LAN."""
        machine = self._lab.machine(name)
        machine.sysctl(net__ipv6__conf__default__accept_dad=0)
        self.plug(machine, "eth0", *addresses)
        return machine

    def pull(self, machine: Machine, interface: str) -> None:
        """Pull the cable: the machine's interface has no carrier."""
        self.switch.ip(f"link set {self._ports[machine.name, interface]} down")

    def put_back(self, machine: Machine, interface: str) -> None:
        """Put the cable back."""
        self.switch.ip(f"link set {self._ports[machine.name, interface]} up")

    def cable(self) -> str:
        """Make a patch cable, one end plugged in; return what `patch` and `unpatch` want."""
        self._patches += 1
        one, two = f"x{self._patches}a", f"x{self._patches}b"
        self.switch.ip(f"link add {one} type veth peer name {two}")
        for end in (one, two):
            limit = f"tbf rate {_PATCH_KBIT}kbit burst 4kb latency 20ms"
            self.switch.run(["tc", "qdisc", "add", "dev", end, "root", *limit.split()])
        self.switch.ip(f"link set {one} master lan up", f"link set {two} up")
        return one

    def patch(self, cable: str) -> None:
        """Plug the other end in, too: a loop."""
        self.switch.ip(f"link set {cable[:-1]}b master lan")

    def unpatch(self, cable: str) -> None:
        """Take the cable away again."""
        self.switch.ip(f"link del {cable}")


def _nodad(address: str) -> str:
    return " nodad" if ":" in address else ""
