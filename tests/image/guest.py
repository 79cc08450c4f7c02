"""The appliance's image in QEMU, on the LAN of a lab's site.

Nothing of the test is in the image: a shell on a second serial line comes in as an SMBIOS string,
by which systemd takes units of a virtual machine's owner.
"""

from __future__ import annotations

import base64
import contextlib
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from tests.lab import Host
from tests.lab.errors import LabError, NotInTimeError
from tests.lab.program import Program
from tests.lab.wait import until

ROOT = Path(__file__).resolve().parents[2]
DIST = ROOT / "build/image/dist"
NUMBER = 50  # the guest's in the site's LAN; the host that carries it keeps another
_OPERATOR = 40  # beyond the guest's
Firmware = Literal["bios", "uefi"]
# Which devices it has: VMware's as far as QEMU has them, and what real machines mostly have.
Hardware = Literal["qemu", "vmware", "metal"]
Medium = Literal["iso", "vfat"]

OVMF = Path("/usr/share/OVMF")
_SHELL_UNIT = """[Unit]
Description=A shell for the test
DefaultDependencies=no
After=local-fs.target
[Service]
ExecStart=/bin/sh -c 'stty -F /dev/ttyS1 raw -echo; PS1= exec /bin/sh </dev/ttyS1 >/dev/ttyS1 2>&1'
Restart=always
"""
_SHELL_WANTED = "[Unit]\nWants=cairn-test.service\n"


def raw_disk() -> Path:
    """Return the built disk."""
    (disk,) = DIST.glob("*.raw")
    return disk


def mac_of(number: int) -> str:
    """Return what a seed calls the guest's interface by."""
    return f"52:54:00:ca:12:{number:02x}"


def make_seed(directory: Path, text: str, kind: Medium) -> Path:
    """Make a NoCloud medium with one `user-data`."""
    files = directory / "seed"
    files.mkdir()
    (files / "user-data").write_text(text)
    (files / "meta-data").write_text("instance-id: test\n")
    medium = directory / f"seed.{kind}"
    if kind == "iso":
        _run("xorriso", "-as", "mkisofs", "-quiet", "-V", "cidata", "-J", "-r",
             "-o", str(medium), str(files))  # fmt: skip
    else:
        with medium.open("wb") as file:
            file.truncate(4 << 20)
        _run("mkfs.vfat", "-n", "CIDATA", str(medium))
        for name in ("user-data", "meta-data"):
            _run("mcopy", "-i", str(medium), str(files / name), "::")
    return medium


def make_fat(path: Path, label: str) -> Path:
    """Make an empty FAT medium."""
    with path.open("wb") as file:
        file.truncate(32 << 20)
    _run("mkfs.vfat", "-n", label, str(path))
    return path


class Guest:
    """One virtual machine; made by `guest`."""

    def __init__(
        self,
        host: Host,
        firmware: Firmware,
        medium: Path | None,
        number: int = NUMBER,
        disk: Path | None = None,
        hardware: Hardware = "qemu",
    ) -> None:
        self.host = host
        self.firmware = firmware
        self.hardware = hardware
        self.directory = host.directory
        site = host.site
        assert site.lan4 is not None and site.lan6 is not None
        self.v4, self.v6 = str(site.lan4[number]), str(site.lan6[number])
        self.mac = mac_of(number)
        self.begun = 0.0
        self._medium = medium
        self._program: Program | None = None
        self._shell: socket.socket | None = None
        self._line: socket.socket | None = None
        self._disk = self.directory / "disk.qcow2"
        below = disk or raw_disk()
        size = [] if disk else ["4G"]
        _run("qemu-img", "create", "-q", "-f", "qcow2", "-b", str(below),
             "-F", below.suffix[1:], str(self._disk), *size)  # fmt: skip
        if firmware == "uefi":
            shutil.copy(OVMF / "OVMF_VARS_4M.fd", self.directory / "vars.fd")
        self._bridge(number + _OPERATOR)

    @property
    def serial(self) -> str:
        """What the machine wrote to its serial line."""
        file = self.directory / "serial.log"
        return file.read_text("utf-8", "replace") if file.exists() else ""

    def start(self) -> None:
        """Switch it on."""
        self.begun = time.monotonic()
        self._program = self.host.start(self._command(), name="qemu")
        self._line = until("QEMU takes the serial line", self._serial_line, within_s=60)
        # By the one who reads, not by QEMU's own log, which has octets twice that had to wait.
        copy = (self._line, self.directory / "serial.log")
        threading.Thread(target=_copy, args=copy, daemon=True).start()

    def stop(self) -> None:
        """Cut its power."""
        self.forget_shell()
        if self._program is not None:
            self._program.stop()
        if self._line is not None:
            self._line.close()
            self._line = None

    def type(self, text: str) -> None:
        """Type on its serial line."""
        assert self._line is not None
        self._line.sendall(text.encode())

    def is_ready(self) -> bool:
        """Say whether it answers 200 to /readyz on port 443, asked from the operator's host."""
        assert self._program is not None
        if not self._program.running:
            raise LabError(f"QEMU ended:\n{self._program.text()}")
        url = f"https://{self.v4}/readyz"
        command = ["curl", "-sk", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", url]
        return self.host.run(command, check=False).stdout.strip() == "200"

    def wait_until_ready(self, *, within_s: float) -> float:
        """Wait for it; return how long it took since it was switched on."""
        try:
            until("the appliance is ready", self.is_ready, within_s=within_s)
        except NotInTimeError as error:
            raise NotInTimeError(f"{error}; its serial line:\n{self.serial[-4000:]}") from None
        return time.monotonic() - self.begun

    def run(self, command: str, *, check: bool = True, within_s: float = 120.0) -> str:
        """Run a shell command in it, as root; return stdout and stderr."""
        mark = f"cairn-mark-{time.monotonic_ns()}"
        packed = base64.b64encode(command.encode()).decode()
        line = f'(eval "$(echo {packed} | base64 -d)") 2>&1 </dev/null; echo "{mark} $?"\n'
        shell = self._connected()
        shell.sendall(line.encode())
        end, got = time.monotonic() + within_s, b""
        while mark.encode() not in got or not got.endswith(b"\n"):
            shell.settimeout(max(0.1, end - time.monotonic()))
            try:
                octets = shell.recv(65_536)
            except TimeoutError:
                raise NotInTimeError(f"{command}: not done in {within_s:g} s\n{got!r}") from None
            if not octets:
                raise LabError(f"{command}: the machine is gone\n{got!r}")
            got += octets
        text, _, status = got.decode("utf-8", "replace").rpartition(mark)
        if check and int(status) != 0:
            raise LabError(f"{command}: {status.strip()}\n{text}")
        return text

    def forget_shell(self) -> None:
        """Leave the line as a start anew finds it."""
        if self._shell is not None:
            self._shell.close()
            self._shell = None

    def _connected(self) -> socket.socket:
        if self._shell is None:
            self._shell = socket.socket(socket.AF_UNIX)
            self._shell.connect(str(self.directory / "shell.sock"))
        return self._shell

    def _serial_line(self) -> socket.socket | None:
        assert self._program is not None
        if not self._program.running:
            raise LabError(f"QEMU ended:\n{self._program.text()}")
        line = socket.socket(socket.AF_UNIX)
        try:
            line.connect(str(self.directory / "serial.sock"))
        except OSError:
            line.close()
            return None
        return line

    def _bridge(self, own: int) -> None:
        """Put the guest beside the host on the LAN; the host keeps an address of its own."""
        site = self.host.site
        assert site.lan4 is not None and site.lan6 is not None
        self.host.v4, self.host.v6 = str(site.lan4[own]), str(site.lan6[own])
        self.host.sysctl(net__ipv6__conf__default__accept_dad=0)
        self.host.ip(
            "addr flush dev eth0 scope global",
            "link add br0 type bridge forward_delay 0 mcast_snooping 0",
            "link set eth0 master br0 up",
            "tuntap add dev tap0 mode tap",
            "link set tap0 master br0 up",
            "link set br0 up",
            f"addr add {self.host.v4}/24 dev br0",
            f"addr add {self.host.v6}/64 dev br0 nodad",
            f"route replace default via {site.lan4[1]}",
            f"route replace default via {site.lan6[1]}",
        )
        for family in ("ip", "ip6"):
            switch = f"/proc/sys/net/bridge/bridge-nf-call-{family}tables"
            self.host.run(["sh", "-c", f"test ! -e {switch} || echo 0 > {switch}"])

    def _command(self) -> list[str]:
        place = self.directory
        command = [
            "qemu-system-x86_64", "-accel", "tcg,tb-size=512",
            "-cpu", "Westmere,+rdrand", "-smp", "2", "-m", "1536",
            "-nodefaults", "-no-user-config", "-display", "none", "-vga", "std",
            "-netdev", "tap,id=lan,ifname=tap0,script=no,downscript=no",
            "-chardev", f"socket,id=screen,path={place / 'serial.sock'},server=on,wait=on",
            "-serial", "chardev:screen",
            "-chardev", f"socket,id=shell,path={place / 'shell.sock'},server=on,wait=off",
            "-serial", "chardev:shell",
            "-smbios", _credential("systemd.extra-unit.cairn-test.service", _SHELL_UNIT),
            "-smbios", _credential("systemd.unit-dropin.sysinit.target", _SHELL_WANTED),
        ]  # fmt: skip
        devices = {"qemu": self._as_qemu, "vmware": self._as_vmware, "metal": self._as_metal}
        command += devices[self.hardware]()
        if self.firmware == "uefi":
            for file, more in (
                (OVMF / "OVMF_CODE_4M.fd", ",readonly=on"),
                (place / "vars.fd", ""),
            ):
                command += ["-drive", f"if=pflash,format=raw,file={file}{more}"]
        return command

    def _as_qemu(self) -> list[str]:
        devices = [
            "-machine", "q35",
            "-drive", f"if=virtio,format=qcow2,cache=unsafe,file={self._disk}",
            "-device", f"virtio-net-pci,netdev=lan,mac={self.mac},romfile=",
            "-device", "virtio-rng-pci",
        ]  # fmt: skip
        if self._medium is not None:
            devices += ["-drive", f"if=virtio,format=raw,cache=unsafe,file={self._medium}"]
        return devices

    def _as_vmware(self) -> list[str]:
        devices = [
            "-machine", "pc",
            "-device", "pvscsi,id=scsi",
            "-drive", f"if=none,id=disk,format=qcow2,cache=unsafe,file={self._disk}",
            "-device", "scsi-hd,bus=scsi.0,drive=disk",
            "-device", f"vmxnet3,netdev=lan,mac={self.mac},romfile=",
        ]  # fmt: skip
        if self._medium is not None:
            devices += ["-drive", f"if=none,id=cd,media=cdrom,format=raw,file={self._medium}"]
            devices += ["-device", "ide-cd,drive=cd"]
        return devices

    def _as_metal(self) -> list[str]:
        devices = [
            "-machine", "q35",
            "-drive", f"if=none,id=disk,format=qcow2,cache=unsafe,file={self._disk}",
            "-device", "nvme,drive=disk,serial=CAIRN-TEST",
            "-device", f"e1000e,netdev=lan,mac={self.mac},romfile=",
        ]  # fmt: skip
        if self._medium is not None:
            devices += ["-drive", f"if=none,id=stick,format=raw,file={self._medium}"]
            devices += ["-device", "qemu-xhci", "-device", "usb-storage,drive=stick"]
        return devices


@contextlib.contextmanager
def guest(
    host: Host,
    firmware: Firmware,
    medium: Path | None,
    number: int = NUMBER,
    disk: Path | None = None,
    hardware: Hardware = "qemu",
) -> Iterator[Guest]:
    """Have a machine started, from the built disk or another, and its power cut in the end."""
    machine = Guest(host, firmware, medium, number, disk, hardware)
    machine.start()
    try:
        yield machine
    except BaseException:
        print(machine.serial[-6000:])
        with contextlib.suppress(LabError, OSError):
            print(machine.run("journalctl -b --no-pager | tail -n 120", within_s=60))
        raise
    finally:
        machine.stop()


def _copy(line: socket.socket, log: Path) -> None:
    """Write down what the machine shows, until it is gone."""
    with log.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while octets := line.recv(65_536):
            file.write(octets)


def _credential(name: str, text: str) -> str:
    packed = base64.b64encode(text.encode()).decode()
    return f"type=11,value=io.systemd.credential.binary:{name}={packed}"


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
