"""Nobody writes a core of a program that has keys in its memory, however it was started.

    one LAN:   appliance (with its etcd)   node

All are started with an unlimited core limit, in a directory that cores would be written to.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lab import Lab, until
from tests.lab.cairn import Appliance, Node, missing_programs
from tests.lab.program import children_of

pytestmark = [pytest.mark.root, pytest.mark.tun, pytest.mark.etcd, pytest.mark.timeout(180)]

PATTERN = Path("/proc/sys/kernel/core_pattern")


@dataclass
class Premises:
    """The programs, and the directory that they run in."""

    appliance: Appliance
    node: Node
    directory: Path

    @property
    def etcd(self) -> int:
        """The process of etcd."""
        return until(
            "etcd runs",
            lambda: next((pid for pid in children_of(self.appliance.pid) if is_etcd(pid)), None),
            within_s=30,
        )

    def pids(self) -> dict[str, int]:
        """The processes by name."""
        assert self.node.agent is not None
        assert self.node.dataplane is not None
        return {
            "appliance": self.appliance.pid,
            "etcd": self.etcd,
            "agent": self.node.agent.pid,
            "data plane": self.node.dataplane.pid,
        }

    def cores(self) -> list[str]:
        """The core files there are."""
        return [path.name for path in self.directory.iterdir() if path.name.startswith("core")]

    def abort(self, pid: int) -> None:
        """Have a process dump core, if it may, and wait for its end."""
        os.kill(pid, signal.SIGABRT)
        until(f"process {pid} ended", lambda: not Path(f"/proc/{pid}").exists(), within_s=60)


def is_etcd(pid: int) -> bool:
    return b"etcd" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]


def core_limits(pid: int) -> list[str]:
    """Return the soft and the hard limit."""
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return next(line for line in lines if line.startswith("Max core file size")).split()[4:6]


def allow_cores(pid: int) -> None:
    """Lift the limit from outside, as root may: what is left is that it is not dumpable."""
    resource.prlimit(pid, resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


@pytest.fixture(scope="module")
def premises() -> Iterator[Premises]:
    if missing := missing_programs():
        pytest.fail(f"not built: {', '.join(missing)}; run make setup")
    with Lab("cores") as lab:
        lan = lab.site("lan")
        directory = lab.directory / "cores"
        directory.mkdir()
        start = ["env", "-C", str(directory), "prlimit", "--core=unlimited"]
        appliance = Appliance(lan.host("appliance", number=10))
        appliance.host.env["GOTRACEBACK"] = "crash"  # etcd, too, would dump if it may
        appliance.init()
        appliance.begin(prefix=start)
        node = Node(lan.host("node"))
        node.start(agent_prefix=start)
        until("the appliance is ready", appliance.is_ready, within_s=60)
        until("the agent answers", node.answers, within_s=60)
        yield Premises(appliance, node, directory)


def test_each_process_has_a_core_limit_of_its_own(premises: Premises) -> None:
    limits = {name: core_limits(pid) for name, pid in premises.pids().items()}

    assert limits == dict.fromkeys(limits, ["0", "0"])


def test_none_leaves_a_core_when_it_is_aborted(premises: Premises) -> None:
    appliance = premises.appliance
    aborts = [sys.executable, "-c", "import os; os.abort()"]
    appliance.host.run(
        ["env", "-C", str(premises.directory), "prlimit", "--core=unlimited", *aborts], check=False
    )
    if not premises.cores():
        pytest.skip(f"cores are written elsewhere: core_pattern is {PATTERN.read_text().strip()}")
    for name in premises.cores():
        (premises.directory / name).unlink()

    premises.abort(premises.etcd)
    until("etcd is back", appliance.is_ready, within_s=60)
    pids = premises.pids()
    for name in ("agent", "appliance"):
        allow_cores(pids[name])
        premises.abort(pids[name])

    assert premises.cores() == []
