"""What an appliance keeps of the audit on its disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from cairn_appliance.cluster.audit_files import AuditFiles
from cairn_appliance.cluster.errors import LocalStateUnusable
from cairn_appliance.domain.audit import Mark
from cairn_appliance.pki.audit_key import AuditKey
from cairn_appliance.services.audit import Audit
from cairn_appliance.services.events import Journal
from cairn_appliance.store.memory import MemoryStore

from tests.unit.appliance.replica import SEALER


def test_marks_spool_and_archive_come_back(tmp_path: Path) -> None:
    files = AuditFiles(tmp_path)
    assert files.marks() == {}
    assert files.spooled() == []
    files.forget_marks()
    files.keep_marks({"m1": Mark(7, "a" * 64)})
    files.spool(b"one")
    files.spool(b"two")
    place = files.archive("m1-1-2.jsonl", [b"x", b"y"])
    again = AuditFiles(tmp_path)
    assert again.marks() == {"m1": Mark(7, "a" * 64)}
    assert again.spooled() == [b"one", b"two"]
    assert Path(place).read_bytes() == b"x\ny\n"
    again.unspool()
    again.forget_marks()
    assert (again.spooled(), again.marks()) == ([], {})
    modes = {path.stat().st_mode & 0o077 for path in (tmp_path / "audit").iterdir()}
    assert modes == {0}


def test_the_spool_and_the_archive_have_bounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cairn_appliance.cluster.audit_files._SPOOL_MAX_OCTETS", 10)
    monkeypatch.setattr("cairn_appliance.cluster.audit_files._ARCHIVE_MAX_FILES", 3)
    files = AuditFiles(tmp_path)
    files.spool(b"x" * 20)
    with pytest.raises(LocalStateUnusable, match="it is full"):
        files.spool(b"y")
    for number in range(6):
        files.archive(f"m1-{number}.jsonl", [b"x"])
    assert files.spooled() == [b"x" * 20], "it is no part of the archive"
    assert len(list((tmp_path / "audit").glob("m1-*.jsonl"))) == 3


def test_damaged_marks_are_told_and_stop_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = AuditFiles(tmp_path)
    files.keep_marks({})
    (tmp_path / "audit" / "marks.json").write_bytes(b"{")
    with pytest.raises(LocalStateUnusable, match=r"marks\.json can't be read"):
        files.marks()
    Audit(MemoryStore(), "c", "m1", AuditKey(SEALER), Journal(), files=files)
    assert "how far the audit was is not known" in caplog.text


def test_a_disk_that_cannot_be_written_refuses(tmp_path: Path) -> None:
    (tmp_path / "audit").write_bytes(b"a file where the directory should be")
    files = AuditFiles(tmp_path)
    for work in (
        lambda: files.spool(b"x"),
        lambda: files.keep_marks({}),
        lambda: files.archive("a.jsonl", [b"x"]),
    ):
        with pytest.raises(LocalStateUnusable):
            work()
