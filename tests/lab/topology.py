"""Sites behind routers, joined by an internet: the underlay of a test or of the demo.

        host --- lan [router] wan --- (wire) --- [internet] --- ...
                 198.18.N.0/24          198.51.100.4N/30
                 2001:db8:N::/64        2001:db8:ff:N::/64

Machines are namespaces that die with the process that made them; nothing is ever made in
the machine's own network, except by `Lab.reach`.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import shutil
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from tests.lab.errors import LabError
from tests.lab.firewall import Firewall, Nat
from tests.lab.machine import ROOT, Machine
from tests.lab.program import Program
from tests.lab.sweep import run_directory, sweep

_HERE = Path(__file__).resolve().parent
_NO_OFFLOADS = ["tx", "off", "tso", "off", "gso", "off", "gro", "off"]
KEPT = ROOT / "build" / "lab"
LIVING: list[Lab] = []  # those of this process, for whoever keeps the logs of a failure


@dataclass(frozen=True, slots=True)
class Impairment:
    """What a wire does to each frame (seeded, so that a run can be repeated)."""

    delay_ms: float = 0.0
    reorder_ms: float = 0.0  # a random extra delay up to this, which reorders
    duplicate: float = 0.0  # 0..1
    loss: float = 0.0  # 0..1
    seed: int = 1


class Host(Machine):
    """A machine on a site's LAN, with one interface `eth0`."""

    site: Site
    v4: str = ""  # without prefix length; empty where the site has none
    v6: str = ""

    def change_address(self, number: int) -> None:
        """Take other addresses of the LAN, as a VM does that moves: the old ones go first."""
        self.run(["ip", "addr", "flush", "dev", "eth0", "scope", "global"])
        self.site.give_addresses(self, number)

    def cut(self) -> None:
        """Pull the cable."""
        self.ip("link set eth0 down")

    def uncut(self) -> None:
        """Put the cable back; the routes that went with it too."""
        self.ip("link set eth0 up")
        number = int(self.v4.rsplit(".", 1)[1]) if self.v4 else int(self.v6.rsplit(":", 1)[1], 16)
        self.change_address(number)


class Site:
    """One place with a LAN behind a router. Made by `Lab.site`."""

    def __init__(self, lab: Lab, name: str, number: int, *, families: str, mtu: int) -> None:
        self.name = name
        self.number = number
        self.firewall = Firewall()
        self.hosts: list[Host] = []
        self.router = lab.machine(f"{name}-router")
        self.wire: Program | None = None
        self.wire_machine: Machine | None = None
        self._lab = lab
        self._mtu = mtu
        self.lan4 = ipaddress.IPv4Network(f"198.18.{number}.0/24") if "4" in families else None
        self.lan6 = ipaddress.IPv6Network(f"2001:db8:{number}::/64") if "6" in families else None
        self._make_lan()

    def host(self, name: str, *, number: int = 0) -> Host:
        """Add a machine to the LAN; `number` is the last part of its addresses."""
        host = self._lab.add(Host(name, self._lab.directory / name))
        assert isinstance(host, Host)
        host.site = self
        port = f"p{len(self.hosts)}"
        self.router.ip(
            f"link add {port} mtu {self._mtu} type veth peer name eth0 mtu {self._mtu} "
            f"netns {host.pid}",
            f"link set {port} master lan up",
        )
        self.hosts.append(host)
        host.sysctl(net__ipv6__conf__eth0__accept_dad=0)  # the underlay is ready at once
        self.give_addresses(host, number or 10 + len(self.hosts))
        return host

    def give_addresses(self, host: Host, number: int) -> None:
        """Set a host's addresses and default routes; eth0 is up afterwards."""
        commands = ["link set eth0 up"]
        if self.lan4:
            host.v4 = str(self.lan4[number])
            commands.append(f"addr add {host.v4}/{self.lan4.prefixlen} dev eth0")
            commands.append(f"route replace default via {self.lan4[1]}")
        if self.lan6:
            host.v6 = str(self.lan6[number])
            commands.append(f"addr add {host.v6}/{self.lan6.prefixlen} dev eth0 nodad")
            commands.append(f"route replace default via {self.lan6[1]}")
        host.ip(*commands)

    def set_firewall(
        self,
        *,
        closed: bool | None = None,
        nat: Nat | None = None,
        cone_host: Host | None = None,
        loss: float | None = None,
    ) -> None:
        """Change what the router lets through; what is not named stays as it is."""
        if closed is not None:
            self.firewall.closed = closed
        if nat is not None:
            self.firewall.nat = nat
        if cone_host is not None:
            self.firewall.cone_host = cone_host.v4
        if loss is not None:
            self.firewall.loss = loss
        self.router.nft(self.firewall.ruleset())

    def cut(self, *, outward: bool = True, inward: bool = True) -> None:
        """Cut the site off, one way or both; `heal` undoes it."""
        if outward:
            self.firewall.drops.append('iifname "lan"')
        if inward:
            self.firewall.drops.append('iifname "wan"')
        self.router.nft(self.firewall.ruleset())

    def drop(self, match: str) -> None:
        """Drop what an nft expression matches, e.g. `ip daddr 198.18.1.11 udp dport 8002`."""
        self.firewall.drops.append(match)
        self.router.nft(self.firewall.ruleset())

    def let_pass(self, match: str) -> None:
        """Let through what an nft expression matches, e.g. `tcp dport 22`, though it is closed."""
        self.firewall.passes.append(match)
        self.router.nft(self.firewall.ruleset())

    def heal(self) -> None:
        """Undo all cuts and drops."""
        self.firewall.drops.clear()
        self.router.nft(self.firewall.ruleset())

    def impair(self, impairment: Impairment) -> None:
        """Put a wire between router and internet that delays, reorders, duplicates, loses."""
        if self.wire is not None:
            self.wire.stop()
        machine = self.wire_machine or self._lab.insert_wire(self)
        self.wire_machine = machine
        script = machine.python(_HERE / "relay.py", "out", "in", json.dumps(asdict(impairment)))
        self.wire = machine.start(script, name="relay")
        self.wire.wait_for_log("ready", within_s=5)

    def _make_lan(self) -> None:
        # A MAC address of its own: by itself a bridge takes the lowest of its ports, another one
        # when a host is added, and the others' neighbour entries for the router are wrong for long.
        kind = "type bridge forward_delay 0 mcast_snooping 0"
        mac = f"02:00:5e:10:00:{self.number:02x}"
        commands = [f"link add lan address {mac} mtu {self._mtu} {kind}"]
        commands.append("link set lan up")
        if self.lan4:
            commands.append(f"addr add {self.lan4[1]}/24 dev lan")
        if self.lan6:
            commands.append(f"addr add {self.lan6[1]}/64 dev lan nodad")
        as_router(self.router)
        self.router.ip(*commands)
        self._leave_bridged_frames_alone()

    def _leave_bridged_frames_alone(self) -> None:
        """The firewall is between LAN and WAN; br_netfilter would apply it within the LAN."""
        for family in ("ip", "ip6"):
            switch = f"/proc/sys/net/bridge/bridge-nf-call-{family}tables"
            self.router.run(["sh", "-c", f"test ! -e {switch} || echo 0 > {switch}"])


def as_router(machine: Machine) -> None:
    """Let a machine forward, and use its IPv6 addresses without waiting for DAD."""
    machine.sysctl(
        net__ipv6__conf__default__accept_dad=0,
        net__ipv4__ip_forward=1,
        net__ipv6__conf__all__forwarding=1,
    )


class Lab:
    """A set of sites and the internet between them; a context manager.

    `directory` holds each machine's logs and captures while the lab lives. `keep` copies
    them to build/lab/NAME.
    """

    def __init__(self, name: str = "lab") -> None:
        sweep()
        self.directory = run_directory(name)
        self.machines: list[Machine] = []
        self.sites: dict[str, Site] = {}
        LIVING.append(self)
        try:
            self.internet = self.machine("internet")
            as_router(self.internet)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def machine(self, name: str) -> Machine:
        """Add a machine without any interface but lo."""
        return self.add(Machine(name, self.directory / name))

    def add(self, machine: Machine) -> Machine:
        """Take a machine over: it is closed with the lab."""
        if any(machine.name == other.name for other in self.machines):
            machine.close()
            raise LabError(f"there is a machine {machine.name} already")
        self.machines.append(machine)
        return machine

    def site(
        self,
        name: str,
        *,
        families: str = "46",
        mtu: int = 1500,
        wan_mtu: int = 1500,
        nat: Nat = "none",
        closed: bool = True,
    ) -> Site:
        """Add a site with a router to the internet; `families` is "4", "6" or "46"."""
        site = Site(self, name, len(self.sites) + 1, families=families, mtu=mtu)
        self.sites[name] = site
        self.internet.ip(
            f"link add to{site.number} mtu {wan_mtu} type veth peer name wan mtu {wan_mtu} "
            f"netns {site.router.pid}"
        )
        self._address_wan(site)
        site.set_firewall(closed=closed, nat=nat)
        return site

    def wan4(self, number: int) -> ipaddress.IPv4Network:
        """Return the transfer network of a site; [0] is the internet's end, [1] the site's.

        A /31 (RFC 3021), so that both addresses are usable.
        """
        return ipaddress.IPv4Network((int(ipaddress.IPv4Address("198.51.100.0")) + 2 * number, 31))

    def insert_wire(self, site: Site) -> Machine:
        """Put a machine with interfaces `out` and `in` into a site's way to the internet."""
        machine = self.machine(f"{site.name}-wire")
        self.internet.ip(f"link del to{site.number}")
        self.internet.ip(f"link add to{site.number} type veth peer name out netns {machine.pid}")
        machine.ip(
            f"link add in type veth peer name wan netns {site.router.pid}",
            "link set out up promisc on",
            "link set in up promisc on",
        )
        self._address_wan(site)
        site.set_firewall()
        for where, device in (
            (machine, "out"),
            (machine, "in"),
            (self.internet, f"to{site.number}"),
            (site.router, "wan"),
        ):
            # The relay sees frames as a wire does: whole checksums, no superframes.
            where.run(["ethtool", "-K", device, *_NO_OFFLOADS], check=False)
        return machine

    def reach(self, host: Host, *others: Host) -> None:
        """Let the machine that runs the lab reach hosts of one site, e.g. their web pages.

        The leg for it is the only thing outside the lab's own namespaces; its other end
        lies in the site's router, so that it goes with it. Raises LabError where another
        lab has such a leg to the same address.
        """
        assert host.site.lan4 is not None
        leg, ours = f"cairn{os.getpid()}", str(host.site.lan4[250])
        host.site.router.ip(
            f"link add reach type veth peer name {leg} netns {os.getpid()}",
            "link set reach master lan up",
        )
        # Single addresses: nothing else of the machine's routing is touched.
        routes = [f"route add {each.v4}/32 dev {leg} src {ours}" for each in (host, *others)]
        for command in (f"addr add {ours}/32 dev {leg}", f"link set {leg} up", *routes):
            done = subprocess.run(["ip", *command.split()], capture_output=True, text=True)
            if done.returncode != 0:
                raise LabError(f"no way to {host.v4} from here: {done.stderr.strip()}")

    def keep(self, name: str) -> Path:
        """Copy logs and captures to build/lab/NAME (replaced) and return that directory."""
        kept = KEPT / re.sub(r"[^A-Za-z0-9_.-]+", "-", name)[:120]
        shutil.rmtree(kept, ignore_errors=True)
        for file in sorted(self.directory.rglob("*")):
            if file.is_file() and file.suffix in {".log", ".pcap", ".json", ".txt"}:
                target = kept / file.relative_to(self.directory)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(file, target)
        return kept

    def close(self) -> None:
        """Remove everything; safe to call again."""
        if self in LIVING:
            LIVING.remove(self)
        while self.machines:
            self.machines.pop().close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _address_wan(self, site: Site) -> None:
        n, inside, outside = site.number, ["link set wan up"], [f"link set to{site.number} up"]
        if site.lan4:
            theirs, ours = self.wan4(n)
            outside += [f"addr add {theirs}/31 dev to{n}", f"route add {site.lan4} via {ours}"]
            inside += [f"addr add {ours}/31 dev wan", f"route add default via {theirs}"]
        if site.lan6:
            transfer = f"2001:db8:ff:{n}"
            outside += [f"addr add {transfer}::1/64 dev to{n} nodad"]
            outside += [f"route add {site.lan6} via {transfer}::2"]
            inside += [f"addr add {transfer}::2/64 dev wan nodad"]
            inside += [f"route add default via {transfer}::1"]
        self.internet.ip(*outside)
        site.router.ip(*inside)
