"""Builds the agent's packages: deb, rpm and tarball, each with all that it needs.

`make packages` runs it. Everything that runs is brought along: Python and the libraries are
Debian's, laid out under /usr/lib/cairn with Debian's dynamic loader, so that neither the host's
Python nor its libc matters (docs/adr/0014). Two builds of one commit are bit-identical.
"""

from __future__ import annotations

import argparse
import gzip
import os
import platform
import shutil
import stat
import subprocess
import sys
import tarfile
from importlib.metadata import distributions
from pathlib import Path

from images.building import (
    ROOT,
    copy_module,
    development_key,
    epoch,
    install_locked,
    output,
    public_key,
    run,
    settle_surroundings,
    sha256,
    sign_folder,
    tidy_installed,
    version_of,
)

HERE = Path(__file__).resolve().parent
WORK = ROOT / "build/packages"
PREFIX = Path("usr/lib/cairn")
LIBRARIES = "usr/lib/x86_64-linux-gnu"
DEBIAN = (
    "libc6",
    "libexpat1",
    "libffi8",
    "libgcc-s1",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "libsqlite3-0",
    "libssl3",
    "python3.11-minimal",
    "zlib1g",
)
# What the programs load: the loader, libc with its parts, and what Python's modules are made of.
SHARED = (
    "ld-linux-x86-64.so.2",
    "libc.so.6",
    "libcrypto.so.3",
    "libdl.so.2",
    "libexpat.so.1",
    "libffi.so.8",
    "libgcc_s.so.1",
    "libm.so.6",
    "libnss_dns.so.2",
    "libnss_files.so.2",
    "libpthread.so.0",
    "libresolv.so.2",
    "librt.so.1",
    "libsqlite3.so.0",
    "libssl.so.3",
    "libutil.so.1",
    "libz.so.1",
)
MODULES = frozenset(
    {
        "_asyncio",
        "_contextvars",
        "_ctypes",
        "_decimal",
        "_hashlib",
        "_json",
        "_multiprocessing",
        "_queue",
        "_sqlite3",
        "_ssl",
        "_typing",
        "_zoneinfo",
        "mmap",
        "resource",
        "termios",
    }
)
# Of the standard library, what no daemon needs.
UNNEEDED = frozenset(
    {
        "EXTERNALLY-MANAGED",
        "__phello__",
        "_aix_support.py",
        "_osx_support.py",
        "_pyio.py",
        "antigravity.py",
        "config-3.11-x86_64-linux-gnu",
        "curses",
        "dbm",
        "distutils",
        "ensurepip",
        "idlelib",
        "lib2to3",
        "pdb.py",
        "pydoc.py",
        "pydoc_data",
        "sitecustomize.py",
        "test",
        "this.py",
        "tkinter",
        "turtle.py",
        "venv",
        "xmlrpc",
    }
)
# pyroute2's own loads every protocol that it knows, 5 MiB of which an agent needs none.
PYROUTE2 = "from pyroute2.iproute import AsyncIPRoute, IPRoute\n"


def main() -> None:
    """Build what was asked for."""
    parser = argparse.ArgumentParser(description="Build the agent's packages.")
    parser.add_argument("--release", default="1", help="number after the version")
    parser.add_argument("--output", type=Path, default=WORK / "dist")
    parser.add_argument("--key", type=Path, help="Ed25519 key in PEM that signs the list")
    parser.add_argument("--level", type=int, default=6, help="of compression; a test takes 0")
    asked = parser.parse_args()
    settle_surroundings()
    _check_builder()
    version = version_of("agent")
    tree = WORK / f"tree-{asked.release}"
    _stage(tree, f"{version}-{asked.release}")
    output: Path = asked.output.resolve()
    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    _deb(tree, version, asked.release, output, asked.level)
    _rpm(tree, version, asked.release, output, asked.level)
    _tarball(tree, version, asked.release, output, asked.level)
    (output / "VERSION").write_text(f"{version}-{asked.release}\n")
    _sign(output, asked.key or development_key())
    for path in sorted(output.iterdir()):
        print(f"packages: {path.relative_to(Path.cwd())} {path.stat().st_size} octets")


def _check_builder() -> None:
    about = platform.freedesktop_os_release()
    if (about.get("ID"), about.get("VERSION_ID"), platform.machine()) != ("debian", "12", "x86_64"):
        sys.exit("packages: error: Debian 12 on x86-64 builds them\n  what to do: use one, or CI")
    missing = [tool for tool in ("dpkg-deb", "rpmbuild", "patchelf") if not shutil.which(tool)]
    if missing:
        sys.exit(
            f"packages: error: missing: {' '.join(missing)}\n"
            "  what to do: as root: apt-get install dpkg rpm patchelf"
        )


def _stage(tree: Path, version: str) -> None:
    shutil.rmtree(tree, ignore_errors=True)
    prefix = tree / PREFIX
    for folder in ("bin", "lib/agent", "libexec"):
        (prefix / folder).mkdir(parents=True)
    sources = _debian_files()
    _copy_python(sources, prefix)
    _copy_agent(prefix / "lib/agent")
    _copy_programs(tree, prefix)
    _compile(prefix / "lib")
    _check_imports(prefix)
    _write_about(tree / "usr/share/doc/cairn-agent", version, prefix / "lib/agent")
    for path in [tree, *tree.rglob("*")]:
        if not path.is_symlink():
            executable = path.is_dir() or path.stat().st_mode & stat.S_IXUSR
            path.chmod(0o755 if executable else 0o644)
        os.utime(path, (epoch(), epoch()), follow_symlinks=False)


def _debian_files() -> Path:
    """Return a directory with the unpacked files of the Debian packages, as apt verified them."""
    debs, unpacked = WORK / "debs", WORK / "debian"
    debs.mkdir(parents=True, exist_ok=True)
    if not all(list(debs.glob(f"{name}_*.deb")) for name in DEBIAN):
        run("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", *DEBIAN, cwd=debs)
        shutil.rmtree(unpacked, ignore_errors=True)
        lines = []
        for deb in sorted(debs.glob("*.deb")):
            run("dpkg-deb", "-x", str(deb), str(unpacked))
            name, version = output(
                "dpkg-deb", "-W", "--showformat=${Package} ${Version}", str(deb)
            ).split()
            lines.append(f"{name} {version} sha256:{sha256(deb)}\n")
        (WORK / "versions.txt").write_text("".join(lines))
    return unpacked


def _copy_python(sources: Path, prefix: Path) -> None:
    for name in SHARED:
        found = next(
            path
            for place in ("lib/x86_64-linux-gnu", LIBRARIES)
            if (path := sources / place / name).exists()
        )
        shutil.copy(found.resolve(), prefix / "lib" / name)
    shutil.copy(sources / "usr/bin/python3.11", prefix / "bin/python3")
    library = prefix / "lib/python3.11"
    shutil.copytree(
        sources / "usr/lib/python3.11",
        library,
        ignore=lambda place, names: [
            name
            for name in names
            if (name in UNNEEDED and Path(place).name == "python3.11")
            or name == "__pycache__"
            or (name.endswith(".so") and name.split(".")[0] not in MODULES)
        ],
    )
    _bind(prefix / "bin/python3")


def _bind(program: Path) -> None:
    """Let a program be started by the loader that is brought along, with its libraries."""
    run("patchelf", "--set-interpreter", f"/{PREFIX}/lib/ld-linux-x86-64.so.2", str(program))
    run("patchelf", "--force-rpath", "--set-rpath", f"/{PREFIX}/lib", str(program))


def _copy_agent(into: Path) -> None:
    """Install the agent and what it needs, as uv.lock has it."""
    install_locked("cairn-agent", into, "3.11", WORK / "requirements.txt")
    copy_module("agent", into)
    tidy_installed(into)
    (into / "pyroute2/__init__.py").write_text(PYROUTE2)


def _copy_programs(tree: Path, prefix: Path) -> None:
    dataplane = prefix / "bin/cairn-dataplane"
    shutil.copy(ROOT / "build/bin/cairn-dataplane", dataplane)
    run("strip", str(dataplane))
    _bind(dataplane)
    shutil.copy(HERE / "scripts/cairn-agent", prefix / "bin")
    for name in ("take-over", "uninstall", "lifecycle.sh"):
        shutil.copy(HERE / "scripts" / name, prefix / "libexec")
    units = tree / "usr/lib/systemd/system"
    units.mkdir(parents=True)
    for unit in sorted((HERE / "units").iterdir()):
        shutil.copy(unit, units)
    command = tree / "usr/bin/cairn-agent"
    command.parent.mkdir(parents=True)
    command.symlink_to("../lib/cairn/bin/cairn-agent")


def _compile(place: Path) -> None:
    """Compile all of Python, valid whatever the files' times, and leave the sources out: what
    runs is one copy, half as large, and says its line numbers all the same. Which columns of a
    line are meant (`no_debug_ranges`) could only be shown beside the sources."""
    command = [sys.executable, "-X", "no_debug_ranges", "-m", "compileall", "-q", "-q", "-b"]
    options = ["-s", str(place), "-o", "0", "--invalidation-mode", "unchecked-hash"]
    done = subprocess.run([*command, *options, str(place)], check=False)
    if done.returncode != 0:
        print("packages: some modules don't compile with this Python; they keep their source")
    for source in place.rglob("*.py"):
        if source.with_suffix(".pyc").exists():
            source.unlink()


def _check_imports(prefix: Path) -> None:
    """Import every module of the agent with what is brought along: nothing it needs is left out."""
    agent = prefix / "lib/agent"
    modules = [
        ".".join(path.relative_to(agent).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted((agent / "cairn_agent").rglob("*.pyc"))
    ]
    lines = [f"import sys; sys.path.append({str(agent)!r})", *(f"import {m}" for m in modules)]
    loader = str(prefix / "lib/ld-linux-x86-64.so.2")
    subprocess.run(
        [loader, "--library-path", str(prefix / "lib"), str(prefix / "bin/python3"), "-BSs", "-"],
        input="\n".join(lines),
        env={"PYTHONHOME": str(prefix)},
        text=True,
        check=True,
    )


def _write_about(place: Path, version: str, agent: Path) -> None:
    place.mkdir(parents=True)
    shutil.copy(ROOT / "LICENSE", place / "copyright")
    python = sorted(
        f"{each.name}=={each.version}"
        for each in distributions(path=[str(agent)])
        if each.name != "cairn-agent"
    )
    (place / "bundled.txt").write_text(
        f"cairn-agent {version} brings along, of Debian 12:\n"
        + (WORK / "versions.txt").read_text()
        + "and of PyPI:\n"
        + "\n".join(python)
        + "\n"
    )


def _deb(tree: Path, version: str, release: str, output: Path, level: int) -> None:
    place = WORK / "deb"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(tree, place, symlinks=True)
    control = place / "DEBIAN"
    control.mkdir()
    size = sum(p.lstat().st_size for p in tree.rglob("*") if p.is_file()) // 1024
    (control / "control").write_text(
        (HERE / "control.in").read_text().format(version=f"{version}-{release}", size=size)
    )
    steps = {
        "postinst": 'if [ "$1" = configure ]; then configured "${2:-}"; fi',
        "prerm": 'if [ "$1" = remove ]; then removing; fi',
        "postrm": 'case "$1" in remove) removed ;; purge) removed; purged ;; esac',
    }
    for name, step in steps.items():
        (control / name).write_text(f"#!/bin/sh\nset -e\n{_lifecycle()}\n{step}\n")
        (control / name).chmod(0o755)
    run(
        "dpkg-deb",
        "--root-owner-group",
        "-Zxz",
        f"-z{level}",
        "--build",
        str(place),
        str(output / f"cairn-agent_{version}-{release}_amd64.deb"),
    )


def _rpm(tree: Path, version: str, release: str, output: Path, level: int) -> None:
    top = WORK / "rpm"
    shutil.rmtree(top, ignore_errors=True)
    top.mkdir()
    spec = top / "cairn-agent.spec"
    text = (HERE / "spec.in").read_text()
    for name, value in {
        "@VERSION@": version,
        "@RELEASE@": release,
        "@TREE@": str(tree),
        "@LEVEL@": str(level),
        "@LIFECYCLE@": _lifecycle().replace("%", "%%"),
    }.items():
        text = text.replace(name, value)
    spec.write_text(text)
    run(
        "rpmbuild",
        "-bb",
        "--quiet",
        "--target",
        "x86_64",
        "--define",
        f"_topdir {top}",
        "--define",
        f"_rpmdir {top}/out",
        str(spec),
    )
    for built in (top / "out").rglob("*.rpm"):
        shutil.copy(built, output / f"cairn-agent-{version}-{release}.x86_64.rpm")


def _lifecycle() -> str:
    return (HERE / "scripts/lifecycle.sh").read_text()


def _tarball(tree: Path, version: str, release: str, output: Path, level: int) -> None:
    path = output / f"cairn-agent-{version}-{release}.x86_64.tar.gz"
    with (
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", level, raw, mtime=epoch()) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.GNU_FORMAT) as archive,
    ):
        for each in sorted(tree.rglob("*")):
            member = archive.gettarinfo(each, str(each.relative_to(tree)))
            member.uid = member.gid = 0
            member.uname = member.gname = "root"
            member.mtime = epoch()
            if member.isreg():
                with each.open("rb") as content:
                    archive.addfile(member, content)
            elif (
                not member.isdir()
                or PREFIX in each.relative_to(tree).parents
                or (each.relative_to(tree) == PREFIX)
            ):
                archive.addfile(member)  # other directories are the system's own


def _sign(output: Path, key: Path) -> None:
    """Write installer, list and signature; the installer knows the key that it will believe."""
    installer = (HERE / "install.sh").read_text().replace("@RELEASE_KEY@", public_key(key).strip())
    (output / "install.sh").write_text(installer)
    sign_folder(output, key, leave_out=("install.sh",))


if __name__ == "__main__":
    main()
