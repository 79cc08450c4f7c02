"""`make demo`: it proves what it says, and leaves nothing behind however it ends."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from tests.demo.__main__ import _proved
from tests.demo.proofs import ALONE, CONNECTED, OFFICE_LAN, RETURN, ProofFailed
from tests.demo.show import Show
from tests.lab import NotInTimeError, until
from tests.lab.cairn import AS_NOBODY
from tests.lab.program import children_of
from tests.lab.sweep import runs_directory, sweep
from tests.proofs import record

pytestmark = [pytest.mark.root, pytest.mark.tun, pytest.mark.etcd]

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "tests.demo"]


@dataclass(frozen=True, slots=True)
class Running:
    """A demo that runs, with what it says."""

    process: subprocess.Popen[bytes]
    out: Path
    errors: Path


@pytest.fixture(scope="module")
def demos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Running]]:
    """Two demos at once, one of each kind: they must not get into each other's way."""
    started = {}
    for name, arguments in (("once", ["--once"]), ("stays", [])):
        directory = tmp_path_factory.mktemp(name)
        out, errors = directory / "out", directory / "errors"
        with out.open("wb") as to_out, errors.open("wb") as to_errors:
            process = subprocess.Popen(
                [*COMMAND, *arguments], cwd=ROOT, stdout=to_out, stderr=to_errors
            )
        started[name] = Running(process, out, errors)
    yield started
    for demo in started.values():
        if demo.process.poll() is None:
            demo.process.terminate()
            demo.process.wait(20)


@pytest.mark.timeout(330)
def test_the_demo_ends_by_itself_and_proves_every_line(demos: dict[str, Running]) -> None:
    demo = demos["once"]
    status = demo.process.wait(300)  # other tests have most of the processors

    said = demo.out.read_text()
    assert status == 0, said + demo.errors.read_text()
    _assert_every_proof_held(said)
    assert not demo.errors.read_text()
    assert not _files_of(demo.process.pid)


def test_a_demo_that_stays_up_can_be_reached_and_ends_with_0_on_ctrl_c(
    demos: dict[str, Running],
) -> None:
    demo = demos["stays"]
    until("it is up", lambda: "Ctrl-C ends the demo" in demo.out.read_text(), within_s=110)
    until("it says all", lambda: "web-1 ping" in demo.out.read_text(), within_s=5)
    _assert_every_proof_held(demo.out.read_text())
    url = re.search(r"(https://\S+)", demo.out.read_text())
    assert url, "it says where the appliance is"
    namespaces = _namespaces_of(demo.process.pid)

    reached = subprocess.run(
        [sys.executable, "-c", _IS_HEALTHY, url[1]], capture_output=True, text=True, check=False
    )
    commands = re.findall(r"(build/demo/in \S+ cairn.*)", demo.out.read_text())
    shown = [subprocess.run(c.split(), cwd=ROOT, capture_output=True, text=True) for c in commands]
    demo.process.send_signal(signal.SIGINT)
    status = demo.process.wait(20)

    assert len(shown) == 3 and all(done.returncode == 0 for done in shown), shown
    nodes, peers, gateways = (done.stdout for done in shown)
    assert all(name in said for said in (nodes, peers) for name in ("web-1", "db-1", "desk-1"))
    assert "gate-1" in gateways and "gate-2" in gateways
    assert not (ROOT / "build" / "demo").is_symlink()
    assert reached.stdout.strip() == "200", reached.stderr
    assert status == 0
    assert not demo.errors.read_text()
    assert not _left_of(demo.process.pid, namespaces) + _files_of(demo.process.pid)


_IS_HEALTHY = """
import ssl, sys, urllib.request
context = ssl._create_unverified_context()
print(urllib.request.urlopen(sys.argv[1] + "/healthz", context=context, timeout=5).status)
"""


def _assert_every_proof_held(said: str) -> None:
    for name, _ in (*CONNECTED, *OFFICE_LAN, *ALONE, *RETURN):
        assert re.search(rf" s  ok  {re.escape(name)}", said), (name, said)
    assert "FAILED" not in said


# Where it is interrupted: while it builds, when etcd runs, when nodes have joined. (At the end:
# see the demo that stays up.)
MOMENTS = {
    "three sites": signal.SIGINT,
    "the appliance runs": signal.SIGTERM,
    "joined with a token": signal.SIGKILL,
}
_left_in_all: list[str] = []


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        pytest.param(*each, marks=[] if each[1] == signal.SIGKILL else [pytest.mark.slow])
        for each in MOMENTS.items()
    ],
    ids=list(MOMENTS),
)
def test_an_interrupted_demo_leaves_nothing_behind(moment: str, number: signal.Signals) -> None:
    demo = subprocess.Popen(
        COMMAND, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert demo.stdout is not None and demo.stderr is not None
    for line in demo.stdout:
        if moment in line:
            break
    else:
        pytest.fail(f"the demo never said {moment!r}: {demo.stderr.read()}")
    namespaces = _namespaces_of(demo.pid)
    assert len(namespaces) >= 4, "three routers and the internet at least"

    demo.send_signal(number)
    status = demo.wait(20)
    said = demo.stderr.read()
    demo.stdout.close()
    demo.stderr.close()

    assert status == (-9 if number == signal.SIGKILL else 128 + number)
    assert "Traceback" not in said
    left = _left_of(demo.pid, namespaces)
    if number == signal.SIGKILL:
        sweep()  # files only: what the next demo or test does first
    left += _files_of(demo.pid)
    _left_in_all.extend(left)
    assert record(
        "DEMO-clean",
        what="demo interrupted by SIGINT, SIGTERM, SIGKILL: processes, links, namespaces, files",
        bar="0 left",
        value=len(_left_in_all),
        unit="things",
        holds=not _left_in_all,
    ), _left_in_all


def test_a_proof_that_fails_is_told_in_a_sentence() -> None:
    out = io.StringIO()

    def fails(_stage: object) -> str:
        raise ProofFailed("3 of 9 pings came back over IPv4")

    show = Show(Console(file=out, highlight=False, width=120))
    assert not _proved(("every node pings every other", fails), None, show)  # type: ignore[arg-type]
    assert "FAILED  every node pings every other" in out.getvalue()
    assert "3 of 9 pings came back over IPv4" in out.getvalue()


def test_without_root_the_demo_says_so() -> None:
    done = subprocess.run(
        [*AS_NOBODY, *COMMAND], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 6, done.stderr
    assert "needs root" in done.stderr and "sudo make demo" in done.stderr


def _namespaces_of(pid: int) -> set[str]:
    """Return the network namespaces, other than ours, of a process's descendants."""
    tree = [pid]
    for each in tree:
        tree.extend(children_of(each))
    return {found for each in tree if (found := _namespace(each))} - {_namespace(os.getpid())}


def _left_of(pid: int, namespaces: set[str]) -> list[str]:
    """Return processes that still live in these namespaces, and links of the demo here."""

    def left() -> list[str]:
        numbers = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
        processes = [f"process {n}" for n in numbers if _namespace(n) in namespaces]
        return processes + [f"link {link}" for link in _links() if link == f"cairn{pid}"]

    try:
        until("nothing is left", lambda: not left(), within_s=20)
    except NotInTimeError:
        return left()
    return []


def _files_of(pid: int) -> list[str]:
    return sorted(map(str, runs_directory().glob(f"run-{pid}-*")))


def _namespace(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/ns/net").readlink())
    except OSError:
        return ""  # it has just ended


def _links() -> list[str]:
    return os.listdir("/sys/class/net")  # noqa: PTH208 - names are what is wanted
