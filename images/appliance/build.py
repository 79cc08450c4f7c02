"""Builds the appliance's image: raw, qcow2, OVA and the installer's ISO, for BIOS and UEFI.

`make image` runs it, as root. From Debian 13's packages, the locked wheels and this checkout it
makes one read-only system; around it a disk with two slots for systems, and /var for all state
(docs/adr/0019). No loop device and no mount of what is made. Dates, numbers and seeds are fixed:
two builds of one commit from the same packages differ in nothing.

system      Debian's part, the appliance and what it needs, as a directory
disk        partitions, file systems, GRUB
ova         the disk for VMware, with the fields of the seed
iso         the disk packed, and the installer that writes it
update      the same system as a signed file, by which appliances that run are updated
materials   the list of what is in it
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

from images.appliance import disk, iso, materials, ova, system, update
from images.appliance.disk import WORK
from images.building import (
    PUBLIC_KEY,
    ROOT,
    development_key,
    epoch,
    public_key,
    run,
    settle_surroundings,
    sha256,
    sign_folder,
    version_of,
)


def main() -> None:
    """Build what was asked for."""
    parser = argparse.ArgumentParser(description="Build the appliance's image.")
    parser.add_argument("--release", default="1", help="number after the version")
    parser.add_argument("--output", type=Path, default=WORK / "dist")
    parser.add_argument("--packages", type=Path, default=ROOT / "build/packages/dist")
    parser.add_argument("--key", type=Path, help="release key (Ed25519, PEM)")
    parser.add_argument("--fresh", action="store_true", help="fetch Debian's packages anew")
    parser.add_argument("--no-qcow2", action="store_true", help="the raw disk only")
    asked = parser.parse_args()
    _check_builder()
    settle_surroundings()
    version = f"{version_of('appliance')}-{asked.release}"
    output: Path = asked.output.resolve()
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    key = asked.key or development_key()
    tree = system.make(asked.fresh, version, asked.packages, public_key(key))
    name = f"cairn-appliance_{version}_amd64"
    parts = _materials(tree, asked.packages)
    (output / f"{name}.cdx.json").write_text(materials.listed(version, epoch(), parts))
    shutil.copy(tree / "usr/lib/cairn-appliance/debian-packages.txt", output / f"{name}.packages")
    disk.make(tree, output / f"{name}.raw")
    update.make(WORK / "parts/root", version, key, output / f"{name}.update")
    if not asked.no_qcow2:
        _pack(tree, output / f"{name}.raw", version)
    (output / PUBLIC_KEY).write_text(public_key(key))
    sign_folder(output, key)
    for path in sorted(output.iterdir()):
        about = path.stat()
        print(f"image: {path.name} {about.st_size} octets, {about.st_blocks * 512} on disk")


def _pack(tree: Path, raw: Path, version: str) -> None:
    """Make of the disk what people are given."""
    run(
        *("qemu-img", "convert", "-c", "-O", "qcow2", "-o", "compression_type=zstd"),
        *(str(raw), str(raw.with_suffix(".qcow2"))),
    )
    digest = sha256(raw)
    ova.make(raw, digest, version, raw.with_suffix(".ova"))
    iso.make(tree, raw, digest, version, raw.with_suffix(".iso"))


def _check_builder() -> None:
    if os.geteuid() != 0:
        sys.exit("image: error: root builds it (mmdebstrap, chroot)\n  what to do: use root, or CI")
    needed = ("mmdebstrap", "mke2fs", "mkfs.vfat", "mcopy", "sfdisk", "qemu-img", "openssl", "go")
    needed += ("xorriso", "zstd")
    missing = [tool for tool in needed if not shutil.which(tool)]
    if missing:
        sys.exit(
            f"image: error: missing: {' '.join(missing)}\n  what to do: tools/setup image, as root"
        )


def _materials(tree: Path, packages: Path) -> Iterator[materials.Part]:
    """Yield what is in the image."""
    own = tree / "usr/lib/cairn-appliance"
    yield from materials.debian((own / "dpkg/status").read_text("utf-8"), "13")
    yield from materials.python(own / "lib")
    for program in ("etcd", "etcdctl", "etcdutl"):
        yield from materials.go(own / "bin" / program)
    yield from materials.npm(ROOT / "appliance/console/package-lock.json")
    for archive in packages.glob("*.tar.gz"):
        with tarfile.open(archive) as opened:
            (name,) = (each for each in opened.getnames() if each.endswith("/bundled.txt"))
            content = opened.extractfile(name)
            assert content is not None
            yield from materials.agent(content.read().decode())
        yield from materials.crates(ROOT / "agent/Cargo.toml")


if __name__ == "__main__":
    main()
