"""The agent's copy of the netmap: what was received, verified and is held.

Theory of operation. `NetmapCopy.apply` takes the stream's messages in order. A netmap is a
frozen value and always whole: what comes changes a draft, and `in_sync` makes the draft the
netmap in use.

- The draft begins as the held netmap, after `reset` as an empty one. A stream that ends
  leaves no draft behind, so a delta is always applied to what it was made for.
- Each document's digest is computed over the octets that came and checked with its
  signature. The map key may have a successor, which it has signed; once the successor has
  signed anything, the key before is believed no more, but for what lies on this disk.
- Within an incarnation no document goes back to a lower revision, also not after `gone`.

Whatever breaks a rule raises NetmapRefused and changes nothing: the caller reports it,
drops the stream and asks for a full set.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final, Literal, TypeVar

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from cairn_agent.protocol import netmap as wire

_T = TypeVar("_T")
_MAC: Final = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")

MAX_OCTETS: Final = 64 * 1024 * 1024  # of one netmap, and of one line
_FORMER_MAX: Final = 8


class NetmapRefused(Exception):
    """A message that breaks a rule; the last good netmap stays."""


@dataclass(frozen=True, slots=True)
class HeldMember:
    """One member as it came; `member` is None where this version can't read it."""

    octets: bytes
    digest: bytes
    member: wire.Member | None


@dataclass(frozen=True, slots=True)
class HeldVSubnet:
    """One vSubnet, whole and verified."""

    octets: bytes  # of the header
    header: wire.VSubnetHeader
    members: Mapping[str, HeldMember]  # by node ID
    revision: int
    digest: str
    signature: str

    def readable(self) -> Iterator[wire.Member]:
        """Yield the members that this version can read, by node ID."""
        for _, held in sorted(self.members.items()):
            if held.member is not None:
                yield held.member


@dataclass(frozen=True, slots=True)
class HeldNode:
    """The node's own document, verified."""

    octets: bytes
    document: wire.NodeDocument
    revision: int
    digest: str
    signature: str


@dataclass(frozen=True, slots=True)
class HeldTrust:
    """Whom to trust, verified."""

    document: wire.TrustDocument
    digest: str


@dataclass(frozen=True, slots=True)
class MapKeys:
    """Base64 of the map keys that a node knows, the oldest first."""

    current: str  # the newest that has signed anything
    next: tuple[str, ...] = ()
    former: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Netmap:
    """What the node must know, true at `revision`."""

    cluster_id: str
    incarnation: int
    revision: int = 0
    node: HeldNode | None = None
    held: Mapping[int, HeldVSubnet] = field(default_factory=lambda: MappingProxyType({}))

    @property
    def vsubnets(self) -> dict[int, HeldVSubnet]:
        """The vSubnets of which the node is a member, by VNI."""
        if self.node is None:
            return {}
        return {v: self.held[v] for v in sorted(set(self.node.document.vnis)) if v in self.held}

    def digests(self) -> dict[str, str]:
        """Return the digest of each document, as an acknowledgement carries them."""
        node = {"node": self.node.digest} if self.node else {}
        return node | {str(vni): vsubnet.digest for vni, vsubnet in self.vsubnets.items()}


class NetmapCopy:
    """The netmap of one node in one cluster, kept by the rules above."""

    def __init__(
        self,
        *,
        cluster_id: str,
        node_id: str,
        map_key: str,
        next_map_keys: Iterable[str] = (),
        former_map_keys: Iterable[str] = (),
    ) -> None:
        self._cluster_id = cluster_id
        self._node_id = node_id
        self._map_keys = MapKeys(map_key, tuple(next_map_keys), tuple(former_map_keys))
        self._is_of_disk = False
        self._trust: HeldTrust | None = None
        self._current: Netmap | None = None
        self._draft: Netmap | None = None
        self._floors: dict[tuple[int, str], int] = {}  # (incarnation, document) -> revision

    @property
    def current(self) -> Netmap | None:
        """The last good netmap."""
        return self._current

    @property
    def map_keys(self) -> MapKeys:
        """The map keys as what was applied has shown them."""
        return self._map_keys

    @property
    def trust(self) -> HeldTrust | None:
        """Whom to trust, as last applied; None while nothing was said of it."""
        return self._trust

    def position(self) -> tuple[int, int]:
        """Return incarnation and revision to resume from; zeros ask for a full set."""
        if self._current is None:
            return 0, 0
        return self._current.incarnation, self._current.revision

    def stream_ended(self) -> None:
        """Forget a draft that was not completed."""
        self._draft = None

    def apply(self, message: wire.ReceivedMessage) -> Netmap | None:
        """Apply one message; return the netmap to use from now on if there is a new one.

        `removed`, `go_away` and unknown messages are the caller's and change nothing here.
        Raises NetmapRefused.
        """
        match message:
            case wire.Reset():
                self._draft = self._begin(message)
            case wire.ReceivedNode():
                self._draft = self._with_node(self._base(), message)
            case wire.ReceivedVSubnet():
                self._draft = self._with_vsubnet(self._base(), message)
            case wire.ReceivedTrust():
                self._take_trust(self._base(), message)
            case wire.Gone():
                self._draft = _without(self._base(), message.vni)
            case wire.InSync():
                return self._synced(message.revision)
            case _:
                pass
        return None

    def _begin(self, reset: wire.Reset) -> Netmap:
        if reset.cluster_id != self._cluster_id:
            raise NetmapRefused(f"the set is of another cluster, {reset.cluster_id}")
        if self._current is not None and reset.incarnation < self._current.incarnation:
            raise NetmapRefused(
                f"incarnation {reset.incarnation} is older than {self._current.incarnation}"
            )
        return Netmap(cluster_id=reset.cluster_id, incarnation=reset.incarnation)

    def _base(self) -> Netmap:
        base = self._draft or self._current
        if base is None:
            raise NetmapRefused("an update came before a full set")
        return base

    def _synced(self, revision: int) -> Netmap | None:
        base, current = self._base(), self._current
        if current and base.incarnation == current.incarnation and revision < current.revision:
            raise NetmapRefused(f"revision {revision} is older than {current.revision}")
        if base.node is None:
            raise NetmapRefused("the set has no document about this node")
        self._draft = None
        if base is current and revision == current.revision:
            return None
        self._current = replace(base, revision=revision)
        return self._current

    def _with_node(self, base: Netmap, update: wire.ReceivedNode) -> Netmap:
        octets = bytes(update.document)
        digest = wire.octets_digest(octets).hex()
        if _is_repeated(base.node, update.revision, digest):
            return base
        self._verify(base, "node", self._node_id, update.revision, digest, update.signature)
        document = _decoded(octets, wire.NodeDocument)
        if document.node_id != self._node_id:
            raise NetmapRefused(f"the document is about another node, {document.node_id}")
        node = HeldNode(octets, document, update.revision, digest, update.signature)
        return _sized(replace(base, node=node))

    def _take_trust(self, base: Netmap, update: wire.ReceivedTrust) -> None:
        """Take it up at once: what comes next may be signed by a key that it names."""
        self._map_keys = _with_successors(self._map_keys, base.cluster_id, update.successions)
        octets = bytes(update.document)
        digest = wire.octets_digest(octets).hex()
        key = base.cluster_id
        self._verify(base, "trust", key, update.revision, digest, update.signature)
        document = _decoded(octets, wire.TrustDocument)
        if document.map_key != self._map_keys.current:
            raise NetmapRefused("whom to trust is not signed by the map key that it names")
        if document.next_map_key and document.next_map_key not in self._map_keys.next:
            raise NetmapRefused("the map key has not signed who follows it")
        if self._trust is None or self._trust.digest != digest:
            self._trust = HeldTrust(document, digest)

    def _with_vsubnet(self, base: Netmap, update: wire.ReceivedVSubnet) -> Netmap:
        before = base.held.get(update.vni)
        if _is_repeated(before, update.revision, update.digest):
            return base
        if before is None and not update.full:
            raise NetmapRefused(f"a change of vSubnet {update.vni} came before the whole of it")
        octets = bytes(update.header)
        members = dict({} if before is None or update.full else before.members)
        for node_id in update.remove:
            members.pop(node_id, None)
        members.update(self._member(update.vni, bytes(raw)) for raw in update.set)
        digests = ((node_id, held.digest) for node_id, held in members.items())
        if wire.received_vsubnet_digest(octets, digests) != update.digest:
            raise NetmapRefused(f"vSubnet {update.vni} doesn't have the digest that it should")
        key = str(update.vni)
        self._verify(base, "vsubnet", key, update.revision, update.digest, update.signature)
        header = _decoded(octets, wire.VSubnetHeader)
        if header.vni != update.vni:
            raise NetmapRefused(f"vSubnet {update.vni} has the header of {header.vni}")
        vsubnet = HeldVSubnet(
            octets, header, members, update.revision, update.digest, update.signature
        )
        return _sized(replace(base, held={**base.held, update.vni: vsubnet}))

    def _member(self, vni: int, octets: bytes) -> tuple[str, HeldMember]:
        """Return a member of a line, with its node ID."""
        try:
            node_id = _member_id.decode(octets).node_id
        except msgspec.MsgspecError as error:
            raise NetmapRefused(f"a member of vSubnet {vni} has no node ID") from error
        return node_id, HeldMember(octets, wire.octets_digest(octets), _readable(octets))

    def _verify(
        self,
        base: Netmap,
        kind: Literal["node", "vsubnet", "trust"],
        key: str,
        revision: int,
        digest: str,
        signature: str,
    ) -> None:
        """Check signature and floor, and raise the floor."""
        floor_key = (base.incarnation, f"{kind} {key}")
        floor = self._floors.get(floor_key, 0)
        if revision < floor:
            raise NetmapRefused(f"{kind} {key} at revision {revision} is older than {floor}")
        signed = wire.signed_octets(
            cluster_id=base.cluster_id,
            incarnation=base.incarnation,
            kind=kind,
            key=key,
            revision=revision,
            digest=digest,
        )
        self._check_signature(f"{kind} {key}", signature, signed)
        self._floors[floor_key] = revision

    def _check_signature(self, what: str, signature: str, signed: bytes) -> None:
        """Raise NetmapRefused unless the map key has signed, or one that follows it has.

        The one that has is the map key from then on.
        """
        keys = self._map_keys
        if _has_signed(keys.current, signature, signed):
            return
        for number, key in enumerate(keys.next):
            if _has_signed(key, signature, signed):
                former = (*keys.former, keys.current, *keys.next[:number])[-_FORMER_MAX:]
                self._map_keys = MapKeys(key, keys.next[number + 1 :], former)
                return
        is_former = any(_has_signed(key, signature, signed) for key in keys.former)
        if is_former and self._is_of_disk:
            return
        if is_former:
            raise NetmapRefused(f"{what} is signed by a map key that was replaced")
        raise NetmapRefused(f"{what} isn't signed by the cluster's map key")

    @contextlib.contextmanager
    def of_disk(self) -> Iterator[None]:
        """Believe what is applied meanwhile as this node itself has kept it."""
        self._is_of_disk = True
        try:
            yield
        finally:
            self._is_of_disk = False


def dump(netmap: Netmap) -> bytes:
    """Return the netmap as the stream that would send it, for the disk."""
    lines = [wire.encode(wire.Reset(netmap.cluster_id, netmap.incarnation))]
    if netmap.node is not None:
        lines.append(wire.encode(node_update(netmap.node)))
    lines += [wire.encode(full_update(vni, held)) for vni, held in sorted(netmap.held.items())]
    lines.append(wire.encode(wire.InSync(netmap.revision)))
    return b"\n".join(lines) + b"\n"


def load(copy: NetmapCopy, octets: bytes) -> Netmap:
    """Apply what `dump` wrote, with every check of a received set; raise NetmapRefused."""
    try:
        with copy.of_disk():
            for line in octets.splitlines():
                copy.apply(wire.decode_received(line))
    except msgspec.MsgspecError as error:
        raise NetmapRefused(f"the kept netmap can't be read: {error}") from error
    finally:
        copy.stream_ended()
    if copy.current is None:
        raise NetmapRefused("the kept netmap is cut short")
    return copy.current


def _with_successors(
    keys: MapKeys, cluster_id: str, successions: Iterable[wire.Succession]
) -> MapKeys:
    """Return the keys with those that may follow, each by the word of one that may sign.

    Two may follow the same one: the first was lost before it was used, as by a restore. What
    follows from none of them is passed over: it is older, or of no concern here.
    """
    for each in successions:
        may_sign = (keys.current, *keys.next)
        if each.old not in may_sign or each.new in (*may_sign, *keys.former):
            continue
        octets = wire.succession_octets(cluster_id, each.old, each.new)
        if not _has_signed(each.old, each.signature, octets):
            raise NetmapRefused("the map key has not signed who follows it")
        if not _is_key(each.new):
            raise NetmapRefused("what follows the map key is no key")
        keys = replace(keys, next=(*keys.next, each.new))
    return keys


def _has_signed(key: str, signature: str, octets: bytes) -> bool:
    try:
        public = Ed25519PublicKey.from_public_bytes(base64.b64decode(key))
        public.verify(base64.b64decode(signature, validate=True), octets)
    except (InvalidSignature, binascii.Error, ValueError):
        return False
    return True


def _is_key(key: str) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 32
    except (binascii.Error, ValueError):
        return False


def node_update(held: HeldNode) -> wire.ReceivedNode:
    """Return the node's document as it came."""
    return wire.ReceivedNode(msgspec.Raw(held.octets), held.revision, held.signature)


def full_update(vni: int, held: HeldVSubnet) -> wire.ReceivedVSubnet:
    """Return a vSubnet's document as a stream would send it whole."""
    return wire.ReceivedVSubnet(
        vni=vni,
        revision=held.revision,
        full=True,
        header=msgspec.Raw(held.octets),
        set=[msgspec.Raw(member.octets) for _, member in sorted(held.members.items())],
        remove=[],
        digest=held.digest,
        signature=held.signature,
    )


class _NodeIdOnly(msgspec.Struct):
    node_id: str


_member_id = msgspec.json.Decoder(_NodeIdOnly)
_member = msgspec.json.Decoder(wire.Member)


def _readable(octets: bytes) -> wire.Member | None:
    """Return the member, None for one that only a newer version understands."""
    try:
        member = _member.decode(octets)
        for address in member.ips:
            ipaddress.ip_interface(address)
    except (msgspec.MsgspecError, ValueError):
        return None
    return member if all(_MAC.fullmatch(mac) for mac in member.macs) else None


def _without(base: Netmap, vni: int) -> Netmap:
    if vni not in base.held:
        return base
    return replace(base, held={v: held for v, held in base.held.items() if v != vni})


def _is_repeated(held: HeldNode | HeldVSubnet | None, revision: int, digest: str) -> bool:
    """Return whether exactly this was applied before; raise where a revision changed content."""
    if held is None or held.revision != revision:
        return False
    if held.digest != digest:
        raise NetmapRefused(f"revision {revision} came twice with different content")
    return True


def _sized(netmap: Netmap) -> Netmap:
    size = sum(
        len(vsubnet.octets) + sum(len(m.octets) for m in vsubnet.members.values())
        for vsubnet in netmap.held.values()
    )
    if size > MAX_OCTETS:
        raise NetmapRefused(f"the netmap has {size} octets, more than {MAX_OCTETS}")
    return netmap


def _decoded(octets: bytes, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(octets, type=kind)
    except msgspec.MsgspecError as error:
        raise NetmapRefused(f"a document can't be read: {error}") from error
