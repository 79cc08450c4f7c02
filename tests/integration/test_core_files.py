"""Nobody writes a core of a program that has keys in its memory, however it was started.

    one LAN:   appliance (with its etcd)   node

All are started without being root and with an unlimited core limit, in a directory that cores
would be written to.
"""

from __future__ import annotations

import os
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
NOBODY = 65534
# As the agent's unit has them, and one for what lies where only root may read and write here.
_CAPABILITIES = "+net_admin,+net_raw,+dac_override"
START = [
    *("prlimit", "--core=unlimited", "setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}"),
    *("--clear-groups", f"--inh-caps={_CAPABILITIES}", f"--ambient-caps={_CAPABILITIES}"),
]


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
        pids = {"appliance": self.appliance.pid, "etcd": self.etcd}
        return pids | {"agent": self.node.agent.pid}

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


def is_dumpable(pid: int) -> bool:
    """Of what is not, the kernel gives the files in /proc to root (proc(5))."""
    status = Path(f"/proc/{pid}/status").read_text()
    assert f"Uid:\t{NOBODY}\t" in status
    return Path(f"/proc/{pid}/environ").stat().st_uid == NOBODY


@pytest.fixture(scope="module")
def premises() -> Iterator[Premises]:
    if missing := missing_programs():
        pytest.fail(f"not built: {', '.join(missing)}; run make setup")
    with Lab("cores") as lab:
        lan = lab.site("lan")
        directory = lab.directory / "cores"
        directory.mkdir()
        os.chown(directory, NOBODY, NOBODY)
        start = ["env", "-C", str(directory), *START]
        appliance, node = Appliance(lan.host("appliance", number=10)), Node(lan.host("node"))
        appliance.host.env["GOTRACEBACK"] = "crash"  # etcd, too, would dump if it may
        appliance.init()
        for path in (lab.directory, appliance.host.directory, node.host.directory):
            path.chmod(0o711)
        appliance.host.run(["chown", "-R", str(NOBODY), str(appliance.data_dir)])
        appliance.begin(prefix=start)
        node.host.run(["install", "-d", "-o", str(NOBODY), "/run/cairn", str(node.state_dir)])
        node.start_agent(prefix=start)
        until("the appliance is ready", appliance.is_ready, within_s=60)
        until("the agent answers", node.answers, within_s=60)
        yield Premises(appliance, node, directory)


def test_each_process_has_a_core_limit_of_its_own(premises: Premises) -> None:
    limits = {name: core_limits(pid) for name, pid in premises.pids().items()}

    assert limits == {name: ["0", "0"] for name in limits}


def test_no_handler_is_given_a_core_of_what_has_keys(premises: Premises) -> None:
    """Which the limit doesn't see to (core(5)). etcd has no key in memory but its own TLS'."""
    dumpable = {name: is_dumpable(pid) for name, pid in premises.pids().items()}

    assert dumpable == {"appliance": False, "agent": False, "etcd": True}


def test_none_leaves_a_core_when_it_is_aborted(premises: Premises) -> None:
    aborts = [sys.executable, "-c", "import os; os.abort()"]
    command = ["env", "-C", str(premises.directory), *START, *aborts]
    premises.appliance.host.run(command, check=False)
    if not premises.cores():
        pytest.skip(f"cores are written elsewhere: core_pattern is {PATTERN.read_text().strip()}")
    for name in premises.cores():
        (premises.directory / name).unlink()

    for name in ("etcd", "agent", "appliance"):
        premises.abort(premises.pids()[name])

    assert premises.cores() == []
