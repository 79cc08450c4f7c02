"""The journal of bridges: on disk before each change, of one boot, whole or put aside."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from cairn_agent.host import bridge_journal
from cairn_agent.host.bridge_journal import BridgeRecord, Journal, PortRecord

PORT = PortRecord("eth1", False, True, False, False, [], [])
RECORD = BridgeRecord(7, "cbr7", "cairn7", "eth1", 0, PORT, is_one_nic=True)


def test_what_was_kept_is_there_for_the_next_run(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "bridges.json")
    journal.keep(RECORD)
    journal.keep_parent("eth2", was_up=False)
    journal.keep_parent("eth2", was_up=True)

    again = Journal(tmp_path / "bridges.json")

    assert again.bridges == {7: RECORD}
    assert again.parents == {"eth2": False}, "the first memory counts"
    assert again.run != journal.run
    again.forget(7)
    again.forget_parent("eth2")
    assert (Journal(tmp_path / "bridges.json").bridges, again.parents) == ({}, {})


def test_a_step_is_on_disk_before_it_is_done(tmp_path: Path) -> None:
    path = tmp_path / "bridges.json"
    told: list[tuple[str, str]] = []
    journal = Journal(path, lambda step: told.append((step, Journal(path).bridges[7].step)))
    journal.keep(RECORD)
    journal.step(7, "bridge made")
    journal.step(7, "port joined")
    assert told == [("bridge made", "bridge made"), ("port joined", "port joined")]


def test_another_boot_has_nothing_to_go_back_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Journal(tmp_path / "bridges.json").keep(RECORD)
    other = tmp_path / "boot_id"
    other.write_text("another\n")
    monkeypatch.setattr(bridge_journal, "_BOOT_ID", other)
    assert Journal(tmp_path / "bridges.json").bridges == {}


def test_a_damaged_file_is_put_aside(tmp_path: Path) -> None:
    path = tmp_path / "bridges.json"
    path.write_text("{")
    assert Journal(path).bridges == {}
    assert [file.read_text() for file in tmp_path.glob("bridges.json.corrupt-*")] == ["{"]


def test_a_port_that_was_put_back_is_refused_for_ten_minutes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(bridge_journal, "boottime", lambda: now)
    journal = Journal(tmp_path / "bridges.json")
    assert not journal.is_refused("eth1")
    journal.refuse("eth1")
    now += 599
    assert Journal(tmp_path / "bridges.json").is_refused("eth1")
    assert not journal.is_refused("eth2")
    now += 2
    assert not journal.is_refused("eth1")
    journal.refuse("eth1")
    journal.allow("eth1")
    assert not journal.is_refused("eth1")


def test_a_confirmation_is_for_all_that_was_moved(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "bridges.json")
    journal.keep(msgspec.structs.replace(RECORD, is_confirmed=False, revert_at=1.0))
    journal.confirm()
    assert Journal(tmp_path / "bridges.json").bridges[7].is_confirmed
