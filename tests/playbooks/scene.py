"""What the collection is tested on: an appliance, a peer, a control host, and booted systems.

cloud-a                      office                 cloud-b
hosts without Python         appliance  control     peer
 |     |     |                  |          |         |
[router]------(internet)------[router]-----------[router]     UDP, TCP 8002 and 22 pass
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.integration.world import start_appliance
from tests.lab import Host, Lab, Machine
from tests.lab.cairn import Appliance, Network, Node
from tests.packages.guest import ROOT, Guest, booted
from tests.playbooks.control import Control, Played, api_token

COMMAND = "make ansible-test"
_PACKAGES = ROOT / "build/packages"
_BACKUPS = {"/etc/passwd-", "/etc/group-", "/etc/.pwd.lock", "/etc/shadow-", "/etc/gshadow-"}


def packages(release: int) -> Path:
    """Return the folder with the packages of a release; tools/ansible makes two."""
    return _PACKAGES / ("dist" if release == 1 else f"dist-{release}")


@dataclass
class Scene:
    """All of it, and how each system was before."""

    lab: Lab
    appliance: Appliance
    prod: Network
    peer: Node
    control: Control
    variables: dict[str, object]
    guests: dict[str, Guest] = field(default_factory=dict)
    hosts: dict[str, Host] = field(default_factory=dict)
    _files: dict[str, set[str]] = field(default_factory=dict)
    _users: dict[str, str] = field(default_factory=dict)
    _booted: ExitStack = field(default_factory=ExitStack)

    def boot(
        self,
        name: str,
        system: str,
        *,
        host: Host | None = None,
        user: str = "root",
        prepared: str = "true",
    ) -> Guest:
        """Boot a system without Python and let it be managed; `prepared` is run in it before."""
        host = host or self.lab.sites["cloud-a"].host(name)
        guest = self._booted.enter_context(booted(system, host, self.lab.directory))
        assert not guest.run("command -v python3", check=False), "there is a Python"
        guest.run(prepared)
        self.control.add(guest, host, user=user)
        self.guests[name], self.hosts[name] = guest, host
        self._files[name] = guest.files()
        self._users[name] = guest.run(_PEOPLE)
        return guest

    def play(
        self, playbook: str, *options: str, release: int = 1, check: bool = True, **more: object
    ) -> Played:
        """Run a playbook with the packages of a release, or with the appliance's (0)."""
        folder = str(packages(release)) if release else ""
        variables = {**self.variables, "cairn_packages_dir": folder, **more}
        return self.control.play(playbook, *options, check=check, **variables)

    def release(self, name: str) -> str:
        """Return the release that is installed on a host; empty: none."""
        about = "/usr/share/doc/cairn-agent/bundled.txt"
        shown = self.guests[name].run(f"test ! -e {about} || head -n 1 {about}")
        found = re.match(r"cairn-agent \S+-(\d+) ", shown)
        return found[1] if found else ""

    def reaches_peer(self, name: str) -> bool:
        """Return whether the peer answers a host over their vSubnet."""
        address = self.peer.address(self.prod)
        shown = self.guests[name].run(f"ping -c1 -W2 {address}", check=False)
        return ", 1 received" in shown

    def new_files(self, name: str) -> set[str]:
        """Return the files that a host didn't have before it was managed."""
        return self.guests[name].files() - self._files[name]

    def left(self, name: str) -> list[str]:
        """Return everything that wasn't there before, Ansible's own empty folder apart."""
        guest, host = self.guests[name], self.hosts[name]
        left = sorted(self.new_files(name) - _BACKUPS)
        if guest.run(_PEOPLE) != self._users[name]:
            left.append("users")
        left += re.findall(r"cairn\S*", host.run(["ip", "-br", "link"]).stdout)
        left += re.findall(r"table .*cairn.*", host.run(["nft", "list", "tables"]).stdout)
        left += guest.run("ls -d /run/*cairn* /var/lib/*cairn* 2>/dev/null", check=False).split()
        return left


_PEOPLE = "cat /etc/passwd /etc/group"


@contextmanager
def set_up(name: str, *, reserve: str = "", scope: str = "operator") -> Iterator[Scene]:
    """Start everything but the managed hosts, which `boot` adds; `scope` is the API token's."""
    with Lab(name) as lab, ExitStack() as stack:
        office, cloud = lab.site("office"), lab.site("cloud-a")
        for site in (office, cloud):
            site.let_pass("tcp dport 22")
        appliance = start_appliance(office)
        appliance.set(packages_dir=str(packages(1)))
        appliance.stop()
        appliance.start()
        options = {"reserve": reserve} if reserve else {}
        prod = appliance.network("prod", "10.7.0.0/24", **options)
        peer = Node(lab.site("cloud-b").host("peer"))
        peer.start()
        peer.join(appliance.token(prod))
        control = Control(office.host("control"))
        made = appliance.cairn("api-token", "create", "ansible", "--scope", scope)
        control.secrets.append(made["token"])
        token_file = api_token(control.directory / "api-token", made["token"])
        variables: dict[str, object] = {
            "cairn_url": appliance.url,
            "cairn_fingerprint": appliance.fingerprint,
            "cairn_api_token_file": str(token_file),
            "cairn_packages_cache_dir": str(control.directory / "packages"),
            "cairn_serial": "100%",
        }
        yield Scene(lab, appliance, prod, peer, control, variables, _booted=stack)


def pings(machine: Machine, address: str) -> bool:
    """Return whether an address answers a machine within a second."""
    command = ["ping", "-c1", "-W1", address]
    return ", 1 received" in machine.run(command, check=False).stdout
