"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from cairn_appliance.cluster.errors import LocalStateUnusable

SECRET = 0o600
PUBLIC = 0o644


def write_whole(path: Path, octets: bytes, mode: int = SECRET) -> None:
    """Write a file atomically and durably; raise LocalStateUnusable."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(octets)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
        sync_directory(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise cannot("write", path, error) from error


def read_whole(path: Path) -> bytes:
    """Return the file's octets; raise LocalStateUnusable."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise cannot("read", path, error) from error


def sync_directory(path: Path) -> None:
    """Make the entries of a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def cannot(verb: str, path: Path, error: OSError) -> LocalStateUnusable:
    """Return the error for a file system call that failed, with what to do."""
    remedies = {
        errno.ENOSPC: "free space on this file system, then try again",
        errno.EDQUOT: "free space within the quota, then try again",
        errno.EACCES: "run as root or as the owner of the directory",
        errno.EPERM: "run as root or as the owner of the directory",
        errno.EROFS: "choose a directory on a writable file system",
        errno.ENOENT: "restore the file from a backup, or run `cairn-appliance init`",
        errno.ENOTDIR: "choose another directory",
        errno.EBUSY: "choose a directory below the mount point",
    }
    remedy = remedies.get(error.errno or 0, "check the disk and the permissions")
    return LocalStateUnusable(f"can't {verb} {path}: {error.strerror}", remedy=remedy)
