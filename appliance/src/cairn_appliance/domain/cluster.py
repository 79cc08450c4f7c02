"""What holds for the cluster as a whole, and for the appliances and members of etcd in it."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Cluster:
    """The cluster's identity, and what every node is told."""

    id: str  # UUID
    incarnation: int = 1  # raised by a restore from backup, and by `recover`
    appliances: tuple[str, ...] = ()  # host:port of every replica's agent API
    heartbeat_s: float = 15.0

    def served_by(self, appliances: Iterable[Appliance]) -> Cluster:
        """Return the cluster with the addresses of all its appliances, each once."""
        known = [address for each in appliances for address in each.agents]
        return replace(self, appliances=tuple(dict.fromkeys(known)) or self.appliances)


@dataclass(frozen=True, slots=True)
class Appliance:
    """One appliance of the cluster as it last described itself; it may be away."""

    name: str  # its member of etcd has the same
    agents: tuple[str, ...]  # host:port of its agent API
    operations: tuple[str, ...] = ()  # host:port of its operations API
    version: str = ""


@dataclass(frozen=True, slots=True)
class Replica:
    """A running appliance; its key goes with its lease."""

    name: str
    version: str
    since: float  # seconds since 1970
    issuer: str = ""  # hex key identifier of the authority whose certificate its APIs show


@dataclass(frozen=True, slots=True)
class Joining:
    """What one new appliance may join with; the secret itself is not kept."""

    id: str
    secret_hash: str  # hex
    name: str  # what the new appliance is called; no name is given out twice
    created_at: float  # seconds since 1970
    created_by: str
    expires_at: float
    peer: str = ""  # URL of the etcd that used it; nobody else may from then on

    def matches(self, secret: str) -> bool:
        """Compare in constant time."""
        return hmac.compare_digest(self.secret_hash, joining_hash(self.id, secret))


def joining_hash(joining_id: str, secret: str) -> str:
    """Return the hex HMAC-SHA256 of the secret (256 random bits: no slow hash is needed)."""
    key = b"cairn-joining-1/" + joining_id.encode()
    return hmac.new(key, secret.encode(), hashlib.sha256).hexdigest()


@dataclass(frozen=True, slots=True)
class EtcdMember:
    """A member of the etcd cluster, as its membership has it."""

    id: int
    name: str  # empty until it has been started for the first time
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...] = ()
    is_learner: bool = False

    @property
    def endpoints(self) -> tuple[str, ...]:
        """host:port at which clients reach it."""
        return tuple(url.partition("://")[2] for url in self.client_urls)


@dataclass(frozen=True, slots=True)
class EtcdState:
    """What one member says of itself."""

    version: str
    leader: int  # ID of the leader that it follows; 0: none
    raft_index: int
    raft_applied: int
    db_octets: int
    db_used_octets: int
    errors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EtcdAlarm:
    """An alarm that etcd itself has raised; writes are refused meanwhile."""

    member: int
    kind: str  # NOSPACE or CORRUPT


def quorum_of(voters: int) -> int:
    """Return how many of so many voting members must agree."""
    return voters // 2 + 1
