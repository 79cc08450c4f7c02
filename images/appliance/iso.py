"""The installer's ISO: starts by BIOS and UEFI, from a CD or written to a USB stick as it is.

Kernel and an initrd with the installer's program (cairn_appliance/image/installer), and the disk,
packed. Dates and numbers are fixed; grub-mkrescue, which draws some of them, is not used.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from datetime import UTC, datetime
from pathlib import Path

from images.appliance.disk import GRUB_MODULES, WORK, make_fat, uuid_of
from images.building import epoch, run, run_in

HERE = Path(__file__).resolve().parent / "installer"
LABEL = "CAIRN_INSTALL"  # known to cairn_appliance.image.installer.main
_MODULES = (*GRUB_MODULES, "iso9660", "part_msdos", "search", "search_label")
_FIND_MEDIUM = f"search --no-floppy --set=root --label {LABEL}\nset prefix=($root)/boot/grub\n"
_BASIC_DATA = "a2a0d0ebe5b9334487c068b6b72699c7"  # types of partitions, as xorriso wants them
_ESP = "28732ac11ff8d211ba4b00a0c93ec93b"


def make(tree: Path, disk: Path, digest: str, version: str, iso: Path) -> None:
    """Write the ISO of a finished disk, whose SHA-256 is `digest`."""
    files = WORK / "iso"
    shutil.rmtree(files, ignore_errors=True)
    (files / "boot/grub").mkdir(parents=True)
    (files / "cairn").mkdir()
    shutil.copy(tree / "boot" / (tree / "boot/vmlinuz").readlink(), files / "boot/vmlinuz")
    _make_initrd(tree, files / "boot/installer.img")
    shutil.copy(HERE / "grub.cfg", files / "boot/grub/grub.cfg")
    packed = files / "cairn/disk.raw.zst"
    run("zstd", "--quiet", "-12", "--threads=2", "-o", str(packed), str(disk))
    about = {"version": version, "octets": disk.stat().st_size, "sha256": digest}
    (files / "cairn/image.json").write_text(json.dumps({**about, "file": packed.name}) + "\n")
    mbr, efi = _make_starters(tree, files)
    for path in [files, *files.rglob("*")]:
        os.utime(path, (epoch(), epoch()))
    _write(files, mbr, efi, iso)


def _make_initrd(tree: Path, initrd: Path) -> None:
    """Make it in the system, by the system's own settings and the installer's additions."""
    settings = tree / "run/installer"
    shutil.copytree(tree / "etc/initramfs-tools", settings)
    shutil.copytree(HERE, settings, dirs_exist_ok=True)
    (kernel,) = (path.name for path in (tree / "usr/lib/modules").iterdir())
    try:
        run_in(tree, "env", "TMPDIR=/tmp", "mkinitramfs",
            "-d", "/run/installer", "-o", "/run/installer/made", kernel)  # fmt: skip
        shutil.copy(settings / "made", initrd)
    finally:
        shutil.rmtree(settings)


def _make_starters(tree: Path, files: Path) -> tuple[Path, Path]:
    """Put GRUB for BIOS among the files; return the first sector for sticks, and UEFI's volume."""
    made = tree / "run/grub"
    made.mkdir()
    parts = WORK / "iso-parts"
    shutil.rmtree(parts, ignore_errors=True)
    (parts / "efi/EFI/BOOT").mkdir(parents=True)
    try:
        (made / "find.cfg").write_text(_FIND_MEDIUM)
        for target, name, more in (
            ("x86_64-efi", "BOOTX64.EFI", ("efi_gop",)),
            ("i386-pc-eltorito", "bios.img", ("biosdisk",)),
        ):
            run_in(tree, "grub-mkimage", "-O", target, "-o", f"/run/grub/{name}",
                "-p", "/boot/grub", "-c", "/run/grub/find.cfg", *_MODULES, *more)  # fmt: skip
        shutil.copy(made / "bios.img", files / "boot/grub/bios.img")
        shutil.copy(made / "BOOTX64.EFI", parts / "efi/EFI/BOOT/BOOTX64.EFI")
        shutil.copy(tree / "usr/lib/grub/i386-pc/boot_hybrid.img", parts / "boot_hybrid.img")
    finally:
        shutil.rmtree(made)
    make_fat(parts / "efi.img", 4, 16, "CAIRN-EFI", "iso-efi", parts / "efi")
    return parts / "boot_hybrid.img", parts / "efi.img"


def _write(files: Path, mbr: Path, efi: Path, iso: Path) -> None:
    when = datetime.fromtimestamp(epoch(), UTC).strftime("%Y%m%d%H%M%S00")
    run(
        *("xorriso", "-as", "mkisofs", "-quiet", "-o", str(iso), "-V", LABEL),
        *("-iso-level", "3", "-r", f"--modification-date={when}"),
        *("--gpt_disk_guid", uuid.UUID(uuid_of("iso")).hex),
        *("--grub2-mbr", str(mbr), "--protective-msdos-label", "-partition_cyl_align", "off"),
        *("-partition_offset", "16", "--mbr-force-bootable"),
        *("-append_partition", "2", _ESP, str(efi), "-appended_part_as_gpt"),
        *("-iso_mbr_part_type", _BASIC_DATA),
        *("-c", "boot/grub/boot.cat", "-b", "boot/grub/bios.img", "-no-emul-boot"),
        *("-boot-load-size", "4", "-boot-info-table", "--grub2-boot-info"),
        *("-eltorito-alt-boot", "-e", "--interval:appended_partition_2:all::", "-no-emul-boot"),
        str(files),
    )
