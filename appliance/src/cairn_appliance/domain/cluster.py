"""What holds for the cluster as a whole, and for the appliances and members of etcd in it."""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from cairn_appliance.domain.alarm import Sign

# What this version can read and may write in the store, docs/adr/0009. Raise it with a change that
# the version before could not read, or would lose when it writes the same object.
FORMAT = 3
KEYS_REPLACED_FORMAT = 2  # from which on the CA and the map key may be others than at first
SHARED_IPS_FORMAT = 3  # from which on vSubnets have shared addresses: an older one drops them
ACCESS_FORMAT = 3  # from which on users may be disabled and have codes: an older one lets them in
BOUND_TOKENS_FORMAT = 3  # from which on tokens may be for some nodes only: an older one takes all
SEGMENTS_FORMAT = 3  # from which on there are gateways: an older appliance tells them nothing
# Between two words on a stream, where a node could go elsewhere. It gives up after 2.5 of them
# and is at another appliance within 5 s of the last word of one that is paused or cut off.
FAILOVER_HEARTBEAT_S = 1.3
QUOTA_OCTETS = 2 << 30  # of each member's database, unless the settings say otherwise


@dataclass(frozen=True, slots=True)
class Cluster:
    """The cluster's identity, and what every node is told."""

    id: str  # UUID
    incarnation: int = 1  # raised by a restore from backup, and by `recover`
    appliances: tuple[str, ...] = ()  # host:port of every replica's agent API
    heartbeat_s: float = 15.0  # of one appliance alone; several: `word_every_s`

    def served_by(self, appliances: Iterable[Appliance]) -> Cluster:
        """Return the cluster with the addresses of all its appliances, each once."""
        known = [address for each in appliances for address in each.agents]
        return replace(self, appliances=tuple(dict.fromkeys(known)) or self.appliances)

    def word_every_s(self, appliances: int) -> float:
        """Return how often a stream has a word, in a cluster of so many appliances.

        Who has nowhere to go gains nothing by knowing early.
        """
        return min(self.heartbeat_s, FAILOVER_HEARTBEAT_S) if appliances > 1 else self.heartbeat_s


@dataclass(frozen=True, slots=True)
class Appliance:
    """One appliance of the cluster as it last described itself; it may be away."""

    name: str  # its member of etcd has the same
    agents: tuple[str, ...]  # host:port of its agent API
    operations: tuple[str, ...] = ()  # host:port of its operations API
    version: str = ""
    protocol: int = 1  # that it speaks with agents
    format: int = 1  # of the store: the newest that it can read


@dataclass(frozen=True, slots=True)
class Replica:
    """A running appliance; its key goes with its lease."""

    name: str
    version: str
    since: float  # seconds since 1970
    signs: tuple[Sign, ...] = ()  # what it notices of itself
    issuer: str = ""  # hex key identifier of the authority whose certificate its APIs show
    process: str = ""  # random; two with one name are one appliance too many


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
    db_quota_octets: int = QUOTA_OCTETS

    @property
    def is_full(self) -> bool:
        """True where etcd refuses puts because of its quota."""
        return any("NOSPACE" in error for error in self.errors)


@dataclass(frozen=True, slots=True)
class Digest:
    """What a member's content at one revision comes to; alike only after the same compaction."""

    hash: int
    compacted: int


def odd_ones(digests: Mapping[int, Digest | None], voters: int) -> set[int]:
    """Return the members whose content is not that of the majority; none where there is none.

    Members that can't be compared, since they gave no answer or are compacted otherwise, are
    not judged.
    """
    known = {member: digest for member, digest in digests.items() if digest is not None}
    if not known:
        return set()
    most, count = Counter(known.values()).most_common(1)[0]
    if count < quorum_of(voters):
        return set()
    return {
        member
        for member, digest in known.items()
        if digest.compacted == most.compacted and digest.hash != most.hash
    }


@dataclass(frozen=True, slots=True)
class EtcdAlarm:
    """An alarm that etcd itself has raised; writes are refused meanwhile."""

    member: int
    kind: str  # NOSPACE or CORRUPT


def quorum_of(voters: int) -> int:
    """Return how many of so many voting members must agree."""
    return voters // 2 + 1
