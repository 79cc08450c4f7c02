"""LAN segments: which ports of which nodes put one LAN on one vSubnet, and what may cross."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from enum import StrEnum

from cairn_appliance.domain.errors import Clash, Invalid, NotFound

GATEWAYS_MAX = 8  # of one segment
DUTIES_MAX = 64  # segments of one node: a beat names them all
VLAN_MAX = 4094
LISTEN_MIN_S, LISTEN_MAX_S = 1.0, 300.0
_SILENT_HOSTS_MAX = 64
STATIONS_MAX = 4096  # of one segment: they are shown, and lie in the store
_PPS_MAX = 1_000_000
# What Linux takes as the name of an interface (dev_valid_name), and nothing that a path means.
_PORT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@-]{0,14}")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}")


class Preference(StrEnum):
    """What a gateway does that can't reach the appliances: stop, or go on if all others agree."""

    SAFETY = "safety"
    AVAILABILITY = "availability"


@dataclass(frozen=True, slots=True)
class Guards:
    """What gateways let across; the fields of cairn_agent.protocol.gateway.Guards."""

    dhcp: bool = False
    router_advertisements: bool = False
    silent_hosts: tuple[str, ...] = ()
    mac_limit: int = 1024
    bum_pps: int = 1000
    source_bum_pps: int = 200


@dataclass(frozen=True, slots=True)
class Gateway:
    """A node that serves the segment by one of its ports."""

    node: str  # ID
    port: str  # interface
    vlan: int = 0  # 0: untagged
    since: float = 0.0  # seconds since 1970


@dataclass(frozen=True, slots=True)
class Segment:
    """One LAN, or one VLAN of it, on one vSubnet. Its revision is that of its key."""

    id: str  # UUID
    name: str
    vsubnet: str  # ID
    created_at: float  # seconds since 1970
    gateways: tuple[Gateway, ...] = ()
    preference: Preference = Preference.SAFETY
    guards: Guards = field(default_factory=Guards)
    is_bridging: bool = True  # False: an operator stopped it

    @property
    def nodes(self) -> tuple[str, ...]:
        """The IDs of its gateways."""
        return tuple(each.node for each in self.gateways)

    def gateway(self, node: str) -> Gateway | None:
        """Return the node's place in it; None where it has none."""
        return next((each for each in self.gateways if each.node == node), None)

    def with_gateway(self, gateway: Gateway) -> Segment:
        """Return the segment with one more; raise Clash."""
        if self.gateway(gateway.node):
            raise Clash(
                f"the node is a gateway of segment {self.name} already, at another port",
                f"detach it first (`cairn gateway detach {self.name} NODE`)",
                code="is_gateway",
            )
        if len(self.gateways) >= GATEWAYS_MAX:
            raise Clash(f"segment {self.name} has {GATEWAYS_MAX} gateways, which is the most")
        return replace(self, gateways=(*self.gateways, gateway))

    def without_gateway(self, node: str) -> Segment:
        """Return the segment with one less; raise NotFound."""
        if not self.gateway(node):
            raise NotFound(
                f"the node is no gateway of segment {self.name}",
                "look at `cairn gateway segment show`",
            )
        return replace(self, gateways=tuple(each for each in self.gateways if each.node != node))


@dataclass(frozen=True, slots=True)
class ProbeKey:
    """What authenticates the loop probes of all segments of one vSubnet.

    Gateways of one have to know the probes of the others: two LANs that a cable has joined are
    found by that. Sealed with a key that is not in the store.
    """

    vsubnet: str  # ID
    sealed: str = field(repr=False)  # base64


@dataclass(frozen=True, slots=True)
class Preflight:
    """An operator's question what would happen if a port were bridged; waits for the node."""

    task: str  # UUID
    node: str  # ID
    port: str
    vlan: int
    vsubnet: str  # ID
    asked_at: float  # seconds since 1970
    listen_s: float = 20.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was heard; cairn_agent.protocol.gateway.Finding."""

    code: str
    level: str
    what: str
    guard: str


@dataclass(frozen=True, slots=True)
class PreflightResult:
    """What the node heard, or why it could not listen."""

    preflight: Preflight
    at: float  # seconds since 1970
    is_go: bool = False
    heard_s: float = 0.0
    frames: int = 0
    findings: tuple[Finding, ...] = ()
    error: str = ""


def checked_port(port: str) -> str:
    """Return the port if an interface can be called so; raise Invalid."""
    if not _PORT.fullmatch(port):
        raise Invalid(
            f"{port[:80]!r} can't be the name of an interface",
            "write it as the node has it, for example eth1 (`ip link` there)",
            code="invalid_port",
        )
    return port


def checked_vlan(vlan: int) -> int:
    """Return the VLAN if there can be such a tag; raise Invalid."""
    if not 0 <= vlan <= VLAN_MAX:
        raise Invalid(
            f"there is no VLAN {vlan}",
            f"choose 1 to {VLAN_MAX}, or 0 for frames without a tag",
            code="invalid_vlan",
        )
    return vlan


def checked_guards(guards: Guards) -> Guards:
    """Return the guards in canonical form; raise Invalid."""
    hosts = tuple(dict.fromkeys(_checked_mac(mac) for mac in guards.silent_hosts))
    if len(hosts) > _SILENT_HOSTS_MAX:
        raise Invalid(f"at most {_SILENT_HOSTS_MAX} silent hosts", code="invalid_guard")
    if not 1 <= guards.mac_limit <= STATIONS_MAX:
        raise Invalid(f"the limit of MACs is 1 to {STATIONS_MAX}", code="invalid_guard")
    for pps in (guards.bum_pps, guards.source_bum_pps):
        if not 1 <= pps <= _PPS_MAX:
            raise Invalid(
                f"the limits of frames are 1 to {_PPS_MAX} a second", code="invalid_guard"
            )
    return replace(guards, silent_hosts=hosts)


def checked_listening(seconds: float) -> float:
    """Return how long a pre-flight listens; raise Invalid."""
    if not LISTEN_MIN_S <= seconds <= LISTEN_MAX_S:
        raise Invalid(
            f"a pre-flight listens for {LISTEN_MIN_S:.0f} to {LISTEN_MAX_S:.0f} seconds",
            code="invalid_length",
        )
    return seconds


def is_station(mac: str) -> bool:
    """Return whether the text is the MAC of one machine, in lower case."""
    return _MAC.fullmatch(mac) is not None and not int(mac[:2], 16) & 1 and mac != "00:" * 5 + "00"


def _checked_mac(text: str) -> str:
    mac = text.strip().lower().replace("-", ":")
    if not is_station(mac):
        raise Invalid(
            f"{text[:80]!r} is no MAC address of a machine",
            "write it as 00:1b:44:11:3a:b7",
            code="invalid_mac",
        )
    return mac
