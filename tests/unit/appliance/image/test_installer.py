"""The installer writes only the disk that is meant, and says VERIFIED only of what it read back."""

from __future__ import annotations

import hashlib
import os
import pty
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from cairn_appliance.image import seed
from cairn_appliance.image.installer import disks, main, menu, writing
from cairn_appliance.image.installer.disks import GIB, MIB, Disk
from cairn_appliance.image.installer.errors import InstallError
from cairn_appliance.image.installer.screen import Screen
from cairn_appliance.image.installer.writing import Image
from cairn_appliance.image.seed import Install, SeedError

from tests.unit.appliance.image.test_seed import text

EMPTY = Disk("/dev/sda", 8 * GIB, "QEMU HARDDISK", "A-1", ("/dev/disk/by-path/pci-0:1",), ())
FULL = Disk("/dev/sdb", 64 * GIB, "Big", "B-2", (), ("gpt table", "sdb1: ext4 'data'"))
SMALL = Disk("/dev/sdc", GIB, "Stick", "C-3", (), ())


@pytest.mark.parametrize("pattern", ["A-1", "/dev/sda", "QEMU*", "/dev/disk/by-path/pci-*", "A?1"])
def test_one_disk_is_meant(pattern: str) -> None:
    assert disks.chosen(Install(pattern), [EMPTY, FULL, SMALL], GIB) is EMPTY


@pytest.mark.parametrize(
    ("install", "told"),
    [
        (Install("*"), "means 3 of the disks"),
        (Install("nothing"), "means none of the disks"),
        (Install("*", min_gib=100), "means none"),
        (Install("B-2"), "not empty.*ext4 'data'"),
        (Install("C-3"), "too small"),
        (Install("C-3", wipe=True), "too small"),
    ],
)
def test_another_is_refused_with_its_cause(install: Install, told: str) -> None:
    with pytest.raises(InstallError, match=told):
        disks.chosen(install, [EMPTY, FULL, SMALL], GIB)


def test_a_size_tells_disks_apart_and_a_full_one_is_wiped_where_the_seed_says() -> None:
    assert disks.chosen(Install("*", min_gib=4, max_gib=16), [EMPTY, FULL, SMALL], GIB) is EMPTY
    assert disks.chosen(Install("*", min_gib=32, wipe=True), [EMPTY, FULL, SMALL], GIB) is FULL


def test_a_seed_says_where_to() -> None:
    read = seed.parse(text('[install]\ndisk = "A-1"\nthen = "restart"\n'))
    assert read.install == Install("A-1", then="restart")
    for wrong in ("[install]\n", '[install]\ndisk = ""\n', '[install]\ndisk = "a"\nthen = "x"\n'):
        with pytest.raises(SeedError, match=r"disk|then"):
            seed.parse(text(wrong))


class Typed(Screen):
    """A screen at which somebody types what the test says."""

    def __init__(self, *answers: str) -> None:
        super().__init__(())
        self.answers = list(answers)
        self.said: list[str] = []

    def say(self, text: str = "") -> None:
        self.said.append(text)

    def ask(self, question: str, within_s: float | None = None) -> str | None:
        self.said.append(question)
        return self.answers.pop(0)


def test_a_number_chooses_an_empty_disk() -> None:
    assert menu.choose(Typed("", "1"), lambda: [EMPTY, FULL], GIB) is EMPTY


def test_a_disk_with_something_on_it_is_named_once_more() -> None:
    screen = Typed("2", "yes", "2", "sdb")
    assert menu.choose(screen, lambda: [EMPTY, FULL], GIB) is FULL
    assert "Nothing was written." in screen.said
    assert any("sdb1: ext4 'data'" in line for line in screen.said)


@pytest.mark.parametrize("answer", ["0", "4", "-1", "sda", "1 ", "¹"])
def test_what_is_no_number_chooses_nothing(answer: str) -> None:
    screen = Typed(answer, "1")
    expected = EMPTY
    if answer == "1 ":
        screen.answers = ["1"]  # what is typed comes stripped
    assert menu.choose(screen, lambda: [EMPTY, FULL, SMALL], GIB) is expected


def test_a_disk_that_is_too_small_is_not_taken() -> None:
    screen = Typed("3", "1")
    assert menu.choose(screen, lambda: [EMPTY, FULL, SMALL], GIB) is EMPTY
    assert any("too small" in line for line in screen.said)


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Image, Disk]:
    """An image that is no whole number of MiB, and a disk with other octets on it."""
    content = os.urandom(3 * MIB) + bytes(7 * MIB) + b"the end" * 99
    (tmp_path / "raw").write_bytes(content)
    subprocess.run(["zstd", "-q", str(tmp_path / "raw"), "-o", str(tmp_path / "zst")], check=True)
    target = tmp_path / "disk"
    target.write_bytes(b"\xff" * (16 * MIB))
    monkeypatch.setattr(writing, "_settle", os.fsync)
    image = Image("1", len(content), hashlib.sha256(content).hexdigest(), "zst")
    return tmp_path / "zst", image, Disk(str(target), 16 * MIB, "", "", (), ())


def test_an_image_is_written_and_read_back(packed: tuple[Path, Image, Disk]) -> None:
    file, image, disk = packed
    told: list[tuple[str, int]] = []
    writing.write(file, image, disk, lambda *each: told.append(each))
    writing.verify(image, disk, lambda *each: told.append(each))
    assert told[-1] == ("verifying", 100) and ("writing", 100) in told
    written = Path(disk.path).read_bytes()
    assert hashlib.sha256(written[: image.octets]).hexdigest() == image.sha256
    assert not written[-MIB:].strip(b"\0")


def test_one_bit_that_differs_is_found_in_the_last_octet_too(
    packed: tuple[Path, Image, Disk],
) -> None:
    file, image, disk = packed
    writing.write(file, image, disk, lambda *_: None)
    with Path(disk.path).open("r+b") as target:
        target.seek(image.octets - 1)
        target.write(b"?")
    with pytest.raises(InstallError, match="does not give back"):
        writing.verify(image, disk, lambda *_: None)


@pytest.mark.parametrize("damage", ["cut", "changed", "longer", "shorter"])
def test_a_damaged_medium_is_told(packed: tuple[Path, Image, Disk], damage: str) -> None:
    file, image, disk = packed
    octets = bytearray(file.read_bytes())
    if damage == "cut":
        del octets[len(octets) // 2 :]
    elif damage == "changed":
        octets[len(octets) // 2] ^= 1
    else:
        image = Image("1", image.octets + (1 if damage == "longer" else -1), image.sha256, "zst")
    file.write_bytes(octets)
    with pytest.raises(InstallError, match="writing had begun"):
        writing.write(file, image, disk, lambda *_: None)


def test_an_image_that_cannot_be_read_about_is_told(tmp_path: Path) -> None:
    with pytest.raises(InstallError, match="medium can't be read"):
        writing.read_about(tmp_path)


@pytest.fixture
def terminal() -> tuple[int, str]:
    """A real terminal: what somebody types at it, and its name."""
    own, other = pty.openpty()
    return own, os.ttyname(other)


def test_a_real_terminal_shows_and_answers(terminal: tuple[int, str]) -> None:
    own, name = terminal
    screen = Screen((name, "/dev/there-is-none"))
    screen.say("a disk named \x1b[2J")
    os.write(own, b"2\r")
    assert screen.ask("Number:", 10) == "2"
    shown = os.read(own, 4096)
    assert b"a disk named \\x1b[2J" in shown and b"\x1b" not in shown


def test_a_long_text_is_shown_whole(terminal: tuple[int, str]) -> None:
    """A terminal takes some KiB at once: the rest is not left out."""
    own, name = terminal
    shown = bytearray()

    def read() -> None:
        while b"the end" not in shown:
            time.sleep(0.01)
            shown.extend(os.read(own, 4096))

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    Screen((name,)).say("x" * 50_000 + "the end")
    reader.join(10)
    assert shown.count(b"x") == 50_000


def test_ctrl_d_is_no_answer(terminal: tuple[int, str]) -> None:
    own, name = terminal
    screen = Screen((name,))
    os.write(own, b"\x04")
    assert screen.ask("Enter:", 1) is None
    os.write(own, b"1\r")
    assert screen.ask("Number:", 10) == "1"


def test_nobody_at_the_terminal_is_not_waited_for_longer(terminal: tuple[int, str]) -> None:
    assert Screen((terminal[1],)).ask("Enter:", 0.05) is None


def test_what_fails_is_said_and_never_switches_the_machine_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each end but an installation is a restart, after somebody has seen why."""
    screen, ended = Typed(), []
    monkeypatch.setattr(main, "Screen", lambda: screen)
    monkeypatch.setattr(main, "_end", ended.append)

    def failing(error: Exception) -> Callable[[Screen], str]:
        def install(_: Screen) -> str:
            raise error

        return install

    for error in (InstallError("no disk", "connect one"), OSError(5, "input/output error")):
        screen.answers = [""]
        monkeypatch.setattr(main, "install", failing(error))
        main.main()
        assert any("NOT INSTALLED" in line for line in screen.said)
        screen.said.clear()
    assert ended == ["restart", "restart"]
