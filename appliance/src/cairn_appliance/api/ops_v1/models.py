"""What the operations API takes and gives; no other module knows these types."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

T = TypeVar("T")

Name = Annotated[str, StringConstraints(min_length=1, max_length=63)]
Reference = Annotated[str, StringConstraints(min_length=1, max_length=128)]
Text = Annotated[str, StringConstraints(max_length=200)]
Labels = Annotated[dict[Name, Text], Field(max_length=32)]
DAY_S = 86_400


class Asked(BaseModel):
    """A request: a field that we do not know is a mistake, not to be passed over."""

    model_config = ConfigDict(extra="forbid")


class Page(BaseModel, Generic[T]):
    """A page of a list; `next` is the cursor of the next page, null on the last."""

    items: list[T]
    next: str | None = None


class FieldProblem(BaseModel):
    """One field that breaks the schema."""

    field: str
    message: str


class ProblemBody(BaseModel):
    """An error (RFC 9457): `code` is stable, `detail` is the cause, `remedy` what to do."""

    type: str = "about:blank"
    title: str
    status: int
    code: str
    detail: str = ""
    remedy: str = ""
    errors: list[FieldProblem] = []


class Health(BaseModel):
    """Alive, or ready."""

    status: Literal["ok"] = "ok"


class StoreOut(BaseModel):
    """The store as this replica sees it now."""

    healthy: bool
    detail: str = ""
    answered_in_ms: float | None = None


class Counts(BaseModel):
    """How many there are."""

    vsubnets: int
    members: int
    tokens: int
    nodes: int
    nodes_connected: int
    nodes_pending: int
    nodes_refusing: int = Field(description="nodes that could not load their newest netmap")
    sites: int


class ProblemOut(BaseModel):
    """One thing that is wrong; urgent where changes wait because of it."""

    name: str = Field(description="stable: docs/operate/alarms.md has a section for each")
    cause: str
    remedy: str
    urgent: bool


class StatusOut(BaseModel):
    """The appliance in one answer."""

    version: str
    cluster_id: str
    incarnation: int
    appliances: list[str]
    at: datetime
    store: StoreOut
    counts: Counts | None = Field(description="null while the store gives no answer")
    problems: list[ProblemOut] = Field(description="what is wrong with the cluster")


class SiteOut(BaseModel):
    """A site with how many nodes it has."""

    name: str
    description: str = ""
    nodes: int
    nodes_connected: int


class PolicyModel(Asked):
    """What the members of a vSubnet enforce."""

    bum_pps: int = Field(200, ge=1, description="BUM frames per second and sending member")
    bum_burst: int = Field(400, ge=1)
    ageing_s: int = Field(300, ge=10, description="life of a learned address")
    offline_trust_s: int = Field(30 * DAY_S, ge=0, description="0: unlimited, else 24 h or more")
    shared_ips: tuple[Text, ...] = Field(
        (), max_length=64, description="virtual addresses, which any member may take"
    )


class PolicyPatch(Asked):
    """What is to change of a policy."""

    bum_pps: int | None = Field(None, ge=1)
    bum_burst: int | None = Field(None, ge=1)
    ageing_s: int | None = Field(None, ge=10)
    offline_trust_s: int | None = Field(None, ge=0)
    shared_ips: tuple[Text, ...] | None = Field(None, max_length=64)


class VSubnetAsked(Asked):
    """A vSubnet to be."""

    name: Name
    prefixes: list[Text] = Field([], max_length=2, description="none: addresses are unmanaged")
    reserved: list[Text] = Field([], max_length=64, description="10.7.0.10-10.7.0.20")
    mtu: int = Field(1400, description="octets of the inner IP packet")
    policy: PolicyModel = Field(default_factory=lambda: PolicyModel.model_validate({}))


class VSubnetPatch(Asked):
    """What is to change; what is left out stays."""

    name: Name | None = None
    prefixes: list[Text] | None = Field(None, max_length=2, description="while without members")
    reserved: list[Text] | None = Field(None, max_length=64)
    mtu: int | None = None
    policy: PolicyPatch | None = None


class VSubnetRef(BaseModel):
    """Which vSubnet."""

    id: str
    name: str
    vni: int


class VSubnetOut(VSubnetRef):
    """A virtual Ethernet segment."""

    prefixes: list[str]
    reserved: list[str]
    mtu: int
    suite: int
    policy: PolicyModel
    members: int
    created_at: datetime


class RotationAsked(Asked):
    """How a new secret of a vSubnet begins."""

    revoke_now: bool = Field(
        False,
        description="end the old one at once, not after 10 minutes: members that an "
        "appliance does not reach meanwhile lose their sessions",
    )


class RotationOut(BaseModel):
    """The new secret's number."""

    epoch: int


class NodeRef(BaseModel):
    """Which node."""

    id: str
    name: str


class Attachment(BaseModel):
    """A node's membership, seen from the node."""

    vsubnet: VSubnetRef
    mac: str
    ips: list[str]
    role: str


class LinkOut(BaseModel):
    """The node's link to the appliances, and what its data plane has loaded."""

    connected: bool
    since: datetime
    last_seen: datetime
    replica: str
    loaded_revision: int
    refused: str = Field(description="why the newest netmap is not loaded; empty: it is")


class NodeOut(NodeRef):
    """A host with an agent."""

    state: str
    site: str
    labels: dict[str, str]
    token: str = Field(description="ID of the token it enrolled with")
    created_at: datetime
    registered_at: datetime | None
    generation: int
    agent_version: str
    dataplane_version: str
    offloads: dict[str, str]
    endpoints: list[str]
    seen_address: str
    machine: dict[str, str] = Field(description="what the machine says of itself")
    link: LinkOut | None = Field(description="null: never seen")
    members: list[Attachment]
    wanted: list[VSubnetRef] = Field(description="vSubnets it gets when it is approved")
    removed_at: datetime | None
    removed_why: str
    copy_of: NodeRef | None = Field(description="the node whose identity it came with")
    frozen_at: datetime | None = Field(description="since then nobody may register as this node")


class ReasonAsked(Asked):
    """Why, for the events."""

    reason: Text = ""


class MemberAsked(Asked):
    """A member to be; without `ips` one address of each prefix is allocated."""

    node: Reference = Field(description="name or ID")
    ips: list[Text] = Field([], max_length=16)
    role: Literal["host", "gateway"] = "host"


class MemberPatch(Asked):
    """What is to change; what is left out stays."""

    ips: list[Text] | None = Field(None, max_length=16)
    role: Literal["host", "gateway"] | None = None


class MemberOut(BaseModel):
    """A node's attachment to a vSubnet."""

    vsubnet: VSubnetRef
    node: NodeRef
    mac: str
    ips: list[str]
    role: str
    created_at: datetime


class TokenAsked(Asked):
    """What a new node may join with."""

    vsubnets: list[Reference] = Field([], max_length=64, description="names, IDs or VNIs")
    max_uses: int = Field(1, ge=1, le=100_000)
    life_s: float = Field(float(DAY_S), ge=1, le=366 * DAY_S, allow_inf_nan=False)
    site: Annotated[str, StringConstraints(max_length=63)] = ""
    labels: Labels = {}
    needs_approval: bool = False
    sources: list[Text] = Field(
        [], max_length=16, description="networks that its nodes come from; none: from anywhere"
    )
    instances: list[Text] = Field(
        [],
        max_length=64,
        description="instance IDs that machines say of themselves (`cairn-agent doctor`); "
        "none: any machine",
    )


class TokenOut(BaseModel):
    """An enrolment token, without its secret."""

    id: str
    state: Literal["active", "expired", "used_up"]
    vsubnets: list[VSubnetRef]
    uses: int
    max_uses: int
    expires_at: datetime
    site: str
    labels: dict[str, str]
    needs_approval: bool
    sources: list[str]
    instances: list[str]
    created_at: datetime
    created_by: str


class TokenCreated(TokenOut):
    """A new token; `token` is the pasteable string, which is told only once. `install`, with the
    token after it, is what to run on a machine that has no agent; empty where this appliance has
    no packages."""

    token: str
    install: str = ""


Port = Annotated[str, StringConstraints(min_length=1, max_length=15)]
Vlan = Annotated[int, Field(ge=0, le=4094)]
Pps = Annotated[int, Field(ge=1, le=1_000_000)]


class GuardsModel(Asked):
    """What the gateways of a segment let across."""

    dhcp: bool = Field(False, description="answers of DHCP servers cross, both ways")
    router_advertisements: bool = Field(False, description="RA and redirects cross, both ways")
    silent_hosts: list[Text] = Field(
        [], max_length=64, description="MACs that get frames though they never spoke"
    )
    mac_limit: int = Field(1024, ge=1, le=4096, description="machines on the LAN")
    bum_pps: Pps = Field(1000, description="BUM frames a second, per direction")
    source_bum_pps: Pps = Field(200, description="the same, per machine")


class GuardsPatch(Asked):
    """What is to change of the guards."""

    dhcp: bool | None = None
    router_advertisements: bool | None = None
    silent_hosts: list[Text] | None = Field(None, max_length=64)
    mac_limit: int | None = Field(None, ge=1, le=4096)
    bum_pps: Pps | None = None
    source_bum_pps: Pps | None = None


class SegmentAsked(Asked):
    """A LAN segment to be; its gateways are attached one by one."""

    name: Name
    vsubnet: Reference = Field(description="name, ID or VNI")
    preference: Literal["safety", "availability"] = "safety"
    guards: GuardsModel = Field(default_factory=lambda: GuardsModel.model_validate({}))


class SegmentPatch(Asked):
    """What is to change; what is left out stays."""

    name: Name | None = None
    preference: Literal["safety", "availability"] | None = None
    guards: GuardsPatch | None = None


class AttachAsked(Asked):
    """A gateway to be."""

    node: Reference = Field(description="name or ID")
    port: Port = Field(description="interface of the node, for example eth1")
    vlan: Vlan = Field(0, description="0: frames without a tag")


class SwitchOverAsked(Asked):
    """Who is to forward."""

    to: Reference = Field(description="name or ID of a gateway of the segment")


class GatewayOut(BaseModel):
    """A gateway of a segment, as the appliance sees it now."""

    node: NodeRef
    port: str
    vlan: int
    forwards: bool = Field(description="it has the right to, and says that it does")
    able: bool = Field(description="it could forward")
    why_not: str = Field(description="why it could not; empty: it could")
    code: str
    heard_ago_s: float | None = Field(description="since its last beat; null: not heard here")
    stations: int
    counters: dict[str, int] = Field(description="of the guards, since the bridge was made")


class SegmentOut(BaseModel):
    """A LAN segment, who forwards for it, and how its gateways are."""

    id: str
    name: str
    vsubnet: VSubnetRef
    preference: str
    bridging: bool = Field(description="false: an operator stopped it")
    guards: GuardsModel
    created_at: datetime
    forwarder: NodeRef | None = Field(description="who has the right; null: nobody")
    next: NodeRef | None = Field(description="whom a switch-over under way goes to")
    term: int
    since: datetime | None = Field(description="when the forwarder was chosen")
    held_down: bool = Field(description="it has moved too often and stays as it is")
    gateways: list[GatewayOut]


class StationOut(BaseModel):
    """A machine on the LAN of a segment."""

    mac: str
    ips: list[str]
    since: datetime
    moves: int = Field(description="between segments, of late")
    frozen: bool = Field(description="it moved too often and stays here")


class PreflightAsked(Asked):
    """What a node is to listen to."""

    node: Reference = Field(description="name or ID")
    port: Port
    vlan: Vlan = 0
    vsubnet: Reference = Field(description="name, ID or VNI")
    listen_s: float = Field(20.0, ge=1, le=300, allow_inf_nan=False)


class FindingOut(BaseModel):
    """One thing that was heard."""

    code: str
    level: str = Field(description="info, handled or no_go")
    what: str
    guard: str = Field(description="the guard that handles it, or what to do first")


class PreflightOut(BaseModel):
    """A pre-flight; `done` once the node has answered or is given up."""

    task: str
    node: NodeRef
    vsubnet: VSubnetRef
    port: str
    vlan: int
    listen_s: float
    asked_at: datetime
    done: bool
    go: bool = Field(description="nothing was heard that no guard handles")
    heard_s: float
    frames: int
    findings: list[FindingOut]
    error: str = Field(description="why it could not be done; empty: it was")


class JoinStringAsked(Asked):
    """How long a new appliance may join with the string."""

    life_s: float = Field(3600.0, ge=60, le=DAY_S, allow_inf_nan=False)


class JoinStringOut(BaseModel):
    """A join string, which is told only once, and what the new appliance will be called."""

    name: str
    expires_at: datetime
    join_string: str


class JoinAsked(Asked):
    """What a new appliance shows."""

    id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")]
    secret: Annotated[str, StringConstraints(min_length=32, max_length=64)] = Field(
        json_schema_extra={"writeOnly": True}
    )
    nonce: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]{22}==$")] = Field(
        description="base64 of 16 random octets"
    )
    peer_url: Text = Field(description="https://ADDRESS:PORT of its etcd")


class JoinOut(BaseModel):
    """What a new appliance needs, sealed under a key that follows from secret and nonce."""

    sealed: str


class ApplianceOut(BaseModel):
    """An appliance of the cluster; null: its etcd gives no answer."""

    name: str
    votes: bool = Field(description="false: it has joined, and has no vote yet")
    leads: bool
    healthy: bool = Field(description="its etcd answers and follows a leader")
    serves: bool = Field(description="its APIs run")
    since: datetime | None
    version: str
    protocol: int | None = Field(description="that it speaks with agents; null: it never ran")
    etcd_version: str
    agents: list[str]
    operations: list[str]
    peer_urls: list[str]
    db_octets: int | None
    db_used_octets: int | None
    behind: int | None = Field(description="entries of the raft log not applied yet")


class UpgradeOut(BaseModel):
    """Whether the next appliance may be stopped for its upgrade; urgent findings are in the way."""

    ready: bool
    order: list[str] = Field(description="who is next: the old ones first, who leads last")
    findings: list[ProblemOut]
    last_backup_at: datetime | None = Field(description="null: there is none")


class UpgradeFinishedOut(BaseModel):
    """The format of the store that may be written from now on."""

    format: int
    before: int


class UpdateFileOut(BaseModel):
    """The file of an update that was uploaded and checked."""

    version: str
    digest: str = Field(description="hex SHA-256 of its signed part")


class MachineOut(BaseModel):
    """How the machine of an appliance stands with its two slots."""

    name: str
    version: str = Field(description="of the image that runs")
    slot: str
    other_version: str = Field(description="what the other slot has; empty: no whole system")
    state: Literal[
        "none", "installing", "restarting", "on_trial", "confirmed", "rolled_back", "failed"
    ]
    wanted: str = Field(description="the version that the state is about")
    cause: str
    remedy: str
    at: datetime | None
    uploaded: str = Field(description="version of the update that lies there; empty: none")


class UpdateOut(BaseModel):
    """The update that is under way or was last; null: there was none."""

    action: Literal["install", "rollback"] | None
    phase: Literal["backup", "choosing", "updating", "done", "stopped"] | None
    version: str = Field(description="to be run in the end by all")
    started_by: str
    started_at: datetime | None
    since: datetime | None
    current: str = Field(description="the appliance whose turn it is")
    done: list[str]
    cause: str = Field(description="why it stopped")
    remedy: str
    uploaded: str = Field(description="the newest version that was uploaded; empty: none")
    appliances: list[MachineOut]


class UpdateAsked(Asked):
    """An update to begin with."""

    version: str = Field(max_length=64, description="that was uploaded, to any appliance")


class ClusterOut(BaseModel):
    """The cluster, and what is wrong with it."""

    id: str
    incarnation: int
    has_quorum: bool
    appliances: list[ApplianceOut]
    problems: list[ProblemOut]
    upgrade: UpgradeOut


class BehindOut(BaseModel):
    """One who has not done its part of the step that is under way."""

    name: str
    node: str | None = Field(description="its ID; null: an appliance")
    away: bool = Field(description="it follows when it comes back; waited for until goes_on_at")
    cause: str
    remedy: str


class ProgressOut(BaseModel):
    """How far the replacement of a key is; `behind` has the first 100."""

    phase: Literal["steady", "announced", "issuing"]
    since: datetime | None
    nodes: int
    done: int = Field(description="nodes that have done their part of the phase")
    goes_on_at: datetime | None = Field(description="without those that are away")
    behind: list[BehindOut]


class RetiredOut(BaseModel):
    """A CA of the past."""

    fingerprint: str
    at: datetime


class CaOut(ProgressOut):
    """The cluster's CA; `other` is the next one (announced) or the former one (issuing)."""

    fingerprint: str = Field(description="hex SHA-256 of its certificate")
    other: str | None
    retired: list[RetiredOut]
    old_tokens: list[str] = Field(description="IDs of tokens in force that name another CA")


class MapKeyOut(ProgressOut):
    """The key that signs netmaps, and the one that is to follow."""

    public_key: str = Field(description="base64, Ed25519")
    next: str | None


class TrustOut(BaseModel):
    """The keys that nodes know the cluster by."""

    ca: CaOut
    map_key: MapKeyOut


class BackupKeyAsked(Asked):
    """The public half of a recovery key; the other half stays with who made it."""

    public_key: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9+/]{43}=$")] = Field(
        description="base64 of the 32 octets of an X25519 public key"
    )


class BackupKeyOut(BaseModel):
    """The key that backups are sealed for."""

    id: str
    made_at: datetime
    made_by: str


class BackupOut(BaseModel):
    """A backup that was made; the file lies on the disk of one appliance."""

    name: str
    appliance: str
    path: str
    made_at: datetime
    made_by: str
    revision: int
    octets: int
    key_id: str = Field(description="of the recovery key that opens it")
    reason: str = Field(description="what it was made for; empty: it was asked for, or due")


class ActorOut(BaseModel):
    """Who did it."""

    kind: str
    name: str
    address: str


class EventOut(BaseModel):
    """One thing that happened; `sequence` is the store's revision of the change."""

    id: str
    sequence: int
    at: datetime
    severity: str
    kind: str
    text: str
    by: ActorOut
    node: NodeRef | None
    vsubnet: VSubnetRef | None
    details: dict[str, str]


def moment(seconds: float) -> datetime:
    """Return seconds since 1970 as a time in UTC."""
    return datetime.fromtimestamp(seconds, UTC)


def moment_or_none(seconds: float) -> datetime | None:
    """Return the same; None where it never was (0)."""
    return moment(seconds) if seconds else None
