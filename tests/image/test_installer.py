"""The installer's ISO in QEMU: by a seed and by its menu, to the disk that is meant and no other.

The one sign of an installation is the word VERIFIED, which it says of what it has read back; the
test reads the disk once more by itself.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import proofs
from tests.image.guest import guest, make_seed, raw_disk
from tests.image.installing import (
    SERIAL_NUMBER,
    Machine,
    digest_of,
    empty_disk,
    full_disk,
    iso,
    machine,
)
from tests.image.test_image import COMMAND, READY_BAR_S, READY_S, _creating, _seed_text
from tests.lab import Lab

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(2400)]

STARTED_S = 600.0
INSTALLED_S = 900.0
INSTALLED_BAR_S = 600.0


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab("iso") as made:
        yield made


@pytest.mark.tun
def test_unattended_by_bios_and_the_installed_disk_makes_its_cluster(lab: Lab) -> None:
    office = lab.site("office")
    host = office.host("carrier")
    install = f'[install]\ndisk = "{SERIAL_NUMBER}"\n'
    seed = make_seed(host.directory, _seed_text(office.number, _creating()) + install, "vfat")
    disk = empty_disk(host.directory)
    with machine(host.directory, "bios", disk, seed=seed) as installer:
        verified_s = installer.wait_for("VERIFIED", within_s=STARTED_S + INSTALLED_S)
        installer.wait_until_off(within_s=120)
        _check_installed(installer, disk)
    print(f"bios: installed after {verified_s:.1f} s")
    with guest(host, "bios", seed, disk=disk) as installed:
        ready_s = installed.wait_until_ready(within_s=READY_S)
        room = int(installed.run("df --output=size -m /var | tail -n 1"))
        assert room > 2500, f"/var has {room} MiB of a disk of 5 GiB"
    assert proofs.record_seconds(
        "IMG-iso-unattended",
        verified_s,
        at_most_s=INSTALLED_BAR_S,
        what="the ISO as a CD, by BIOS, with a seed, to an empty SATA disk: from power on to"
        " VERIFIED (software emulation)",
        command=COMMAND,
    )
    assert proofs.record_seconds(
        "IMG-iso-ready",
        ready_s,
        at_most_s=READY_BAR_S,
        what="the disk that the ISO wrote, with the same seed: from power on to /readyz by BIOS"
        " (software emulation)",
        command=COMMAND,
    )


@pytest.mark.tun
def test_by_menu_by_uefi_from_a_stick_and_the_installed_disk_makes_its_cluster(lab: Lab) -> None:
    """A disk with data on it is asked about twice, and left alone when the answer is another."""
    office = lab.site("office")
    host = office.host("carrier")
    disk, full = empty_disk(host.directory), full_disk(host.directory)
    before = digest_of(full)
    with machine(host.directory, "uefi", disk, other=full) as installer:
        installer.wait_for("Number of the disk", within_s=STARTED_S)
        assert re.search(rf"1  /dev/nvme0n1 .*{SERIAL_NUMBER}.*  empty", installer.serial)
        assert re.search(r"2  /dev/vda .*has ext4 'precious'", installer.serial)
        installer.type("2")
        installer.wait_for("Type vda to go on", within_s=60)
        installer.type("yes")
        installer.wait_for("Nothing was written.", within_s=60)
        installer.wait_for("Number of the disk", times=2, within_s=60)
        installer.type("1")
        verified_s = installer.wait_for("VERIFIED", within_s=INSTALLED_S)
        installer.wait_for("press Enter to restart", within_s=60)
        assert installer.is_on  # until somebody says so
        installer.type("")
        installer.wait_until_off(within_s=120)
        _check_installed(installer, disk)
    assert digest_of(full) == before
    seed = make_seed(host.directory, _seed_text(office.number, _creating()), "vfat")
    with guest(host, "uefi", seed, disk=disk, hardware="metal") as installed:
        ready_s = installed.wait_until_ready(within_s=READY_S)
        assert "nvme0n1" in installed.run("findmnt -no SOURCE /var")
    assert proofs.record_seconds(
        "IMG-iso-menu",
        verified_s,
        at_most_s=INSTALLED_BAR_S,
        what="the ISO as a USB stick, by UEFI, by its menu, to an empty NVMe disk: from power on to"
        " VERIFIED (software emulation)",
        command=COMMAND,
    )
    assert proofs.record_seconds(
        "IMG-iso-ready-uefi",
        ready_s,
        at_most_s=READY_BAR_S,
        what="the disk that the ISO wrote, on NVMe beside an Intel 82574 and a seed on a USB stick:"
        " from power on to /readyz by UEFI (software emulation)",
        command=COMMAND,
    )


def test_a_disk_with_something_on_it_is_refused_unattended(tmp_path: Path) -> None:
    """It says why on screen, writes nothing, and never looks as if it had been installed."""
    full = full_disk(tmp_path)
    before = digest_of(full)
    text = '#cairn-appliance\nschema = 1\n[install]\ndisk = "*"\n'
    with machine(tmp_path, "bios", full, seed=make_seed(tmp_path, text, "iso")) as installer:
        installer.wait_for("Press Enter to restart", within_s=STARTED_S)
        assert "NOT INSTALLED" in installer.serial and "VERIFIED" not in installer.serial
        assert "the disk is not empty" in installer.serial and "precious" in installer.serial
        assert "what to do: empty it, name another, or say wipe = true" in installer.serial
        assert installer.is_on
        installer.type("")
        installer.wait_until_off(within_s=120)
    same = digest_of(full) == before
    assert proofs.record(
        "IMG-iso-refused",
        what="an unattended installation to a disk that isn't empty: octets of it that differ"
        " afterwards",
        bar="none, refused with cause and remedy",
        value="none" if same else "some",
        unit="",
        holds=same,
        command=COMMAND,
    )


def _check_installed(installer: Machine, disk: Path) -> None:
    """Read the disk as the installer did, by another program and against another's checksum."""
    octets = raw_disk().stat().st_size
    digest = digest_of(raw_disk())
    assert f"octets={octets} sha256={digest}" in installer.serial
    assert digest_of(disk, octets) == digest
    assert octets % (1 << 22) != 0  # the last piece is a part of one: it is not left out


def test_the_medium_says_what_is_on_it(tmp_path: Path) -> None:
    """By xorriso: what BIOS and UEFI start, and the disk that is packed there."""
    shown = subprocess.run(
        ["xorriso", "-indev", str(iso()), "-report_el_torito", "plain"],
        capture_output=True, text=True, check=True, timeout=120,
    ).stdout  # fmt: skip
    assert re.search(r"boot img :\s+1\s+BIOS", shown) and re.search(r"boot img :\s+2\s+UEFI", shown)
    for name in ("cairn/image.json", "cairn/disk.raw.zst"):
        subprocess.run(
            ["xorriso", "-osirrox", "on", "-indev", str(iso()), "-extract", f"/{name}",
             str(tmp_path / Path(name).name)],
            capture_output=True, check=True, timeout=120,
        )  # fmt: skip
    about = json.loads((tmp_path / "image.json").read_text())
    subprocess.run(["zstd", "-q", "-d", str(tmp_path / about["file"])], check=True, timeout=300)
    assert about["octets"] == raw_disk().stat().st_size
    assert about["sha256"] == digest_of(tmp_path / "disk.raw") == digest_of(raw_disk())
