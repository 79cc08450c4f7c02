"""The OVA: by readers that others wrote, and started with its properties on the hypervisor's CD."""

from __future__ import annotations

import json
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import quoteattr

import pytest
from cairn_appliance.image import ovf

from tests import proofs
from tests.image.guest import DIST, NUMBER, guest, mac_of, raw_disk
from tests.image.test_image import COMMAND, READY_BAR_S, READY_S, _hash
from tests.lab import Lab

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(1800)]

GIB = 1 << 30
_READER = Path(__file__).resolve().parent / "ovf_reader"


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab("ova") as made:
        yield made


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program around VMware's own library for Go, at the version that go.sum pins."""
    program = tmp_path_factory.mktemp("reader") / "ovf_reader"
    subprocess.run(["go", "build", "-o", str(program), "."], cwd=_READER, check=True, timeout=900)
    return program


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the OVA."""
    directory = tmp_path_factory.mktemp("ova")
    with tarfile.open(ova()) as archive:
        archive.extractall(directory, filter="data")
    return directory


def ova() -> Path:
    """Return the built OVA."""
    (file,) = DIST.glob("*.ova")
    return file


def _read(reader: Path, file: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(reader), str(file)], capture_output=True, text=True, timeout=120, check=False
    )


def test_vmwares_library_makes_the_machine_of_it(reader: Path) -> None:
    done = _read(reader, ova())
    assert done.returncode == 0, done.stderr
    read = json.loads(done.stdout)
    assert (read["Version"], read["CPUs"], read["MemoryMB"]) == ("vmx-14", 2, 4096)
    assert read["Devices"] == [
        "ParaVirtualSCSIController",
        "VirtualIDEController",
        "VirtualDisk",
        "VirtualCdrom",
        "VirtualVmxnet3",
    ]
    assert read["DiskBytes"] == 20 * GIB and read["Networks"] == ["Cairn"]
    assert read["Transport"] == ["iso"]
    assert read["Properties"] == [f"{ovf.CLASS}.{name}" for name in ovf.FIELDS]
    assert len(read["Files"]) == 2
    assert proofs.record(
        "IMG-ova-read",
        what="the OVA by govmomi: each part of the machine is understood, and the manifest's"
        " checksums are those of the files",
        bar="all",
        value=len(read["Devices"]),
        unit="devices",
        holds=True,
        command=COMMAND,
    )


def test_a_file_that_was_changed_is_refused(reader: Path, unpacked: Path, tmp_path: Path) -> None:
    """Else what the reader says of the manifest would say nothing."""
    (descriptor,) = unpacked.glob("*.ovf")
    (tmp_path / descriptor.name).write_text(descriptor.read_text().replace("4096", "8192"))
    with tarfile.open(tmp_path / "changed.ova", "w") as archive:
        archive.add(tmp_path / descriptor.name, descriptor.name)
        for path in (*unpacked.glob("*.mf"), *unpacked.glob("*.vmdk")):
            archive.add(path, path.name)
    done = _read(reader, tmp_path / "changed.ova")
    assert done.returncode == 1 and "is not what the manifest says" in done.stderr


def test_its_disk_is_the_image(unpacked: Path) -> None:
    (vmdk,) = unpacked.glob("*.vmdk")
    about = json.loads(_qemu_img("info", "--output=json", str(vmdk)))
    assert about["format"] == "vmdk" and about["virtual-size"] == 20 * GIB
    assert about["format-specific"]["data"]["create-type"] == "streamOptimized"
    _qemu_img("check", str(vmdk))
    _qemu_img("compare", "-f", "raw", "-F", "vmdk", str(raw_disk()), str(vmdk))


def _qemu_img(*command: str) -> str:
    done = subprocess.run(
        ["qemu-img", *command], capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.tun
def test_started_with_its_properties_it_makes_its_cluster(lab: Lab, unpacked: Path) -> None:
    """On the devices that the descriptor names, as far as QEMU has them; no seed is there."""
    office = lab.site("office")
    host = office.host("carrier")
    (vmdk,) = unpacked.glob("*.vmdk")
    site = office.number
    environment = _environment(
        hostname="cairn-ova",
        mac=mac_of(NUMBER),
        addresses=f"198.18.{site}.{NUMBER}/24, 2001:db8:{site}::{NUMBER}/64",
        gateways=f"198.18.{site}.1, 2001:db8:{site}::1",
        action="create",
        admin_password_hash=_hash(),
    )
    disc = _disc(host.directory, environment)
    with guest(host, "bios", disc, disk=vmdk, hardware="vmware") as machine:
        ready_s = machine.wait_until_ready(within_s=READY_S)
        assert machine.run("hostname").strip() == "cairn-ova"
        drivers = machine.run("lsmod")
        assert "vmw_pvscsi" in drivers and "vmxnet3" in drivers
    assert proofs.record_seconds(
        "IMG-ova-ready",
        ready_s,
        at_most_s=READY_BAR_S,
        what="the OVA's disk on PVSCSI and VMXNET 3, set up by OVF properties on a CD: from power"
        " on to /readyz by BIOS (software emulation)",
        command=COMMAND,
    )


def _environment(**properties: str) -> str:
    rows = "".join(
        f"<Property oe:key={quoteattr(f'{ovf.CLASS}.{name}')} oe:value={quoteattr(value)}/>"
        for name, value in properties.items()
    )
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<Environment xmlns="http://schemas.dmtf.org/ovf/environment/1"
 xmlns:oe="http://schemas.dmtf.org/ovf/environment/1" oe:id="">
<PropertySection>{rows}</PropertySection></Environment>
"""


def _disc(directory: Path, environment: str) -> Path:
    """Make the CD that a hypervisor would."""
    files = directory / "environment"
    files.mkdir()
    (files / ovf.FILE_NAME).write_text(environment)
    disc = directory / "environment.iso"
    subprocess.run(
        ["xorriso", "-as", "mkisofs", "-quiet", "-V", "OVF ENV", "-J", "-r",
         "-o", str(disc), str(files)],
        capture_output=True, check=True, timeout=60,
    )  # fmt: skip
    return disc
