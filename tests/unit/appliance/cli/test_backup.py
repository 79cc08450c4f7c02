"""`cairn backup`, against a real HTTPS server of this process."""

from __future__ import annotations

import io
import json

from cairn_appliance.pki.backup_file import BackupReader
from cairn_appliance.pki.recovery_key import RecoveryKey
from cairn_appliance.store import keys

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
