"""The systems of the bench, and why one of them can't be had here."""

from __future__ import annotations

import datetime
import os
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.bench import cairn, peers
from tests.bench.pair import BUILT, SEARCHED, Pair
from tests.lab import ROOT


@dataclass(frozen=True, slots=True)
class System:
    """One system: what it is, what it needs, and how it starts."""

    name: str
    layer: int  # of what it carries: 2 Ethernet, 3 IP
    cipher: str  # empty: plaintext
    programs: tuple[str, ...]
    start: Callable[[Pair], None]

    @property
    def is_peer(self) -> bool:
        """Say whether Cairn is compared with it as an encrypted overlay."""
        return bool(self.cipher) and self.name != "cairn"

    @property
    def in_kernel(self) -> bool:
        """Say whether it has no process of its own."""
        return not self.programs

    def missing(self) -> str:
        """Return why it can't be measured here; empty if it can."""
        gone = [one for one in self.programs if not shutil.which(one, path=SEARCHED)]
        if self.name == "cairn" and not cairn.BINARY.exists():
            return f"{cairn.BINARY} is not built (make setup)"
        if gone and self.name != "cairn":
            return f"not installed: {', '.join(gone)} (build/bench/install.log)"
        return ""

    def built(self) -> str:
        """Return its version, as it says itself, or its package's."""
        if self.in_kernel:
            return os.uname().release
        if self.name == "cairn":
            made = datetime.datetime.fromtimestamp(cairn.BINARY.stat().st_mtime, datetime.UTC)
            return f"binary made {made:%Y-%m-%d %H:%M} UTC (make setup), source now {_commit()}"
        path = shutil.which(self.programs[0], path=SEARCHED) or ""
        if Path(path).is_relative_to(BUILT):
            note = BUILT / f"{self.programs[0]}.version"
            return note.read_text().strip() if note.exists() else "built here"
        query = ["dpkg-query", "-W", "-f", "${Version}", self.name]
        return f"Debian {_first_line(query)}"


def _commit() -> str:
    return _first_line(["git", "-C", str(ROOT), "describe", "--always", "--dirty"])


def _first_line(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return (done.stdout.splitlines() or ["?"])[0].strip()


SYSTEMS = (
    System("cairn", 2, "AES-256-GCM", ("cairn-dataplane",), cairn.start),
    System("veth", 2, "", (), peers.veth),
    System("vxlan", 2, "", (), peers.vxlan),
    System("wireguard-go", 3, "ChaCha20-Poly1305", ("wireguard-go", "wg"), peers.wireguard_go),
    System("openvpn", 2, "AES-256-GCM", ("openvpn",), peers.openvpn),
    System("fastd", 2, "Salsa20/12+UMAC", ("fastd",), peers.fastd),
    System("n2n", 2, "Twofish", ("edge", "supernode"), peers.n2n),
    System("tinc", 2, "AES-256-CBC+SHA-256", ("tincd",), peers.tinc),
    System("nebula", 3, "AES-256-GCM", ("nebula", "nebula-cert"), peers.nebula),
    System("vpncloud", 2, "picked by its speed test", ("vpncloud",), peers.vpncloud),
)
# Named, not left out in silence.
NOT_TO_BE_HAD = {
    "zerotier": "not in Debian, not on the Go proxy, no crate",
}
QUICK_PEERS = ("wireguard-go", "openvpn", "fastd", "n2n", "tinc")  # the best first, as measured


def chosen(*, quick: bool) -> tuple[list[System], dict[str, str]]:
    """Return the systems to measure, and why each other one isn't."""
    reasons = {one.name: why for one in SYSTEMS if (why := one.missing())} | NOT_TO_BE_HAD
    there = [one for one in SYSTEMS if one.name not in reasons]
    if quick:
        names = {one.name for one in there}
        best = next((name for name in QUICK_PEERS if name in names), "")
        kept = {"cairn", "veth", "vxlan", best}
        reasons |= {one.name: "left out by --quick" for one in there if one.name not in kept}
        there = [one for one in there if one.name in kept]
    return there, reasons
