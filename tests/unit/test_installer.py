"""install.sh before it changes anything: what it believes, what it refuses, what it tells.

dpkg and the agent are stand-ins that write down how they were called; the real ones are in
`make packages-test`.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "images/agent/install.sh"
TOKEN = "cairn1.c2VjcmV0"
PACKAGE = "cairn-agent_1-2_amd64.deb"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="install.sh wants root")


@dataclass
class Bench:
    """A folder of packages, a folder of commands, and what was called."""

    packages: Path
    commands: Path
    called: Path

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the script with those commands before the system's."""
        return subprocess.run(
            ["sh", str(self.packages / "install.sh"), *arguments],
            env={"PATH": f"{self.commands}:/usr/bin:/bin"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=30,
            check=False,
        )

    def command(self, name: str, text: str) -> None:
        """Put a command in the way that writes down its arguments first."""
        path = self.commands / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>{self.called}\n{text}\n')
        path.chmod(0o755)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """What `make packages` leaves, in small, signed with a key of its own."""
    made = Bench(tmp_path / "dist", tmp_path / "bin", tmp_path / "called")
    made.packages.mkdir()
    made.commands.mkdir()
    made.called.touch()
    key = tmp_path / "key.pem"
    _openssl("genpkey", "-algorithm", "ed25519", "-out", str(key))
    public = _openssl("pkey", "-in", str(key), "-pubout").strip()
    (made.packages / "install.sh").write_text(SCRIPT.read_text().replace("@RELEASE_KEY@", public))
    (made.packages / PACKAGE).write_bytes(b"package")
    (made.packages / "VERSION").write_text("1-2\n")
    sums = made.packages / "SHA256SUMS"
    listed = [made.packages / PACKAGE, made.packages / "VERSION"]
    sums.write_text(
        "".join(f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in listed)
    )
    signature = str(made.packages / "SHA256SUMS.sig")
    _openssl("pkeyutl", "-sign", "-rawin", "-inkey", str(key), "-in", str(sums), "-out", signature)
    made.command("dpkg", "exit 0")
    made.command("dpkg-query", "exit 1")
    made.command("cairn-agent", f"cat >>{made.called}; echo joined as x")
    return made


def _openssl(*arguments: str) -> str:
    return subprocess.run(
        ["openssl", *arguments], check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def test_it_installs_what_is_listed_and_joins_without_showing_the_token(bench: Bench) -> None:
    """A token in an argument list is everybody's who can list processes."""
    done = bench.run("--from", str(bench.packages), TOKEN)
    assert done.returncode == 0, done.stdout
    called = bench.called.read_text()
    assert f"/{PACKAGE}\n" in called and "dpkg -i " in called
    assert f"cairn-agent join -\n{TOKEN}\n" in called
    assert "cairn-agent 1-2 is installed" in done.stdout


def test_what_is_installed_already_is_not_installed_again(bench: Bench) -> None:
    """The second run changes nothing."""
    bench.command("dpkg-query", "echo installed 1-2")
    done = bench.run("--from", str(bench.packages))
    assert done.returncode == 0 and "installed already" in done.stdout
    assert "dpkg -i" not in bench.called.read_text()


def test_a_list_that_is_not_signed_installs_nothing(bench: Bench) -> None:
    """Who can write the folder can't sign."""
    digest = hashlib.sha256(b"evil").hexdigest()
    (bench.packages / PACKAGE).write_bytes(b"evil")
    (bench.packages / "SHA256SUMS").write_text(f"{digest}  {PACKAGE}\n")
    done = bench.run("--from", str(bench.packages), TOKEN)
    assert done.returncode == 6 and "not signed with the release key" in done.stdout
    assert bench.called.read_text() == ""


@pytest.mark.parametrize("name", [PACKAGE, "VERSION"])
def test_a_file_that_is_not_what_the_list_says_installs_nothing(bench: Bench, name: str) -> None:
    """Damaged on its way, or exchanged."""
    (bench.packages / name).write_bytes(b"other")
    done = bench.run("--from", str(bench.packages), TOKEN)
    assert done.returncode == 6 and f"{name} is not what the list says" in done.stdout
    assert "dpkg -i" not in bench.called.read_text()


def test_what_is_no_token_and_what_no_appliance_served_is_said(bench: Bench) -> None:
    """Before anything is fetched."""
    done = bench.run("--from", str(bench.packages), "cairn2.x")
    assert done.returncode == 2 and "what to do: paste the whole string" in done.stdout
    done = bench.run(TOKEN)
    assert done.returncode == 2 and "use --from DIR" in done.stdout


def test_without_a_program_that_checks_a_pinned_key_nothing_is_fetched(bench: Bench) -> None:
    """A wget that would take any certificate is no use."""
    script = bench.packages / "install.sh"
    served = script.read_text().replace("@BASES@", "https://192.0.2.1:8002")
    script.write_text(served.replace("@PIN@", "sha256//AAAA"))
    for name in ("sh", "id", "uname", "mktemp", "rm", "cat"):
        (bench.commands / name).symlink_to(f"/usr/bin/{name}")
    bench.command("wget", "echo of busybox")
    done = subprocess.run(
        ["/bin/sh", str(script), TOKEN],
        env={"PATH": str(bench.commands)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 6, done.stdout
    assert "neither curl nor a wget" in done.stdout and "--from DIR" in done.stdout
