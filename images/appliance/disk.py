"""The appliance's disk: partitions, file systems and GRUB, octet for octet the same each time."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import struct
import uuid
from pathlib import Path
from typing import BinaryIO

from cairn_appliance.image.environment import Environment, encode

from images.building import ROOT, epoch, output, run, run_in

HERE = Path(__file__).resolve().parent
WORK = ROOT / "build/image"
MIB = 1 << 20
SECTOR = 512
# Numbers of this disk's partitions: fixed, since what is started is named by them.
_SPACE = uuid.UUID("3b0f4d52-2f0c-4b0e-9d0e-5f8f6a1f7c11")
ROOT_TYPE = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"  # root, x86-64
VAR_TYPE = "4d21b016-b534-45c2-a9fb-5c16e091fd2d"
ESP_TYPE = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
BIOS_TYPE = "21686148-6449-6e6f-744e-656564454649"
# name, type, MiB; slot B is empty until the first update, /var grows with the disk.
PARTITIONS = (
    ("cairn-bios", BIOS_TYPE, 1),
    ("cairn-esp", ESP_TYPE, 64),
    ("cairn-root-a", ROOT_TYPE, 1024),
    ("cairn-root-b", ROOT_TYPE, 1024),
    ("cairn-var", VAR_TYPE, 256),
)
GRUB_MODULES = (
    "part_gpt",
    "fat",
    "ext2",
    "normal",
    "configfile",
    "linux",
    "loadenv",
    "test",
    "regexp",
    "echo",
    "sleep",
    "reboot",
    "halt",
    "serial",
    "terminal",
    "minicmd",
    "ls",
    "cat",
)


def make(tree: Path, disk: Path) -> None:
    """Write the partitions one after the other into a file, and start GRUB from them."""
    places = _places()
    size = places["cairn-var"][1] + MIB
    with disk.open("wb") as file:
        file.truncate(size)
    lines = [f"label: gpt\nlabel-id: {uuid_of('disk')}\nfirst-lba: 2048\nunit: sectors"]
    for name, kind, mib in PARTITIONS:
        start = places[name][0] // SECTOR
        lines.append(
            f"start={start}, size={mib * MIB // SECTOR}, type={kind}, "
            f'uuid={uuid_of(name)}, name="{name}"'
        )
    run("sfdisk", "--quiet", str(disk), given="\n".join(lines) + "\n")
    parts = WORK / "parts"
    shutil.rmtree(parts, ignore_errors=True)
    parts.mkdir()
    root, var, esp = parts / "root", parts / "var", parts / "esp"
    (tree / "var").rename(parts / "var-files")
    (tree / "var").mkdir(mode=0o755)
    (tree / "var/tmp").mkdir()  # systemd-resolved has one of its own there before /var is mounted
    (tree / "var/tmp").chmod(0o1777)
    os.utime(tree / "var/tmp", (epoch(), epoch()))
    os.utime(tree / "var", (epoch(), epoch()))
    _ext4(root, 1024, "cairn-root", "root", tree)
    _ext4(var, 256, "cairn-var", "var", parts / "var-files")
    core, boot = _grub(tree, parts, esp, places["cairn-bios"][0] // SECTOR)
    with disk.open("r+b") as file:
        _put(file, places["cairn-root-a"][0], root)
        _put(file, places["cairn-var"][0], var)
        _put(file, places["cairn-esp"][0], esp)
        file.seek(places["cairn-bios"][0])
        file.write(core)
        file.seek(0)
        file.write(boot[:440])


def _places() -> dict[str, tuple[int, int]]:
    """Return where each partition begins and ends, in octets."""
    places, at = {}, MIB
    for name, _, mib in PARTITIONS:
        places[name] = (at, at + mib * MIB)
        at += mib * MIB
    return places


def _ext4(file: Path, mib: int, label: str, name: str, content: Path) -> None:
    """Make a file system of a directory. A root is never written: it needs no journal, and GRUB
    reads what is left out here less surely."""
    features = "^metadata_csum,^metadata_csum_seed,^orphan_file,^64bit"
    more = "lazy_itable_init=0,lazy_journal_init=0"
    if name == "root":
        features += ",^has_journal,^resize_inode"
    else:
        features = "^metadata_csum_seed,^orphan_file"
    run(
        *("mke2fs", "-q", "-F", "-t", "ext4", "-L", label, "-U", uuid_of(f"fs-{name}"), "-m", "0"),
        *("-b", "4096", "-O", features, "-E", f"hash_seed={uuid_of(f'hash-{name}')},{more}"),
        *("-d", str(content), str(file), f"{mib}M"),
    )
    if name == "root":
        _pin_times(file)
    else:
        _pin_times_of_few(file)


def _pin_times(file: Path) -> None:
    """Give every inode the same times but mtime: the others say when somebody built."""
    when = struct.pack("<I", epoch())
    with file.open("r+b") as image:
        image.seek(1024)
        super_block = image.read(1024)
        inodes, per_group = (struct.unpack_from("<I", super_block, at)[0] for at in (0x00, 0x28))
        size = struct.unpack_from("<H", super_block, 0x58)[0]
        groups = -(-inodes // per_group)
        image.seek(4096)  # descriptors of 32 octets follow the first block
        descriptors = image.read(32 * groups)
        for group in range(groups):
            table = struct.unpack_from("<I", descriptors, 32 * group + 8)[0] * 4096
            image.seek(table)
            octets = bytearray(image.read(per_group * size))
            for at in range(0, len(octets), size):
                if octets[at : at + 2] == b"\0\0":
                    continue  # not in use
                for field in (0x08, 0x0C, 0x90):  # atime, ctime, crtime
                    octets[at + field : at + field + 4] = when
                for field in (0x84, 0x88, 0x8C, 0x94):  # their parts of a second
                    octets[at + field : at + field + 4] = b"\0\0\0\0"
            image.seek(table)
            image.write(octets)


def _pin_times_of_few(file: Path) -> None:
    """Do the same where inodes have checksums, which debugfs makes anew."""
    about = output("dumpe2fs", "-h", str(file))
    count, free = (
        int(re.findall(rf"(?m)^{name}:\s+(\d+)$", about)[0])
        for name in ("Inode count", "Free inodes")
    )
    lines = [
        f"set_inode_field <{inode}> {field} {value}"
        for inode in (2, *range(11, count - free + 1))  # 3 to 10 are mke2fs's own
        for field, value in (
            *((each, f"@{epoch()}") for each in ("atime", "ctime", "crtime")),
            *((f"{each}_extra", 0) for each in ("atime", "ctime", "mtime", "crtime")),
        )
    ]
    run("debugfs", "-w", "-f", "/dev/stdin", str(file), given="\n".join(lines) + "\n")


def _grub(tree: Path, parts: Path, esp: Path, core_at: int) -> tuple[bytes, bytes]:
    """Fill the ESP; return what BIOS starts: the core image and the first sector."""
    made = tree / "run/grub"
    made.mkdir()
    try:
        for target, name, more in (
            ("x86_64-efi", "BOOTX64.EFI", ("efi_gop",)),
            ("i386-pc", "core.img", ("biosdisk",)),
        ):
            run_in(tree, "grub-mkimage", "-O", target, "-o", f"/run/grub/{name}",
                "-p", "(,gpt2)/grub", *GRUB_MODULES, *more)  # fmt: skip
        core = bytearray((made / "core.img").read_bytes())
        boot = bytearray((tree / "usr/lib/grub/i386-pc/boot.img").read_bytes())
        program = (made / "BOOTX64.EFI").read_bytes()
    finally:
        shutil.rmtree(made)
    # As grub-bios-setup does: the first sector reads the core's first, and that one the rest.
    struct.pack_into("<Q", boot, 0x5C, core_at)
    boot[0x66:0x68] = b"\x90\x90"  # believe the drive number of the BIOS only where it is one
    rest = -(-len(core) // SECTOR) - 1
    struct.pack_into("<QHH", core, 0x1F4, core_at + 1, rest, 0x820)
    _fill_esp(parts, esp, program)
    return bytes(core), bytes(boot)


def _fill_esp(parts: Path, esp: Path, program: bytes) -> None:
    place = parts / "esp-files"
    (place / "EFI/BOOT").mkdir(parents=True)
    (place / "grub").mkdir()
    (place / "EFI/BOOT/BOOTX64.EFI").write_bytes(program)
    text = (HERE / "grub.cfg").read_text()
    text = text.replace("@ROOT_A@", uuid_of("cairn-root-a")).replace(
        "@ROOT_B@", uuid_of("cairn-root-b")
    )
    (place / "grub/grub.cfg").write_text(text)
    (place / "grub/grubenv").write_bytes(encode(Environment()))
    make_fat(esp, 64, 32, "CAIRN-ESP", "cairn-esp", place)


def make_fat(file: Path, mib: int, bits: int, label: str, name: str, content: Path) -> None:
    """Make a FAT file system of a directory; its number goes by `name`."""
    for path in [content, *content.rglob("*")]:
        os.utime(path, (epoch(), epoch()))
    with file.open("wb") as made:
        made.truncate(mib * MIB)
    number = hashlib.sha256(uuid_of(name).encode()).hexdigest()[:8]
    run(
        *("mkfs.vfat", "--invariant", "-F", str(bits), "-s", "1", "-i", number),
        *("-n", label, str(file)),
    )
    for path in sorted(content.iterdir()):
        run("mcopy", "-s", "-m", "-Q", "-i", str(file), str(path), "::")


def _put(disk: BinaryIO, at: int, part: Path) -> None:
    """Copy a partition into the disk, leaving holes where it has nothing."""
    nothing = bytes(MIB)
    with part.open("rb") as source:
        while octets := source.read(MIB):
            if octets != nothing[: len(octets)]:
                disk.seek(at)
                disk.write(octets)
            at += len(octets)


def uuid_of(name: str) -> str:
    """Return the number that a thing of this name has on every disk."""
    return str(uuid.uuid5(_SPACE, name))
