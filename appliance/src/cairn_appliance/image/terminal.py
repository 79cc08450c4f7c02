"""A terminal, be it a screen or a serial line, read octet by octet.

The kernel's own line editing would cut a pasted line after 4,096 octets, so it is done here:
backspace, Ctrl-U, and Ctrl-C or Ctrl-D to go back; whatever else is no character is ignored.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import select
import termios
import time
from collections.abc import Iterator

from cairn_appliance.domain.errors import CairnError
from cairn_appliance.image.dialogue import IDLE_S, NotAnswered, WentBack

MOST_CHARACTERS = 8192  # of a line; a join string has some 500
_MOST_AHEAD = 64 * 1024  # octets that were typed and not asked for yet
_READ_OCTETS = 4096
_CLEAR = "\x1b[H\x1b[2J"
_ENTER = ("\r", "\n")
_BACK = ("\x03", "\x04")
_ERASE = ("\x7f", "\x08")
_KILL = "\x15"
_ESCAPE = "\x1b"


class HungUp(CairnError):
    """The terminal is gone."""

    code = "hung_up"
    remedy = "nothing: it is opened anew"


class Line:
    """One line in the making."""

    def __init__(self, *, hidden: bool = False) -> None:
        self.text = ""
        self.is_too_long = False
        self._hidden = hidden
        self._escape = ""  # what has come of a key's sequence

    def add(self, character: str) -> str:
        """Take in one character that doesn't end the line; return what to show."""
        if self._escape or character == _ESCAPE:
            self._add_to_escape(character)
            return ""
        if character in _ERASE:
            return self._take_away(1)
        if character == _KILL:
            return self._take_away(len(self.text))
        if not character.isprintable():
            return ""
        if len(self.text) >= MOST_CHARACTERS:
            self.is_too_long = True
            return ""
        self.text += character
        return "" if self._hidden else character

    def _take_away(self, count: int) -> str:
        gone = min(count, len(self.text))
        self.text = self.text[: len(self.text) - gone]
        self.is_too_long = False
        return "" if self._hidden else "\b \b" * gone

    def _add_to_escape(self, character: str) -> None:
        """Leave out what arrows and function keys send: ESC x, ESC O x, ESC [ ... letter or ~."""
        self._escape += character
        second = self._escape[1:2]
        if not second or self._escape in ("\x1b[", "\x1bO"):
            return
        if second == "[" and not "@" <= character <= "~" and len(self._escape) < 16:
            return
        self._escape = ""


class Terminal:
    """Shows text and reads lines; made by `opened`."""

    def __init__(self, source: int, sink: int) -> None:
        self._source, self._sink = source, sink
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")
        self._ahead = ""
        self._after_return = False

    def say(self, text: str) -> None:
        """Show a text and begin a new line."""
        self._write(printable(text) + "\n")

    def show_alone(self, text: str) -> None:
        """Show it on an empty screen."""
        self._write(_CLEAR + printable(text))

    def ask(self, prompt: str, *, hidden: bool = False, within_s: float = IDLE_S) -> str:
        """Return a line; raise WentBack, NotAnswered, HungUp."""
        while True:
            self._write(printable(prompt))
            line = self._line(hidden, time.monotonic() + within_s)
            self._write("\n")
            if not line.is_too_long:
                return line.text if hidden else line.text.strip()
            self.say(f"The line is longer than {MOST_CHARACTERS} characters.")

    def pause(self, seconds: float) -> None:
        """Wait; raise WentBack where that is typed. What else is typed is dropped."""
        end = time.monotonic() + seconds
        with contextlib.suppress(NotAnswered):
            while True:
                if self._character(end) in _BACK:
                    raise WentBack("back")

    def has_enter(self, within_s: float) -> bool:
        """Say whether Enter was pressed by then; other keys are nothing."""
        end = time.monotonic() + within_s
        try:
            while self._character(end) not in _ENTER:
                pass
        except NotAnswered:
            return False
        return True

    def _line(self, hidden: bool, end: float) -> Line:
        line = Line(hidden=hidden)
        while True:
            character = self._character(end)
            if character in _ENTER:
                return line
            if character in _BACK:
                self._write("\n")
                raise WentBack("back")
            self._write(line.add(character))

    def _character(self, end: float) -> str:
        """Return the next one, a line's end as one; raise NotAnswered, HungUp."""
        while True:
            if not self._ahead:
                self._read(end)
                continue
            character, self._ahead = self._ahead[0], self._ahead[1:]
            is_second_half = character == "\n" and self._after_return
            self._after_return = character == "\r"
            if not is_second_half:
                return character

    def _read(self, end: float) -> None:
        left = end - time.monotonic()
        if left <= 0 or not select.select([self._source], [], [], left)[0]:
            raise NotAnswered("nobody answered in time")
        try:
            octets = os.read(self._source, _READ_OCTETS)
        except OSError as error:
            raise HungUp(f"the terminal is gone: {error.strerror}") from error
        if not octets:
            raise HungUp("the terminal is gone")
        self._ahead = (self._ahead + self._decoder.decode(octets))[:_MOST_AHEAD]

    def _write(self, text: str) -> None:
        octets = text.encode("utf-8", "replace")
        try:
            while octets:
                octets = octets[os.write(self._sink, octets) :]
        except OSError as error:
            raise HungUp(f"the terminal is gone: {error.strerror}") from error


@contextlib.contextmanager
def opened(source: int, sink: int) -> Iterator[Terminal]:
    """Have the terminal without the kernel's echo, line editing, signals and stop character."""
    before = termios.tcgetattr(source)
    wanted = termios.tcgetattr(source)
    wanted[0] &= ~(termios.IXON | termios.ICRNL | termios.INLCR | termios.IGNCR)
    wanted[1] |= termios.OPOST | termios.ONLCR
    wanted[3] &= ~(termios.ECHO | termios.ICANON | termios.ISIG | termios.IEXTEN)
    wanted[6][termios.VMIN], wanted[6][termios.VTIME] = 1, 0
    termios.tcsetattr(source, termios.TCSANOW, wanted)
    try:
        yield Terminal(source, sink)
    finally:
        with contextlib.suppress(termios.error):
            termios.tcsetattr(source, termios.TCSANOW, before)


def printable(text: str) -> str:
    """Return the text with its lines, and every other control character made visible."""
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text
    )
