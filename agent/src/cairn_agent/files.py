"""Files that are whole or not there: atomic writes, quarantine, one agent a directory."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from cairn_agent.errors import Environment, StateUnusable

_REMEDIES = {
    errno.ENOSPC: "free space on that file system and try again; nothing was changed",
    errno.EDQUOT: "raise the quota on that file system and try again; nothing was changed",
    errno.EROFS: "mount that file system writable and try again; nothing was changed",
    errno.EACCES: "run as root, or give this user the directory; nothing was changed",
    errno.EPERM: "run as root, or give this user the directory; nothing was changed",
}


def make_directory(path: Path) -> None:
    """Make a directory only its owner can enter; a no-op where it exists."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise unusable("make the directory", path, error) from error


def write_whole(path: Path, octets: bytes) -> None:
    """Write a file (0600) so that after any crash it is the old one or the new one."""
    try:
        _write_whole(path, octets)
    except OSError as error:
        raise unusable("write", path, error) from error


def probe_space(directory: Path, octets: int) -> None:
    """Raise StateUnusable unless so many octets can be written to the directory now."""
    path = directory / ".space-probe"
    try:
        _write_whole(path, bytes(octets))
        path.unlink()
    except OSError as error:
        raise unusable("write to", directory, error) from error


def read_file(path: Path) -> bytes | None:
    """Return a file's octets, None where there is none."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unusable("read", path, error) from error


def remove_file(path: Path) -> None:
    """Remove a file; a no-op where there is none."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise unusable("remove", path, error) from error


def quarantine(path: Path) -> Path:
    """Move a file that can't be understood aside, for people to look at; return where to."""
    aside = path.with_name(f"{path.name}.corrupt-{time.time_ns()}")
    try:
        path.rename(aside)
    except OSError as error:
        raise unusable("move aside", path, error) from error
    return aside


@contextlib.contextmanager
def held_lock(path: Path, holder: str) -> Iterator[None]:
    """Hold a lock file while the block runs; raise Environment where another process does.

    No symbolic link is followed: root locks in a directory of the agent's user, and would give it
    the file that the link names.
    """
    make_directory(path.parent)
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        raise unusable("open the lock file", path, error) from error
    try:
        _give_to_owner(descriptor, path.parent)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Environment(
                f"{holder} is already running on {path.parent}",
                "stop the other one, or use a --state-dir of its own",
            ) from error
        yield
    finally:
        os.close(descriptor)


def unusable(doing: str, path: Path, error: OSError) -> StateUnusable:
    """Return the error of a failed file operation, with what to do about it."""
    remedy = _REMEDIES.get(error.errno or 0, f"look at {path.parent} and try again")
    return StateUnusable(f"can't {doing} {path}: {error.strerror or error}", remedy)


def _write_whole(path: Path, octets: bytes) -> None:
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            _give_to_owner(file.fileno(), path.parent)
            file.write(octets)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    _sync_directory(path.parent)


def _give_to_owner(descriptor: int, directory: Path) -> None:
    """Let a command of root's write what the agent, which is of another user, can read."""
    if os.geteuid() == 0:
        owner = directory.stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
