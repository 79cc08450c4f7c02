"""The appliance's image, booted: from a seed to two agents that ping, with nobody at its console.

`make image-test` builds it where it is missing, and runs this. Software emulation: times are
those of this machine, and several times longer than on one with hardware for it.
"""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator

import pytest

from tests import proofs
from tests.image.guest import NUMBER, Firmware, Guest, Medium, guest, mac_of, make_seed
from tests.lab import Lab
from tests.lab.cairn import BIN, Appliance, Network, Node
from tests.lab.errors import CommandError
from tests.lab.wait import until

pytestmark = [pytest.mark.root, pytest.mark.tun, pytest.mark.slow, pytest.mark.timeout(1800)]

COMMAND = "make image-test"
PASSWORD = "a password of the test, 26 letters"
READY_S = 600.0
READY_BAR_S = 300.0
JOINED_S = 1500.0  # with two guests at work; it tries again by itself where the other is too slow
EXPOSURE_BAR = 2.5


class Imaged(Appliance):
    """The appliance in a guest, operated from the host that carries it."""

    def __init__(self, machine: Guest) -> None:
        super().__init__(machine.host)
        self._address = machine.v4
        self.password = PASSWORD

    @property
    def url(self) -> str:
        """Port 443: none is named."""
        return f"https://{self._address}:443"

    def login(self) -> None:
        """Open a session, by the fingerprint that the screen shows."""
        command = ["cairn", "login", self.url, "--user", "admin", "--password-file", "-"]
        self.host.run([*command, "--fingerprint", self.fingerprint], stdin=self.password + "\n")


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab("image") as made:
        yield made


def _hash() -> str:
    command = [str(BIN / "cairn-appliance"), "hash-password"]
    done = subprocess.run(
        command, input=PASSWORD + "\n", text=True, capture_output=True, check=True, timeout=60
    )
    return done.stdout.strip()


def _seed_text(site: int, cluster: str, number: int = NUMBER) -> str:
    return f"""#cairn-appliance
schema = 1
hostname = "cairn-{number}"
[network]
mac = "{mac_of(number)}"
addresses = ["198.18.{site}.{number}/24", "2001:db8:{site}::{number}/64"]
gateways = ["198.18.{site}.1", "2001:db8:{site}::1"]
[cluster]
{cluster}
"""


def _creating() -> str:
    return f'action = "create"\nadmin_password_hash = "{_hash()}"'


@pytest.mark.parametrize(("firmware", "medium"), [("bios", "vfat"), ("uefi", "iso")])
def test_from_a_seed_to_two_agents_that_ping(lab: Lab, firmware: Firmware, medium: Medium) -> None:
    office = lab.site("office")
    host = office.host("carrier")
    seed = make_seed(host.directory, _seed_text(office.number, _creating()), medium)
    with guest(host, firmware, seed) as machine:
        ready_s = machine.wait_until_ready(within_s=READY_S)
        print(f"{firmware}: ready after {ready_s:.1f} s")
        _check_system(machine, medium)
        appliance = operated(machine)
        nodes, join_s = _two_nodes_ping(lab, appliance)
        if firmware == "bios":
            _check_start_anew(machine, nodes)
    assert proofs.record_seconds(
        f"IMG-ready-{firmware}",
        ready_s,
        at_most_s=READY_BAR_S,
        what=f"from power on, with a seed, to /readyz by {firmware.upper()} (software emulation)",
        command=COMMAND,
    )
    assert proofs.record_seconds(
        f"IMG-join-{firmware}",
        join_s,
        at_most_s=30,
        what="an agent outside joins the booted appliance: until it pings another (software"
        " emulation)",
        command=COMMAND,
    )


@pytest.mark.timeout(3600)
def test_a_cluster_of_two_images_and_a_process_loses_the_first(lab: Lab) -> None:
    """The second image joins by its seed; the first one's power is cut, and all goes on."""
    office = lab.site("office")
    hosts = [office.host(name) for name in ("carrier-1", "carrier-2", "third")]
    seeds = [make_seed(hosts[0].directory, _seed_text(office.number, _creating()), "vfat")]
    with guest(hosts[0], "bios", seeds[0]) as first:
        first.wait_until_ready(within_s=READY_S)
        maker = operated(first)
        network = maker.network("prod", "10.7.0.0/24")
        node = Node(lab.site("cloud-a").host("a1"))
        node.start()
        node.join(maker.token(network))
        address = node.address(network, within_s=120)
        third = Appliance(hosts[2])
        third.join(_join_string(maker))
        third.start(within_s=300)
        joining = f'action = "join"\njoin_string = "{_join_string(maker)}"'
        seeds.append(
            make_seed(hosts[1].directory, _seed_text(office.number, joining, NUMBER + 1), "vfat")
        )
        with guest(hosts[1], "bios", seeds[1], NUMBER + 1) as second:
            ready_s = second.wait_until_ready(within_s=JOINED_S)
            print(f"the second: ready after {ready_s:.1f} s")
            other = operated(second)
            until("all three have a vote", lambda: other.voters() == 3, within_s=JOINED_S)
            first.stop()
            begun = time.monotonic()
            until("the others serve", second.is_ready, within_s=120)
            until("a token can be made", lambda: _token(other, network), within_s=120)
            served_s = time.monotonic() - begun
            newcomer = Node(lab.site("cloud-b").host("b1"))
            newcomer.start()
            newcomer.join(other.token(network))
            newcomer.wait_for_ping(address, within_s=300)
            assert third.is_ready()
    assert proofs.record_seconds(
        "IMG-cluster",
        served_s,
        at_most_s=60,
        what="two booted images and a process, the first one's power cut: until the rest writes"
        " again (software emulation); a new node then joins and pings",
        command=COMMAND,
    )


def _join_string(appliance: Imaged) -> str:
    """Ask again where etcd was too slow to answer: a string that nobody uses expires."""
    return until("a join string is made", lambda: _asked_join_string(appliance), within_s=120)


def _asked_join_string(appliance: Imaged) -> str | None:
    try:
        return str(appliance.cairn("cluster", "join-string")["join_string"])
    except CommandError as error:
        if error.status != 3:  # unreachable in time
            raise
        return None


def _token(appliance: Imaged, network: Network) -> str | None:
    try:
        return appliance.token(network)
    except CommandError:
        return None


def operated(machine: Guest) -> Imaged:
    """Return the appliance in a guest, with a session by the fingerprint that its screen shows."""
    appliance = Imaged(machine)
    appliance.fingerprint = until(
        "the screen shows the fingerprint", lambda: on_screen(machine), within_s=60
    )
    # The hash of a password takes seconds there, and more while units are still being started.
    until("the login is answered", lambda: _is_logged_in(appliance), within_s=120)
    return appliance


def _is_logged_in(appliance: Imaged) -> bool:
    try:
        appliance.login()
    except CommandError as error:
        if error.status != 3:  # unreachable in time
            raise
        return False
    return True


def on_screen(machine: Guest) -> str | None:
    found = re.findall(r"fingerprint\s+([0-9a-f]{64})", machine.serial)
    return found[-1] if found else None


def _check_system(machine: Guest, medium: Medium) -> None:
    """No unit failed, nothing of the system can be written, /var has the rest of the disk."""
    until("start-up is over", lambda: is_up(machine), within_s=300)
    failed = machine.run("systemctl list-units --failed --plain --no-legend")
    assert not failed.strip(), failed + machine.run(
        "journalctl -b -p warning --no-pager | tail -60"
    )
    for terminal in ("tty1", "ttyS0"):
        restarts = machine.run(f"systemctl show -P NRestarts cairn-screen@{terminal}").strip()
        assert restarts == "0", machine.run(f"journalctl -b --no-pager -u cairn-screen@{terminal}")
    assert machine.run("findmnt -no OPTIONS /").startswith("ro,")
    assert "Read-only" in machine.run("touch /usr/x", check=False)
    room = int(machine.run("df --output=size -m /var | tail -n 1"))
    assert room > 1500, f"/var has {room} MiB of a disk of 4 GiB"
    assert machine.run("hostname").startswith("cairn-")
    status = machine.run("cat /proc/$(systemctl show -P MainPID cairn-appliance)/status")
    uid = re.search(r"Uid:\s+(\d+)", status)
    assert uid is not None and uid[1] != "0", status
    kept = machine.run("grep -c machine_id=$(cat /etc/machine-id) /proc/cmdline", check=False)
    assert kept.strip() == "0"  # drawn at this boot; kept for the next
    assert machine.run("ls /var/log/journal").strip()
    assert "argon2" not in machine.run("cat /run/cairn-image/* 2>/dev/null", check=False)
    if medium == "vfat":
        shown = machine.run("grep -c argon2id /dev/disk/by-label/CIDATA", check=False)
        assert shown.strip() == "0", "the seed's secrets are still on the medium"
    listening = machine.run("ss -Hltn | awk '{print $4}' | sort -u").split()
    strange = [each for each in listening if not _is_expected(each)]
    assert not strange, strange
    shown = machine.run("systemd-analyze security cairn-appliance --no-pager | tail -n 1")
    exposure = float(re.search(r": ([0-9.]+) ", shown)[1])  # type: ignore[index]
    assert proofs.record(
        "IMG-exposure",
        what="exposure of cairn-appliance in the image (systemd-analyze security)",
        bar=f"<= {EXPOSURE_BAR}",
        value=exposure,
        unit="of 10",
        holds=exposure <= EXPOSURE_BAR,
        command=COMMAND,
    )


def is_up(machine: Guest) -> bool:
    state = machine.run("systemctl is-system-running", check=False).strip()
    return state in ("running", "degraded")


def _is_expected(place: str) -> bool:
    host, _, port = place.rpartition(":")
    return port in ("443", "8002", "2379", "2380", "2381") or host.startswith("127.0.0.5")


def _two_nodes_ping(lab: Lab, appliance: Imaged) -> tuple[list[Node], float]:
    """Return two nodes, and how long the second took from `join` to its first answered ping."""
    network = appliance.network("prod", "10.7.0.0/24")
    nodes = [
        Node(lab.site(site).host(name)) for site, name in (("cloud-a", "a1"), ("cloud-b", "b1"))
    ]
    for node in nodes:
        node.start()
    nodes[0].join(appliance.token(network))
    address = nodes[0].address(network, within_s=120)
    token = appliance.token(network)
    begun = time.monotonic()
    nodes[1].join(token)
    nodes[1].wait_for_ping(address, within_s=60)
    return nodes, time.monotonic() - begun


def _check_start_anew(machine: Guest, nodes: list[Node]) -> None:
    """The second boot has no seed to apply, and is the same machine."""
    known = machine.run("cat /etc/machine-id")
    until("the slot is confirmed", lambda: _is_judged(machine), within_s=120)
    machine.run("systemctl reboot", check=False)
    machine.forget_shell()
    until("it goes down", lambda: not machine.is_ready(), within_s=120)
    machine.begun = time.monotonic()
    print(f"ready again after {machine.wait_until_ready(within_s=READY_S):.1f} s")
    assert machine.run("cat /etc/machine-id") == known
    assert int(machine.run("journalctl --list-boots --no-pager | grep -c .")) >= 2
    for node in nodes:
        until(
            f"{node.name} has its appliance again", lambda node=node: _is_linked(node), within_s=90
        )


def _is_linked(node: Node) -> bool:
    return bool(node.status()["link"]["is_up"])


def _is_judged(machine: Guest) -> bool:
    state = machine.run("systemctl show -P ActiveState cairn-judge", check=False)
    return state.strip() == "inactive"
