"""The machine's screen and its serial line: both show all, and both may answer."""

from __future__ import annotations

import os
import select
import time
from collections.abc import Sequence

TERMINALS = ("/dev/tty1", "/dev/ttyS0")
_MOST_OCTETS = 4096  # of a line that somebody types
_TAKEN_WITHIN_S = 2.0  # 115200 baud are 11 KiB/s
_PAUSE_S = 0.2


class Screen:
    """The terminals that are there."""

    def __init__(self, terminals: Sequence[str] = TERMINALS) -> None:
        self._files: list[int] = []
        for terminal in terminals:
            try:
                self._files.append(os.open(terminal, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK))
            except OSError:
                continue  # no such device in this machine

    def say(self, text: str = "") -> None:
        """Write lines to all of them; one that takes nothing is not waited for long."""
        octets = "".join(f"{_printable(line)}\r\n" for line in text.split("\n")).encode()
        for file in list(self._files):
            self._write(file, octets)

    def ask(self, question: str, within_s: float | None = None) -> str | None:
        """Return the line that somebody types on any of them, None where nobody does in time."""
        for file in list(self._files):
            self._write(file, f"{question} ".encode())
        while True:
            ready, _, _ = select.select(self._files, [], [], within_s)
            if not ready:
                return None
            for file in ready:
                line = self._read(file)
                if line is not None:
                    return line

    def _write(self, file: int, octets: bytes) -> None:
        end = time.monotonic() + _TAKEN_WITHIN_S
        while octets and (left_s := end - time.monotonic()) > 0:
            _, ready, _ = select.select([], [file], [], left_s)
            try:
                octets = octets[os.write(file, octets) :] if ready else octets
            except BlockingIOError:
                time.sleep(_PAUSE_S)
            except OSError:
                self._files.remove(file)  # a serial port that the machine hasn't got
                return

    def _read(self, file: int) -> str | None:
        try:
            octets = os.read(file, _MOST_OCTETS)
        except BlockingIOError:
            return None
        except OSError:
            self._files.remove(file)
            return None
        if not octets:  # Ctrl-D, or nobody at the other end
            time.sleep(_PAUSE_S)
            return None
        return octets.decode("utf-8", "replace").strip()


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
