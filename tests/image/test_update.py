"""An appliance of the image is updated, goes back by itself, and its vSubnet notices nothing.

`make image-test` runs this. A machine in QEMU, two agents outside that probe each other through
the vSubnet all the time; what is uploaded comes by `cairn`, as people have it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cairn_appliance.pki.update_file import PIECE_OCTETS

from images.appliance.update import make
from images.building import development_key
from tests import proofs
from tests.image.guest import ROOT, Guest, guest, make_seed, raw_disk
from tests.image.test_image import (  # noqa: F401 - the lab is a fixture
    COMMAND,
    READY_S,
    Imaged,
    _creating,
    _seed_text,
    _two_nodes_ping,
    lab,
    operated,
)
from tests.lab import Lab
from tests.lab.cairn import Network
from tests.lab.probes import Probes
from tests.lab.wait import until

pytestmark = [pytest.mark.root, pytest.mark.tun, pytest.mark.slow, pytest.mark.timeout(7200)]

NEWER_DIST = ROOT / "build/image/dist-2"
RUNNING, NEWER, BROKEN = "0.1.0-1", "0.1.0-2", "0.1.0-3"
UPLOAD_S = 1200.0
UPDATE_S = 2700.0
_MANIFEST_AT = 19  # after the first line and the length


def newer_dist() -> Path:
    """Return the folder of a newer build, made where it is missing or older than the image."""
    found = list(NEWER_DIST.glob("*.update"))
    if not found or found[0].stat().st_mtime < raw_disk().stat().st_mtime:
        command = [sys.executable, "-m", "images.appliance.build", "--no-qcow2", "--release", "2"]
        subprocess.run([*command, "--output", str(NEWER_DIST)], check=True, cwd=ROOT, timeout=1800)
    return NEWER_DIST


def broken_update(directory: Path) -> Path:
    """Return an update, signed as it ought to be, whose appliance ends as soon as it is started."""
    (disk,) = newer_dist().glob("*.raw")
    root = directory / "broken"
    table = json.loads(_output("sfdisk", "--json", str(disk)))["partitiontable"]
    (part,) = (each for each in table["partitions"] if each.get("name") == "cairn-root-a")
    size = (f"skip={part['start'] // 2048}", f"count={part['size'] // 2048}")  # of 1 MiB
    _output("dd", f"if={disk}", f"of={root}", "bs=1M", "conv=sparse", *size)
    program, about = directory / "cairn-appliance", directory / "os-release"
    program.write_text("#!/bin/sh\necho 'this version has a fault' >&2\nexit 1\n")
    text = _output("debugfs", "-R", "cat /usr/lib/os-release", str(root))
    assert f"IMAGE_VERSION={NEWER}" in text
    about.write_text(text.replace(f"IMAGE_VERSION={NEWER}", f"IMAGE_VERSION={BROKEN}"))
    steps = "".join(
        f"cd {place}\nrm {new.name}\nwrite {new} {new.name}\nsif {new.name} mode {mode}\n"
        for place, new, mode in (
            ("/usr/bin", program, "0100755"),
            ("/usr/lib", about, "0100644"),
        )
    )
    subprocess.run(
        ["debugfs", "-w", "-f", "/dev/stdin", str(root)],
        input=steps, text=True, check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    assert "has a fault" in _output("debugfs", "-R", "cat /usr/bin/cairn-appliance", str(root))
    update = directory / "broken.update"
    make(root, BROKEN, development_key(), update)
    root.unlink()
    return update


def changed(update: Path, into: Path) -> Path:
    """Return the beginning of an update with one octet of its packed part changed."""
    with update.open("rb") as file:
        octets = bytearray(file.read(3 * PIECE_OCTETS))
    octets[2 * PIECE_OCTETS] ^= 1
    into.write_bytes(octets)
    return into


def signed_by_another(update: Path, into: Path) -> Path:
    """Return the beginning of an update with the signature of a key that nobody knows."""
    with update.open("rb") as file:
        start = file.read(_MANIFEST_AT)
        head = start + file.read(int.from_bytes(start[-4:]))
        file.seek(64, os.SEEK_CUR)
        rest = file.read(PIECE_OCTETS)
    key, signed, signature = (into.with_suffix(end) for end in (".pem", ".head", ".sig"))
    signed.write_bytes(head)
    _output("openssl", "genpkey", "-algorithm", "ed25519", "-out", str(key))
    _output("openssl", "pkeyutl", "-sign", "-rawin", "-inkey", str(key), "-in", str(signed),
            "-out", str(signature))  # fmt: skip
    into.write_bytes(head + signature.read_bytes() + rest)
    return into


@dataclass
class Running:
    """A machine that runs, the appliance in it, and two nodes that probe each other."""

    machine: Guest
    appliance: Imaged
    probes: Probes

    def losses(self) -> tuple[int, int]:
        """End the probes; return how many were lost and sent."""
        self.probes.stop()
        pairs = self.probes.pairs()
        for pair in pairs:
            print(pair)
        return sum(pair.lost for pair in pairs), sum(pair.sent for pair in pairs)


@contextlib.contextmanager
def running(lab: Lab) -> Iterator[Running]:  # noqa: F811
    """Have the image set up from a seed, and traffic."""
    office = lab.site("office")
    host = office.host("carrier")
    seed = make_seed(host.directory, _seed_text(office.number, _creating()), "vfat")
    with guest(host, "bios", seed) as machine:
        print(f"ready after {machine.wait_until_ready(within_s=READY_S):.1f} s")
        appliance = operated(machine)
        nodes, _ = _two_nodes_ping(lab, appliance)
        (made,) = appliance.cairn("vsubnet", "list")
        network = Network(made["name"], made["vni"], tuple(made["prefixes"]))
        addresses = {node.host: node.address(network) for node in nodes}
        probes = Probes(addresses, directory=host.directory, interval_ms=100)
        until("the machine is known", lambda: _machine(appliance)["state"] == "none", within_s=300)
        assert _machine(appliance)["version"] == RUNNING
        yield Running(machine, appliance, probes)


def test_an_update_is_confirmed_under_traffic(lab: Lab) -> None:  # noqa: F811
    (update,) = newer_dist().glob("*.update")
    with running(lab) as it:
        _check_refusals(it.appliance, update, it.machine.directory)
        took_s = _check_update(it.machine, it.appliance, update)
        lost, sent = it.losses()
    assert proofs.record_seconds(
        "IMG-update",
        took_s,
        at_most_s=UPDATE_S,
        what="an appliance of the image updated to a newer build: from `cairn cluster update start`"
        " until the new slot is confirmed (software emulation)",
        command=COMMAND,
    )
    _prove_traffic("IMG-update-traffic", "an update", lost, sent)


def test_an_update_that_can_not_serve_goes_back_under_traffic(lab: Lab) -> None:  # noqa: F811
    with running(lab) as it:
        broken = broken_update(it.machine.directory)
        took_s = _check_rollback(it.machine, it.appliance, broken)
        lost, sent = it.losses()
    assert proofs.record_seconds(
        "IMG-rollback",
        took_s,
        at_most_s=UPDATE_S,
        what="the same with a build whose appliance can't serve: until the slot of before serves"
        " again and says why (software emulation)",
        command=COMMAND,
    )
    _prove_traffic("IMG-rollback-traffic", "an update that goes back", lost, sent)


def _check_refusals(appliance: Imaged, update: Path, directory: Path) -> None:
    """What isn't signed by the key, or was changed, is not taken; nothing is begun by it."""
    for make_it, word in ((changed, "damaged"), (signed_by_another, "not signed")):
        file = make_it(update, directory / f"{make_it.__name__}.update")
        told = _cairn(appliance, "cluster", "update", "upload", str(file), within_s=UPLOAD_S)
        assert told.returncode == 2 and word in told.stderr, told.stdout + told.stderr
    told = _cairn(appliance, "cluster", "update", "start", "--yes")
    assert told.returncode == 4 and "no update lies" in told.stderr, told.stdout + told.stderr


def _check_update(machine: Guest, appliance: Imaged, update: Path) -> float:
    """The newer build runs from the other slot, and stays."""
    _upload(appliance, update)
    begun = time.monotonic()
    _start(appliance)
    state = _waited(machine, appliance, lambda it: it["phase"] in ("done", "stopped"))
    took_s = time.monotonic() - begun
    (stood,) = state["appliances"]
    assert state["phase"] == "done" and state["done"] == ["m1"], state
    assert (stood["version"], stood["slot"], stood["state"]) == (NEWER, "b", "confirmed")
    assert stood["other_version"] == RUNNING
    machine.forget_shell()
    assert f"IMAGE_VERSION={NEWER}" in machine.run("cat /usr/lib/os-release")
    assert machine.run("findmnt -no OPTIONS /").startswith("ro,")
    backups = appliance.cairn("backup", "list")
    assert any(NEWER in each["reason"] for each in backups), backups
    until(
        "its room is the store's again",
        lambda: not machine.run("ls /var/lib/cairn-update").strip(),
        within_s=60,
    )
    failed = machine.run("systemctl list-units --failed --plain --no-legend")
    assert not failed.strip(), failed
    print(f"updated after {took_s:.0f} s: {machine.run('df --output=used -m / | tail -n 1')} MiB")
    return took_s


def _check_rollback(machine: Guest, appliance: Imaged, broken: Path) -> float:
    """A version that can't serve gives its place back, and says so."""
    _upload(appliance, broken)
    begun = time.monotonic()
    _start(appliance)
    state = _waited(machine, appliance, lambda it: it["phase"] in ("done", "stopped"))
    took_s = time.monotonic() - begun
    (stood,) = state["appliances"]
    assert state["phase"] == "stopped" and BROKEN in state["cause"] and state["remedy"], state
    assert (stood["version"], stood["slot"], stood["state"]) == (RUNNING, "a", "rolled_back")
    assert stood["wanted"] == BROKEN and "this version has a fault" in stood["cause"]
    assert stood["other_version"] == ""  # nobody can be sent there again
    until("the screen says so", lambda: f"{BROKEN} was rolled back" in machine.serial, within_s=60)
    told = _cairn(appliance, "cluster", "update", "rollback", "--yes")
    assert told.returncode == 4 and "no whole system" in told.stderr, told.stdout + told.stderr
    print(f"rolled back after {took_s:.0f} s: {state['cause']}")
    return took_s


def _prove_traffic(proof: str, during: str, lost: int, sent: int) -> None:
    assert proofs.record(
        proof,
        what=f"probes between two nodes lost during {during}, of {sent}",
        bar="0",
        value=lost,
        unit="probes",
        holds=lost == 0 and sent > 1000,
        command=COMMAND,
    )


def _upload(appliance: Imaged, update: Path) -> None:
    begun = time.monotonic()
    told = _cairn(appliance, "cluster", "update", "upload", str(update), within_s=UPLOAD_S)
    assert told.returncode == 0, told.stdout + told.stderr
    print(f"{update.name}: uploaded and checked after {time.monotonic() - begun:.0f} s")


def _start(appliance: Imaged) -> None:
    told = _cairn(appliance, "cluster", "update", "start", "--yes")
    assert told.returncode == 0, told.stdout + told.stderr


def _waited(
    machine: Guest, appliance: Imaged, is_there: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """Follow the update; an appliance that starts again gives no answer meanwhile."""
    seen: list[str] = []

    def look() -> dict[str, Any] | None:
        state = _state(appliance)
        told = "no answer"
        if state is not None:
            (stood,) = state["appliances"]
            told = f"{state['phase']}, {stood['version']}: {stood['state']}"
        if not seen or seen[-1] != told:
            seen.append(told)
            print(f"{time.monotonic() - machine.begun:.0f} s: {told}", flush=True)
        return state if state is not None and is_there(state) else None

    return until("the update is over", look, within_s=UPDATE_S)


def _state(appliance: Imaged) -> dict[str, Any] | None:
    told = _cairn(appliance, "cluster", "update", "status", "--json")
    if told.returncode == 3:  # unreachable in time
        return None
    assert told.returncode in (0, 4), told.stdout + told.stderr
    state: dict[str, Any] = json.loads(told.stdout)
    return state


def _machine(appliance: Imaged) -> dict[str, Any]:
    state = _state(appliance)
    if state is None or not state["appliances"]:
        return {"state": "unknown"}
    (stood,) = state["appliances"]
    found: dict[str, Any] = stood
    return found


def _cairn(
    appliance: Imaged, *arguments: str, within_s: float = 120.0
) -> subprocess.CompletedProcess[str]:
    return appliance.host.run(["cairn", *arguments], check=False, within_s=within_s)


def _output(*command: str) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    return done.stdout
