"""A minimal root file system that systemd boots in, on the network of a lab's host.

It has no Python and reaches nothing but what the lab lets through; what it runs is its own.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.lab import Machine
from tests.lab.program import die_with_parent
from tests.lab.wait import until

ROOT = Path(__file__).resolve().parents[2]
SYSTEMS = ROOT / "build/packages/systems"


class Guest:
    """One booted system; made by `booted`."""

    def __init__(self, place: Path, leader: int) -> None:
        self.place = place
        self._leader = leader

    def run(self, command: str, *, check: bool = True, within_s: float = 120.0) -> str:
        """Run a shell command in it; return stdout and stderr."""
        entered = ["nsenter", "-t", str(self._leader), "-m", "-u", "-i", "-n", "-p", "-r", "-w"]
        done = subprocess.run(
            [*entered, "/usr/bin/env", "-i", f"PATH={_PATH}", "sh", "-c", command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=within_s,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{command}: {done.returncode}\n{done.stdout}")
        return done.stdout

    def files(self) -> set[str]:
        """Return all files but what any running system writes."""
        found = self.run("find / -xdev -not -type d -not -path '/proc/*'").split("\n")
        return {name for name in found if name and not name.startswith(_ALIVE)}


_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
_ALIVE = ("/tmp/", "/run/", "/var/log/", "/var/lib/systemd/", "/var/lib/dpkg/", "/var/cache/")


@contextlib.contextmanager
def booted(system: str, host: Machine, directory: Path) -> Iterator[Guest]:
    """Boot a system on the host's network until its manager has settled."""
    place = directory / f"root-{host.name}"
    with tarfile.open(SYSTEMS / f"{system}.tar") as archive:
        archive.extractall(place, filter="fully_trusted")
    shutil.copy(SYSTEMS / "base.rpm", place)
    (place / "etc/hostname").write_text(f"{host.name}\n")
    tun = directory / "tun"  # with the mode that udev gives it; the host's may be another
    if not tun.exists():
        os.mknod(tun, 0o600 | stat.S_IFCHR, os.makedev(10, 200))
        tun.chmod(0o666)
    log = (directory / f"boot-{host.name}.log").open("wb")
    process = subprocess.Popen(
        [
            "systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--boot",
            f"--directory={place}", f"--machine={host.name}", f"--bind={tun}:/dev/net/tun",
            "--capability=CAP_NET_ADMIN,CAP_NET_RAW", "--resolv-conf=off", "--link-journal=no",
            f"--network-namespace-path=/proc/{host.pid}/ns/net",
        ],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        preexec_fn=die_with_parent,
    )  # fmt: skip
    leader = 0
    try:
        leader = until("a leader", lambda: _leader(process.pid), within_s=60)
        guest = Guest(place, leader)
        until(f"{system} is up", lambda: _is_up(guest), within_s=300)
        try:
            yield guest
        except BaseException:
            print(guest.run("journalctl -b --no-pager -u 'cairn-*' | tail -n 60", check=False))
            raise
    finally:
        if leader and process.poll() is None:
            os.kill(leader, signal.SIGKILL)  # it outlives a systemd-nspawn that is killed
        process.kill()
        process.wait()
        log.close()
        time.sleep(0.5)
        shutil.rmtree(place, ignore_errors=True)


def _leader(pid: int) -> int | None:
    """Return the process that is number one inside, by its number outside."""
    waiting = [pid]
    while waiting:
        one = waiting.pop()
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{one}/status").read_text()
            numbers = next(line for line in status.split("\n") if line.startswith("NSpid:"))
            if numbers.split()[-1] == "1" and len(numbers.split()) > 2:
                return one
            children = Path(f"/proc/{one}/task/{one}/children").read_text()
            waiting += [int(child) for child in children.split()]
    return None


def _is_up(guest: Guest) -> bool:
    state = guest.run("systemctl is-system-running", check=False)
    return state.strip() in ("running", "degraded")
