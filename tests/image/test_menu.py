"""The image without a seed: set up by its menu on the serial line, changed, reset; or joined.

`make image-test` runs it.
"""

from __future__ import annotations

import hashlib
import re
import ssl
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import proofs
from tests.image.guest import Guest, guest, make_fat
from tests.image.test_image import COMMAND, PASSWORD, READY_S, Imaged, is_up, on_screen
from tests.lab import Lab
from tests.lab.cairn import Appliance
from tests.lab.errors import CommandError
from tests.lab.wait import until

pytestmark = [pytest.mark.root, pytest.mark.tun, pytest.mark.slow, pytest.mark.timeout(2400)]

NAME = "cairn-50"
SECOND_PASSWORD = "another password, 28 letters"
CANARY = "canary-of-a-secret-that-was-logged"
SHOWN_S = 400.0
SET_UP_BAR_S = 300.0
REVERT_BAR_S = 90.0
REFUSED = 4  # how `cairn` ends then


class Operator:
    """Somebody at the serial line."""

    def __init__(self, machine: Guest) -> None:
        self.machine = machine
        self._seen = 0

    def sees(self, text: str, within_s: float = 60.0) -> str:
        """Wait for a text that wasn't there before; return what came up to it."""

        def shown() -> str | None:
            came = self.machine.serial[self._seen :]
            end = came.find(text)
            if end < 0:
                return None
            self._seen += end + len(text)
            return came[: end + len(text)]

        return until(f"the serial line shows {text!r}", shown, within_s=within_s)

    def types(self, text: str) -> None:
        self.machine.type(text + "\r")

    def answers(self, prompt: str, text: str, within_s: float = 60.0) -> str:
        """Wait for a prompt and answer it; return what came up to it."""
        came = self.sees(prompt, within_s)
        self.types(text)
        return came

    def chooses(self, item: str, within_s: float = 60.0) -> None:
        """Choose from a list by the number that it has."""
        came = self.sees("Number: ", within_s)
        numbers = re.findall(rf"(\d+)  {re.escape(item)}", came)
        assert numbers, f"{item!r} is not in the list: {came}"
        self.types(numbers[-1])


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab("menu") as made:
        yield made


def test_a_machine_without_a_seed_is_set_up_changed_and_reset_at_its_serial_line(lab: Lab) -> None:
    office = lab.site("office")
    host = office.host("carrier")
    medium = make_fat(host.directory / "out.img", "CAIRN-OUT")
    with guest(host, "bios", medium) as machine:
        operator = Operator(machine)
        operator.sees("not set up", READY_S)
        operator.types("")
        _give_address(operator, office.number)
        set_up_s = _create(operator)
        appliance = _logged_in(machine)
        _check_processes(machine)
        reverted_s = _cut_off_and_wait(operator)
        until("the appliance is ready again", machine.is_ready, within_s=120)
        until("its store answers", lambda: appliance.voters() == 1, within_s=120)
        _check_password_reset(operator, appliance)
        _check_bundle(operator, medium)
        _move(operator, office.number)
        _reset(operator)
    assert proofs.record_seconds(
        "IMG-menu",
        set_up_s,
        at_most_s=SET_UP_BAR_S,
        what="without a seed, by the menu on the serial line: from the last answer to /readyz;"
        " login by the fingerprint that it shows (software emulation)",
        command=COMMAND,
    )
    assert proofs.record_seconds(
        "IMG-revert",
        reverted_s,
        at_most_s=REVERT_BAR_S,
        what="a network by which nobody reaches the machine any more, its menu killed: until it"
        " answers at the old address (60 s to confirm; software emulation)",
        command=COMMAND,
    )


def test_a_machine_without_a_seed_joins_a_cluster_by_its_menu(lab: Lab) -> None:
    """The first appliance is a process on another host of the LAN."""
    office = lab.site("office")
    maker = Appliance(office.host("maker"))
    maker.init()
    maker.start()
    maker.login()
    with guest(office.host("carrier"), "bios", None) as machine:
        operator = Operator(machine)
        operator.sees("not set up", READY_S)
        operator.types("")
        _give_address(operator, office.number)
        joined_s = _join(operator, maker)
    assert proofs.record_seconds(
        "IMG-menu-join",
        joined_s,
        at_most_s=SET_UP_BAR_S,
        what="a machine without a seed joins a cluster by the menu on its serial line: from the"
        " last answer until it is ready (software emulation)",
        command=COMMAND,
    )


def _type_network(operator: Operator, addresses: str, gateways: str) -> None:
    operator.chooses("network")
    operator.chooses("fixed ones")
    operator.answers("Addresses with prefix length", addresses)
    operator.answers("Gateways", gateways)
    operator.answers("DNS servers", "")
    operator.answers("Time servers", "")


def _give_address(operator: Operator, site: int) -> None:
    """A mistake is told, and corrected; then the address is kept."""
    machine = operator.machine
    _type_network(operator, f"{machine.v4}/24", "203.0.113.1")
    assert "user-data" not in operator.sees("correct it and do it again")
    _type_network(
        operator,
        f"{machine.v4}/24 {machine.v6}/64",
        f"198.18.{site}.1 2001:db8:{site}::1",
    )
    operator.answers("Type yes", "yes")
    operator.answers("Type keep", "keep")
    operator.sees("It is kept")
    until("it answers at its address", lambda: _answers(machine), within_s=60)


def _create(operator: Operator) -> float:
    """Return how long it took from the last answer until it was ready."""
    operator.chooses("create a cluster")
    operator.answers("Name of this machine", NAME)
    operator.answers("Addresses or names", "")
    operator.answers("New password", "short")
    operator.sees("too short")
    operator.chooses("create a cluster")
    operator.answers("Name of this machine", NAME)
    operator.answers("Addresses or names", "")
    operator.answers("New password", PASSWORD)
    operator.answers("The same again", PASSWORD)
    operator.answers("Type yes", "yes")
    begun = time.monotonic()
    operator.sees("compare it at the first login", READY_S)
    assert operator.machine.is_ready()
    return time.monotonic() - begun


def _join(operator: Operator, maker: Appliance) -> float:
    """Return how long joining took; a string that was cut short is told and corrected."""
    string = str(maker.cairn("cluster", "join-string")["join_string"])
    for pasted in (string[:-5], string):
        operator.chooses("join a cluster")
        operator.answers("Name of this machine", NAME)
        operator.answers("Addresses or names", "")
        operator.answers("Paste the string", pasted)
        if pasted != string:
            operator.sees("copy the whole string")
    operator.answers("Type yes", "yes")
    begun = time.monotonic()
    came = operator.sees("compare it at the first login", READY_S)
    joined_s = time.monotonic() - begun
    assert f"fingerprint  {maker.fingerprint}" in came
    assert string not in operator.machine.serial
    until("both vote", lambda: maker.voters() == 2, within_s=300)
    return joined_s


def _logged_in(machine: Guest) -> Imaged:
    """Open a session by the fingerprint that is shown, which is that of the CA it serves."""
    appliance = Imaged(machine)
    appliance.fingerprint = on_screen(machine) or ""
    pem = machine.host.run(["curl", "-sk", f"https://{machine.v4}/api/v1/ca"]).stdout
    first = pem[: pem.index("-----END CERTIFICATE-----")] + "-----END CERTIFICATE-----\n"
    assert hashlib.sha256(ssl.PEM_cert_to_DER_cert(first)).hexdigest() == appliance.fingerprint
    assert f"https://{machine.v4}/" in machine.serial
    until("the login is answered", lambda: _takes(appliance, PASSWORD), within_s=180)
    assert PASSWORD not in machine.serial
    return appliance


def _takes(appliance: Imaged, password: str) -> bool:
    appliance.password = password
    try:
        appliance.login()
    except CommandError as error:
        if error.status != 3:  # unreachable in time
            raise
        return False
    return True


def _check_processes(machine: Guest) -> None:
    """Both terminals have one of the appliance's user; that user alone can't ask root."""
    for terminal in ("tty1", "ttyS0"):
        status = machine.run(
            f"cat /proc/$(systemctl show -P MainPID cairn-screen@{terminal})/status"
        )
        uid = re.search(r"Uid:\s+(\d+)", status)
        assert uid is not None and uid[1] == "800", status
        assert re.search(r"CapEff:\s+0+\n", status), status
    assert "console" in machine.run("cat /dev/vcs1")
    ask = "import socket; socket.socket(socket.AF_UNIX).connect('/run/cairn-request.sock')"
    refused = machine.run(
        f'setpriv --reuid 800 --regid 800 --clear-groups python3 -c "{ask}"',
        check=False,
    )
    assert "Permission denied" in refused, refused


def _cut_off_and_wait(operator: Operator) -> float:
    """Change to a network from which nobody is reached; return when the old one was back."""
    machine = operator.machine
    _type_network(operator, "203.0.113.9/24", "-")
    operator.sees("nodes that know no other appliance lose it")
    operator.answers("Type yes", "yes")
    operator.sees("Type keep", 120)
    assert "203.0.113.9" in machine.run("ip address show")
    begun = time.monotonic()
    assert not _answers(machine)
    assert "203.0.113.9" not in machine.run("cat /var/lib/cairn-image/system.json")
    machine.run("systemctl kill --signal=KILL cairn-screen@ttyS0.service")
    until("the old network is back", lambda: _answers(machine), within_s=180)
    took_s = time.monotonic() - begun
    assert "203.0.113.9" not in machine.run("ip address show")
    operator.sees("Enter opens the menu", 60)
    operator.types("")
    return took_s


def _move(operator: Operator, site: int) -> None:
    """The appliance goes to another address with its machine."""
    machine = operator.machine
    new = f"198.18.{site}.51"
    _type_network(operator, f"{new}/24 {machine.v6}/64", "")
    operator.answers("Type yes", "yes")
    operator.answers("Type keep", "keep", 120)
    operator.sees("It is kept", 120)
    machine.v4 = new
    until("it is ready at its new address", machine.is_ready, within_s=READY_S)
    settings = machine.run("cat /var/lib/cairn/appliance/settings.toml")
    assert f'addresses = ["{new}"' in settings and f'cluster_address = "{new}"' in settings


def _check_password_reset(operator: Operator, appliance: Imaged) -> None:
    operator.chooses("password of an admin")
    operator.answers("User [the only admin]", "")
    operator.answers("and lost?", "")
    operator.answers("New password", SECOND_PASSWORD)
    operator.answers("The same again", SECOND_PASSWORD)
    operator.sees("admin has a new password", 180)
    # While the store is too slow to answer, who was known goes on: the first answer ends it.
    for what, ask in (
        ("the session of before has ended", lambda: appliance.cairn("status")),
        ("the password of before opens nothing", appliance.login),
    ):
        until(what, lambda ask=ask: _refuses(ask), within_s=180)
    assert SECOND_PASSWORD not in operator.machine.serial


def _refuses(ask: Callable[[], object]) -> bool:
    try:
        ask()
    except CommandError as error:
        print(error)
        return error.status == REFUSED
    return False


def _check_bundle(operator: Operator, medium: Path) -> None:
    """What was logged of a secret by somebody's mistake is not in it, nor any key or password."""
    machine = operator.machine
    machine.run(f"echo 'password={CANARY} $argon2id$v=19${CANARY}' | systemd-cat -t canary")
    machine.run("echo 'a line of the journal, to be found' | systemd-cat -t canary")
    operator.chooses("support bundle")
    operator.answers("Type yes", "yes")
    came = operator.sees("KiB)", 300)
    name = re.search(r"cairn-support-\S+\.tar\.gz", came)
    assert name is not None, came
    copy = medium.with_name("bundle.tar.gz")
    _run("mcopy", "-n", "-i", str(medium), f"::{name[0]}", str(copy))
    with tarfile.open(copy) as archive:
        files = {each.name: _content(archive, each) for each in archive.getmembers()}
    assert b"a line of the journal, to be found" in files["cairn-support/journal.txt"]
    assert b"cairn-appliance.service" in files["cairn-support/units.txt"]
    whole = b"".join(files.values())
    kek = bytes.fromhex(machine.run("od -An -v -tx1 /var/lib/cairn/appliance/kek"))
    for secret in (CANARY, PASSWORD, SECOND_PASSWORD, "$argon2id$", "PRIVATE KEY", kek.hex()):
        assert secret.encode() not in whole, secret
    assert kek not in whole


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    assert file is not None
    return file.read()


def _reset(operator: Operator) -> None:
    """It comes back as a machine that nobody has set up, and as another one."""
    machine = operator.machine
    number = machine.run("cat /etc/machine-id")
    operator.chooses("factory reset")
    operator.answers(f"Type {NAME}", "another-name")
    operator.sees("Nothing was changed")
    operator.chooses("factory reset")
    operator.answers(f"Type {NAME}", NAME)
    operator.sees("as new")
    machine.forget_shell()
    operator.sees("not set up", READY_S)
    until("start-up is over", lambda: is_up(machine), within_s=SHOWN_S)
    assert machine.run("cat /etc/machine-id") != number
    left = machine.run("ls -A /var /var/lib /var/lib/cairn-image", check=False)
    assert "cairn-reset" not in left and "system.json" not in left and "applied" not in left, left
    assert "settings.toml" not in machine.run("find /var/lib")
    found = machine.run("journalctl --no-pager | grep -c 'to be found'", check=False)
    assert found.strip() == "0"
    assert not machine.run("systemctl list-units --failed --plain --no-legend").strip()


def _answers(machine: Guest) -> bool:
    ping = ["ping", "-c", "1", "-W", "2", machine.v4]
    return "1 received" in machine.host.run(ping, check=False).stdout


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
