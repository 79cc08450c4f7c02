"""Which disks there are, what is on them, and which one is meant."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from cairn_appliance.image.installer.errors import InstallError
from cairn_appliance.image.seed import Install

MIB = 1 << 20
GIB = 1 << 30
SMALLEST = 4 * GIB
_SYS = Path("/sys/block")
_LINKS = (Path("/dev/disk/by-id"), Path("/dev/disk/by-path"))
_NO_DISKS = ("loop", "ram", "zram", "sr", "fd", "md", "dm-", "nbd", "mtdblock")
_WITHIN_S = 60.0


@dataclass(frozen=True, slots=True)
class Disk:
    """One disk that could be written."""

    path: str
    octets: int
    model: str
    serial: str
    links: tuple[str, ...]  # its names in /dev/disk
    content: tuple[str, ...]  # what is on it; nothing where it is empty

    @property
    def name(self) -> str:
        """Return its short name, which is typed to confirm."""
        return Path(self.path).name

    def __str__(self) -> str:
        about = [self.path, size_text(self.octets), self.model, self.serial]
        about.append("empty" if not self.content else f"has {', '.join(self.content)}")
        return "  ".join(each for each in about if each)


def size_text(octets: int) -> str:
    """Return a size as people read it."""
    return f"{octets / GIB:.1f} GiB"


def found(media: Iterable[Path]) -> list[Disk]:
    """Return all disks but those that these media are on."""
    used = {whole_disk(each) for each in media}
    names = sorted(path.name for path in _SYS.iterdir())
    return [_disk(name) for name in names if name not in used and _is_disk(_SYS / name)]


def whole_disk(device: Path) -> str:
    """Return the name of the disk that a device is, or is a partition of."""
    place = Path("/sys/class/block", device.resolve().name).resolve()
    return place.parent.name if (place / "partition").exists() else place.name


def chosen(install: Install, disks: list[Disk], needed: int) -> Disk:
    """Return the one disk that a seed means; raise InstallError."""
    meant = [disk for disk in disks if _is_meant(install, disk)]
    there = "\n".join(f"  {disk}" for disk in disks) or "  none"
    if len(meant) != 1:
        raise InstallError(
            f"install.disk = {install.disk!r} means {len(meant) or 'none'} of the disks:\n{there}",
            "name one by its serial number or its path, or give min_gib and max_gib",
        )
    (disk,) = meant
    check_size(disk, needed)
    if disk.content and not install.wipe:
        raise InstallError(
            f"the disk is not empty: {disk}",
            "empty it, name another, or say wipe = true in the seed's [install]",
        )
    return disk


def check_size(disk: Disk, needed: int) -> None:
    """Raise InstallError where the image has no room."""
    if disk.octets < max(needed, SMALLEST):
        raise InstallError(
            f"the disk is too small: {disk}", f"use one of {size_text(SMALLEST)} or more"
        )


def _is_meant(install: Install, disk: Disk) -> bool:
    gib = disk.octets / GIB
    if gib < install.min_gib or (install.max_gib and gib > install.max_gib):
        return False
    names = (disk.path, disk.serial, disk.model, *disk.links)
    return any(fnmatchcase(each, install.disk.strip()) for each in names if each)


def _is_disk(place: Path) -> bool:
    if place.name.startswith(_NO_DISKS) or _text(place / "hidden") == "1":
        return False
    return _text(place / "ro") == "0" and int(_text(place / "size") or 0) > 0


def _disk(name: str) -> Disk:
    about = _SYS / name / "device"
    path = Path("/dev", name)
    known = _udev(path)
    return Disk(
        path=str(path),
        octets=int(_text(_SYS / name / "size")) * 512,
        model=_text(about / "model") or known.get("ID_MODEL", ""),
        serial=known.get("ID_SERIAL_SHORT")
        or _text(_SYS / name / "serial")
        or _text(about / "serial"),
        links=tuple(sorted(_links(path))),
        content=tuple(_content(path)),
    )


def _links(path: Path) -> Iterable[str]:
    for folder in _LINKS:
        if folder.is_dir():
            yield from (str(link) for link in folder.iterdir() if link.resolve() == path)


def _content(path: Path) -> Iterable[str]:
    """Say what is on a disk, by what blkid knows; what it doesn't know is data, too."""
    about = _probe(path)
    kind = about.get("PTTYPE") or about.get("TYPE")
    parts = sorted(Path("/sys/class/block", path.name).glob(f"{path.name}*/partition"))
    if kind:
        yield f"{kind} table" if "PTTYPE" in about else _named(about)
    for part in parts:
        yield f"{part.parent.name}: {_named(_probe(Path('/dev', part.parent.name)))}"
    if not kind and not parts and not _has_zeros_only(path):
        yield "data of an unknown kind"


def _named(about: dict[str, str]) -> str:
    label = about.get("LABEL") or about.get("PART_ENTRY_NAME", "")
    return f"{about.get('TYPE', 'unknown')}{f' {label!r}' if label else ''}"


def _has_zeros_only(path: Path) -> bool:
    """Look at both ends: tables, superblocks and labels are there."""
    with path.open("rb") as disk:
        for place in (os.SEEK_SET, os.SEEK_END):
            disk.seek(0 if place == os.SEEK_SET else -MIB, place)
            if disk.read(MIB).strip(b"\0"):
                return False
    return True


def _probe(device: Path) -> dict[str, str]:
    return _values(_output("blkid", "-p", "-o", "export", str(device)))


def _udev(device: Path) -> dict[str, str]:
    return _values(_output("udevadm", "info", "--query=property", f"--name={device}"))


def _values(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def _output(*command: str) -> str:
    """Return what a command prints: blkid ends with 2 where it knows nothing."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_WITHIN_S, check=False
    )
    return done.stdout.decode("utf-8", "replace")


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8", "replace").strip()
    except OSError:
        return ""
