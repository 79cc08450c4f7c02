"""tools/get-etcd takes the best etcd there is, and says which, or what to do."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tools" / "get-etcd"
_BASIC = """bash cat chmod cut dirname env grep head mkdir mktemp mv nice realpath rm sed
    sha256sum sort tail"""


@pytest.mark.parametrize("version", ["3.5.0", "3.5.30", "3.6.16", "4.0.0"])
def test_an_etcd_on_path_that_is_new_enough_is_taken(tmp_path: Path, version: str) -> None:
    result = _get(tmp_path, _only(tmp_path, etcd=version), "system")
    assert result.returncode == 0
    assert version in result.stdout


@pytest.mark.parametrize("version", ["3.4.23", "2.3.8", "3.4.99"])
def test_an_etcd_that_loses_events_is_refused(tmp_path: Path, version: str) -> None:
    result = _get(tmp_path, _only(tmp_path, etcd=version), "system")
    assert result.returncode == 6
    assert f"{version}: refused" in result.stdout
    assert "what to do:" in result.stderr


def test_where_nothing_can_be_had_the_remedy_is_told(tmp_path: Path) -> None:
    result = _get(tmp_path, _only(tmp_path))
    assert result.returncode == 6
    for reason in ("Go", "no apt-get here", "no etcd on PATH"):
        assert reason in result.stdout
    assert result.stderr.startswith("etcd: error: ")
    assert "what to do:" in result.stderr
    assert list((tmp_path / "to").parent.glob(".get-etcd.*")) == []


def test_a_go_that_is_too_old_is_named_and_the_next_way_taken(tmp_path: Path) -> None:
    result = _get(tmp_path, _only(tmp_path, etcd="3.5.30", go="1.19.8"))
    assert result.returncode == 0
    assert "here is 1.19.8: not built" in result.stdout
    assert "3.5.30 from" in result.stdout


def test_debian_13s_package_is_kept_where_nothing_can_be_built(tmp_path: Path) -> None:
    into = tmp_path / "to"
    into.mkdir()
    for program in ("etcd", "etcdctl", "etcdutl"):
        _program(into / program, "echo 'etcd Version: 3.5.16'")
    (into / "stamp").write_text("debian\n")
    result = _get(tmp_path, _only(tmp_path))
    assert result.returncode == 0
    assert "3.5.16 is there (debian)" in result.stdout


@pytest.mark.etcd
def test_what_was_built_is_kept(tmp_path: Path) -> None:
    if not (ROOT / "build/tools/etcd/stamp").exists():
        pytest.skip("this machine uses an etcd of the system")
    begun = (ROOT / "build/tools/etcd/etcd").stat().st_mtime_ns
    result = subprocess.run([SCRIPT], capture_output=True, text=True, timeout=60, check=True)
    assert "is there" in result.stdout
    assert (ROOT / "build/tools/etcd/etcd").stat().st_mtime_ns == begun


def _get(tmp_path: Path, path: Path, *way: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SCRIPT, tmp_path / "to", *way],
        env={"PATH": str(path), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _only(tmp_path: Path, *, etcd: str = "", go: str = "") -> Path:
    """Return a PATH with the basic tools alone, and the programs given."""
    path = tmp_path / "path"
    path.mkdir()
    for tool in _BASIC.split():
        for place in ("/usr/bin", "/bin"):
            if os.access(f"{place}/{tool}", os.X_OK):
                (path / tool).symlink_to(f"{place}/{tool}")
                break
    if etcd:
        _program(path / "etcd", f"echo 'etcd Version: {etcd}'")
    if go:
        _program(path / "go", f"echo go{go}")
    return path


def _program(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
