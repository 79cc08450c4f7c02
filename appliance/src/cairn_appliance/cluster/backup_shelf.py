"""Where an appliance keeps its backups: files that are there whole or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import BinaryIO

from cairn_appliance.cluster.bootstrap import Local
from cairn_appliance.cluster.files import SECRET, cannot, sync_directory
from cairn_appliance.domain.backup import Head
from cairn_appliance.domain.errors import NotFound
from cairn_appliance.pki.backup_file import BackupWriter

_SUFFIX = ".backup"
_UNFINISHED = ".new"
_AT_ONCE_OCTETS = 1 << 20  # given to a thread: sealing and the disk would hold up the loop
_SETTLED_EACH = 8  # times that: all at the end would hold up etcd, on the same disk, for long


class Kept:
    """A backup that is being read; it stays whole though it is removed meanwhile. Close it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.octets = os.fstat(file.fileno()).st_size

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield what is in it; raise OSError."""
        while octets := await asyncio.to_thread(self._file.read, _AT_ONCE_OCTETS):
            yield octets

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class BackupShelf:
    """A directory of backups, 0700, each 0600."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def place(self, name: str) -> str:
        """Return the path of a backup."""
        return str(self._directory / name)

    async def keep(
        self, name: str, recipient: bytes, head: Head, content: AsyncIterator[bytes]
    ) -> int:
        """Write a backup atomically and durably; return its octets; raise LocalStateUnusable.

        Whatever goes wrong, an error of `content` too, leaves nothing behind.
        """
        path = self._directory / name
        temporary = path.with_name(f".{name}{_UNFINISHED}")
        try:
            await asyncio.to_thread(self._prepare)
            with os.fdopen(_created(temporary), "wb") as file:
                await _fill(file, BackupWriter(file, recipient, head), content)
                await asyncio.to_thread(_settle, file)
                octets = file.tell()
            temporary.rename(path)
            await asyncio.to_thread(sync_directory, self._directory)
        except OSError as error:
            raise cannot("write", path, error) from error
        finally:
            with contextlib.suppress(OSError):  # where nothing can be written, nothing is left
                temporary.unlink()
        return octets

    def open(self, name: str) -> Kept:
        """Return a backup to be read; raise NotFound, LocalStateUnusable."""
        path = self._directory / name
        try:
            return Kept(path.open("rb"))
        except FileNotFoundError as error:
            raise NotFound(
                f"{path} is not there any more", "choose another one: `cairn backup list`"
            ) from error
        except OSError as error:
            raise cannot("read", path, error) from error

    def remove(self, name: str) -> None:
        """Remove a backup; nothing happens where it is gone. Raise LocalStateUnusable."""
        try:
            (self._directory / name).unlink(missing_ok=True)
        except OSError as error:
            raise cannot("remove", self._directory / name, error) from error

    def _prepare(self) -> None:
        """Make the directory, and remove what a killed process left unfinished."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in self._directory.glob(f".*{_SUFFIX}{_UNFINISHED}"):
            left.unlink(missing_ok=True)


def shelf_of(local: Local) -> BackupShelf:
    """Return the shelf that an appliance's settings name."""
    own = local.settings.backup_dir
    return BackupShelf(Path(own) if own else local.data_dir / "backups")


async def _fill(file: BinaryIO, writer: BackupWriter, content: AsyncIterator[bytes]) -> None:
    kept, written = bytearray(), 0
    async for octets in content:
        kept += octets
        if len(kept) >= _AT_ONCE_OCTETS:
            await asyncio.to_thread(writer.write, bytes(kept))
            kept.clear()
            written += 1
            if written % _SETTLED_EACH == 0:
                await asyncio.to_thread(_settle, file)
    await asyncio.to_thread(writer.write, bytes(kept))
    await asyncio.to_thread(writer.finish)


def _settle(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _created(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, SECRET)
