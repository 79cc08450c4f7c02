"""The agent's packages on minimal systems that reach nothing but the appliance's TCP port.

`make packages-test` builds two releases and the systems, and runs this: installing from the
appliance, joining, going on through an upgrade and back, and leaving nothing behind.
"""

from __future__ import annotations

import filecmp
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests import proofs
from tests.integration.world import start_appliance
from tests.lab import Host, Lab, Probes
from tests.lab.cairn import Appliance, Network, Node
from tests.lab.wait import until
from tests.packages.guest import ROOT, Guest, booted

pytestmark = [pytest.mark.root, pytest.mark.tun, pytest.mark.slow, pytest.mark.timeout(1200)]

BUILT = ROOT / "build/packages"
ECHOED = ROOT / "tests/lab/echoed.py"
MOST_RSS_MIB = 60.0
MOST_LOSS_S = 2.0
UNITS = {"cairn-agent": 2.0, "cairn-dataplane": 2.0}


@dataclass
class Scene:
    """An appliance with packages, a node of this checkout, and room for guests."""

    lab: Lab
    appliance: Appliance
    prod: Network
    peer: Node

    def serve(self, release: int) -> None:
        """Give the appliance the packages of a release, in one step."""
        link = self.lab.directory / "packages"
        fresh = self.lab.directory / "packages.new"
        fresh.symlink_to(BUILT / ("dist" if release == 1 else f"dist-{release}"))
        fresh.rename(link)


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    """Only UDP and TCP 8002 pass between the sites."""
    with Lab("packages") as lab:
        office = lab.site("office")
        appliance = start_appliance(office)
        appliance.set(packages_dir=str(lab.directory / "packages"))
        appliance.stop()
        appliance.start()
        prod = appliance.network("prod", "10.7.0.0/24")
        peer = Node(lab.site("cloud-b").host("peer"))
        peer.start()
        peer.join(appliance.token(prod))
        scene = Scene(lab, appliance, prod, peer)
        lab.site("cloud-a")
        scene.serve(1)
        yield scene


def _installer(scene: Scene, guest: Guest) -> tuple[str, str]:
    """Return the command that the appliance tells, and a token; wget where curl is missing."""
    made = scene.appliance.cairn("token", "create", "--vsubnet", scene.prod.name)
    command, token = made["install"], made["token"]
    if "curl" not in guest.run("command -v curl", check=False):
        command = command.replace(
            "curl -fsS -k --pinnedpubkey ", "wget -qO- --no-check-certificate --pinnedpubkey="
        )
    return command, token


# What a system is made of, how it is made to look, and what removes the package from it.
SYSTEMS = {
    "debian-12": ("debian-12", "", "dpkg --purge cairn-agent"),
    "debian-13": ("debian-13", "", "dpkg --purge cairn-agent"),
    "tarball": (
        "debian-12",
        "mv /var/lib/dpkg /var/lib/dpkg.away",
        "/usr/lib/cairn/libexec/uninstall",
    ),
    # Debian's rpm with a database of its own, in which a package says what RHEL's family has.
    "rpm": (
        "debian-12-rpm",
        "mv /var/lib/dpkg /var/lib/dpkg.away; mkdir -p /etc/rpm /var/lib/rpm; "
        "echo '%_dbpath /var/lib/rpm' >/etc/rpm/macros; rpm --initdb; rpm -i /base.rpm",
        "rpm -e cairn-agent",
    ),
}


@pytest.mark.parametrize("system", list(SYSTEMS))
def test_a_minimal_system_joins_goes_on_through_an_upgrade_and_is_as_it_was_after(
    scene: Scene, system: str
) -> None:
    """Each step looks at what people would: ping, screens, files, users, interfaces."""
    scene.serve(1)
    host = scene.lab.sites["cloud-a"].host(system)
    root, prepared, removed = SYSTEMS[system]
    with booted(root, host, scene.lab.directory) as guest:
        guest.run(prepared)
        assert not guest.run("command -v python3", check=False), "there is a Python"
        files, users = guest.files(), guest.run("cat /etc/passwd /etc/group")
        command, token = _installer(scene, guest)

        begun = time.monotonic()
        told = guest.run(f"{command} {token}")
        installed_s = time.monotonic() - begun
        assert "is installed" in told and "joined as" in told, told
        address = scene.peer.address(scene.prod)
        until("the first ping", lambda: _pings(guest, address), within_s=20)
        print(
            f"{system}: installed and joined in {installed_s:.1f} s, first ping after "
            f"{time.monotonic() - begun:.1f} s"
        )
        is_small = _check_running(guest, system)

        packaged = "cd /; find usr/lib/cairn usr/lib/systemd etc var/lib/cairn-agent -type f -ls"
        before = guest.run(packaged)
        again = guest.run(f"{command} {token}")
        assert "installed already" in again and "joined already" in again
        assert guest.run(packaged) == before
        _check_upgrade(scene, guest, host, command, system)

        guest.run(removed)
        assert guest.run("cat /etc/passwd /etc/group") == users
        assert {name for name in guest.files() - files if "cairn" in name} == set()
        assert guest.files() - files <= {"/etc/passwd-", "/etc/group-", "/etc/.pwd.lock"}, (
            guest.files() - files
        )
        assert "cairn" not in host.run(["ip", "-br", "link"]).stdout
        assert "cairn" not in host.run(["nft", "list", "ruleset"]).stdout
        assert not guest.run("ls -d /run/cairn* /var/lib/cairn*", check=False).startswith("/")
    assert is_small, "agent and data plane need more memory than they may"


def test_two_builds_are_the_same_octet_for_octet() -> None:
    """The second one has another umask, time zone, language and seed of hashes."""
    again = BUILT / "dist-again"
    build = [sys.executable, "-m", "images.agent.build", "--level", "0"]
    shell = ["sh", "-c", 'umask 077; exec "$@"', "sh"]
    odd = {"TZ": "Pacific/Chatham", "LC_ALL": "C", "PYTHONHASHSEED": "77"}
    usual = {"TZ": "UTC", "PYTHONHASHSEED": "1"}
    subprocess.run(
        [*build, "--output", str(BUILT / "dist-first")],
        check=True,
        cwd=ROOT,
        env=os.environ | usual,
        timeout=900,
    )
    subprocess.run(
        [*shell, *build, "--output", str(again)],
        check=True,
        cwd=ROOT,
        env=os.environ | odd,
        timeout=900,
    )
    names = sorted(path.name for path in (BUILT / "dist-first").iterdir())
    _, differ, odd_ones = filecmp.cmpfiles(BUILT / "dist-first", again, names, shallow=False)
    assert sorted(path.name for path in again.iterdir()) == names
    assert proofs.record(
        "PKG-reproducible",
        what="files of two builds of the packages that differ",
        bar="none",
        value=", ".join(differ + odd_ones) or "none",
        unit=f"of {len(names)}",
        holds=not differ and not odd_ones,
        command="make packages-test",
    )


def _pings(guest: Guest, address: str) -> bool:
    return ", 1 received" in guest.run(f"ping -c1 -W1 {address}", check=False)


def _check_running(guest: Guest, system: str) -> bool:
    """Two users, no capability in the data plane, the bar of exposure; return whether that of
    memory holds: it says nothing of the steps that follow."""
    kib = 0
    for unit, bar in UNITS.items():
        pid = guest.run(f"systemctl show -P MainPID {unit}").strip()
        status = guest.run(f"cat /proc/{pid}/status")
        assert re.search(r"NoNewPrivs:\s+1", status) and re.search(r"Seccomp:\s+2", status)
        user = guest.run(f"stat -c %U /proc/{pid}/task").strip()
        uid = re.search(r"Uid:\s+(\d+)", status)
        assert uid is not None and uid[1] != "0", (unit, user)
        if unit == "cairn-dataplane":
            assert re.search(r"CapEff:\s+0+\n", status), status
        print(unit, re.findall(r"(?:VmRSS|RssAnon|RssFile):.*", status))
        print(guest.run(f"grep -E '^(Rss|Pss|Anonymous):' /proc/{pid}/smaps_rollup"))
        size = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert size is not None
        kib += int(size[1])
        shown = guest.run(f"systemd-analyze security {unit} --no-pager | tail -n 1")
        exposure = float(re.search(r": ([0-9.]+) ", shown)[1])  # type: ignore[index]
        assert proofs.record(
            f"PKG-exposure-{unit}-{system}",
            what=f"exposure of {unit} on {system} (systemd-analyze security)",
            bar=f"<= {bar}",
            value=exposure,
            unit="of 10",
            holds=exposure <= bar,
            command="make packages-test",
        )
    return proofs.record(
        f"PKG-rss-{system}",
        what=f"agent and data plane together, idle, on {system}",
        bar=f"<= {MOST_RSS_MIB:g}",
        value=round(kib / 1024, 1),
        unit="MiB resident",
        holds=kib / 1024 <= MOST_RSS_MIB,
        command="make packages-test",
    )


def _check_upgrade(scene: Scene, guest: Guest, host: Host, command: str, system: str) -> None:
    """To the next release and back, with frames under way; the process is another one after.

    One TCP connection is open all the time: what a person in a shell would notice (B2).
    """
    shown = guest.run("ip -4 -o addr show | grep cairn")
    own = re.search(r"inet ([0-9.]+)/", shown)
    assert own is not None, shown
    peer, address = scene.peer.host, scene.peer.address(scene.prod)
    answering = peer.start(peer.python(ECHOED, "answer", address, "5301"), name=f"answer-{system}")
    answering.wait_for_log("ready", within_s=10)
    asking = host.start(host.python(ECHOED, "ask", address, "5301"), name="ask")
    asking.wait_for_log("ready", within_s=15)
    probes = Probes({host: own[1], peer: address}, directory=scene.lab.directory)
    try:
        for release in (2, 1):
            scene.serve(release)
            pid = guest.run("systemctl show -P MainPID cairn-dataplane")
            assert f"-{release} is installed" in guest.run(command.removesuffix(" --"))
            assert guest.run("systemctl show -P MainPID cairn-dataplane") != pid
            for unit in UNITS:
                assert guest.run(f"systemctl is-active {unit}").strip() == "active"
    finally:
        probes.stop()
        if asking.running:
            asking.send_signal(signal.SIGTERM)
        status = asking.wait(within_s=20)
    assert status == 0, asking.text()
    told = json.loads(asking.text().splitlines()[-1])
    assert told["heard"] == told["asked"] > 0, told
    longest = probes.worst().outage_s
    holds = proofs.record_seconds(
        f"PKG-upgrade-{system}",
        longest,
        at_most_s=MOST_LOSS_S,
        what=f"longest silence between two nodes while one is upgraded and put back, on {system}",
        command="make packages-test",
    )
    assert proofs.record_seconds(
        f"PKG-tcp-{system}",
        told["longest_s"],
        at_most_s=MOST_LOSS_S,
        what="longest wait for an answer on one TCP connection that outlives an upgrade of agent "
        f"and data plane and the way back, on {system}",
        command="make packages-test",
    )
    assert holds, f"{longest:.3f} s of silence"
