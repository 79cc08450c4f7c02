"""The partitions of the two slots: found beside the one that runs, and written whole."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from cairn_appliance.domain.errors import CairnError, UpdateUnusable
from cairn_appliance.image.environment import Slot

_NAME = "cairn-root-"
_AT_ONCE_OCTETS = 1 << 20
_SYNC_EACH_OCTETS = 64 << 20  # what is dirty in memory stays little, and others' writes go on
_DISK = "look at the disk: the kernel's messages are in this machine's journal"


class SlotUnusable(CairnError):
    """A slot can't be found or written."""

    code = "slot_unusable"
    remedy = _DISK


def partition_of(slot: Slot, root: Path = Path("/"), sys: Path = Path("/sys")) -> Path:
    """Return the device of a slot on the disk that this system runs from.

    By the disk and not by name alone: a second disk may be a copy of this one.
    """
    number = root.stat().st_dev
    here = (sys / "dev/block" / f"{os.major(number)}:{os.minor(number)}").resolve()
    for event in sorted(here.parent.glob("*/uevent")):
        about = dict(line.partition("=")[::2] for line in event.read_text("utf-8").splitlines())
        if about.get("PARTNAME") == f"{_NAME}{slot}" and about.get("DEVNAME"):
            return Path("/dev") / about["DEVNAME"]
    raise SlotUnusable(f"the disk has no partition {_NAME}{slot}", "write the image anew")


class SlotWriter:
    """A slot that is open for being written; a context manager. Never one that is mounted."""

    def __init__(self, device: Path) -> None:
        """Open it; raise SlotUnusable, and nothing has been written then."""
        self._device = device
        try:
            # O_EXCL: the kernel refuses a device that is mounted.
            self._file = os.open(device, os.O_RDWR | os.O_EXCL | os.O_CLOEXEC)
        except OSError as error:
            raise SlotUnusable(f"{device} can't be written: {error.strerror}") from error
        self.octets = os.lseek(self._file, 0, os.SEEK_END)

    def __enter__(self) -> SlotWriter:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._file)

    def spoil(self) -> None:
        """Make sure that what lies there can't be taken for a system any more."""
        try:
            os.pwrite(self._file, bytes(_AT_ONCE_OCTETS), 0)
            os.fsync(self._file)
        except OSError as error:
            raise self._unwritten(error) from error

    def write(self, chunks: Iterable[bytes], octets: int) -> None:
        """Write a file system of this length, durably; raise UpdateUnusable, SlotUnusable."""
        at = synced = 0
        for chunk in chunks:
            if at + len(chunk) > octets:
                raise UpdateUnusable(
                    "the update unpacks to more than it says", code="update_damaged"
                )
            try:
                _write_all(self._file, chunk, at)
                at += len(chunk)
                if at - synced >= _SYNC_EACH_OCTETS:
                    os.fdatasync(self._file)
                    synced = at
            except OSError as error:
                raise self._unwritten(error) from error
        if at != octets:
            raise UpdateUnusable("the update unpacks to less than it says", code="update_damaged")
        try:
            os.fsync(self._file)
        except OSError as error:
            raise self._unwritten(error) from error

    def digest(self, octets: int) -> str:
        """Return the hex SHA-256 of what the disk itself has, not of what memory remembers."""
        found, at = hashlib.sha256(), 0
        try:
            os.posix_fadvise(self._file, 0, 0, os.POSIX_FADV_DONTNEED)
            while at < octets:
                chunk = os.pread(self._file, min(_AT_ONCE_OCTETS, octets - at), at)
                if not chunk:
                    break
                found.update(chunk)
                at += len(chunk)
        except OSError as error:
            raise SlotUnusable(f"{self._device} can't be read: {error.strerror}") from error
        return found.hexdigest()

    def _unwritten(self, error: OSError) -> SlotUnusable:
        return SlotUnusable(f"{self._device} can't be written: {error.strerror}")


def _write_all(file: int, chunk: bytes, at: int) -> None:
    view = memoryview(chunk)
    while view:
        count = os.pwrite(file, view, at)
        view, at = view[count:], at + count
