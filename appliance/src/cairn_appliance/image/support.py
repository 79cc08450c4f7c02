"""A support bundle: how the machine is, for somebody else to look at, without a secret in it.

It is made of the journal and of what programs say; nothing of keys, store or backups is read.
What looks like a secret is left out all the same, whoever wrote it.
"""

from __future__ import annotations

import io
import os
import platform
import re
import socket
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

from cairn_appliance.domain.errors import CairnError
from cairn_appliance.image import local_api, medium, places

LABEL = "CAIRN-OUT"
_BY_LABEL = Path("/dev/disk/by-label")
_WITHIN_S = 30.0
_MOST_OCTETS = 16 * 1024 * 1024  # of one file
_UNITS = "cairn-*"
_COMMANDS = {
    "journal.txt": ["journalctl", "--no-pager", "--lines=20000", "--output=short-iso-precise"],
    "kernel.txt": ["journalctl", "--no-pager", "--dmesg", "--lines=5000"],
    "units.txt": ["systemctl", "list-units", "--all", "--no-pager", "--full"],
    "status.txt": ["systemctl", "status", _UNITS, "--no-pager", "--full", "--lines=20"],
    "addresses.txt": ["ip", "-details", "-statistics", "address", "show"],
    "routes.txt": ["ip", "route", "show", "table", "all"],
    "routes-v6.txt": ["ip", "-6", "route", "show", "table", "all"],
    "networkctl.txt": ["networkctl", "status", "--all", "--no-pager"],
    "sockets.txt": ["ss", "-tulnp"],
    "time.txt": ["timedatectl", "timesync-status", "--no-pager"],
    "disk.txt": ["df", "--human-readable"],
    "blocks.txt": ["lsblk", "--output=NAME,SIZE,TYPE,LABEL,PARTLABEL,MOUNTPOINTS"],
    "memory.txt": ["cat", "/proc/meminfo", "/proc/loadavg", "/proc/pressure/io"],
    "release.txt": ["cat", "/usr/lib/os-release", "/proc/cmdline"],
}
# Hashes of passwords, join strings and tokens, private keys, recovery keys, provider's secrets.
_SECRETS = re.compile(
    rb"\$argon2[a-z]*\$[^\s\"']+"
    rb"|cairn[a-z-]*[0-9]\.[A-Za-z0-9_-]{16,}"
    rb"|cairn-recovery-[a-z2-7-]+"
    rb"|c[a-z]1_[A-Za-z0-9_-]{16,}"
    rb"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    rb"|(?i:password|secret|recovery[ -]key)[\"']?\s*[:=]\s*[^\s,}]+",
    re.DOTALL,
)
_LEFT_OUT = b"[left out]"


class NoBundle(CairnError):
    """It can't be written."""

    code = "support_bundle"
    remedy = f"attach a disk or stick with a FAT file system of the label {LABEL}, then do it again"


def write() -> str:
    """Write it to the medium; return its name. Raise NoBundle, SeedError."""
    device = _BY_LABEL / LABEL
    if not device.exists():
        raise NoBundle(f"there is no medium with the label {LABEL}")
    name = f"cairn-support-{socket.gethostname()}-{time.strftime('%Y%m%d-%H%M%S')}.tar.gz"
    octets = packed(collected())
    try:
        with medium.mounted(device.resolve(), "rw") as place:
            (place / name).write_bytes(octets)
            os.sync()
    except OSError as error:
        raise NoBundle(f"the medium {LABEL} can't be written: {error.strerror}") from error
    return f"{name} ({len(octets) // 1024} KiB)"


def collected() -> Iterator[tuple[str, bytes]]:
    """Yield the files of a bundle, without what looks like a secret."""
    now = time.strftime("%FT%TZ", time.gmtime())
    yield "about.txt", f"{socket.gethostname()}\n{platform.release()}\n{now}\n".encode()
    yield "readyz.txt", "{}\n{}\n".format(*local_api.ask("/readyz")).encode()
    for path in (places.DATA_DIR / "settings.toml", places.DATA_DIR / "etcd.log", places.KEPT):
        yield path.name, without_secrets(_tail(path))
    for name, command in _COMMANDS.items():
        yield name, without_secrets(_said(command))


def packed(files: Iterator[tuple[str, bytes]]) -> bytes:
    """Return them as one archive."""
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz") as archive:
        for name, octets in files:
            about = tarfile.TarInfo(f"cairn-support/{name}")
            about.size, about.mtime = len(octets), int(time.time())
            archive.addfile(about, io.BytesIO(octets))
    return whole.getvalue()


def without_secrets(octets: bytes) -> bytes:
    """Return the text without what looks like a hash, a key, a token or a password."""
    return _SECRETS.sub(_LEFT_OUT, octets)


def _said(command: list[str]) -> bytes:
    """Return what a program says, be it that it fails."""
    try:
        done = subprocess.run(
            command, check=False, timeout=_WITHIN_S, stdin=subprocess.DEVNULL, capture_output=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"{error}\n".encode()
    return (done.stdout + done.stderr)[-_MOST_OCTETS:]


def _tail(path: Path) -> bytes:
    """Return the end of a file."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _MOST_OCTETS))
            return file.read(_MOST_OCTETS)
    except OSError as error:
        return f"{path}: {error.strerror}\n".encode()
