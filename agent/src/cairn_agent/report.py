"""What the running agent tells its own commands; ages and times in seconds."""

from __future__ import annotations

from importlib.metadata import version
from typing import Literal

import msgspec

VERSION = version("cairn-agent")

Verdict = Literal["ok", "warning", "failed"]

_SEALED = 52  # octets around an inner IP packet, tagged: docs/protocol.md 1.7
_LEAST_MTU = 1280  # of a vSubnet


class LinkReport(msgspec.Struct, frozen=True):
    """The link to the appliances."""

    is_up: bool = False
    appliance: str = ""
    age_s: float = 0.0  # since it came up or went down
    heard_s: float | None = None  # since an appliance confirmed the netmap; None: never
    error: str = ""
    remedy: str = ""
    skew_s: float | None = None  # the appliance's clock minus ours
    appliances: list[str] = []


class DataPlaneReport(msgspec.Struct, frozen=True):
    """The data plane as the agent sees it."""

    is_up: bool = False
    version: str = ""
    pid: int = 0
    error: str = ""
    remedy: str = ""
    loaded_revision: int | None = None
    offloads: dict[str, str] = {}
    entropy: str = ""
    drops: dict[str, int] = {}


class PeerReport(msgspec.Struct, frozen=True):
    """A peer in one vSubnet."""

    node_id: str
    name: str
    site: str
    vni: int
    vsubnet: str
    role: str
    ips: list[str]
    macs: list[str]
    endpoints: list[str]
    session: str = "down"
    path: str = ""
    endpoint: str = ""
    rtt_us: int | None = None
    mtu: int | None = None  # of an inner IP packet on this path; None: not known yet
    wanted_mtu: int = 0  # what this node's TAP may send
    tx_octets: int = 0
    rx_octets: int = 0
    key_age_s: float | None = None
    last_received_s: float | None = None

    def narrow(self) -> tuple[str, str] | None:
        """Return what is wrong with the path's MTU, and what to do; None: nothing is."""
        if self.session != "up" or self.mtu is None or self.mtu >= self.wanted_mtu:
            return None
        headers = 48 if self.endpoint.startswith("[") else 28
        packet = self.wanted_mtu + _SEALED + headers
        found = (
            f"the path to {self.name} carries packets of {self.mtu:,} octets, "
            f"vSubnet {self.vsubnet} sends up to {self.wanted_mtu:,}"
        )
        remedy = f"let UDP packets of {packet:,} octets through on the way to {self.endpoint}"
        if self.mtu >= _LEAST_MTU:
            remedy += f", or lower the MTU: cairn vsubnet set {self.vsubnet} --mtu {self.mtu}"
        return found, remedy


class CloneReport(msgspec.Struct, frozen=True):
    """A peer that proved within the last ten minutes that it is two machines."""

    node_id: str
    name: str
    vni: int
    vsubnet: str

    def told(self) -> tuple[str, str]:
        """Return what is wrong, and what to do."""
        found = (
            f"{self.name} is two machines in vSubnet {self.vsubnet}: what came in one session was "
            "sealed by both"
        )
        remedy = (
            "find the second machine (`cairn node show` has the node's addresses) and stop one of "
            "the two; to keep both, stop the copy's agent, run `cairn-agent seal-image` there and "
            "join it anew (`cairn-agent leave` would remove the node for both)"
        )
        return found, remedy


class VSubnetReport(msgspec.Struct, frozen=True):
    """A vSubnet of this node."""

    vni: int
    name: str
    tap: str
    mac: str
    ips: list[str]
    mtu: int
    tap_mtu: int  # less than `mtu` where this machine's underlay carries less
    members: int
    problem: str = ""
    tx_octets: int = 0
    rx_octets: int = 0
    trusted_for_s: float | None = None  # without an appliance; None: no limit


class GatewayReport(msgspec.Struct, frozen=True):
    """One LAN segment that this node is a gateway of."""

    segment: str
    name: str
    vni: int
    port: str
    vlan: int  # 0: untagged
    state: str  # "forwarding", "standby", "blocked" by a loop, "unable"
    code: str = ""
    why: str = ""  # where it doesn't forward: a sentence, and what to do after "; "
    term: int = 0  # of the last grant to this node
    forwarder: str = ""  # the name of the one that was granted the segment
    stations: int = 0
    counters: dict[str, int] = {}


class Status(msgspec.Struct, frozen=True):
    """All of it."""

    state: str  # "none" before join, "pending", "approved", "barred"
    agent_version: str
    node_id: str = ""
    name: str = ""
    site: str = ""
    cluster_id: str = ""
    barred: str = ""
    copy_of: str = ""  # the node that this machine was turned away as a copy of
    waits: str = ""  # why it takes no part for now
    revision: int = 0
    incarnation: int = 0
    offline_s: float = 0.0
    endpoints: list[str] = []
    behind_nat: bool = False
    link: LinkReport = LinkReport()
    dataplane: DataPlaneReport = DataPlaneReport()
    vsubnets: list[VSubnetReport] = []
    peers: list[PeerReport] = []
    clones: list[CloneReport] = []
    gateways: list[GatewayReport] = []
    problems: list[str] = []  # sentences: everything that isn't as it should be


class Pinged(msgspec.Struct, frozen=True):
    """One answer to `ping`."""

    node_id: str
    name: str
    vni: int
    rtt_us: int
    endpoint: str


class Check(msgspec.Struct, frozen=True):
    """One line of the doctor."""

    name: str
    verdict: Verdict
    found: str
    remedy: str = ""
