"""The appliance's system as a directory: Debian 13, the appliance, what it needs, nothing of
the machine that builds it."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from pathlib import Path

from images.appliance.disk import WORK, uuid_of
from images.building import (
    ROOT,
    copy_module,
    epoch,
    install_locked,
    output,
    run,
    run_in,
    tidy_installed,
)

HERE = Path(__file__).resolve().parent
SUITE = "trixie"
BASE_EPOCH = 1_767_225_600  # 2026-01-01
# Of the base: documentation, translations of programs that nobody calls, and drivers of what an
# appliance hasn't got.
_MODULES = "/usr/lib/modules/*/kernel"
EXCLUDED = (
    "/usr/share/doc/*",
    "/usr/share/man/*",
    "/usr/share/info/*",
    "/usr/share/locale/*",
    "/usr/share/bash-completion/*",
    "/usr/share/lintian/*",
    f"{_MODULES}/drivers/bluetooth/*",
    f"{_MODULES}/drivers/gpu/*",
    f"{_MODULES}/drivers/iio/*",
    f"{_MODULES}/drivers/infiniband/*",
    f"{_MODULES}/drivers/media/*",
    f"{_MODULES}/drivers/net/wireless/*",
    f"{_MODULES}/drivers/staging/*",
    f"{_MODULES}/net/bluetooth/*",
    f"{_MODULES}/net/mac80211/*",
    f"{_MODULES}/sound/*",
)
INCLUDED = ("/usr/share/doc/*/copyright",)
MASKED = (
    "autovt@.service",
    "console-getty.service",
    "getty@.service",
    "serial-getty@.service",
    "systemd-firstboot.service",
    "systemd-machine-id-commit.service",
)


def make(fresh: bool, version: str, packages: Path, release_key: str) -> Path:
    """Return the directory of the finished system, which believes updates by `release_key`."""
    base = _base(fresh)
    tree = WORK / "system"
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    run("tar", "--extract", "--numeric-owner", "--file", str(base), "--directory", str(tree))
    run("cp", "--recursive", "--no-preserve=ownership", f"{HERE / 'tree'}/.", str(tree))
    _write_addresses_of_disk(tree)
    own = tree / "usr/lib/cairn-appliance"
    (own / "bin").mkdir(parents=True)
    for program in ("etcd", "etcdctl", "etcdutl"):
        shutil.copy(ROOT / "build/tools/etcd" / program, own / "bin")
    _copy_appliance(own / "lib")
    (own / "release.pem").write_text(release_key)
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
    run(
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
        text = text.replace(mark, uuid_of(name))
    fstab.write_text(text)


def _copy_appliance(into: Path) -> None:
    """Install the appliance and what it needs, as uv.lock has it, for Debian 13's Python."""
    install_locked("cairn-appliance", into, "3.13", WORK / "requirements.txt")
    for part in ("agent", "appliance"):
        copy_module(part, into)
    shutil.copytree(
        ROOT / "build/console",
        into / "cairn_appliance/console",
        ignore=shutil.ignore_patterns(".sources"),
    )
    tidy_installed(into)


def _settle(tree: Path, version: str) -> None:
    """Do once what a system does at its first start, and leave nothing of this machine's."""
    with (tree / "usr/lib/os-release").open("a") as about:
        about.write(f"IMAGE_ID=cairn-appliance\nIMAGE_VERSION={version}\n")
    run_in(tree, "systemd-sysusers")
    run_in(tree, "systemctl", "--quiet", "preset-all", "--preset-mode=full")
    for unit in MASKED:
        place = tree / "etc/systemd/system" / unit
        place.unlink(missing_ok=True)
        place.symlink_to("/dev/null")
    lib = "/usr/lib/cairn-appliance/lib"
    run_in(tree, "python3", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", lib)
    run_in(tree, "python3", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash",
        "/usr/lib/python3.13")  # fmt: skip
    _check_imports(tree, lib)
    run_in(tree, "update-initramfs", "-u", "-k", "all")
    for kind in ("vmlinuz", "initrd.img"):
        link = tree / "boot" / kind
        link.unlink(missing_ok=True)
        (kernel,) = (tree / "boot").glob(f"{kind}-*")
        link.symlink_to(kernel.name)
    listed = output(
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
    run_in(tree, "python3", "-I", "-B", "-c", lines)


def _clean(tree: Path) -> None:
    dpkg = tree / "usr/lib/cairn-appliance/dpkg"  # what the list of materials is made from
    dpkg.mkdir()
    shutil.copy(tree / "var/lib/dpkg/status", dpkg / "status")
    for place in ("var", "tmp", "run", "root", "home", "media", "mnt", "srv"):
        shutil.rmtree(tree / place, ignore_errors=True)
        (tree / place).mkdir(mode=0o1777 if place == "tmp" else 0o755)
        (tree / place).chmod(0o1777 if place == "tmp" else 0o755)
    (tree / "efi").mkdir(exist_ok=True)
    run_in(tree, "systemd-tmpfiles", "--create", "--prefix=/var")
    (tree / "etc/machine-id").write_text("")
    (tree / "etc/hostname").write_text("cairn\n")
    (tree / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n")
    resolv = tree / "etc/resolv.conf"
    resolv.unlink(missing_ok=True)
    resolv.symlink_to("../run/systemd/resolve/stub-resolv.conf")
    for name in ("passwd-", "group-", "shadow-", "gshadow-", ".pwd.lock", "apt/sources.list"):
        (tree / "etc" / name).unlink(missing_ok=True)
    shadow = tree / "etc/shadow"
    day = epoch() // 86_400
    shadow.write_text(re.sub(r"(?m)^([^:]*):[^:]*:[0-9]*:", rf"\1:!*:{day}:", shadow.read_text()))
    # Debian's files are no newer than that; of all others the time says when somebody fetched or
    # built them here.
    for path in [tree, *tree.rglob("*")]:
        if path.lstat().st_mtime > BASE_EPOCH:
            os.utime(path, (epoch(), epoch()), follow_symlinks=False)
