"""Finds an etcd that is good enough.

Wanted is 3.5.23 or newer; older ones of 3.5 run, with the known faults of their age. Before
3.5 events can be lost and run backwards, so those are refused.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from cairn_appliance.cluster.errors import EnvironmentLacks

OLDEST = (3, 5, 0)
WANTED = (3, 5, 23)
_IN_CHECKOUT = Path(__file__).resolve().parents[4] / "build" / "tools" / "etcd" / "etcd"
_VERSION = re.compile(r"etcd Version: (\d+)\.(\d+)\.(\d+)")
_VERSION_WAIT_S = 60  # read from a cold disk by a processor that does much else


@dataclass(frozen=True, slots=True)
class EtcdBinary:
    """The program, and its version."""

    path: Path
    version: tuple[int, int, int]


def find_etcd() -> EtcdBinary:
    """Return the first of $CAIRN_ETCD, the checkout's build folder and PATH; raise
    EnvironmentLacks where there is none, or where the one found is too old.
    """
    path = _path()
    version = _version(path)
    if version < OLDEST:
        raise EnvironmentLacks(
            f"{path} is etcd {_text(version)}, which loses watch events",
            remedy=f"use etcd {_text(WANTED)} or newer: tools/get-etcd, or name it in CAIRN_ETCD",
        )
    return EtcdBinary(path, version)


def find_etcdutl(etcd: EtcdBinary) -> EtcdBinary:
    """Return the etcdutl beside etcd or on PATH, which makes data of a snapshot; raise
    EnvironmentLacks.
    """
    beside = etcd.path.with_name("etcdutl")
    found = str(beside) if beside.exists() else shutil.which("etcdutl")
    if found is None:
        raise EnvironmentLacks(
            "there is no etcdutl on this machine, which a restore needs",
            remedy="run tools/get-etcd, or put the etcdutl of etcd's release beside etcd",
        )
    return EtcdBinary(Path(found), etcd.version)


def _path() -> Path:
    given = os.environ.get("CAIRN_ETCD")
    if given:
        path = Path(given)
        return path / "etcd" if path.is_dir() else path
    if _IN_CHECKOUT.exists():
        return _IN_CHECKOUT
    found = shutil.which("etcd")
    if found is None:
        raise EnvironmentLacks(
            "there is no etcd on this machine",
            remedy="run tools/get-etcd, install the package etcd-server, or name it in CAIRN_ETCD",
        )
    return Path(found)


def _version(path: Path) -> tuple[int, int, int]:
    try:
        result = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=_VERSION_WAIT_S, check=True
        )
    except subprocess.TimeoutExpired as error:
        raise EnvironmentLacks(
            f"{path} did not say its version within {_VERSION_WAIT_S:g} s",
            remedy="look why the machine is so slow, or name another etcd in CAIRN_ETCD",
        ) from error
    except (OSError, subprocess.SubprocessError) as error:
        raise EnvironmentLacks(
            f"{path} can't be run: {error}", remedy="name a working etcd in CAIRN_ETCD"
        ) from error
    match = _VERSION.search(result.stdout)
    if match is None:
        raise EnvironmentLacks(f"{path} is not etcd", remedy="name an etcd in CAIRN_ETCD")
    return int(match[1]), int(match[2]), int(match[3])


def _text(version: tuple[int, int, int]) -> str:
    return ".".join(map(str, version))
