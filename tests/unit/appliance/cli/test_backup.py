"""`cairn backup`, against a real HTTPS server of this process."""

from __future__ import annotations

import io
import json
import stat
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cairn_appliance.pki.backup_file import BackupReader
from cairn_appliance.pki.recovery_key import RecoveryKey
from cairn_appliance.store import keys, records
from cairn_appliance.store.port import Put

from tests.unit.appliance.backups import FakeKept
from tests.unit.appliance.cli.conftest import Live, Shell


def test_a_backup_is_sealed_for_the_key_that_was_made_here(live: Live, logged_in: Shell) -> None:
    without = logged_in("backup", "create")
    assert without.code == 4
    assert "no recovery key" in without.err
    assert "cairn backup key" in without.err
    assert "cairn backup create" in logged_in.ok("backup", "list")

    made = json.loads(logged_in.ok("backup", "key", "--yes", "--json"))
    key = RecoveryKey.parse(made["recovery_key"])
    assert key.id == made["id"]
    created = json.loads(logged_in.ok("backup", "create", "--json"))
    assert created["key_id"] == key.id
    octets = live.operations.shelf.files[created["name"]]
    assert b"".join(BackupReader(io.BytesIO(octets), "x").pieces(key))
    listed = json.loads(logged_in.ok("backup", "list", "--json"))
    assert [each["name"] for each in listed] == [created["name"]]
    assert "admin" in logged_in.ok("backup", "list")

    # The half that opens it went nowhere.
    store = live.do(live.operations.store.list(keys.ROOT))
    secret = made["recovery_key"].removeprefix("cairn-recovery-").encode()
    assert not any(secret in item.value for item in store.items)


def test_a_backup_that_fails_says_why(live: Live, logged_in: Shell) -> None:
    text = logged_in.ok("backup", "key", "--yes")
    assert "cairn-recovery-" in text
    live.operations.shelf.is_full = True
    ended = logged_in("backup", "create")
    assert ended.code == 4
    assert "Traceback" not in ended.err
    assert "no space left" in ended.err
    assert "free space" in ended.err


def made_here(logged_in: Shell) -> dict[str, Any]:
    logged_in.ok("backup", "key", "--yes")
    made: dict[str, Any] = json.loads(logged_in.ok("backup", "create", "--json"))
    return made


def test_a_backup_is_fetched_as_it_is_and_that_is_an_event(
    live: Live, logged_in: Shell, tmp_path: Path
) -> None:
    made = made_here(logged_in)
    file = tmp_path / "kept"
    assert made["name"] in logged_in.ok("backup", "fetch", "latest", "-o", str(file))
    assert file.read_bytes() == live.operations.shelf.files[made["name"]]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    events = live.do(live.operations.services.events.list())
    (event,) = (each for each in events if each.kind == "backup_fetched")
    assert event.by.name == "admin"
    assert made["name"] in event.text

    again = logged_in("backup", "fetch", made["name"], "--output", str(file))
    assert (again.code, "is there already" in again.err) == (2, True)
    other = logged_in("backup", "fetch", "no-such", "-o", str(tmp_path / "other"))
    assert other.code == 4
    assert "cairn backup list" in other.err


def test_a_backup_that_breaks_off_or_is_gone_leaves_no_file(
    live: Live, logged_in: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = made_here(logged_in)
    file = tmp_path / "kept"

    async def broken(_: FakeKept) -> AsyncGenerator[bytes, None]:
        yield b"cairn-backup-1\n"
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(FakeKept, "chunks", broken)
        ended = logged_in("backup", "fetch", made["name"], "-o", str(file))
        assert ended.code == 3
        assert "broke off" in ended.err
    live.operations.shelf.files.clear()
    ended = logged_in("backup", "fetch", made["name"], "-o", str(file))
    assert "not there any more" in ended.err
    ended = logged_in("backup", "fetch", made["name"], "-o", str(tmp_path / "no" / "kept"))
    assert ended.code == 5
    assert not [each for each in tmp_path.rglob("*kept*")]


def test_a_backup_is_fetched_from_the_appliance_that_has_it(
    live: Live, logged_in: Shell, tmp_path: Path
) -> None:
    made = made_here(logged_in)
    store = live.operations.store
    (item,) = live.do(store.list(keys.BACKUPS)).items
    elsewhere = replace(records.backups.decode(item), appliance="m2")
    live.do(store.commit([], [Put(item.key, records.backups.encode(elsewhere))]))
    ended = logged_in("backup", "fetch", made["name"], "-o", str(tmp_path / "kept"))
    assert ended.code == 3
    assert "lies on m2" in ended.err
    assert made["path"] in ended.err
