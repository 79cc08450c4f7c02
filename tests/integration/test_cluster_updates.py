"""Three appliances of the image are updated one by one; processes and files in place of machines.

Real appliances on real etcd, and what root does on a machine of the image, on files in place of
partitions (cairn_appliance/image/update.py). In place of GRUB and systemd this test starts the
process again, as from the slot that GRUB would take. With machines: tests/image/test_update.py.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from cairn_appliance.domain.update import Standing
from cairn_appliance.image import environment, standing
from cairn_appliance.image.environment import Environment, Slot
from cairn_appliance.image.update import Machine, update
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.integration.trio import Trio
from tests.lab import Host, Lab, until
from tests.lab.cairn import Appliance, Node
from tests.lab.errors import CommandError
from tests.unit.appliance.image.updates import MIB, pem, update_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.tun,
    pytest.mark.etcd,
    pytest.mark.timeout(900),
]

OLD, NEW, BROKEN = "0.1.0-1", "0.1.0-2", "0.1.0-3"
KEY = Ed25519PrivateKey.generate()
OVER_WITHIN_S = 240.0


def root_of(version: str) -> bytes:
    """Return what is to be in a slot: it begins with its version."""
    noise = Ed25519PrivateKey.generate().private_bytes_raw() * 30_000
    return f"{version}\n".encode().ljust(MIB, b".") + noise


@dataclass
class Imaged:
    """An appliance in a lab's host with two slots, and its machine's root."""

    appliance: Appliance
    stop: threading.Event = field(default_factory=threading.Event)
    starts: list[str] = field(default_factory=list)  # versions, in order
    failures: list[Exception] = field(default_factory=list)
    slot: Slot = "a"

    def __post_init__(self) -> None:
        self.directory.mkdir()
        for name in ("cairn-update", "cairn-image"):
            (self.directory / name).mkdir()
        (self.directory / "grubenv").write_bytes(environment.encode(Environment("a")))
        self.slot_file("a").write_bytes(root_of(OLD))
        self.slot_file("b").write_bytes(bytes(4 * MIB))
        _place_in(self.host, self.directory)
        self.boot(is_first=True)

    @property
    def host(self) -> Host:
        return self.appliance.host

    @property
    def directory(self) -> Path:
        return self.host.directory / "var-lib"

    @property
    def machine(self) -> Machine:
        return Machine(
            inbox=self.directory / "cairn-update",
            standing=self.directory / "cairn-image/standing.json",
            grubenv=self.directory / "grubenv",
            release_key=self.host.directory / "release.pem",
            esp=contextlib.nullcontext,
            running_slot=lambda: self.slot,
            running_version=self.version,
            partition_of=self.slot_file,
            start_anew=self.start_anew,
        )

    def slot_file(self, slot: Slot) -> Path:
        return self.directory / f"slot-{slot}"

    def version(self) -> str:
        return self.slot_file(self.slot).read_bytes().split(b"\n", 1)[0].decode()

    def run(self) -> None:
        """Be root: do what is asked for, until told to stop."""
        while not self.stop.is_set():
            if (self.directory / "cairn-update/wish").exists():
                try:
                    update(self.machine)
                except Exception as error:  # noqa: BLE001 - for the test to see
                    self.failures.append(error)
            time.sleep(0.2)

    def start_anew(self) -> None:
        """End the appliance, and start what GRUB would start; go back where that can't serve."""
        self.appliance.stop()
        self.boot()
        if self.version() == BROKEN:
            standing.change(lambda it: it.doomed("it has a fault", ""), self.machine.standing)
            self.boot()
        self.appliance.start(within_s=60)
        until("it is ready again", self.appliance.is_ready, within_s=120)
        self.confirm()

    def boot(self, *, is_first: bool = False) -> None:
        """Do as grub.cfg and the beginning of `judge` do."""
        known = environment.read(self.machine.grubenv)
        self.slot = known.trial or known.default_slot
        if known.trial:
            known = replace(known, trial=None, tried=known.trial)
            environment.write(self.machine.grubenv, known)
        self.starts.append(self.version())
        first = Standing("a", OLD, {"a": OLD})
        standing.change(
            lambda it: (first if is_first else it).booted(
                self.slot, self.version(), time.time(),
                is_trial=known.is_trial(self.slot), fell_back=known.fell_back(self.slot),
            ),
            self.machine.standing,
        )  # fmt: skip

    def confirm(self) -> None:
        known = environment.read(self.machine.grubenv)
        environment.write(self.machine.grubenv, known.confirmed(self.slot))
        standing.change(lambda it: it.well(time.time()), self.machine.standing)


def _place_in(host: Host, directory: Path) -> None:
    """Have /var/lib and the release key where the image has them, in this host alone."""
    (host.directory / "release.pem").write_bytes(pem(KEY))
    layers = "/run/layers"
    host.run([
        "sh", "-ec",
        f"mount --bind {directory} /var/lib; mkdir -p {layers}; mount -t tmpfs tmpfs {layers};"
        f"mkdir {layers}/up {layers}/work;"
        f"mount -t overlay overlay -o lowerdir=/usr/lib,upperdir={layers}/up,"
        f"workdir={layers}/work /usr/lib; mkdir /usr/lib/cairn-appliance;"
        f"cp {host.directory / 'release.pem'} /usr/lib/cairn-appliance/",
    ])  # fmt: skip


@pytest.fixture
def trio() -> Iterator[tuple[Trio, dict[str, Imaged]]]:
    with Lab("updates") as lab:
        office = lab.site("office")
        first = Appliance(office.host("m1"))
        machines = {"m1": Imaged(first)}
        first.init()
        first.start()
        first.login()
        network = first.network("prod", "10.7.0.0/24")
        vm = Node(office.host("vm"))
        made = Trio(lab, {"m1": first}, office.host("client"), vm, network, [])
        for name in ("m2", "m3"):
            host = office.host(name)
            made.add(name, host, prepare=lambda it, name=name: machines.update({name: Imaged(it)}))
        made.wait_until_whole(within_s=60)
        threads = [threading.Thread(target=each.run, daemon=True) for each in machines.values()]
        for thread in threads:
            thread.start()
        try:
            yield made, machines
        finally:
            for each in machines.values():
                each.stop.set()
            for thread in threads:
                thread.join(120)


def test_one_by_one_back_and_stopped_at_the_first_that_fails(
    trio: tuple[Trio, dict[str, Imaged]], tmp_path: Path
) -> None:
    cluster, machines = trio
    followers = sorted(set(machines) - {cluster.leader()})
    with cluster.writing(retry_s=20.0) as writer:
        upload(cluster, tmp_path, NEW)
        begin(cluster, "start")
        state = over(cluster)
        assert state["phase"] == "done", state
        assert state["done"][:2] == followers  # who leads comes last
        writer.wait_for(5)
    assert {each.version() for each in machines.values()} == {NEW}
    assert {each["state"] for each in state["appliances"]} == {"confirmed"}
    assert any(NEW in each["reason"] for each in told(cluster, "backup", "list"))
    assert all(write.status in (200, 201) for write in writer.acknowledged())

    begin(cluster, "rollback")
    state = over(cluster)
    assert state["phase"] == "done", state
    assert {each.version() for each in machines.values()} == {OLD}

    upload(cluster, tmp_path, BROKEN)
    begin(cluster, "start")
    state = over(cluster)
    assert state["phase"] == "stopped" and "it has a fault" in state["cause"], state
    assert {each.version() for each in machines.values()} == {OLD}
    assert sum(each.starts.count(BROKEN) for each in machines.values()) == 1
    cluster.wait_until_whole(within_s=60)
    assert not [failure for each in machines.values() for failure in each.failures]


def upload(cluster: Trio, directory: Path, version: str) -> None:
    file = directory / f"{version}.update"
    file.write_bytes(update_of(KEY, version, root_of(version)))
    assert told(cluster, "cluster", "update", "upload", str(file))["version"] == version


def begin(cluster: Trio, what: str) -> None:
    told(cluster, "cluster", "update", what, "--yes")


def told(cluster: Trio, *arguments: str) -> Any:
    """Ask whichever appliance is ready."""

    def asked() -> Any:
        for appliance in cluster.appliances.values():
            with contextlib.suppress(CommandError):
                if appliance.running and appliance.is_ready():
                    return appliance.cairn(*arguments) or {}
        return None

    return until(f"cairn {' '.join(arguments)} is answered", asked, within_s=60)


def over(cluster: Trio) -> dict[str, Any]:
    """Wait until nothing follows; return how it ended."""

    def looked() -> dict[str, Any] | None:
        for appliance in cluster.appliances.values():
            if appliance.running and appliance.is_ready():
                command = ["cairn", "cluster", "update", "status", "--json"]
                shown = appliance.host.run(command, check=False).stdout
                state: dict[str, Any] = json.loads(shown) if shown else {}
                if state.get("phase") in ("done", "stopped"):
                    return state
        return None

    return until("the update is over", looked, within_s=OVER_WITHIN_S)
