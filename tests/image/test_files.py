"""What `make image` leaves: its size, checksums, signature, list of materials; built twice."""

from __future__ import annotations

import filecmp
import json
import os
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from tests import proofs
from tests.image.guest import DIST, ROOT, raw_disk

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.timeout(1800)]

COMMAND = "make image-test"
SIZE_BARS_MIB = {"qcow2": 600.0, "ova": 600.0, "iso": 700.0}
_UV = ROOT / "build/tools/uv/bin/uv"
_HERE = Path(__file__).resolve().parent


@pytest.mark.parametrize("kind", sorted(SIZE_BARS_MIB))
def test_it_is_as_small_as_people_expect(kind: str) -> None:
    (packed,) = DIST.glob(f"*.{kind}")
    mib, bar = packed.stat().st_size / (1 << 20), SIZE_BARS_MIB[kind]
    assert proofs.record(
        "IMG-size" if kind == "qcow2" else f"IMG-size-{kind}",
        what=f"the image as {kind} ({raw_disk().stat().st_size >> 20} MiB when unpacked)",
        bar=f"<= {bar:g}",
        value=round(mib),
        unit="MiB",
        holds=mib <= bar,
        command=COMMAND,
    )


def test_both_files_are_the_same_disk() -> None:
    """Another test's guests write over the raw one's content; people are given the qcow2."""
    (packed,) = DIST.glob("*.qcow2")
    done = subprocess.run(
        ["qemu-img", "compare", "-f", "raw", "-F", "qcow2", str(raw_disk()), str(packed)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_checksums_and_signature_are_as_docs_install_says(tmp_path: Path) -> None:
    """By the lines that people are told; a list with another word in it is refused."""
    done = subprocess.run(
        ["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=DIST, timeout=300, check=False
    )
    assert done.returncode == 0
    named = {line.split()[1] for line in (DIST / "SHA256SUMS").read_text().splitlines()}
    there = {path.name for path in DIST.iterdir()}
    assert there - named == {"SHA256SUMS", "SHA256SUMS.sig"}
    assert _is_signed(DIST / "SHA256SUMS")
    changed = tmp_path / "SHA256SUMS"
    changed.write_text((DIST / "SHA256SUMS").read_text().replace("amd64", "amd46"))
    assert not _is_signed(changed)


def _is_signed(sums: Path) -> bool:
    command = ["openssl", "pkeyutl", "-verify", "-rawin", "-pubin"]
    command += ["-inkey", str(DIST / "cairn-release.pem"), "-in", str(sums)]
    command += ["-sigfile", str(DIST / "SHA256SUMS.sig")]
    return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0


def test_the_list_of_materials_is_valid_and_leaves_nothing_out() -> None:
    """By CycloneDX's own schema, and against what dpkg and the wheels in the image say."""
    (file,) = DIST.glob("*.cdx.json")
    command = [str(_UV), "run", "--quiet", "--isolated", "--no-project"]
    command += ["--with-requirements", str(_HERE / "requirements.txt"), "python"]
    done = subprocess.run(
        [*command, str(_HERE / "valid_materials.py"), str(file)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr
    components = json.loads(file.read_text())["components"]
    known = {(each["purl"].partition("/")[0], each["name"], each["version"]) for each in components}
    assert _missing(known) == set()
    kinds = {kind for kind, _, _ in known}
    assert proofs.record(
        "IMG-materials",
        what="components in the image's CycloneDX list: Debian, Python, Go, npm, Rust",
        bar="valid, none left out",
        value=len(known),
        unit="components",
        holds=kinds == {"pkg:deb", "pkg:pypi", "pkg:golang", "pkg:npm", "pkg:cargo"},
        command=COMMAND,
    )


def _missing(known: set[tuple[str, str, str]]) -> set[tuple[str, str, str]]:
    """What is in the image by another account than the list's own sources."""
    (packages,) = DIST.glob("*.packages")
    rows = (line.split() for line in packages.read_text().splitlines())
    wanted = {("pkg:deb", name, version) for name, version, _ in rows}
    listed = subprocess.run(
        [str(_UV), "pip", "list", "--format", "json", "--target", str(_lib())],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    for each in json.loads(listed.stdout):
        if not each["name"].startswith("cairn-"):
            wanted.add(("pkg:pypi", each["name"].lower(), each["version"]))
    wanted.add(("pkg:golang", "go.etcd.io/etcd/server/v3", _version_of_etcd()))
    return wanted - known


def _lib() -> Path:
    return ROOT / "build/image/system/usr/lib/cairn-appliance/lib"


def _version_of_etcd() -> str:
    program = _lib().parent / "bin/etcd"
    done = subprocess.run([str(program), "--version"], capture_output=True, text=True, check=True)
    return "v" + done.stdout.splitlines()[0].rpartition(" ")[2]


def test_two_builds_are_the_same_octet_for_octet(tmp_path: Path) -> None:
    """The second one gets Debian's packages and PyPI's anew, under another umask, time zone and
    language."""
    again = ROOT / "build/image/dist-again"
    (materials,) = DIST.glob("*.cdx.json")
    at = datetime.fromisoformat(json.loads(materials.read_text())["metadata"]["timestamp"])
    release = raw_disk().name.split("_")[1].rpartition("-")[2]
    subprocess.run(
        ["sh", "-c", 'umask 077; exec "$@"', "sh", sys.executable,
         "-m", "images.appliance.build", "--fresh",
         "--release", release, "--output", str(again)],
        check=True,
        cwd=ROOT,
        env=os.environ
        | {"TZ": "Pacific/Chatham", "LC_ALL": "C", "PYTHONHASHSEED": "77"}
        | {"UV_CACHE_DIR": str(tmp_path / "uv")}
        | {"SOURCE_DATE_EPOCH": str(int(at.timestamp()))},  # of the commit that it was built from
        timeout=1500,
    )  # fmt: skip
    names = sorted(path.name for path in DIST.iterdir())
    assert sorted(path.name for path in again.iterdir()) == names
    _, differ, odd_ones = filecmp.cmpfiles(DIST, again, names, shallow=False)
    assert proofs.record(
        "IMG-reproducible",
        what="files of two builds of the image that differ",
        bar="none",
        value=", ".join(differ + odd_ones) or "none",
        unit=f"of {len(names)}",
        holds=not differ and not odd_ones,
        command=COMMAND,
    )
