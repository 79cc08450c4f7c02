"""The image onto a disk, and back: what was written is what was meant, or it is said."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from cairn_appliance.image.installer.disks import MIB, Disk
from cairn_appliance.image.installer.errors import InstallError

_PIECE = 4 * MIB
_BLKFLSBUF = 0x1261  # of linux/fs.h
_BEGUN = "write to another disk, or replace this one; what was on it is gone"
_WITHIN_S = 60.0

Progress = Callable[[str, int], None]


class Image(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the medium says of the image that is on it (images/appliance/iso.py)."""

    version: str
    octets: int
    sha256: str
    file: str


def read_about(place: Path) -> Image:
    """Return what is on the medium; raise InstallError."""
    try:
        return msgspec.json.decode((place / "cairn/image.json").read_bytes(), type=Image)
    except (OSError, msgspec.MsgspecError) as error:
        raise InstallError(
            f"the medium can't be read: {error}", "write the installation medium anew"
        ) from error


def write(packed: Path, image: Image, disk: Disk, progress: Progress) -> None:
    """Write the image and the zeros behind it; raise InstallError."""
    try:
        target = os.open(disk.path, os.O_RDWR | os.O_EXCL)
    except OSError as error:
        raise InstallError(f"{disk.path} can't be written: {error.strerror}") from error
    try:
        _write_all(target, packed, image, progress)
        # A RAID's or an old table's end would speak of what is no more.
        os.pwrite(target, bytes(MIB), disk.octets - MIB)
        _settle(target)
    except OSError as error:
        raise InstallError(f"writing {disk.path} failed: {error.strerror}", _BEGUN) from error
    finally:
        os.close(target)


def verify(image: Image, disk: Disk, progress: Progress) -> None:
    """Read back exactly what was written; raise InstallError where it isn't the image."""
    digest, done = hashlib.sha256(), 0
    try:
        with open(disk.path, "rb", buffering=0) as source:  # noqa: PTH123
            while done < image.octets:
                piece = source.read(min(_PIECE, image.octets - done))
                if not piece:
                    break
                digest.update(piece)
                done += len(piece)
                progress("verifying", done * 100 // image.octets)
    except OSError as error:
        raise InstallError(f"reading {disk.path} failed: {error.strerror}", _BEGUN) from error
    if done != image.octets or digest.hexdigest() != image.sha256:
        raise InstallError(
            f"{disk.path} does not give back what was written: {done} octets,"
            f" sha256={digest.hexdigest()}, not {image.octets}, {image.sha256}",
            "check medium (its checksum) and disk, then install again",
        )


def _write_all(target: int, packed: Path, image: Image, progress: Progress) -> None:
    done = 0
    with _unpacked(packed) as pieces:
        for piece in pieces:
            done += len(piece)
            if done > image.octets:
                break
            _write_piece(target, piece)
            progress("writing", done * 100 // image.octets)
    if done != image.octets:
        raise InstallError(
            f"the medium holds {done} octets of an image of {image.octets}; writing had begun",
            "write the installation medium anew",
        )


def _settle(target: int) -> None:
    os.fsync(target)
    fcntl.ioctl(target, _BLKFLSBUF)  # it is the disk that is read back, not memory


def _write_piece(target: int, piece: bytes) -> None:
    left = memoryview(piece)
    while left:
        left = left[os.write(target, left) :]


@contextmanager
def _unpacked(packed: Path) -> Iterator[Iterator[bytes]]:
    """Yield the image piece by piece; raise InstallError where the medium has it damaged."""
    with subprocess.Popen(
        ["zstd", "--decompress", "--stdout", "--quiet", str(packed)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as unpacker:
        assert unpacker.stdout is not None and unpacker.stderr is not None
        read = unpacker.stdout.read
        try:
            yield iter(lambda: read(_PIECE), b"")
            told = unpacker.stderr.read(400).decode("utf-8", "replace").strip()
            if unpacker.wait(_WITHIN_S) != 0:
                raise InstallError(
                    f"the medium is damaged: {told}; writing had begun",
                    "check the ISO's checksum and write the installation medium anew",
                )
        finally:
            unpacker.kill()
