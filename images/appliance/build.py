"""Builds the appliance's disk image: raw and qcow2, for BIOS and UEFI.

`make image` runs it, as root. From Debian 13's packages, the locked wheels and this checkout it
makes one read-only system; around it a disk with two slots for systems, and /var for all state
(docs/adr/0019). No loop device and no mount of what is made. Dates, numbers and seeds are fixed:
two builds of one commit from the same packages differ in nothing.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import tomllib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import materials

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
WORK = ROOT / "build/image"
SUITE = "trixie"
BASE_EPOCH = 1_767_225_600  # 2026-01-01
PUBLIC_KEY = "cairn-release.pem"
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
# Of the base: documentation, and translations of programs that nobody calls.
EXCLUDED = (
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/bash-completion/*",
    "/usr/share/lintian/*",
)
INCLUDED = ("/usr/share/doc/*/copyright",)
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
MASKED = (
    "autovt@.service",
    "console-getty.service",
    "getty@.service",
    "serial-getty@.service",
    "systemd-firstboot.service",
    "systemd-machine-id-commit.service",
)


def main() -> None:
    """Build what was asked for."""
    parser = argparse.ArgumentParser(description="Build the appliance's disk image.")
    parser.add_argument("--release", default="1", help="number after the version")
    parser.add_argument("--output", type=Path, default=WORK / "dist")
    parser.add_argument("--packages", type=Path, default=ROOT / "build/packages/dist")
    parser.add_argument("--key", type=Path, help="release key (Ed25519, PEM)")
    parser.add_argument("--fresh", action="store_true", help="fetch Debian's packages anew")
    parser.add_argument("--no-qcow2", action="store_true", help="the raw disk only")
    asked = parser.parse_args()
    _check_builder()
    os.umask(0o022)
    _settle_surroundings()
    version = f"{_version()}-{asked.release}"
    output: Path = asked.output.resolve()
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    tree = _system(asked.fresh, version, asked.packages)
    name = f"cairn-appliance_{version}_amd64"
    parts = _materials(tree, asked.packages)
    (output / f"{name}.cdx.json").write_text(materials.listed(version, _epoch(), parts))
    shutil.copy(tree / "usr/lib/cairn-appliance/debian-packages.txt", output / f"{name}.packages")
    _disk(tree, output / f"{name}.raw")
    if not asked.no_qcow2:
        _run(
            *("qemu-img", "convert", "-c", "-O", "qcow2", "-o", "compression_type=zstd"),
            *(str(output / f"{name}.raw"), str(output / f"{name}.qcow2")),
        )
    _sign(output, asked.key or _development_key())
    for path in sorted(output.iterdir()):
        about = path.stat()
        print(f"image: {path.name} {about.st_size} octets, {about.st_blocks * 512} on disk")


def _settle_surroundings() -> None:
    """Give the tools the same clock, time zone and language wherever this runs."""
    epoch = str(_epoch())
    for name in [each for each in os.environ if each.startswith(("PYTHON", "LC_", "LANG"))]:
        del os.environ[name]
    os.environ |= {"TZ": "UTC", "LC_ALL": "C.UTF-8"}
    os.environ |= {"SOURCE_DATE_EPOCH": epoch, "E2FSPROGS_FAKE_TIME": epoch}


def _check_builder() -> None:
    if os.geteuid() != 0:
        sys.exit("image: error: root builds it (mmdebstrap, chroot)\n  what to do: use root, or CI")
    needed = ("mmdebstrap", "mke2fs", "mkfs.vfat", "mcopy", "sfdisk", "qemu-img", "openssl", "go")
    missing = [tool for tool in needed if not shutil.which(tool)]
    if missing:
        sys.exit(
            f"image: error: missing: {' '.join(missing)}\n  what to do: tools/setup image, as root"
        )


def _version() -> str:
    about = tomllib.loads((ROOT / "appliance/pyproject.toml").read_text())
    return str(about["project"]["version"])


def _epoch() -> int:
    """Return the time of the commit: the files' own times say when somebody built."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    return int(given or _output("git", "-C", str(ROOT), "log", "-1", "--format=%ct"))


def _uuid(name: str) -> str:
    return str(uuid.uuid5(_SPACE, name))


def _development_key() -> Path:
    """Return the key of this checkout that signs its packages, too: a release has --key."""
    key = ROOT / "build/packages/development-key.pem"
    if not key.exists():
        key.parent.mkdir(parents=True, exist_ok=True)
        _run("openssl", "genpkey", "-algorithm", "ed25519", "-out", str(key))
        key.chmod(0o600)
    print("image: signed with this checkout's development key; a release takes --key")
    return key


def _sign(output: Path, key: Path) -> None:
    """Write the list of checksums and its signature, as the agent's packages have them."""
    (output / PUBLIC_KEY).write_text(_output("openssl", "pkey", "-in", str(key), "-pubout"))
    names = sorted(path.name for path in output.iterdir())
    sums = output / "SHA256SUMS"
    sums.write_text("".join(f"{_sha256(output / each)}  {each}\n" for each in names))
    _run(
        *("openssl", "pkeyutl", "-sign", "-rawin", "-inkey", str(key)),
        *("-in", str(sums), "-out", str(output / "SHA256SUMS.sig")),
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


# The system


def _system(fresh: bool, version: str, packages: Path) -> Path:
    """Return the directory of the finished system."""
    base = _base(fresh)
    tree = WORK / "system"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    _run("tar", "--extract", "--numeric-owner", "--file", str(base), "--directory", str(tree))
    _run("cp", "--recursive", "--no-preserve=ownership", f"{HERE / 'tree'}/.", str(tree))
    _write_addresses_of_disk(tree)
    own = tree / "usr/lib/cairn-appliance"
    (own / "bin").mkdir(parents=True)
    for program in ("etcd", "etcdctl", "etcdutl"):
        shutil.copy(ROOT / "build/tools/etcd" / program, own / "bin")
    _copy_appliance(own / "lib")
    if (packages / "SHA256SUMS").exists():
        shutil.copytree(packages, tree / "usr/share/cairn/packages")
    else:
        print(f"image: no agent packages in {packages}: the appliance serves none")
    _settle(tree, version)
    return tree


def _base(fresh: bool) -> Path:
    """Return the archive of Debian's part: fetched once for each list of packages."""
    names = [
        line
        for line in (HERE / "packages.txt").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    wanted = hashlib.sha256(
        repr((SUITE, BASE_EPOCH, names, EXCLUDED, INCLUDED)).encode()
    ).hexdigest()[:16]
    base = WORK / f"base-{wanted}.tar"
    if base.exists() and not fresh:
        print(f"image: Debian's part as fetched before ({base.name}; --fresh fetches it anew)")
        return base
    WORK.mkdir(parents=True, exist_ok=True)
    paths = [f"--dpkgopt=path-exclude={each}" for each in EXCLUDED]
    paths += [f"--dpkgopt=path-include={each}" for each in INCLUDED]
    new = base.with_suffix(".new.tar")
    # Kept over many commits: its files' times must not be of the commit that happened to be there.
    _run(
        *("env", f"SOURCE_DATE_EPOCH={BASE_EPOCH}", "mmdebstrap"),
        "--quiet",
        "--mode=root",
        "--variant=minbase",
        f"--include={','.join(names)}",
        *paths,
        "--customize-hook=rm -f $1/etc/resolv.conf $1/etc/hostname",
        "--customize-hook=rm -rf $1/usr/share/python3/debpython/__pycache__",
        SUITE,
        str(new),
    )
    new.rename(base)
    return base


def _write_addresses_of_disk(tree: Path) -> None:
    fstab = tree / "etc/fstab"
    text = fstab.read_text()
    for mark, name in {"@VAR@": "cairn-var", "@ESP@": "cairn-esp"}.items():
        text = text.replace(mark, _uuid(name))
    fstab.write_text(text)


def _copy_appliance(into: Path) -> None:
    """Install the appliance and what it needs, as uv.lock has it, for Debian 13's Python."""
    uv = str(ROOT / "build/tools/uv/bin/uv")
    locked = WORK / "requirements.txt"
    locked.write_text(
        _output(
            *(uv, "export", "--quiet", "--frozen", "--package", "cairn-appliance", "--no-dev"),
            *("--no-emit-workspace", "--no-header", "--project", str(ROOT)),
        )
    )
    _run(
        *(uv, "pip", "install", "--quiet", "--target", str(into), "--require-hashes", "--no-deps"),
        *("--python-version", "3.13", "--python-platform", "x86_64-manylinux_2_28"),
        *("--only-binary", ":all:", "-r", str(locked)),
    )
    for part in ("agent/src/cairn_agent", "appliance/src/cairn_appliance"):
        shutil.copytree(
            ROOT / part,
            into / Path(part).name,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    console = ROOT / "build/console"
    shutil.copytree(
        console, into / "cairn_appliance/console", ignore=shutil.ignore_patterns(".sources")
    )
    for unneeded in ("bin", ".lock", "pip", "setuptools"):
        path = into / unneeded
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for left in [*into.rglob("__pycache__"), *into.rglob("tests")]:
        shutil.rmtree(left, ignore_errors=True)
    for name in ("cairn_agent", "cairn_appliance"):
        about = into / f"{name}-{_version()}.dist-info"  # where it reads its own version
        about.mkdir()
        (about / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {_version()}\n"
        )
    for record in into.glob("*.dist-info"):
        for name in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json"):
            (record / name).unlink(missing_ok=True)


def _settle(tree: Path, version: str) -> None:
    """Do once what a system does at its first start, and leave nothing of this machine's."""
    with (tree / "usr/lib/os-release").open("a") as about:
        about.write(f"IMAGE_ID=cairn-appliance\nIMAGE_VERSION={version}\n")
    _in(tree, "systemd-sysusers")
    _in(tree, "systemctl", "--quiet", "preset-all", "--preset-mode=full")
    for unit in MASKED:
        place = tree / "etc/systemd/system" / unit
        place.unlink(missing_ok=True)
        place.symlink_to("/dev/null")
    lib = "/usr/lib/cairn-appliance/lib"
    _in(tree, "python3", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", lib)
    _in(tree, "python3", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash",
        "/usr/lib/python3.13")  # fmt: skip
    _check_imports(tree, lib)
    _in(tree, "update-initramfs", "-u", "-k", "all")
    for kind in ("vmlinuz", "initrd.img"):
        link = tree / "boot" / kind
        link.unlink(missing_ok=True)
        (kernel,) = (tree / "boot").glob(f"{kind}-*")
        link.symlink_to(kernel.name)
    listed = _output(
        *("chroot", str(tree), "dpkg-query", "--show"),
        "--showformat=${Package} ${Version} ${Architecture}\\n",
    )
    (tree / "usr/lib/cairn-appliance/debian-packages.txt").write_text(listed)
    _clean(tree)


def _check_imports(tree: Path, lib: str) -> None:
    """Import the programs with what is there: nothing they need is left out."""
    lines = f"import sys; sys.path.insert(0, {lib!r})\n"
    for name in ("main", "running", "cli.app", "image.main"):
        lines += f"import cairn_appliance.{name}\n"
    _in(tree, "python3", "-I", "-B", "-c", lines)


def _clean(tree: Path) -> None:
    dpkg = tree / "usr/lib/cairn-appliance/dpkg"  # what the list of materials is made from
    dpkg.mkdir()
    shutil.copy(tree / "var/lib/dpkg/status", dpkg / "status")
    for place in ("var", "tmp", "run", "root", "home", "media", "mnt", "srv"):
        shutil.rmtree(tree / place, ignore_errors=True)
        (tree / place).mkdir(mode=0o1777 if place == "tmp" else 0o755)
        (tree / place).chmod(0o1777 if place == "tmp" else 0o755)
    (tree / "efi").mkdir(exist_ok=True)
    _in(tree, "systemd-tmpfiles", "--create", "--prefix=/var")
    (tree / "etc/machine-id").write_text("")
    (tree / "etc/hostname").write_text("cairn\n")
    (tree / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
    resolv = tree / "etc/resolv.conf"
    resolv.unlink(missing_ok=True)
    resolv.symlink_to("../run/systemd/resolve/stub-resolv.conf")
    for name in ("passwd-", "group-", "shadow-", "gshadow-", ".pwd.lock", "apt/sources.list"):
        (tree / "etc" / name).unlink(missing_ok=True)
    shadow = tree / "etc/shadow"
    day = _epoch() // 86_400
    shadow.write_text(re.sub(r"(?m)^([^:]*):[^:]*:[0-9]*:", rf"\1:!*:{day}:", shadow.read_text()))
    newest = _epoch()
    for path in [tree, *tree.rglob("*")]:
        if path.lstat().st_mtime > newest:
            os.utime(path, (newest, newest), follow_symlinks=False)


# The disk


def _disk(tree: Path, disk: Path) -> None:
    """Write the partitions one after the other into a file, and start GRUB from them."""
    places = _places()
    size = places["cairn-var"][1] + MIB
    with disk.open("wb") as file:
        file.truncate(size)
    lines = [f"label: gpt\nlabel-id: {_uuid('disk')}\nfirst-lba: 2048\nunit: sectors"]
    for name, kind, mib in PARTITIONS:
        start = places[name][0] // SECTOR
        lines.append(
            f"start={start}, size={mib * MIB // SECTOR}, type={kind}, "
            f'uuid={_uuid(name)}, name="{name}"'
        )
    _run("sfdisk", "--quiet", str(disk), given="\n".join(lines) + "\n")
    parts = WORK / "parts"
    shutil.rmtree(parts, ignore_errors=True)
    parts.mkdir()
    root, var, esp = parts / "root", parts / "var", parts / "esp"
    (tree / "var").rename(parts / "var-files")
    (tree / "var").mkdir(mode=0o755)
    (tree / "var/tmp").mkdir()  # systemd-resolved has one of its own there before /var is mounted
    (tree / "var/tmp").chmod(0o1777)
    os.utime(tree / "var/tmp", (_epoch(), _epoch()))
    os.utime(tree / "var", (_epoch(), _epoch()))
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
    _run(
        *("mke2fs", "-q", "-F", "-t", "ext4", "-L", label, "-U", _uuid(f"fs-{name}"), "-m", "0"),
        *("-b", "4096", "-O", features, "-E", f"hash_seed={_uuid(f'hash-{name}')},{more}"),
        *("-d", str(content), str(file), f"{mib}M"),
    )
    if name == "root":
        _pin_times(file)
    else:
        _pin_times_of_few(file)


def _pin_times(file: Path) -> None:
    """Give every inode the same times but mtime: the others say when somebody built."""
    when = struct.pack("<I", _epoch())
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
    about = _output("dumpe2fs", "-h", str(file))
    count, free = (
        int(re.findall(rf"(?m)^{name}:\s+(\d+)$", about)[0])
        for name in ("Inode count", "Free inodes")
    )
    lines = [
        f"set_inode_field <{inode}> {field} {value}"
        for inode in (2, *range(11, count - free + 1))  # 3 to 10 are mke2fs's own
        for field, value in (
            *((each, f"@{_epoch()}") for each in ("atime", "ctime", "crtime")),
            *((f"{each}_extra", 0) for each in ("atime", "ctime", "mtime", "crtime")),
        )
    ]
    _run("debugfs", "-w", "-f", "/dev/stdin", str(file), given="\n".join(lines) + "\n")


def _grub(tree: Path, parts: Path, esp: Path, core_at: int) -> tuple[bytes, bytes]:
    """Fill the ESP; return what BIOS starts: the core image and the first sector."""
    made = tree / "run/grub"
    made.mkdir()
    try:
        for target, name, more in (
            ("x86_64-efi", "BOOTX64.EFI", ("efi_gop",)),
            ("i386-pc", "core.img", ("biosdisk",)),
        ):
            _in(tree, "grub-mkimage", "-O", target, "-o", f"/run/grub/{name}",
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
    text = text.replace("@ROOT_A@", _uuid("cairn-root-a")).replace(
        "@ROOT_B@", _uuid("cairn-root-b")
    )
    (place / "grub/grub.cfg").write_text(text)
    first = b"# GRUB Environment Block\ndefault_slot=a\ntrial=\ntried=\nmachine_id=\n"
    (place / "grub/grubenv").write_bytes(first.ljust(1024, b"#"))
    for path in [place, *place.rglob("*")]:
        os.utime(path, (_epoch(), _epoch()))
    with esp.open("wb") as file:
        file.truncate(64 * MIB)
    number = hashlib.sha256(_uuid("cairn-esp").encode()).hexdigest()[:8]
    _run(
        "mkfs.vfat", "--invariant", "-F", "32", "-s", "1", "-i", number, "-n", "CAIRN-ESP", str(esp)
    )
    for name in ("EFI", "grub"):
        _run("mcopy", "-s", "-m", "-Q", "-i", str(esp), str(place / name), "::")


def _put(disk: BinaryIO, at: int, part: Path) -> None:
    """Copy a partition into the disk, leaving holes where it has nothing."""
    nothing = bytes(MIB)
    with part.open("rb") as source:
        while octets := source.read(MIB):
            if octets != nothing[: len(octets)]:
                disk.seek(at)
                disk.write(octets)
            at += len(octets)


def _in(tree: Path, *command: str) -> None:
    """Run a command in the system, with /proc and devices that go again with it."""
    mounts = (
        f'mount -t proc proc "{tree}/proc"; mount -t tmpfs tmpfs "{tree}/tmp"; '
        f'exec chroot "{tree}" "$@"'
    )
    clean = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8",
             f"SOURCE_DATE_EPOCH={_epoch()}"]  # fmt: skip
    _run("unshare", "--mount", "--pid", "--fork", *clean, "sh", "-c", mounts, "sh", *command)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _run(*command: str, given: str = "") -> None:
    subprocess.run(command, check=True, input=given, text=True, stdout=subprocess.DEVNULL)


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


if __name__ == "__main__":
    main()
