"""Where something is missing the rest of the tests runs, and the last lines say what did not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab.cairn import AS_NOBODY

pytestmark = pytest.mark.root

ROOT = Path(__file__).resolve().parents[2]
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]


def test_without_root_the_last_lines_say_what_did_not_run_and_why() -> None:
    files = ["tests/integration/test_lab.py", "tests/integration/test_demo.py"]
    done = _run([*AS_NOBODY, *PYTEST, *files])

    lines = done.stdout.strip().splitlines()
    assert done.returncode in (0, 5), done.stdout + done.stderr
    assert lines[-1].startswith("NOT RUN: ") and lines[-1].endswith("network namespaces: not root")
    assert "Traceback" not in done.stdout + done.stderr


def test_without_dev_net_tun_only_the_tests_that_need_it_do_not_run() -> None:
    hide = 'mount -t tmpfs none /dev/net && exec "$@"'
    node = "tests/integration/test_lab.py::test_loss_is_counted_from_sequence_numbers"
    files = [node, "tests/integration/test_main_job_traffic.py"]
    done = _run(["unshare", "-m", "sh", "-c", hide, "sh", *PYTEST, *files])

    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith("NOT RUN: ")
    assert last.endswith("real TAP devices: /dev/net/tun: No such file or directory")


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    # What these runs leave out is not what the run around them leaves out.
    environment = {name: value for name, value in os.environ.items() if name != "CAIRN_NOT_RUN"}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=100
    )
