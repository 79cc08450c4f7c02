"""The medium that a seed is on: found by its label, read, and wiped where it can be written."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from cairn_appliance.image.seed import MOST_OCTETS, SeedError

LABELS = ("cidata", "CIDATA")
FILE_NAME = "user-data"
_BY_LABEL = Path("/dev/disk/by-label")
_WITHIN_S = 30.0


class Unmountable(SeedError):
    """There is no medium, or one of something else."""

    remedy = "make it as ISO 9660 or FAT with the label cidata"


def find(labels: Sequence[str] = LABELS) -> Path | None:
    """Return the device with a seed, once the kernel has told of all that are there."""
    _run("udevadm", "settle", "--timeout=15", check=False)
    for label in labels:
        device = _BY_LABEL / label
        if device.exists():
            return device.resolve()
    return None


def read(device: Path) -> str:
    """Return the text of the seed; raise SeedError."""
    octets = read_file(device, FILE_NAME)
    if octets is None:
        raise SeedError(f"the medium {device} has no {FILE_NAME} that can be read")
    try:
        return octets.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SeedError(f"{FILE_NAME} is no text in UTF-8") from error


def read_file(device: Path, name: str) -> bytes | None:
    """Return a small file of a medium, None where it has none; raise SeedError."""
    with mounted(device, "ro") as place:
        try:
            with (place / name).open("rb") as file:
                octets = file.read(MOST_OCTETS + 1)
        except OSError:
            return None
    if len(octets) > MOST_OCTETS:
        raise SeedError(f"{name} is larger than {MOST_OCTETS // 1024} KiB")
    return octets


def wipe(device: Path) -> None:
    """Overwrite the seed and remove it; raise SeedError where the medium can't be written."""
    try:
        with mounted(device, "rw") as place:
            overwrite(place / FILE_NAME)
    except OSError as error:
        raise SeedError(
            f"the seed can't be wiped from {device}: {error.strerror}",
            "take the medium away, it holds the seed's secrets",
        ) from error


def overwrite(path: Path) -> None:
    """Put zeros over a file's content, where it lies, before its name goes."""
    with path.open("r+b") as file:
        file.write(bytes(os.fstat(file.fileno()).st_size))
        file.flush()
        os.fsync(file.fileno())
    path.unlink()


@contextlib.contextmanager
def mounted(device: Path, mode: str) -> Iterator[Path]:
    """Have a medium mounted; raise Unmountable."""
    with tempfile.TemporaryDirectory(prefix="cairn-seed-", dir="/run") as directory:
        options = f"{mode},nodev,nosuid,noexec"
        if not _run("mount", "-o", options, str(device), directory, check=False):
            raise Unmountable(f"the medium {device} can't be mounted ({mode})")
        try:
            yield Path(directory)
        finally:
            _run("umount", directory)


def _run(*command: str, check: bool = True) -> bool:
    done = subprocess.run(
        command, check=check, timeout=_WITHIN_S, stdin=subprocess.DEVNULL, capture_output=True
    )
    return done.returncode == 0
