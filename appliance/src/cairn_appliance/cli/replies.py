"""What the command reads of the API's answers; fields that it does not show are left out.

Unknown fields are ignored and missing ones have a default, so that the command works with
an appliance that is a version older or newer.
"""

from __future__ import annotations

from datetime import datetime
from typing import Generic, TypeVar

import msgspec

T = TypeVar("T")


class Reply(msgspec.Struct, Generic[T], frozen=True):
    """An answer: as a value, and whole for --json."""

    value: T
    whole: object
    etag: str = ""


class Problem(msgspec.Struct, frozen=True):
    """An error of the API."""

    status: int = 0
    title: str = ""
    code: str = ""
    detail: str = ""
    remedy: str = ""


class StoreHealth(msgspec.Struct, frozen=True):
    """The store, as the appliance sees it."""

    healthy: bool
    detail: str = ""
    answered_in_ms: float | None = None


class Counts(msgspec.Struct, frozen=True):
    """How many there are."""

    vsubnets: int = 0
    members: int = 0
    tokens: int = 0
    nodes: int = 0
    nodes_connected: int = 0
    nodes_pending: int = 0
    nodes_refusing: int = 0
    sites: int = 0


class ClusterProblem(msgspec.Struct, frozen=True):
    """One thing that is wrong with the cluster."""

    cause: str
    remedy: str = ""
    urgent: bool = False
    name: str = ""


class Status(msgspec.Struct, frozen=True):
    """The appliance."""

    version: str
    cluster_id: str
    incarnation: int
    store: StoreHealth
    at: datetime
    appliances: list[str] = []
    counts: Counts | None = None
    problems: list[ClusterProblem] = []


class ClusterAppliance(msgspec.Struct, frozen=True):
    """One appliance of the cluster."""

    name: str
    votes: bool = True
    leads: bool = False
    healthy: bool = False
    serves: bool = False
    since: datetime | None = None
    version: str = ""
    protocol: int | None = None
    etcd_version: str = ""
    agents: list[str] = []
    operations: list[str] = []
    peer_urls: list[str] = []
    db_octets: int | None = None
    db_used_octets: int | None = None
    behind: int | None = None


class Upgrade(msgspec.Struct, frozen=True):
    """Whether the next appliance may be stopped for its upgrade."""

    ready: bool = False
    order: list[str] = []
    findings: list[ClusterProblem] = []
    last_backup_at: datetime | None = None


class UpgradeFinished(msgspec.Struct, frozen=True):
    """The format of the store that may be written from now on."""

    format: int
    before: int


class ClusterShown(msgspec.Struct, frozen=True):
    """The cluster."""

    id: str
    incarnation: int = 0
    has_quorum: bool = False
    appliances: list[ClusterAppliance] = []
    problems: list[ClusterProblem] = []
    upgrade: Upgrade | None = None  # a version that is older doesn't say


class UpdateFile(msgspec.Struct, frozen=True):
    """The file of an update that was uploaded."""

    version: str


class Machine(msgspec.Struct, frozen=True):
    """How the machine of an appliance stands with its two slots."""

    name: str
    version: str = ""
    slot: str = ""
    other_version: str = ""
    state: str = ""
    wanted: str = ""
    cause: str = ""
    remedy: str = ""
    at: datetime | None = None
    uploaded: str = ""


class UpdateShown(msgspec.Struct, frozen=True):
    """The update that is under way or was last."""

    action: str | None = None
    phase: str | None = None
    version: str = ""
    started_by: str = ""
    current: str = ""
    done: list[str] = []
    cause: str = ""
    remedy: str = ""
    uploaded: str = ""
    appliances: list[Machine] = []


class BackupKeyShown(msgspec.Struct, frozen=True):
    """The key that backups are sealed for."""

    id: str


class BackupShown(msgspec.Struct, frozen=True):
    """A backup that was made."""

    name: str
    made_at: datetime
    appliance: str = ""
    path: str = ""
    made_by: str = ""
    revision: int = 0
    octets: int = 0
    key_id: str = ""
    reason: str = ""


class JoinString(msgspec.Struct, frozen=True):
    """A join string for a new appliance."""

    name: str
    expires_at: datetime
    join_string: str


class VSubnetRef(msgspec.Struct, frozen=True):
    """Which vSubnet."""

    id: str
    name: str = ""
    vni: int = 0


class Policy(msgspec.Struct, frozen=True):
    """What the members enforce."""

    bum_pps: int = 0
    bum_burst: int = 0
    ageing_s: int = 0
    offline_trust_s: int = 0
    shared_ips: list[str] = []


class VSubnet(VSubnetRef, frozen=True):
    """A vSubnet."""

    prefixes: list[str] = []
    reserved: list[str] = []
    mtu: int = 0
    suite: int = 0
    members: int = 0
    policy: Policy = Policy()
    created_at: datetime | None = None


class NodeRef(msgspec.Struct, frozen=True):
    """Which node."""

    id: str
    name: str = ""


class Rotation(msgspec.Struct, frozen=True):
    """A new secret of a vSubnet."""

    epoch: int


class Attachment(msgspec.Struct, frozen=True):
    """A node's membership."""

    vsubnet: VSubnetRef
    mac: str = ""
    ips: list[str] = []
    role: str = ""


class Link(msgspec.Struct, frozen=True):
    """A node's link to the appliances."""

    connected: bool
    since: datetime
    last_seen: datetime
    replica: str = ""
    loaded_revision: int = 0
    refused: str = ""


class Node(NodeRef, frozen=True):
    """A node."""

    state: str = ""
    site: str = ""
    labels: dict[str, str] = {}
    token: str = ""
    created_at: datetime | None = None
    registered_at: datetime | None = None
    generation: int = 0
    agent_version: str = ""
    dataplane_version: str = ""
    offloads: dict[str, str] = {}
    endpoints: list[str] = []
    seen_address: str = ""
    machine: dict[str, str] = {}
    link: Link | None = None
    members: list[Attachment] = []
    wanted: list[VSubnetRef] = []
    removed_at: datetime | None = None
    removed_why: str = ""
    copy_of: NodeRef | None = None
    frozen_at: datetime | None = None


class Member(msgspec.Struct, frozen=True):
    """A member of a vSubnet."""

    vsubnet: VSubnetRef
    node: NodeRef
    mac: str = ""
    ips: list[str] = []
    role: str = ""
    created_at: datetime | None = None


class SegmentGuards(msgspec.Struct, frozen=True):
    """What the gateways of a segment let across."""

    dhcp: bool = False
    router_advertisements: bool = False
    silent_hosts: list[str] = []
    mac_limit: int = 0
    bum_pps: int = 0
    source_bum_pps: int = 0


class Gateway(msgspec.Struct, frozen=True):
    """A gateway of a segment."""

    node: NodeRef
    port: str = ""
    vlan: int = 0
    forwards: bool = False
    able: bool = False
    why_not: str = ""
    heard_ago_s: float | None = None
    stations: int = 0
    counters: dict[str, int] = {}


class Segment(msgspec.Struct, frozen=True):
    """A LAN segment."""

    id: str
    name: str
    vsubnet: VSubnetRef
    preference: str = ""
    bridging: bool = True
    guards: SegmentGuards = SegmentGuards()
    created_at: datetime | None = None
    forwarder: NodeRef | None = None
    next: NodeRef | None = None
    term: int = 0
    since: datetime | None = None
    held_down: bool = False
    gateways: list[Gateway] = []


class Station(msgspec.Struct, frozen=True):
    """A machine on a LAN."""

    mac: str
    ips: list[str] = []
    since: datetime | None = None
    moves: int = 0
    frozen: bool = False


class Finding(msgspec.Struct, frozen=True):
    """One thing that a pre-flight has heard."""

    code: str
    level: str = ""
    what: str = ""
    guard: str = ""


class Preflight(msgspec.Struct, frozen=True):
    """A pre-flight."""

    task: str
    node: NodeRef
    vsubnet: VSubnetRef
    port: str = ""
    vlan: int = 0
    listen_s: float = 0.0
    done: bool = False
    go: bool = False
    heard_s: float = 0.0
    frames: int = 0
    findings: list[Finding] = []
    error: str = ""


class Token(msgspec.Struct, frozen=True):
    """An enrolment token; `token` is its string, in the answer to its creation only."""

    id: str
    state: str
    expires_at: datetime
    vsubnets: list[VSubnetRef] = []
    uses: int = 0
    max_uses: int = 0
    site: str = ""
    labels: dict[str, str] = {}
    needs_approval: bool = False
    sources: list[str] = []
    instances: list[str] = []
    created_at: datetime | None = None
    created_by: str = ""
    token: str = ""
    install: str = ""


class Site(msgspec.Struct, frozen=True):
    """A site."""

    name: str
    description: str = ""
    nodes: int = 0
    nodes_connected: int = 0


class Behind(msgspec.Struct, frozen=True):
    """One who has not done its part of a step; without `node` an appliance."""

    name: str
    cause: str = ""
    remedy: str = ""
    node: str | None = None
    away: bool = False


class KeyProgress(msgspec.Struct, frozen=True):
    """How far the replacement of a key is."""

    phase: str
    since: datetime | None = None
    nodes: int = 0
    done: int = 0
    goes_on_at: datetime | None = None
    behind: list[Behind] = []


class RetiredCa(msgspec.Struct, frozen=True):
    """A CA of the past."""

    fingerprint: str
    at: datetime


class Ca(KeyProgress, frozen=True, kw_only=True):
    """The cluster's CA, and the next or the former one."""

    fingerprint: str
    other: str | None = None
    retired: list[RetiredCa] = []
    old_tokens: list[str] = []


class MapKey(KeyProgress, frozen=True, kw_only=True):
    """The key that signs netmaps, and the next one."""

    public_key: str
    next: str | None = None


class Trust(msgspec.Struct, frozen=True):
    """The keys that nodes know the cluster by."""

    ca: Ca
    map_key: MapKey


class Actor(msgspec.Struct, frozen=True):
    """Who did something."""

    kind: str = ""
    name: str = ""
    address: str = ""


class Event(msgspec.Struct, frozen=True):
    """One thing that happened."""

    id: str
    at: datetime
    text: str
    sequence: int = 0
    kind: str = ""
    severity: str = "info"
    by: Actor = Actor()
    node: NodeRef | None = None
    vsubnet: VSubnetRef | None = None
    details: dict[str, str] = {}


class AuditActor(msgspec.Struct, frozen=True):
    """Who asked."""

    kind: str = ""
    name: str = ""
    role: str = ""
    address: str = ""


class Audited(msgspec.Struct, frozen=True):
    """What was asked for, and what became of it."""

    appliance: str
    index: int
    at: datetime
    actor: AuditActor = AuditActor()
    action: str = ""
    target: str = ""
    outcome: str = ""
    status: int = 0
    request_id: str = ""
    details: dict[str, str] = {}
    hash: str = ""
    kind: str = ""


class AuditChain(msgspec.Struct, frozen=True):
    """What a look at one chain found."""

    appliance: str
    ok: bool
    records: int = 0
    checkpoints: int = 0
    first: int = 0
    index: int = 0
    problem: str = ""


class AuditVerified(msgspec.Struct, frozen=True):
    """What a look at all chains found."""

    ok: bool
    at: datetime
    cluster: str = ""
    key: str = ""
    chains: list[AuditChain] = []


class OutputShown(msgspec.Struct, frozen=True, kw_only=True):
    """A receiver of events."""

    id: str
    min_severity: str = "info"
    ca: str = ""
    last_ok_at: datetime | None = None
    failing_since: datetime | None = None
    last_error: str = ""

    @property
    def place(self) -> str:
        """Where it is, for people."""
        raise NotImplementedError


class SyslogShown(OutputShown, frozen=True, kw_only=True):
    """A syslog server."""

    host: str
    port: int
    protocol: str

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return f"syslog+{self.protocol}://{self.host}:{self.port}"


class WebhookShown(OutputShown, frozen=True, kw_only=True):
    """A webhook."""

    url: str

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return self.url


class Outputs(msgspec.Struct, frozen=True):
    """All receivers of events."""

    syslog: list[SyslogShown] = []
    webhooks: list[WebhookShown] = []

    @property
    def all(self) -> list[OutputShown]:
        """Both kinds."""
        return [*self.syslog, *self.webhooks]


class OutputTest(msgspec.Struct, frozen=True):
    """How the test of a receiver went."""

    id: str
    ok: bool
    error: str = ""


class OutputTests(msgspec.Struct, frozen=True):
    """How the tests went."""

    results: list[OutputTest] = []
