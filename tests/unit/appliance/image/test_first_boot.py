"""The steps of the first boot: what is kept, what is wiped, what the screen shows."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from cairn_appliance.cluster.files import write_whole
from cairn_appliance.image import machine, medium, places, screen, state
from cairn_appliance.image.screen import Shown
from cairn_appliance.image.seed import SeedError
from cairn_appliance.image.terminal import printable

from tests.unit.appliance.image.test_seed import CREATE, HASH, text


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All places in a directory of the test; nothing of this machine is changed."""
    for name in ("STATE_DIR", "RUN_DIR", "DATA_DIR"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(places, name, tmp_path / name)
    monkeypatch.setattr(places, "KEPT", tmp_path / "STATE_DIR/system.json")
    monkeypatch.setattr(places, "APPLIED", tmp_path / "STATE_DIR/applied")
    monkeypatch.setattr(places, "CLUSTER", tmp_path / "RUN_DIR/cluster.json")
    monkeypatch.setattr(places, "PROBLEM", tmp_path / "RUN_DIR/problem")
    monkeypatch.setattr(state, "give_away", lambda _: None)
    monkeypatch.setattr(socket, "sethostname", lambda _: None)
    monkeypatch.setattr(machine, "_render", lambda *_: None)
    return tmp_path


@pytest.fixture
def put(here: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[Path]]:
    """Put a seed on a medium; return what was wiped."""
    wiped: list[Path] = []

    def put(content: str) -> list[Path]:
        device = here / "medium"
        monkeypatch.setattr(medium, "find", lambda: device)
        monkeypatch.setattr(medium, "read", lambda _: content)
        monkeypatch.setattr(medium, "wipe", wiped.append)
        return wiped

    return put


def test_a_seed_is_kept_without_its_secrets(here: Path, put: Callable[[str], list[Path]]) -> None:
    put(text(CREATE, head='schema = 1\nhostname = "cairn-7"\n'))
    machine.prepare_system()
    assert machine.kept_system().hostname == "cairn-7"
    on_disk = "".join(path.read_text() for path in (here / "STATE_DIR").iterdir())
    assert HASH not in on_disk
    assert HASH in places.CLUSTER.read_text()
    assert places.CLUSTER.stat().st_mode & 0o777 == 0o600


def test_a_seed_that_was_applied_is_not_looked_at(
    here: Path, put: Callable[[str], list[Path]]
) -> None:
    wiped = put(text(CREATE, head='schema = 1\nhostname = "cairn-7"\n'))
    machine.prepare_system()
    machine.finish()
    assert wiped and not places.CLUSTER.exists()
    put(text(head='schema = 1\nhostname = "another"\n'))
    machine.prepare_system()
    assert machine.kept_system().hostname == "cairn-7"


def test_power_that_failed_before_the_wiping_is_made_up_for(
    here: Path, put: Callable[[str], list[Path]]
) -> None:
    wiped = put(text(CREATE))
    (places.DATA_DIR / "settings.toml").write_text("")
    machine.prepare_system()
    assert wiped and places.APPLIED.exists() and not places.CLUSTER.exists()


def test_a_seed_that_is_wrong_is_on_the_screen_and_leaves_the_rest(
    here: Path, put: Callable[[str], list[Path]]
) -> None:
    put("#cloud-config\n")
    with pytest.raises(SeedError):
        machine.prepare_system()
    assert "cloud-init" in places.PROBLEM.read_text()
    assert not places.KEPT.exists() and not places.APPLIED.exists()


def test_a_medium_that_cannot_be_written_is_no_reason_to_stop(
    here: Path, put: Callable[[str], list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(_: Path) -> None:
        raise SeedError("read-only")

    put(text(CREATE))
    monkeypatch.setattr(medium, "wipe", read_only)
    machine.finish()
    assert places.APPLIED.exists()


def test_what_is_wiped_is_overwritten_where_it_lies(tmp_path: Path) -> None:
    path, other_name = tmp_path / "user-data", tmp_path / "other"
    path.write_text(text(CREATE))
    other_name.hardlink_to(path)  # sees what becomes of the octets
    medium.overwrite(path)
    assert not path.exists()
    assert set(other_name.read_bytes()) == {0}


def test_a_file_is_whole_and_as_private_as_asked(tmp_path: Path) -> None:
    write_whole(tmp_path / "x", b"1", 0o600)
    write_whole(tmp_path / "x", b"22", 0o600)
    assert (tmp_path / "x").read_bytes() == b"22"
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o600
    assert len(list(tmp_path.iterdir())) == 1


def test_the_screen_shows_where_and_who_and_nothing_that_moves_the_cursor() -> None:
    shown = Shown(
        hostname="cairn-1",
        version="0.1.0-1",
        slot="a",
        addresses=("192.0.2.10", "2001:db8::10"),
        fingerprint="ab" * 32,
        state="ready",
        problem="bad \x1b[2J seed",
        remedy="",
    )
    drawn = printable(screen.text_of(shown))
    assert "https://192.0.2.10/" in drawn and "https://[2001:db8::10]/" in drawn
    assert "ab" * 32 in drawn and "slot A" in drawn
    assert "\x1b" not in drawn and "what to do" not in drawn
