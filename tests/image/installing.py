"""A machine without a system, started from the installer's ISO in QEMU.

By BIOS the ISO is a CD in a SATA drive and the disk is SATA, too; by UEFI it is a USB stick and the
disk NVMe: what virtual machines never show the kernel, real ones mostly have.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.image.guest import DIST, OVMF, Firmware
from tests.lab.errors import LabError, NotInTimeError

SERIAL_NUMBER = "CAIRN-TEST-1"
_DISK_GIB = 5  # room for the system, and /var larger than in the image


def iso() -> Path:
    """Return the built ISO."""
    (file,) = DIST.glob("*.iso")
    return file


def empty_disk(directory: Path) -> Path:
    """Make a disk that nothing was ever written to."""
    disk = directory / "target.raw"
    with disk.open("wb") as file:
        file.truncate(_DISK_GIB << 30)
    return disk


def full_disk(directory: Path) -> Path:
    """Make a disk with somebody's data on it."""
    disk = directory / "full.raw"
    with disk.open("wb") as file:
        file.truncate(_DISK_GIB << 30)
    subprocess.run(["mkfs.ext4", "-q", "-L", "precious", str(disk)], check=True, timeout=120)
    return disk


def digest_of(disk: Path, octets: int | None = None) -> str:
    """Return the checksum of a disk, or of what it begins with."""
    digest, left = hashlib.sha256(), disk.stat().st_size if octets is None else octets
    with disk.open("rb") as file:
        while piece := file.read(min(1 << 20, left)):
            digest.update(piece)
            left -= len(piece)
    return digest.hexdigest()


class Machine:
    """One that is started from the ISO; made by `machine`."""

    def __init__(self, directory: Path, process: subprocess.Popen[bytes]) -> None:
        self._directory = directory
        self._process = process
        self.begun = time.monotonic()

    @property
    def serial(self) -> str:
        """What it wrote to its serial line."""
        return (self._directory / "serial.log").read_text("utf-8", "replace")

    @property
    def is_on(self) -> bool:
        """Say whether it runs: a restart ends it, too."""
        return self._process.poll() is None

    def wait_for(self, words: str, *, times: int = 1, within_s: float) -> float:
        """Wait until its serial line says so; return how long it has been on."""
        end = time.monotonic() + within_s
        while self.serial.count(words) < times:
            if not self.is_on or time.monotonic() > end:
                raise NotInTimeError(f"{words!r} was not said:\n{self.serial[-3000:]}")
            time.sleep(0.5)
        return time.monotonic() - self.begun

    def type(self, line: str) -> None:
        """Type a line at its serial line."""
        with socket.socket(socket.AF_UNIX) as typed:
            typed.connect(str(self._directory / "serial.sock"))
            typed.sendall(f"{line}\r".encode())
            time.sleep(0.5)  # QEMU takes what comes, then hears that nobody is there any more

    def wait_until_off(self, *, within_s: float) -> None:
        """Wait until it switches itself off, or restarts."""
        try:
            status = self._process.wait(within_s)
        except subprocess.TimeoutExpired:
            raise NotInTimeError(f"it stays on:\n{self.serial[-3000:]}") from None
        if status != 0:
            raise LabError(f"QEMU ended with {status}:\n{self.serial[-3000:]}")


@contextlib.contextmanager
def machine(
    directory: Path,
    firmware: Firmware,
    disk: Path,
    *,
    seed: Path | None = None,
    other: Path | None = None,
) -> Iterator[Machine]:
    """Have one started from the ISO, and its power cut in the end."""
    command = _command(directory, firmware, disk, [each for each in (seed, other) if each])
    with (directory / "qemu.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield Machine(directory, process)
    except BaseException:
        print((directory / "qemu.log").read_text()[-1000:])
        raise
    finally:
        process.kill()
        process.wait(30)


def _command(directory: Path, firmware: Firmware, disk: Path, others: Sequence[Path]) -> list[str]:
    (directory / "serial.log").touch()
    command = [
        "qemu-system-x86_64", "-machine", "q35", "-accel", "tcg,tb-size=512",
        "-cpu", "Westmere,+rdrand", "-smp", "2", "-m", "1536", "-no-reboot",
        "-nodefaults", "-no-user-config", "-display", "none", "-vga", "std",
        "-chardev", f"socket,id=screen,path={directory / 'serial.sock'},server=on,wait=off,"
        f"logfile={directory / 'serial.log'}",
        "-serial", "chardev:screen",
        "-drive", f"if=none,id=disk,format=raw,cache=unsafe,discard=unmap,detect-zeroes=unmap,"
        f"file={disk}",
        "-drive", f"if=none,id=iso,format=raw,readonly=on,file={iso()}"
        f"{',media=cdrom' if firmware == 'bios' else ''}",
    ]  # fmt: skip
    if firmware == "bios":  # the disk comes first: it has nothing to start
        command += ["-device", f"ide-hd,bus=ide.0,drive=disk,serial={SERIAL_NUMBER},bootindex=0"]
        command += ["-device", "ide-cd,bus=ide.1,drive=iso,bootindex=1"]
    else:
        command += ["-device", f"nvme,drive=disk,serial={SERIAL_NUMBER},bootindex=0"]
        command += ["-device", "qemu-xhci", "-device", "usb-storage,drive=iso,bootindex=1"]
        shutil.copy(OVMF / "OVMF_VARS_4M.fd", directory / "vars.fd")
        for file, more in (
            (OVMF / "OVMF_CODE_4M.fd", ",readonly=on"),
            (directory / "vars.fd", ""),
        ):
            command += ["-drive", f"if=pflash,format=raw,file={file}{more}"]
    for file in others:
        command += ["-drive", f"if=virtio,format=raw,cache=unsafe,file={file}"]
    return command
