"""A slow disk is named at set-up, with what to do."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import pytest
from cairn_appliance.cluster import disk
from cairn_appliance.cluster.errors import LocalStateUnusable


def test_a_slow_disk_is_told_once_and_a_quick_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(disk, "_WRITES", 5)
    monkeypatch.setattr(os, "fdatasync", lambda _: None)
    disk.warn_if_slow(tmp_path)
    assert caplog.messages == []

    monkeypatch.setattr(os, "fdatasync", lambda _: time.sleep(0.012))
    disk.warn_if_slow(tmp_path)
    (told,) = caplog.messages
    assert "the disk is slow" in told
    assert "local SSD" in told
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_can_be_written_it_says_so(tmp_path: Path) -> None:
    with pytest.raises(LocalStateUnusable):
        disk.sync_p99_s(tmp_path / "missing")
