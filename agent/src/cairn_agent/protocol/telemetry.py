"""What a node reports of itself while it follows its netmap: docs/protocol.md section 3.6.

One line of JSON per report, up the connection on which the netmap stream comes down. Every
field has bounds here, so that neither side has to trust the other's sense of measure.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

HEADER = "cairn-reports"  # of the stream's answer: the version that the appliance reads
VERSION = 1
LINE_MAX_OCTETS = 64 * 1024
PEERS_MAX = 128  # in one report
EVERY_S = 10.0  # between two reports, jittered by a fifth
SOON_S = 1.0  # after a change of a session or path, and between any two reports at least
STALE_S = 30.0  # a report that is older says nothing of now
VSUBNETS_MAX, LEARNED_MAX, NAMES_MAX, PROBLEMS_MAX = 64, 64, 64, 16
CLONE_SEEN = "clone_seen"  # the problem that a peer is two machines

Number = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Micros = Annotated[int, msgspec.Meta(ge=0, le=600_000_000)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
Short = Annotated[str, msgspec.Meta(max_length=64)]
Sentence = Annotated[str, msgspec.Meta(max_length=500)]
Vni = Annotated[int, msgspec.Meta(ge=0, le=(1 << 24) - 1)]
Counters = Annotated[dict[Short, Number], msgspec.Meta(max_length=NAMES_MAX)]
Session = Literal["up", "handshaking", "down"]


class PeerSaid(msgspec.Struct, frozen=True, omit_defaults=True):
    """One peer in one vSubnet; `probes` of the last while, of which `lost` had no answer."""

    node: Short
    vni: Vni
    session: Session = "down"
    path: Short = ""
    endpoint: Short = ""
    rtt_us: Micros | None = None
    rtt_max_us: Micros | None = None
    jitter_us: Micros | None = None
    probes: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0
    lost: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0
    probed_s: Seconds | None = None  # ago; None: never
    mtu: Annotated[int, msgspec.Meta(ge=0, le=65_535)] | None = None
    tx_octets: Number = 0
    rx_octets: Number = 0


class LearnedSaid(msgspec.Struct, frozen=True, omit_defaults=True):
    """A MAC that was learned behind a gateway."""

    mac: Short
    peer: Short
    age_s: Seconds = 0.0


class VSubnetSaid(msgspec.Struct, frozen=True, omit_defaults=True):
    """One vSubnet of the node, as its data plane has it."""

    vni: Vni
    members: Number = 0
    peers_up: Number = 0
    mtu: Annotated[int, msgspec.Meta(ge=0, le=65_535)] = 0  # of its TAP
    problem: Sentence = ""
    tx_frames: Number = 0
    rx_frames: Number = 0
    tx_octets: Number = 0
    rx_octets: Number = 0
    drops: Counters = {}
    counters: Counters = {}
    learned: Annotated[list[LearnedSaid], msgspec.Meta(max_length=LEARNED_MAX)] = []


class ProblemSaid(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that isn't as it should be; of a peer where it has a `node`."""

    name: Short
    cause: Sentence
    remedy: Sentence = ""
    node: Short = ""
    vni: Vni = 0  # in which the peer is one


class DataPlaneSaid(msgspec.Struct, frozen=True, omit_defaults=True):
    """The data plane of the node."""

    is_up: bool = False
    version: Short = ""
    uptime_s: Seconds = 0.0
    loaded_revision: Number | None = None
    drops: Counters = {}


class Report(msgspec.Struct, frozen=True, omit_defaults=True):
    """One report: `peers` are those with a session, or that had one, and that have news.

    What is left out (None) is as it was in the report before on the same stream. The first
    one on a stream is `full`: whatever was known before is over.
    """

    full: bool = False
    agent_version: Short | None = None
    dataplane: DataPlaneSaid | None = None
    vsubnets: Annotated[list[VSubnetSaid], msgspec.Meta(max_length=VSUBNETS_MAX)] | None = None
    problems: Annotated[list[ProblemSaid], msgspec.Meta(max_length=PROBLEMS_MAX)] | None = None
    peers: Annotated[list[PeerSaid], msgspec.Meta(max_length=PEERS_MAX)] = []
    measured_s: Seconds = 0.0  # ago: the data plane was asked
