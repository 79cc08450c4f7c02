"""What the builds of packages and of the image share: one clock, one key, one way to sign."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PUBLIC_KEY = "cairn-release.pem"
_DEVELOPMENT_KEY = ROOT / "build/packages/development-key.pem"


def settle_surroundings() -> None:
    """Give all tools the same clock, umask, time zone and language wherever this runs."""
    when = str(epoch())
    for name in [each for each in os.environ if each.startswith(("PYTHON", "LC_", "LANG"))]:
        del os.environ[name]
    os.environ |= {"TZ": "UTC", "LC_ALL": "C.UTF-8"}
    os.environ |= {"SOURCE_DATE_EPOCH": when, "E2FSPROGS_FAKE_TIME": when}
    os.umask(0o022)


def version_of(part: str) -> str:
    """Return the version of `agent` or `appliance`."""
    about = tomllib.loads((ROOT / part / "pyproject.toml").read_text())
    return str(about["project"]["version"])


@functools.cache
def epoch() -> int:
    """Return the time of the commit: the files' own times say when somebody built."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    return int(given or output("git", "-C", str(ROOT), "log", "-1", "--format=%ct"))


def install_locked(package: str, into: Path, python: str, locked: Path) -> None:
    """Install what a package needs, as uv.lock has it, and leave its list in `locked`."""
    uv = str(ROOT / "build/tools/uv/bin/uv")
    locked.write_text(
        output(
            *(uv, "export", "--quiet", "--frozen", "--package", package, "--no-dev"),
            *("--no-emit-workspace", "--no-header", "--project", str(ROOT)),
        )
    )
    run(  # copies: what is changed of a hard link is changed in uv's cache, too, for all who use it
        *(uv, "pip", "install", "--quiet", "--link-mode", "copy", "--target", str(into)),
        *("--require-hashes", "--no-deps"),
        *("--python-version", python, "--python-platform", "x86_64-manylinux_2_28"),
        *("--only-binary", ":all:", "-r", str(locked)),
    )


def copy_module(part: str, into: Path) -> None:
    """Copy `agent`'s or `appliance`'s own module, and what it reads its own version from."""
    name = f"cairn_{part}"
    shutil.copytree(
        ROOT / part / "src" / name, into / name, ignore=shutil.ignore_patterns("__pycache__")
    )
    about = into / f"{name}-{version_of(part)}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: cairn-{part}\nVersion: {version_of(part)}\n"
    )


def tidy_installed(into: Path) -> None:
    """Leave out what nobody runs, and what says when and how it was installed."""
    for unneeded in ("bin", ".lock", "pip", "setuptools"):
        path = into / unneeded
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for left in [*into.rglob("__pycache__"), *into.rglob("tests")]:
        shutil.rmtree(left, ignore_errors=True)
    for record in into.glob("*.dist-info"):
        for name in ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json"):
            (record / name).unlink(missing_ok=True)


def development_key() -> Path:
    """Return a key of this checkout: a release is signed with --key."""
    key = _DEVELOPMENT_KEY
    if not key.exists():
        key.parent.mkdir(parents=True, exist_ok=True)
        run("openssl", "genpkey", "-algorithm", "ed25519", "-out", str(key))
        key.chmod(0o600)
    print("signed with this checkout's development key; a release takes --key")
    return key


def public_key(key: Path) -> str:
    """Return its public half, in PEM."""
    return output("openssl", "pkey", "-in", str(key), "-pubout")


def sign_file(file: Path, key: Path, signature: Path) -> None:
    """Write the Ed25519 signature of a file."""
    run(
        *("openssl", "pkeyutl", "-sign", "-rawin", "-inkey", str(key)),
        *("-in", str(file), "-out", str(signature)),
    )


def sign_folder(folder: Path, key: Path, leave_out: tuple[str, ...] = ()) -> None:
    """Write the list of a folder's checksums, and its signature."""
    names = sorted(path.name for path in folder.iterdir() if path.name not in leave_out)
    sums = folder / "SHA256SUMS"
    sums.write_text("".join(f"{sha256(folder / each)}  {each}\n" for each in names))
    sign_file(sums, key, folder / "SHA256SUMS.sig")


def sha256(path: Path) -> str:
    """Return a file's checksum."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def run(*command: str, given: str = "", cwd: Path | None = None) -> None:
    """Run a command that says nothing when all is well; raise CalledProcessError."""
    subprocess.run(command, check=True, input=given, text=True, cwd=cwd, stdout=subprocess.DEVNULL)


def output(*command: str) -> str:
    """Return what a command prints; raise CalledProcessError."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def run_in(tree: Path, *command: str) -> None:
    """Run a command in the system, with /proc and devices that go again with it."""
    mounts = (
        f'mount -t proc proc "{tree}/proc"; mount -t tmpfs tmpfs "{tree}/tmp"; '
        f'exec chroot "{tree}" "$@"'
    )
    clean = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8",
             f"SOURCE_DATE_EPOCH={epoch()}"]  # fmt: skip
    run("unshare", "--mount", "--pid", "--fork", *clean, "sh", "-c", mounts, "sh", *command)
