"""The netmap on the wire: documents, their digests and signatures, the stream's lines.

docs/protocol.md section 3.1. A netmap is one document about the node itself and one
per vSubnet; the latter is the same octets for every member.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Literal

import msgspec

from cairn_agent.protocol.gateway import GatewayDuty, PreflightTask

Role = Literal["host", "gateway"]
SIGNATURE_CONTEXT = b"cairn-netmap-1"
SUCCESSION_CONTEXT = b"cairn-map-key-1"


class Psk(msgspec.Struct, frozen=True):
    """The secret of one epoch of a vSubnet."""

    epoch: int
    key: str  # base64 of 32 octets


class Policy(msgspec.Struct, frozen=True):
    """What the members of a vSubnet enforce."""

    bum_pps: int = 200  # frames per second and sending member, above which BUM is dropped
    bum_burst: int = 400
    ageing_s: int = 300
    offline_trust_s: int = 30 * 86_400  # without an appliance for longer it goes down; 0: no limit
    shared_ips: list[str] | msgspec.UnsetType = msgspec.UNSET  # virtual ones; left out: none


class VSubnetHeader(msgspec.Struct, frozen=True):
    """What holds for the vSubnet as a whole."""

    vni: int
    name: str
    suite: int
    mtu: int  # octets of the inner IP packet
    prefixes: list[str]
    psks: list[Psk]  # the first is used to send
    policy: Policy


class Member(msgspec.Struct, frozen=True):
    """One node's attachment to a vSubnet, as its peers must know it."""

    node_id: str
    name: str
    site: str
    role: Role
    public_key: str  # base64 of 32 octets
    macs: list[str]
    ips: list[str]  # with prefix length: "10.7.0.2/24"
    endpoints: list[str]
    generation: int


class Settings(msgspec.Struct, frozen=True):
    """Settings for one node."""

    heartbeat_s: float = 15.0


class NodeDocument(msgspec.Struct, frozen=True):
    """What concerns one node alone."""

    node_id: str
    name: str
    site: str
    vnis: list[int]
    appliances: list[str]
    settings: Settings
    gateways: list[GatewayDuty] = []
    preflights: list[PreflightTask] = []


class Succession(msgspec.Struct, frozen=True):
    """The old map key's word for the new one; whoever trusts the old trusts the new by it."""

    old: str  # base64 of 32 octets (Ed25519), as all keys here
    new: str
    signature: str  # base64, by the old one: `succession_octets`


class TrustDocument(msgspec.Struct, frozen=True):
    """Whom the nodes of a cluster are to trust; the same for all of them."""

    authorities: list[str]  # PEM, one certificate each
    issuer: str  # hex key identifier of the one that signs nodes' certificates now
    map_key: str  # the one that signs now
    next_map_key: str = ""  # the one that is about to, while it is being made known
    renew_within_s: float = 0.0  # over which nodes with another issuer's certificate renew it


class Reset(msgspec.Struct, frozen=True, tag="reset"):
    """The copy is too old or unknown: forget it, a full set follows."""

    cluster_id: str
    incarnation: int


class NodeUpdate(msgspec.Struct, frozen=True, tag="node"):
    """The node's own document."""

    document: NodeDocument
    revision: int
    signature: str


class VSubnetUpdate(msgspec.Struct, frozen=True, tag="vsubnet"):
    """The whole of a vSubnet (`full`) or what changed since the one sent before."""

    vni: int
    revision: int
    full: bool
    header: VSubnetHeader
    set: list[Member]
    remove: list[str]
    digest: str  # hex, of the result
    signature: str


class TrustUpdate(msgspec.Struct, frozen=True, tag="trust"):
    """Whom to trust, and how the key that signs it came to be the map key."""

    successions: list[Succession]  # the oldest first
    document: TrustDocument
    revision: int
    signature: str


class Gone(msgspec.Struct, frozen=True, tag="gone"):
    """The node is no longer a member of this vSubnet."""

    vni: int


class InSync(msgspec.Struct, frozen=True, tag="in_sync"):
    """All up to this revision has been sent; also the heartbeat."""

    revision: int


class Removed(msgspec.Struct, frozen=True, tag="removed"):
    """The node has been removed; the stream ends.

    `code` is `node_removed`, or `node_became` where an operator said that the machine is
    another node (`POST /agent/v1/become`).
    """

    reason: str
    code: str = "node_removed"


class GoAway(msgspec.Struct, frozen=True, tag="go_away"):
    """This replica shuts down; use another one after the wait."""

    after_ms: int


StreamMessage = Reset | NodeUpdate | VSubnetUpdate | TrustUpdate | Gone | InSync | Removed | GoAway

encode = msgspec.json.Encoder().encode
_decoder: msgspec.json.Decoder[StreamMessage] = msgspec.json.Decoder(StreamMessage)


def decode_line(line: bytes) -> StreamMessage:
    """Return the message of one line; raise msgspec.ValidationError or DecodeError."""
    return _decoder.decode(line)


def node_digest(document: NodeDocument) -> str:
    """Return the hex SHA-256 of a node document's canonical JSON."""
    return hashlib.sha256(encode(document)).hexdigest()


def trust_digest(document: TrustDocument) -> str:
    """Return the hex SHA-256 of a trust document's canonical JSON."""
    return hashlib.sha256(encode(document)).hexdigest()


def member_digest(member: Member) -> bytes:
    """Return the 32-octet SHA-256 of a member's canonical JSON."""
    return hashlib.sha256(encode(member)).digest()


def vsubnet_digest(header: VSubnetHeader, members: Iterable[tuple[str, bytes]]) -> str:
    """Return the hex digest of a vSubnet document.

    `members` are (node ID, member_digest) pairs in any order, so that callers can keep
    the members' digests and pay for one change only.
    """
    result = hashlib.sha256(encode(header))
    for _, digest in sorted(members):
        result.update(digest)
    return result.hexdigest()


class _Signed(msgspec.Struct, frozen=True):
    cluster_id: str
    incarnation: int
    kind: str
    key: str
    revision: int
    digest: str


def signed_octets(
    *,
    cluster_id: str,
    incarnation: int,
    kind: Literal["node", "vsubnet", "trust"],
    key: str,
    revision: int,
    digest: str,
) -> bytes:
    """Return what the map key signs (Ed25519).

    `key` is the node ID, the VNI in decimal, or the cluster's ID for a trust document.
    """
    return SIGNATURE_CONTEXT + encode(_Signed(cluster_id, incarnation, kind, key, revision, digest))


class _Succeeds(msgspec.Struct, frozen=True):
    cluster_id: str
    old: str
    new: str


def succession_octets(cluster_id: str, old: str, new: str) -> bytes:
    """Return what a map key signs to name the one that follows it."""
    return SUCCESSION_CONTEXT + encode(_Succeeds(cluster_id, old, new))


class ReceivedNode(msgspec.Struct, frozen=True, tag="node"):
    """A NodeUpdate as a receiver must read it: the signed part as the octets that came.

    A newer appliance may write fields that this agent doesn't know; the digest is over the
    octets, so they are kept as they are and decoded beside it.
    """

    document: msgspec.Raw
    revision: int
    signature: str


class ReceivedVSubnet(msgspec.Struct, frozen=True, tag="vsubnet"):
    """A VSubnetUpdate as a receiver must read it (see ReceivedNode)."""

    vni: int
    revision: int
    full: bool
    header: msgspec.Raw
    set: list[msgspec.Raw]
    remove: list[str]
    digest: str
    signature: str


class ReceivedTrust(msgspec.Struct, frozen=True, tag="trust"):
    """A TrustUpdate as a receiver must read it (see ReceivedNode)."""

    successions: list[Succession]
    document: msgspec.Raw
    revision: int
    signature: str


class Unknown(msgspec.Struct, frozen=True):
    """A line of a type that this version doesn't know; it is skipped."""

    type: str


KnownMessage = (
    Reset | ReceivedNode | ReceivedVSubnet | ReceivedTrust | Gone | InSync | Removed | GoAway
)
ReceivedMessage = KnownMessage | Unknown
_KNOWN = frozenset({"reset", "node", "vsubnet", "trust", "gone", "in_sync", "removed", "go_away"})
_type_decoder = msgspec.json.Decoder(Unknown)
_received_decoder: msgspec.json.Decoder[KnownMessage] = msgspec.json.Decoder(KnownMessage)


def decode_received(line: bytes) -> ReceivedMessage:
    """Return the message of one line with its signed octets kept; raise msgspec.MsgspecError."""
    kind = _type_decoder.decode(line)
    return _received_decoder.decode(line) if kind.type in _KNOWN else kind


def octets_digest(octets: bytes) -> bytes:
    """Return the 32-octet SHA-256 of a member or document as it came."""
    return hashlib.sha256(octets).digest()


def received_vsubnet_digest(header: bytes, members: Iterable[tuple[str, bytes]]) -> str:
    """Return `vsubnet_digest` of a header as it came."""
    result = hashlib.sha256(header)
    for _, digest in sorted(members):
        result.update(digest)
    return result.hexdigest()
