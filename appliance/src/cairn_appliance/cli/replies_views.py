"""What the command reads of the answers about nodes, paths and tables."""

from __future__ import annotations

from datetime import datetime

import msgspec


class Row(msgspec.Struct, frozen=True):
    """What is measured between two nodes."""

    a: str
    b: str
    rtt_ms: float
    rtt_max_ms: float | None = None
    loss: float | None = None
    jitter_ms: float | None = None
    path: str = ""
    at: datetime | None = None


class Latency(msgspec.Struct, frozen=True):
    """All pairs."""

    rows: list[Row] = []


class Point(msgspec.Struct, frozen=True):
    """One moment of a pair."""

    at: datetime
    rtt_ms: float
    loss: float = 0.0


class History(msgspec.Struct, frozen=True):
    """A pair with its last hour."""

    a: str
    b: str
    now: Row | None = None
    points: list[Point] = []


class TopologyNode(msgspec.Struct, frozen=True):
    """A node with its health."""

    id: str
    name: str
    site: str = ""
    health: str = ""
    role: str = ""
    reported_at: datetime | None = None


class Edge(msgspec.Struct, frozen=True):
    """A path."""

    a: str
    b: str
    path: str = ""
    rtt_ms: float | None = None
    loss: float | None = None
    mtu: int | None = None
    up: bool = False
    stale: bool = False


class Topology(msgspec.Struct, frozen=True):
    """Nodes and paths."""

    nodes: list[TopologyNode] = []
    edges: list[Edge] = []


class Found(msgspec.Struct, frozen=True):
    """Something that fits."""

    kind: str
    id: str
    name: str
    matched: str = ""
    where: str = ""


class Search(msgspec.Struct, frozen=True):
    """All that fits."""

    items: list[Found] = []


class Entry(msgspec.Struct, frozen=True):
    """A MAC on a vSubnet."""

    mac: str
    ips: list[str] = []
    node: str = ""
    node_name: str = ""
    kind: str = ""
    age_s: float | None = None
    moves: int = 0
    frozen: bool = False
    conflict: str = ""


class BumNode(msgspec.Struct, frozen=True):
    """The same of one node."""

    node: str
    frames: int | None = None
    frames_per_s: float | None = None


class Bum(msgspec.Struct, frozen=True):
    """BUM frames: what passes, and what limits drop."""

    frames_per_s: float | None = None
    dropped_per_s: float = 0.0
    by_node: list[BumNode] = []


class Table(msgspec.Struct, frozen=True):
    """All MACs."""

    entries: list[Entry] = []
    bum: Bum = Bum()


class ReportPeer(msgspec.Struct, frozen=True):
    """A peer, as a node reports it."""

    name: str
    session: str = ""
    path: str = ""
    endpoint: str = ""
    rtt_ms: float | None = None
    loss: float | None = None
    mtu: int | None = None


class ReportVSubnet(msgspec.Struct, frozen=True):
    """A vSubnet, as a node reports it."""

    name: str
    members: int = 0
    peers_up: int = 0
    problem: str = ""
    drops: dict[str, int] = {}


class ReportDataPlane(msgspec.Struct, frozen=True):
    """A data plane, as its node reports it."""

    up: bool = False
    version: str = ""
    loaded_revision: int | None = None
    drops: dict[str, int] = {}


class ReportProblem(msgspec.Struct, frozen=True):
    """What a node says is wrong."""

    cause: str
    remedy: str = ""


class Report(msgspec.Struct, frozen=True):
    """What an agent reported last."""

    name: str
    age_s: float = 0.0
    stale: bool = False
    agent_version: str = ""
    dataplane: ReportDataPlane = ReportDataPlane()
    vsubnets: list[ReportVSubnet] = []
    peers: list[ReportPeer] = []
    problems: list[ReportProblem] = []
