"""Gateway mode on the wire: duties in the node's document, beats and their answers.

docs/protocol.md section 5. A gateway beats while it has duties; an answer's grant is what
lets it forward, counted from before the beat was sent.
"""

from __future__ import annotations

from typing import Literal

import msgspec

BEAT_S = 0.5  # between beats; 0.05 while a switch-over waits for this gateway (`is_next`)
HOLD_S = 1.5  # how long a grant lets its holder forward, from before its beat was sent
SILENCE_S = 2.0  # without a beat of the holder, before another gateway is granted its segment

MAX_FROZEN = 256  # stations in a grant

Preference = Literal["safety", "availability"]
FindingLevel = Literal["info", "handled", "no_go"]


class Guards(msgspec.Struct, frozen=True):
    """What the gateways of a segment let across; the defaults let nothing dangerous across."""

    dhcp: bool = False  # DHCP servers' answers cross, both ways
    router_advertisements: bool = False  # RA and redirects cross, both ways
    silent_hosts: list[str] = []  # MACs on the LAN that get frames though they never spoke
    mac_limit: int = 1024  # stations on the LAN port
    bum_pps: int = 1000  # broadcast, unknown and multicast frames across, per direction
    source_bum_pps: int = 200  # the same, per station


class GatewayDuty(msgspec.Struct, frozen=True):
    """One LAN segment that a node is to bridge into one vSubnet."""

    segment: str  # UUID
    name: str
    vni: int
    port: str  # LAN interface of this node
    vlan: int  # 0: untagged; else the 802.1Q tag on the port
    key: str  # base64 of 32 octets, of the segment: authenticates loop probes
    gateways: list[str]  # node IDs of all gateways of the segment, this one among them
    preference: Preference
    guards: Guards
    is_bridging: bool = True  # False: an operator stopped it; the bridge stays, nothing crosses

    def __repr__(self) -> str:
        """Return what may be logged: without the key."""
        place = f"port={self.port!r}, vlan={self.vlan}, vni={self.vni}"
        return f"GatewayDuty(segment={self.segment!r}, name={self.name!r}, {place})"


class PreflightTask(msgspec.Struct, frozen=True):
    """An operator wants to know what would happen if this port were bridged."""

    task: str  # UUID
    port: str
    vlan: int
    vni: int
    listen_s: float = 20.0


class SegmentState(msgspec.Struct, frozen=True):
    """What a gateway says of one segment with each beat."""

    segment: str
    is_able: bool  # port up, bridge in place, no loop: it could forward
    why_not: str = ""  # a sentence for people where it isn't able
    code: str = ""  # `port_down`, `port_missing`, `loop`, `bridge_failed`, `stopped`
    is_forwarding: bool = False  # at the moment of sending
    term: int = 0  # of the grant it has, or had last
    stations: int = 0  # MACs on the LAN port
    counters: dict[str, int] = {}  # of the guards, since the bridge was made


class GatewayBeat(msgspec.Struct, frozen=True):
    """`POST /agent/v1/gateway/beat`; also asks for what isn't granted to anybody."""

    segments: list[SegmentState]
    boot: str = ""  # drawn by each run of the agent: a new run gets a new term


class FrozenStation(msgspec.Struct, frozen=True):
    """A MAC that moved too often, and is held to be on another LAN of the vSubnet."""

    mac: str
    left_s: float  # until it may be anywhere again


class Grant(msgspec.Struct, frozen=True):
    """Who forwards for a segment, as this gateway must see it."""

    segment: str
    term: int  # rises with each change of the holder
    holder: str  # node ID; "" where nobody may forward
    hold_s: float = 0.0  # over 0 for the holder alone: forward so long from before the beat
    is_next: bool = False  # a switch-over to this gateway is on its way: beat each 50 ms
    yield_to: str = ""  # stop forwarding, then release: this node ID takes over
    frozen: list[FrozenStation] = []  # nothing of these crosses from the segment's LAN


class BeatAnswer(msgspec.Struct, frozen=True):
    """One grant for each segment of the beat that is a duty of the node."""

    grants: list[Grant]


class ReleaseRequest(msgspec.Struct, frozen=True):
    """`POST /agent/v1/gateway/release`: this gateway's gate is closed, another may open its own."""

    segment: str
    term: int


class Station(msgspec.Struct, frozen=True):
    """A machine on the LAN, as a gateway saw it."""

    mac: str
    ips: list[str]


class StationReport(msgspec.Struct, frozen=True):
    """`POST /agent/v1/gateway/stations`, from the forwarder: what changed since the last one."""

    segment: str
    term: int
    is_full: bool  # all there are, not a change
    seen: list[Station]
    gone: list[str]  # MACs


class GatewayEvent(msgspec.Struct, frozen=True):
    """`POST /agent/v1/gateway/event`: something for the operators' event log."""

    segment: str
    code: str  # `loop_blocked`, `rogue_dhcp`, `rogue_ra`, `spoofed_mac`, `mac_limit`, `storm` ...
    detail: str  # a sentence that names ports, MACs and what to do
    count: int = 1


class Finding(msgspec.Struct, frozen=True):
    """One thing that the pre-flight heard on the LAN."""

    code: str  # `dhcp_server`, `router_advertiser`, `stp`, `vrrp`, `duplicate_ip`, `mtu` ...
    level: FindingLevel
    what: str  # a sentence with MACs, addresses, numbers
    guard: str  # the guard that handles it, or what to do first


class PreflightReport(msgspec.Struct, frozen=True):
    """`POST /agent/v1/gateway/preflight`."""

    task: str
    is_go: bool
    heard_s: float
    frames: int
    findings: list[Finding]
    error: str = ""  # why it could not be done
