"""Two machines joined by one veth: what every system is measured on."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass, field
from pathlib import Path

from tests.lab import ROOT, CommandError, Lab, LabError, Machine, Program, until

BUILT = (
    ROOT / "build" / "bench" / "bin"
)  # peers that Debian doesn't have, or not in a current version
SEARCHED = os.pathsep.join(
    [str(BUILT), "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"]
)
UNDERLAY_MTU = 1500
INNER_MTU = 1400  # of every L2 device and of nebula; the same room for all
NO_OFFLOADS = ["tx", "off", "rx", "off", "tso", "off", "gso", "off", "gro", "off"]
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(slots=True)
class End:
    """One of the two machines, and what a system runs on it."""

    machine: Machine
    number: int  # 1 or 2: the last part of its addresses
    programs: list[Program] = field(default_factory=list)
    device: str = "eth0"  # where the system's traffic enters

    @property
    def underlay(self) -> str:
        """The address on the veth."""
        return f"192.0.2.{self.number}"

    @property
    def inner(self) -> str:
        """The address that traffic goes to: on the system's device."""
        return self.underlay if self.device == "eth0" else f"10.99.0.{self.number}"

    @property
    def directory(self) -> Path:
        """For configurations and keys; it goes with the machine."""
        return self.machine.directory

    def file(self, name: str, text: str) -> Path:
        """Write a file that only root reads."""
        path = self.directory / name
        path.touch(mode=0o600)
        path.write_text(text)
        return path

    def own(self, program: Program) -> None:
        """Count a program's CPU and memory as the system's."""
        self.programs.append(program)

    def wait_for_device(self, device: str) -> None:
        """Wait until a program has made its device."""
        until(f"{device} on {self.machine.name}", lambda: self.has(device), within_s=10)

    def has(self, device: str) -> bool:
        """Say whether an interface is there."""
        return (
            self.machine.run(["test", "-e", f"/sys/class/net/{device}"], check=False).returncode
            == 0
        )

    def address(self, device: str, *, mtu: int = 0) -> None:
        """Give a device the inner address and bring it up."""
        self.device = device
        size = f"mtu {mtu} " if mtu else ""
        self.machine.ip(f"addr replace {self.inner}/24 dev {device}", f"link set {device} {size}up")

    def cpu_s(self) -> float:
        """Return the CPU seconds that the system's programs here have used so far."""
        return sum(_cpu_s(program.pid) for program in self.programs)

    def rss_mib(self) -> float:
        """Return the resident memory of the system's programs here."""
        return sum(_rss_kib(program.pid) for program in self.programs) / 1024

    def pin(self, cpus: set[int]) -> None:
        """Let the system's programs here run on these CPUs only."""
        for program in self.programs:
            for task in Path(f"/proc/{program.pid}/task").iterdir():
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setaffinity(int(task.name), cpus)

    def steer(self, cpus: set[int]) -> None:
        """Let the kernel process what arrives here on these CPUs (none: where it arrives)."""
        mask = f"{sum(1 << cpu for cpu in cpus):x}"
        for device in {"eth0", self.device}:
            switch = f"/sys/class/net/{device}/queues/rx-0/rps_cpus"
            self.machine.run(["sh", "-c", f"echo {mask} > {switch}"], check=False)


@dataclass(frozen=True, slots=True)
class Pair:
    """Both ends: traffic goes from `a` to `b`."""

    a: End
    b: End

    @property
    def ends(self) -> tuple[End, End]:
        """Both, to iterate over."""
        return self.a, self.b

    def answers(self, *, within_s: float) -> None:
        """Wait until the far end answers through the system."""
        ping = ["ping", "-n", "-c", "1", "-W", "1", self.b.inner]
        until(
            f"{self.b.inner} answers",
            lambda: self.a.machine.run(ping, check=False).returncode == 0,
            within_s=within_s,
        )

    def shows_plaintext(self) -> bool:
        """Say whether the wire shows what is sent through the system."""
        marker = b"markmark"
        capture = self.a.machine.capture("eth0")
        ping = ["ping", "-n", "-c", "3", "-i", "0.05", "-s", "200", "-p", marker.hex()]
        self.a.machine.run([*ping, self.b.inner])
        packets = capture.packets()
        if len(packets) < 6:
            raise LabError(f"the capture has {len(packets)} packets of at least 6")
        return any(marker in packet.frame for packet in packets)

    def switch_offloads_off(self) -> None:
        """Make the veth a plain wire: no superframes, whole checksums, nothing joined."""
        for end in self.ends:
            end.machine.run(["ethtool", "-K", "eth0", *NO_OFFLOADS])


def make_pair(lab: Lab) -> Pair:
    """Make two machines and the veth between them."""
    a, b = End(lab.machine("a"), 1), End(lab.machine("b"), 2)
    a.machine.ip(
        f"link add eth0 mtu {UNDERLAY_MTU} type veth "
        f"peer name eth0 mtu {UNDERLAY_MTU} netns {b.machine.pid}"
    )
    for end in (a, b):
        end.machine.env["PATH"] = SEARCHED
        end.machine.sysctl(net__ipv6__conf__default__accept_dad=0)
        end.machine.ip("link set eth0 up", f"addr add {end.underlay}/24 dev eth0")
    return Pair(a, b)


def fails(error: Exception) -> str:
    """Return an error of the lab as one line."""
    if isinstance(error, CommandError):
        last = error.output.strip().splitlines()[-1:] or [""]
        return f"exit {error.status}: {last[0]}"[:160]
    return str(error).splitlines()[0][:160]


def _cpu_s(pid: int) -> float:
    # The command name may have spaces and parentheses; the fields follow its last ")".
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _rss_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def machine_busy_s() -> float:
    """Return the CPU seconds this machine has been busy since boot: all but idle and steal."""
    user, nice, system, _, _, irq, softirq = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:8]
    )
    return (user + nice + system + irq + softirq) / _TICKS
