"""The machine's wired interfaces and their addresses, as the kernel has them."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import msgspec

_CLASS = Path("/sys/class/net")
_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Interface:
    """One of them."""

    name: str
    mac: str
    has_link: bool
    addresses: tuple[str, ...]  # with prefix length, without link-local ones

    def __str__(self) -> str:
        link = "link is up" if self.has_link else "no link"
        return f"{self.name}  {self.mac}  {link}  {', '.join(self.addresses) or 'no address'}"


class _Address(msgspec.Struct, frozen=True):
    local: str = ""
    prefixlen: int = 0
    scope: str = ""


class _Link(msgspec.Struct, frozen=True):
    ifname: str
    address: str = ""
    flags: list[str] = []
    addr_info: list[_Address] = []


def wired() -> list[Interface]:
    """Return those that belong to a device; none where the kernel can't be asked."""
    try:
        done = subprocess.run(
            ["ip", "-json", "address", "show"],
            check=True,
            timeout=_WITHIN_S,
            stdin=subprocess.DEVNULL,
            capture_output=True,
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [each for each in of_json(done.stdout) if (_CLASS / each.name / "device").exists()]


def addresses() -> tuple[str, ...]:
    """Return all addresses of theirs, with prefix length."""
    return tuple(address for each in wired() for address in each.addresses)


def hosts() -> list[str]:
    """Return the same without prefix length."""
    return [each.partition("/")[0] for each in addresses()]


def of_json(octets: bytes) -> list[Interface]:
    """Return the interfaces that `ip -json address` tells of."""
    return [
        Interface(
            name=link.ifname,
            mac=link.address,
            has_link="LOWER_UP" in link.flags,
            addresses=tuple(
                f"{each.local}/{each.prefixlen}"
                for each in link.addr_info
                if each.scope == "global"
            ),
        )
        for link in msgspec.json.decode(octets, type=list[_Link])
    ]
