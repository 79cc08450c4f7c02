"""Lines are read whole, whatever keys were pressed, and shown without what moves a cursor."""

from __future__ import annotations

import contextlib
import os
import pty
import select
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from cairn_appliance.image import terminal
from cairn_appliance.image.dialogue import NotAnswered, WentBack
from cairn_appliance.image.terminal import MOST_CHARACTERS, HungUp, Line, Terminal
from hypothesis import given
from hypothesis import strategies as st


class Side:
    """The other end of a terminal."""

    def __init__(self, file: int) -> None:
        self._file = file

    def types(self, text: str | bytes) -> None:
        octets = text.encode() if isinstance(text, str) else text
        threading.Thread(target=self._write, args=(octets,), daemon=True).start()

    def _write(self, octets: bytes) -> None:
        while octets:
            octets = octets[os.write(self._file, octets) :]

    def shown(self, end: str = "\n", within: str = "") -> str:
        """Return what was shown, up to that end, once it has that within."""
        got = b""
        while not (got.endswith(end.encode()) and within.encode() in got):
            if not select.select([self._file], [], [], 5)[0]:
                break
            got += os.read(self._file, 65_536)
        return got.decode()


@pytest.fixture
def line() -> Iterator[tuple[Side, Terminal]]:
    ours, theirs = pty.openpty()
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, theirs)
        stack.callback(os.close, ours)
        yield Side(ours), stack.enter_context(terminal.opened(theirs, theirs))


def test_a_line_is_shown_as_it_is_typed(line: tuple[Side, Terminal]) -> None:
    side, talk = line
    side.types("  cairn-2x\x7f1\r")
    assert talk.ask("Name: ") == "cairn-21"
    assert side.shown() == "Name:   cairn-2x\b \b1\r\n"


def test_a_password_is_not_shown_and_taken_as_it_is(line: tuple[Side, Terminal]) -> None:
    side, talk = line
    side.types(" pass wörd \r")
    assert talk.ask("Password: ", hidden=True, within_s=5) == " pass wörd "
    assert side.shown() == "Password: \r\n"


def test_a_line_longer_than_the_kernel_would_edit_comes_whole(line: tuple[Side, Terminal]) -> None:
    side, talk = line
    string = "cairn-join1." + "x" * 6000
    side.types(string + "\n")
    assert talk.ask("", hidden=True, within_s=10) == string


def test_a_line_that_is_too_long_is_asked_for_again(line: tuple[Side, Terminal]) -> None:
    side, talk = line
    side.types("y" * (MOST_CHARACTERS + 1) + "\rshort\r")
    assert talk.ask("", hidden=True, within_s=10) == "short"
    assert "longer than" in side.shown(within="longer than")


@pytest.mark.parametrize("key", ["\x03", "\x04"])
def test_control_c_and_control_d_go_back(line: tuple[Side, Terminal], key: str) -> None:
    side, talk = line
    side.types("half" + key)
    with pytest.raises(WentBack):
        talk.ask("", within_s=5)
    side.types(key)
    with pytest.raises(WentBack):
        talk.pause(5)


def test_nobody_is_waited_for_for_ever(line: tuple[Side, Terminal]) -> None:
    side, talk = line
    side.types("half a line")
    with pytest.raises(NotAnswered):
        talk.ask("", within_s=0.3)
    assert not talk.has_enter(0.1)


@pytest.mark.parametrize("end", ["\r", "\n", "\r\n"])
def test_each_way_to_end_a_line_ends_one(line: tuple[Side, Terminal], end: str) -> None:
    side, talk = line
    side.types(f"one{end}two{end}")
    assert [talk.ask("", within_s=5), talk.ask("", within_s=5)] == ["one", "two"]


def test_a_stop_character_stops_nothing_and_the_terminal_is_given_back() -> None:
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    with terminal.opened(theirs, theirs) as talk:
        Side(ours).types("\x13a\r")
        assert talk.ask("", within_s=5) == "a"
    assert termios.tcgetattr(theirs) == before
    os.close(theirs)
    os.close(ours)


def test_a_terminal_that_is_gone_ends_it() -> None:
    ours, theirs = pty.openpty()
    with terminal.opened(theirs, theirs) as talk:
        os.close(ours)
        with pytest.raises(HungUp):
            talk.ask("", within_s=5)
    os.close(theirs)


def test_what_others_wrote_moves_no_cursor(line: tuple[Side, Terminal]) -> None:
    side, talk = line
    talk.say("a\x1b[2Jb\rc\u202ed\ne")
    assert side.shown("e\r\n") == "a\\x1b[2Jb\\rc\\u202ed\r\ne\r\n"


@pytest.mark.parametrize(
    "keys",
    ["\x1b[A", "\x1bOP", "\x1b[15~", "\x1b[1;5C", "\x1bb", "\t", "\x00", "\x1b[200~", "\x9b"],
)
def test_keys_that_are_no_characters_are_nothing(keys: str) -> None:
    made = Line()
    for character in f"a{keys}b":
        made.add(character)
    assert made.text == "ab"


def test_all_of_a_line_can_be_taken_away() -> None:
    made = Line()
    shown = "".join(made.add(character) for character in "abc\x15\x7fd")
    assert made.text == "d" and shown == "abc" + "\b \b" * 3 + "d"


@given(st.text(), st.booleans())
def test_any_keys_leave_a_line_that_can_be_shown(keys: str, hidden: bool) -> None:
    made = Line(hidden=hidden)
    shown = "".join(made.add(character) for character in keys)
    assert made.text.isprintable() and shown.replace("\b", "").isprintable()
    assert not (hidden and shown)


@given(st.binary(max_size=300))
def test_any_octets_are_read_without_harm(octets: bytes) -> None:
    source, sink = os.pipe()
    os.write(sink, octets + b"\x1b[~\r")
    os.close(sink)
    with Path(os.devnull).open("wb") as nowhere:
        talk = Terminal(source, nowhere.fileno())
        with contextlib.suppress(WentBack, HungUp):
            assert talk.ask("", within_s=5).isprintable()
    os.close(source)
