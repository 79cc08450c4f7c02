"""Nodes: hosts with an agent."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from cairn_appliance.domain.generation import Generation
from cairn_appliance.domain.identity import Facts

RENEWED_UNTIL_S = 30 * 86_400.0  # after a certificate's end (trust.md 2.2)
_CLOCKS_S = 86_400.0  # those that signed it and those that look at it may differ so much
# Between appliances, on the agents' port: whether the stream of a node that is open there lives.
SHARED_STREAM = "/appliance/v1/stream"


class NodeState(StrEnum):
    """Pending nodes wait for an operator; removed ones stay on record while a certificate of
    theirs could be shown or renewed."""

    PENDING = "pending"
    APPROVED = "approved"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class Node:
    """A host with an agent, identified by `id` and never by an address."""

    id: str  # UUID, made by the node
    name: str
    state: NodeState
    data_public_key: str  # base64 of 32 octets (X25519)
    control_key: str  # hex SHA-256 of the certificate key's SubjectPublicKeyInfo
    created_at: float  # seconds since 1970
    site: str = ""  # name
    labels: dict[str, str] = field(default_factory=dict)
    token: str = ""  # ID of the token it enrolled with
    wanted: tuple[str, ...] = ()  # IDs of the vSubnets it becomes a member of when approved
    removed_at: float = 0.0
    removed_why: str = ""
    copy_of: str = ""  # ID of the node whose identity it came with
    became: str = ""  # ID of the node that it is by an operator's word; then it is removed
    lost_keys: tuple[str, ...] = ()  # control keys of machines that were this node

    def is_forgotten(self, now: float, certificate_s: float) -> bool:
        """True once no certificate that the node ever had, each of which lived for that long,
        can be shown or renewed: from then on one that comes is refused for its dates, and an
        unknown node as a removed one."""
        kept_s = certificate_s + RENEWED_UNTIL_S + _CLOCKS_S
        return self.state is NodeState.REMOVED and now >= self.removed_at + kept_s


@dataclass(frozen=True, slots=True)
class Registration:
    """What a node last said of itself, and its registration counter."""

    node: str
    generation: Generation = field(default_factory=Generation)
    sessions_since: int = 0  # generation at which peers had to forget their sessions with it
    facts: Facts = field(default_factory=Facts)
    endpoints: tuple[str, ...] = ()  # its own underlay addresses, "192.0.2.7:8002"
    seen_address: str = ""  # the address the appliance saw it come from, without port
    agent_version: str = ""
    dataplane_version: str = ""
    offloads: dict[str, str] = field(default_factory=dict)
    registered_at: float = 0.0  # 0: enrolled, never registered
    takeovers: tuple[float, ...] = ()  # when the identity passed to another machine, of late
    frozen_at: float = 0.0  # 0: it isn't; nobody may register as a node that is

    @property
    def candidates(self) -> tuple[str, ...]:
        """Where peers may try to reach it: its own addresses, then the one that was seen.

        Behind a 1:1 NAT (most clouds) the seen address is the public one, at the same port.
        """
        if not self.seen_address or not self.endpoints:
            return self.endpoints
        port = self.endpoints[0].rpartition(":")[2]
        host = f"[{self.seen_address}]" if ":" in self.seen_address else self.seen_address
        seen = f"{host}:{port}"
        return self.endpoints if seen in self.endpoints else (*self.endpoints, seen)


@dataclass(frozen=True, slots=True)
class Copies:
    """Machines that came with a node's identity and were turned away."""

    node: str  # ID of the original
    told_at: float = 0.0  # of the last alarm: one for all that come at a time
    pending: tuple[str, ...] = ()  # IDs of the nodes that they became
    seen_at: float = 0.0  # of the last event that peers found two machines


@dataclass(frozen=True, slots=True)
class Presence:
    """What a replica knows of a node's link; from memory, not from a write per heartbeat."""

    node: str
    replica: str
    connected: bool
    since: float  # connected, or not connected, since then
    last_seen: float  # its last request or acknowledgement
    loaded_revision: int = 0
    digests: dict[str, str] = field(default_factory=dict)  # "node" and VNIs -> loaded digest
    refused: str = ""  # why the newest netmap is not loaded
    trust: str = ""  # hex digest of the trust document that it keeps
    issuer: str = ""  # hex key identifier of the authority that signed its certificate
