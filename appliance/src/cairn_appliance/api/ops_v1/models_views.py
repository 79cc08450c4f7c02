"""What the pages of the console show: overview, topology, latency, tables, reports, search."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from cairn_appliance.api.ops_v1.models import Counts, EventOut, ProblemOut

_NODE_A = "2c0f5c0e-7c8f-4f0e-9d6b-0a6f3f1f8a11"
_NODE_B = "b1f3a0d2-40a5-4a53-8c55-5d2f6f0f2b22"
PathKind = Literal["direct", "relayed", "gateway"]


class SubjectOut(BaseModel):
    """What a problem is about."""

    kind: Literal["cluster", "segment", "node", "receiver"]
    id: str
    name: str


class OverviewProblemOut(ProblemOut):
    """A problem, with what it is about and since when it is known here."""

    since: datetime | None = Field(description="null: this appliance does not know")
    subject: SubjectOut


class OverviewCounts(Counts):
    """How many there are."""

    gateways: int
    segments: int


class OverviewApplianceOut(BaseModel):
    """An appliance in short."""

    id: str
    name: str
    up: bool
    leader: bool
    version: str


class OverviewOut(BaseModel):
    """All that the first page shows."""

    at: datetime
    problems: list[OverviewProblemOut]
    counts: OverviewCounts
    appliances: list[OverviewApplianceOut]
    recent: list[EventOut] = Field(description="the last ten events, newest first")


class TopologySiteOut(BaseModel):
    """A site."""

    name: str


class TopologyNodeOut(BaseModel):
    """A node with where it is and how old its last word is."""

    id: str
    name: str
    site: str
    state: str
    health: Literal["up", "stale", "down", "pending"] = Field(
        description="stale: not heard of late, its data plane may well run; down: its peers "
        "do not hear it either"
    )
    connected: bool
    role: Literal["host", "gateway"]
    gateways: list[str] = Field(description="IDs of the segments that it is a gateway of")
    vsubnets: list[str] = Field(description="IDs")
    reported_at: datetime | None = Field(description="null: it reports nothing")
    stale: bool = Field(description="its last report is older than 30 s, or there is none")


class EdgeOut(BaseModel):
    """Two nodes that have a session, or had one in the last ten minutes; `a` < `b`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "a": _NODE_A,
                    "b": _NODE_B,
                    "vsubnets": ["8d8e5f0e-1d5b-4a3b-9a53-7a4e3e0a5c01"],
                    "path": "direct",
                    "rtt_ms": 11.8,
                    "loss": 0.0,
                    "mtu": 1400,
                    "up": True,
                    "stale": False,
                    "at": "2026-11-26T20:15:04Z",
                }
            ]
        }
    )

    a: str
    b: str
    vsubnets: list[str]
    path: PathKind
    rtt_ms: float | None
    loss: float | None = Field(description="0 to 1, of the last probes of both ends")
    mtu: int | None
    up: bool
    stale: bool = Field(description="neither end was heard for 30 s")
    at: datetime = Field(description="of the newest word about it")


class TopologySegmentOut(BaseModel):
    """A LAN segment, who forwards for it, and how that is."""

    id: str
    name: str
    vsubnet: str
    forwarder: str | None
    gateways: list[str]
    state: Literal["forwarding", "unable", "no_forwarder", "no_gateway", "stopped"]


class TopologyOut(BaseModel):
    """Nodes and the paths between them."""

    at: datetime
    sites: list[TopologySiteOut]
    nodes: list[TopologyNodeOut]
    edges: list[EdgeOut]
    segments: list[TopologySegmentOut]


class LatencyRowOut(BaseModel):
    """What two nodes measure between them, by probes inside their sessions."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "a": _NODE_A,
                    "b": _NODE_B,
                    "rtt_ms": 11.8,
                    "rtt_max_ms": 14.2,
                    "loss": 0.0,
                    "jitter_ms": 0.6,
                    "path": "direct",
                    "at": "2026-11-26T20:15:04Z",
                }
            ]
        }
    )

    a: str
    b: str
    rtt_ms: float
    rtt_max_ms: float | None
    loss: float | None
    jitter_ms: float | None
    path: PathKind
    at: datetime


class LatencyOut(BaseModel):
    """One row for each pair that has a session; pairs without one are not named."""

    at: datetime
    rows: list[LatencyRowOut]


class LatencyPointOut(BaseModel):
    """One moment of a path."""

    at: datetime
    rtt_ms: float
    loss: float


class LatencyHistoryOut(BaseModel):
    """The last hour of a path, thirty seconds apart, as far as this appliance has followed it."""

    at: datetime
    a: str
    b: str
    now: LatencyRowOut | None = Field(description="null: there is no session")
    points: list[LatencyPointOut]


class TableEntryOut(BaseModel):
    """A MAC on a vSubnet, and where it is."""

    mac: str
    ips: list[str]
    node: str = Field(description="the member, or the gateway behind which it is; may be empty")
    node_name: str
    kind: Literal["member", "station", "learned"]
    gateway_segment: str | None
    age_s: float | None = Field(
        description="member: since its node's last report; station: since it came there; "
        "learned: since it last sent; null: not known"
    )
    moves: int
    frozen: bool
    conflict: Literal["", "duplicate_mac", "duplicate_ip"]


class GroupOut(BaseModel):
    """A multicast group and who listens."""

    group: str
    receivers: list[str]


class BumNodeOut(BaseModel):
    """What one node has sent, and what its limits have dropped, since its data plane began."""

    node: str
    frames: int | None = Field(description="that it sent; null: none, or it does not count them")
    frames_per_s: float | None = Field(description="of late; null: not known")
    dropped: int


class BumOut(BaseModel):
    """Broadcast, unknown and multicast frames."""

    frames_per_s: float | None = Field(
        description="that members sent, stations behind gateways among them; null: not known"
    )
    dropped_per_s: float
    by_node: list[BumNodeOut]


class TableOut(BaseModel):
    """All MACs of a vSubnet."""

    at: datetime
    entries: list[TableEntryOut]
    multicast: list[GroupOut] = Field(description="empty: data planes do not report groups")
    bum: BumOut


class ReportPeerOut(BaseModel):
    """A peer of a node in one vSubnet, as the node reports it."""

    node: str
    name: str
    vsubnet: str
    session: Literal["up", "handshaking", "down"]
    path: str
    endpoint: str
    rtt_ms: float | None
    rtt_max_ms: float | None
    jitter_ms: float | None
    loss: float | None
    mtu: int | None
    tx_octets: int
    rx_octets: int
    at: datetime


class ReportVSubnetOut(BaseModel):
    """A vSubnet of a node, as its data plane has it."""

    vsubnet: str
    name: str
    members: int
    peers_up: int
    mtu: int
    problem: str
    tx_frames: int
    rx_frames: int
    tx_octets: int
    rx_octets: int
    drops: dict[str, int]
    counters: dict[str, int]


class ReportDataPlaneOut(BaseModel):
    """The data plane of a node."""

    up: bool
    version: str
    loaded_revision: int | None
    drops: dict[str, int]


class ReportProblemOut(BaseModel):
    """What the node says is wrong with it."""

    name: str
    cause: str
    remedy: str


class NodeReportOut(BaseModel):
    """What an agent last reported of itself."""

    node: str
    name: str
    at: datetime = Field(description="when its last report came")
    age_s: float
    stale: bool = Field(description="older than 30 s: it says nothing of now")
    measured_at: datetime
    agent_version: str
    dataplane: ReportDataPlaneOut
    vsubnets: list[ReportVSubnetOut]
    peers: list[ReportPeerOut] = Field(description="those with a session, or that had one")
    problems: list[ReportProblemOut]


class FoundOut(BaseModel):
    """Something that fits."""

    kind: Literal["node", "vsubnet", "segment", "token", "site", "member"]
    id: str
    name: str
    matched: str
    where: Literal["mac", "ip", "name", "id"]
    link: str = Field(description="path of the console's page")


class SearchOut(BaseModel):
    """At most 50, the best first."""

    items: list[FoundOut]


class EnrolmentOut(BaseModel):
    """What a new node needs beside a token."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "addresses": ["192.0.2.10:8002"],
                    "pin": "sha256//" + "b94d27b9" * 8,
                    "install_url": "",
                }
            ]
        }
    )

    addresses: list[str] = Field(description="host:port of the agent APIs")
    pin: str = Field(description="sha256// and the hex SHA-256 of the CA's certificate")
    install_url: str = Field(description="empty: appliances do not offer the packages yet")
