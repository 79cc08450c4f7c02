"""A program running in a lab machine, with its log."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import time
from pathlib import Path

from tests.lab.errors import LabError, NotInTimeError
from tests.lab.wait import until

_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None, use_errno=True)


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Ask the kernel for a signal to this process when its parent dies, even by SIGKILL."""
    _LIBC.prctl(_PR_SET_PDEATHSIG, number)


def children_of(pid: int) -> list[int]:
    """Return the PIDs of the direct children of `pid`; none if it has gone."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [int(child) for child in text.split()]


def kill_tree(pid: int) -> None:
    """Kill a process and all its descendants, the youngest first."""
    doomed = [pid]
    for each in doomed:
        doomed.extend(children_of(each))
    for each in reversed(doomed):
        with contextlib.suppress(ProcessLookupError):
            os.kill(each, signal.SIGKILL)


class Program:
    """A program in a machine: nsenter outside, the program itself as its child inside.

    Signals go to the program itself; `stop` ends it politely and then by force.
    """

    def __init__(
        self, name: str, argv: list[str], *, env: dict[str, str], log: Path, supervised: bool
    ) -> None:
        self.name = name
        self.log = log
        self._supervised = supervised
        self._begins = log.stat().st_size if log.exists() else 0  # an earlier run's output
        with log.open("ab") as output:
            self._outer = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=env,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    @property
    def running(self) -> bool:
        """Say whether the program (or its supervisor) is still there."""
        return self._outer.poll() is None

    def is_asleep(self) -> bool:
        """Say whether the program waits for something, or has ended (proc(5))."""
        inner = self._top_inside()
        if inner is None:
            return not self.running
        try:
            stat = Path(f"/proc/{inner}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return True
        return stat.rpartition(")")[2].split()[0] in ("S", "Z")

    @property
    def status(self) -> int | None:
        """Return the exit status, or None while it runs."""
        return self._outer.poll()

    @property
    def pid(self) -> int:
        """Return the program's PID as seen outside; raise LabError if it is not running.

        For a supervised program this is the program of now, not its supervisor.
        """
        return until(f"{self.name} runs", self._pid_now, within_s=5)

    def text(self) -> str:
        """Return what this program has logged so far."""
        return self.log.read_bytes()[self._begins :].decode(errors="replace")

    def wait_for_log(self, text: str, *, within_s: float) -> None:
        """Wait until the log has `text`; raise with the log's end if it does not come."""

        def seen() -> bool:
            if text in self.text():
                return True
            if not self.running:
                raise LabError(f"{self.name} ended with {self.status}:\n{self.tail()}")
            return False

        try:
            until(f"{self.name} logs {text!r}", seen, within_s=within_s)
        except NotInTimeError as error:
            raise NotInTimeError(f"{error}; its log ends:\n{self.tail()}") from None

    def tail(self, lines: int = 15) -> str:
        """Return the last lines of the log."""
        return "\n".join(self.text().splitlines()[-lines:])

    def send_signal(self, number: int) -> None:
        """Send a signal to the program itself (not to its supervisor)."""
        os.kill(self.pid, number)

    def resume(self) -> None:
        """Let a program go on after a SIGSTOP, and what started it: it stops with it."""
        for pid in (self.pid, self._outer.pid):
            os.kill(pid, signal.SIGCONT)

    def kill(self) -> int:
        """Kill the program with SIGKILL; return the PID it had. A supervisor restarts it."""
        pid = self.pid
        os.kill(pid, signal.SIGKILL)
        return pid

    def kill_for_good(self) -> None:
        """Kill the program and its supervisor with SIGKILL: nobody starts it again."""
        self._kill_all()

    def wait(self, *, within_s: float) -> int:
        """Wait for the end and return the exit status."""
        # nsenter stops itself with its child, and nobody continues it when the child goes on.
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._outer.pid, signal.SIGCONT)
        try:
            return self._outer.wait(within_s)
        except subprocess.TimeoutExpired:
            raise NotInTimeError(f"{self.name} still runs after {within_s:g} s") from None

    def stop(self, *, within_s: float = 5.0, number: int = signal.SIGTERM) -> None:
        """End the program (and its supervisor); SIGKILL what is left after `within_s`."""
        if not self.running:
            return
        inner = self._top_inside()
        if inner is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(inner, number)
        try:
            self._outer.wait(within_s)
        except subprocess.TimeoutExpired:
            self._kill_all()

    def _kill_all(self) -> None:
        kill_tree(self._outer.pid)
        self._outer.wait(5)

    def _top_inside(self) -> int | None:
        deadline = time.monotonic() + 1.0  # nsenter forks within milliseconds
        while self.running and time.monotonic() < deadline:
            if found := children_of(self._outer.pid):
                return found[0]
            time.sleep(0.005)
        return None

    def _pid_now(self) -> int | None:
        if not self.running:
            raise LabError(f"{self.name} ended with {self.status}:\n{self.tail()}")
        top = self._top_inside()
        if top is None or not self._supervised:
            return top
        below = children_of(top)
        return below[0] if below else None
