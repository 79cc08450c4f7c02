"""Which etcd is taken, and which is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from cairn_appliance.cluster import etcd_binary
from cairn_appliance.cluster.errors import EnvironmentLacks
from cairn_appliance.cluster.etcd_binary import find_etcd


def program(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_the_one_that_is_named_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = program(tmp_path / "etcd", "echo 'etcd Version: 3.5.16'; echo 'Git SHA: x'")
    for named in (path, tmp_path):
        monkeypatch.setenv("CAIRN_ETCD", str(named))
        assert find_etcd().path == path
        assert find_etcd().version == (3, 5, 16)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'etcd Version: 3.4.23'", "3.4.23, which loses watch events"),
        ("echo hello", "is not etcd"),
        ("exit 1", "can't be run"),
    ],
)
def test_what_is_no_good_etcd_is_refused_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, reason: str
) -> None:
    monkeypatch.setenv("CAIRN_ETCD", str(program(tmp_path / "etcd", script)))
    with pytest.raises(EnvironmentLacks, match=reason) as caught:
        find_etcd()
    assert caught.value.remedy


def test_one_that_says_nothing_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(etcd_binary, "_VERSION_WAIT_S", 0.2)
    monkeypatch.setenv("CAIRN_ETCD", str(program(tmp_path / "etcd", "exec sleep 60")))
    with pytest.raises(EnvironmentLacks, match=r"did not say its version within 0\.2 s") as caught:
        find_etcd()
    assert "slow" in caught.value.remedy


def test_one_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAIRN_ETCD", str(tmp_path / "none"))
    with pytest.raises(EnvironmentLacks, match="can't be run"):
        find_etcd()
