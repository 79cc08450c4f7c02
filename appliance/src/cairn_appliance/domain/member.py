"""Members: attachments of nodes to vSubnets, and their MAC addresses."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum


class MemberRole(StrEnum):
    """What a member may do in the vSubnet."""

    HOST = "host"
    GATEWAY = "gateway"


@dataclass(frozen=True, slots=True)
class Member:
    """One node's attachment to one vSubnet."""

    vsubnet: str  # ID
    node: str  # ID
    mac: str
    created_at: float  # seconds since 1970
    ips: tuple[str, ...] = ()  # plain addresses; the prefix length is the vSubnet's
    role: MemberRole = MemberRole.HOST


@dataclass(frozen=True, slots=True)
class Claim:
    """Who holds a MAC or IP address of a vSubnet, or held it until `released_at`."""

    node: str
    released_at: float = 0.0  # 0: held


def derived_mac(node: str, vni: int, attempt: int = 0) -> str:
    """Return the member's MAC address: locally administered, unicast, the same each time.

    `attempt` counts collisions with other members (one in 2^46 each).
    """
    digest = hashlib.sha256(f"cairn-mac-1/{node}/{vni}/{attempt}".encode()).digest()
    octets = bytes([digest[0] & 0xFC | 0x02]) + digest[1:6]
    return octets.hex(":")
