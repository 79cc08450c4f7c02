"""Documents that come back from nodes after a restore: whether they are ours, and what they say."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

import msgspec
from cairn_agent.protocol import netmap as wire

from cairn_appliance.domain.errors import Invalid

SignOctets = Callable[[bytes], bytes]  # Ed25519 by the map key: the same octets, the same signature
Order = tuple[int, int]  # incarnation, revision: later documents are greater
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class VSubnetDocument:
    """One vSubnet as the cluster itself described it."""

    order: Order
    header: wire.VSubnetHeader
    members: tuple[wire.Member, ...]


@dataclass(frozen=True, slots=True)
class NodeDocument:
    """What the cluster itself told a node about it."""

    order: Order
    document: wire.NodeDocument


class Checker:
    """Checks that documents were signed by the map key of this cluster."""

    def __init__(self, cluster_id: str, sign: SignOctets) -> None:
        self._cluster_id = cluster_id
        self._sign = sign

    def node(self, incarnation: int, node_id: str, update: wire.ReceivedNode) -> NodeDocument:
        """Return the document about this node; raise Invalid."""
        octets = bytes(update.document)
        order = incarnation, update.revision
        self._check(order, "node", node_id, wire.octets_digest(octets).hex(), update.signature)
        document = _decoded(octets, wire.NodeDocument)
        if document.node_id != node_id:
            raise _not_ours("it is about another node")
        return NodeDocument(order, document)

    def vsubnet(self, incarnation: int, update: wire.ReceivedVSubnet) -> VSubnetDocument:
        """Return the document about a vSubnet; raise Invalid."""
        header, order = bytes(update.header), (incarnation, update.revision)
        digests = [(_id_of(bytes(raw)), wire.octets_digest(bytes(raw))) for raw in update.set]
        digest = wire.received_vsubnet_digest(header, digests)
        self._check(order, "vsubnet", str(update.vni), digest, update.signature)
        decoded = _decoded(header, wire.VSubnetHeader)
        if decoded.vni != update.vni or not update.full:
            raise _not_ours("it is not the whole of the vSubnet")
        members = tuple(_decoded(bytes(raw), wire.Member) for raw in update.set)
        return VSubnetDocument(order, decoded, members)

    def _check(
        self,
        order: Order,
        kind: Literal["node", "vsubnet"],
        key: str,
        digest: str,
        signature: str,
    ) -> None:
        octets = wire.signed_octets(
            cluster_id=self._cluster_id,
            incarnation=order[0],
            kind=kind,
            key=key,
            revision=order[1],
            digest=digest,
        )
        try:
            given = base64.b64decode(signature, validate=True)
        except (binascii.Error, ValueError) as error:
            raise _not_ours("it has no signature") from error
        if not hmac.compare_digest(given, self._sign(octets)):
            raise _not_ours("it isn't signed by the cluster's map key")


class _NodeIdOnly(msgspec.Struct):
    node_id: str


def _id_of(octets: bytes) -> str:
    return _decoded(octets, _NodeIdOnly).node_id


def _decoded(octets: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(octets, type=kind)
    except msgspec.MsgspecError as error:
        raise _not_ours(str(error)) from error


def _not_ours(why: str) -> Invalid:
    return Invalid(
        f"the document is not one of this cluster: {why}",
        "nothing: the node goes on with what the cluster says",
        code="foreign_document",
    )
