"""What an appliance keeps of the audit on its own disk.

audit/marks.json     how far each chain was when it was looked at last
audit/spool.jsonl    records of deletions that wait for room in the store
audit/*.jsonl        what was too old for the store; each file can be verified by itself
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from cairn_appliance.cluster.errors import LocalStateUnusable
from cairn_appliance.cluster.files import cannot, read_whole, sync_directory, write_whole
from cairn_appliance.domain.audit import Mark

_SPOOL_MAX_OCTETS = 8 << 20
_ARCHIVE_MAX_FILES = 2000  # of 500 records and more: about 0.4 MB each

DIRECTORY = "audit"


class AuditFiles:
    """The directory audit/ in the data directory, made when it is needed."""

    def __init__(self, data_dir: Path) -> None:
        self._directory = data_dir / DIRECTORY

    def marks(self) -> dict[str, Mark]:
        """Return how far each chain was; raise LocalStateUnusable."""
        path = self._directory / "marks.json"
        if not path.exists():
            return {}
        try:
            return msgspec.json.decode(read_whole(path), type=dict[str, Mark])
        except msgspec.MsgspecError as error:
            raise LocalStateUnusable(
                f"{path} can't be read: {error}",
                remedy="look who changed it; without the file, what the audit has lost may not be "
                "noticed here",
            ) from error

    def keep_marks(self, marks: Mapping[str, Mark]) -> None:
        """Write them down; raise LocalStateUnusable."""
        self._make()
        write_whole(self._directory / "marks.json", msgspec.json.encode(dict(marks)))

    def forget_marks(self) -> None:
        """Forget them: the cluster begins again from what there is; raise LocalStateUnusable."""
        path = self._directory / "marks.json"
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise cannot("remove", path, error) from error

    def archive(self, name: str, lines: Sequence[bytes]) -> str:
        """Keep lines durably in a file; the oldest files beyond the number kept go."""
        self._make()
        path = self._directory / name
        write_whole(path, b"".join(line + b"\n" for line in lines))
        found = [each for each in self._directory.glob("*.jsonl") if each.name != _SPOOL]
        found.sort(key=lambda each: each.stat().st_mtime)
        for old in found[:-_ARCHIVE_MAX_FILES]:
            old.unlink(missing_ok=True)
        return str(path)

    def spool(self, line: bytes) -> None:
        """Keep a record durably until the store has room; raise LocalStateUnusable."""
        self._make()
        path = self._directory / _SPOOL
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            with os.fdopen(descriptor, "ab") as file:
                if file.tell() > _SPOOL_MAX_OCTETS:
                    raise OSError(errno.ENOSPC, "it is full")
                file.write(line + b"\n")
                file.flush()
                os.fsync(file.fileno())
            sync_directory(self._directory)
        except OSError as error:
            raise cannot("write", path, error) from error

    def spooled(self) -> list[bytes]:
        """Return what was kept; raise LocalStateUnusable."""
        path = self._directory / _SPOOL
        return read_whole(path).splitlines() if path.exists() else []

    def unspool(self) -> None:
        """Forget it; raise LocalStateUnusable."""
        path = self._directory / _SPOOL
        try:
            path.unlink(missing_ok=True)
            sync_directory(self._directory)
        except OSError as error:
            raise cannot("remove", path, error) from error

    def _make(self) -> None:
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise cannot("create", self._directory, error) from error


_SPOOL = "spool.jsonl"
