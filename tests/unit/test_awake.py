"""The clock that stops while this process stands still."""

from __future__ import annotations

import os
import subprocess
import sys
import time

from tests.awake import AwakeClock


def test_what_this_process_does_or_waits_for_counts() -> None:
    with AwakeClock() as clock:
        begun = time.monotonic()
        time.sleep(0.2)
        while time.monotonic() - begun < 0.4:
            pass
        assert clock.passed_s >= 0.35


def test_what_it_stood_still_does_not() -> None:
    script = f"""
import os, signal, time
time.sleep(0.2)
os.kill({os.getpid()}, signal.SIGSTOP)
time.sleep(1.0)
os.kill({os.getpid()}, signal.SIGCONT)
"""
    with AwakeClock() as clock:
        begun = time.monotonic()
        stopping = subprocess.Popen([sys.executable, "-I", "-S", "-c", script])
        stopping.wait()
        assert time.monotonic() - begun >= 1.2
        assert clock.passed_s < 1.0
