"""The program that the image runs on each terminal, on a real one, in a file system of its own.

Root's side is the test: it sees what is asked for. Nothing of this machine is changed.
"""

from __future__ import annotations

import os
import pty
import select
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import argon2
import msgspec
import pytest
from cairn_appliance.image import request
from cairn_appliance.image.request import Answer, SetUp

from tests.lab.wait import until

pytestmark = pytest.mark.root

PASSWORD = "a password that is nowhere to be seen"
_MODULE = "cairn_appliance.image.main"


class Seat:
    """The program on a terminal, and who sits there."""

    def __init__(self, place: Path) -> None:
        self.shown = ""
        self._ours, self.terminal = pty.openpty()
        mounts = {"cmdline": "/proc/cmdline", "run": "/run", "lib": "/var/lib"}
        script = "".join(f"mount --bind {place / name} {at} && " for name, at in mounts.items())
        command = ["unshare", "--mount", "sh", "-c", script + 'exec "$@"', "sh"]
        with (place / "stderr").open("wb") as errors:
            self.program = subprocess.Popen(
                [*command, sys.executable, "-m", _MODULE, "screen"],
                stdin=self.terminal,
                stdout=self.terminal,
                stderr=errors,
            )

    def types(self, line: str) -> None:
        os.write(self._ours, line.encode() + b"\r")

    def sees(self, text: str) -> None:
        """Wait for it; what came up to it is not looked at again."""
        start = len(self.shown)

        def is_there() -> bool:
            if select.select([self._ours], [], [], 0.2)[0]:
                self.shown += os.read(self._ours, 65_536).decode()
            return text in self.shown[start:]

        until(f"{text!r} is shown", is_there, within_s=60)

    def close(self) -> None:
        self.program.kill()
        self.program.wait(timeout=10)
        os.close(self._ours)
        os.close(self.terminal)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "cmdline").write_text("root=x cairn.slot=a quiet\n")
    (tmp_path / "run/cairn-image").mkdir(parents=True)
    (tmp_path / "lib").mkdir()
    return tmp_path


@pytest.fixture
def root_side(place: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(place / "run" / request.SOCKET.name))
        listening.listen()
        listening.settimeout(60)
        yield listening


@pytest.fixture
def seat(place: Path, root_side: socket.socket) -> Iterator[Seat]:
    sitting = Seat(place)
    yield sitting
    sitting.close()
    print(sitting.shown, (place / "stderr").read_text())


def answered(listening: socket.socket) -> request.Request:
    """Say yes to the next request; return it."""
    connection, _ = listening.accept()
    with connection:
        asked = request.decode(request.read_line(connection))
        connection.sendall(msgspec.json.encode(Answer()) + b"\n")
    return asked


def test_a_cluster_is_asked_for_and_the_password_is_nowhere(
    seat: Seat, place: Path, root_side: socket.socket
) -> None:
    seat.sees("not set up")
    assert not termios.tcgetattr(seat.terminal)[3] & (termios.ECHO | termios.ICANON | termios.ISIG)
    seat.types("")
    seat.sees("Number: ")
    seat.types("2")
    seat.sees("Name of this machine")
    seat.types("cairn-7")
    seat.sees("Addresses or names")
    seat.types("192.0.2.10 cairn.example")
    for prompt in ("New password", "The same again"):
        seat.sees(prompt)
        time.sleep(0.2)  # an echo of the kernel's, if there were one, would be shown
        seat.types(PASSWORD)
    seat.sees("Type yes")
    seat.types("yes")
    asked = answered(root_side)
    assert isinstance(asked, SetUp) and asked.hostname == "cairn-7"
    assert asked.cluster.addresses == ["192.0.2.10", "cairn.example"]
    assert argon2.PasswordHasher().verify(asked.cluster.admin_password_hash, PASSWORD)
    seat.sees("makes the cluster")
    (place / "run/cairn-image/problem").write_text("it can't be\nbecause of the test\n")
    seat.sees("because of the test")
    assert PASSWORD not in seat.shown
    arguments = Path(f"/proc/{seat.program.pid}/cmdline").read_bytes()
    assert b"screen" in arguments and PASSWORD.encode() not in arguments
    for path in place.rglob("*"):
        if path.is_file():
            assert PASSWORD.encode() not in path.read_bytes(), path


def test_control_c_and_a_lost_terminal_end_nothing_else(
    seat: Seat, root_side: socket.socket
) -> None:
    seat.sees("not set up")
    seat.types("")
    seat.sees("Number: ")
    seat.types("7")
    seat.sees("Type ")
    seat.types("\x1b[A\x00\x1a\x1c\x03")
    seat.sees("nothing more was done")
    seat.types("\x04")
    seat.sees("Enter opens the menu")
    assert seat.program.poll() is None
    root_side.setblocking(False)
    with pytest.raises(BlockingIOError):
        root_side.accept()
