"""Who this node is: its ID, its two keys, and what the appliances said at enrolment."""

from __future__ import annotations

import base64
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.x509.oid import NameOID

from cairn_agent.entropy import key_octets, new_node_id
from cairn_agent.protocol.enrolment import Facts, NodeState

SCHEMA: Final = 1
# FIPS 186-5 A.2.1: 64 octets more than the order has, so that the remainder isn't biased.
_P256_OCTETS = 40
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


class Keys(msgspec.Struct, frozen=True):
    """The secrets of a node, made on it and never sent."""

    node_id: str
    control_key: str  # PEM, ECDSA P-256: the certificate's
    data_key: str  # base64 of 32 octets, X25519: the sessions'

    def __repr__(self) -> str:
        return f"Keys(node_id={self.node_id!r}, ...)"


class Identity(msgspec.Struct, frozen=True):
    """What the node keeps for good. `barred` says why it may no longer take part."""

    keys: Keys
    name: str
    state: NodeState
    cluster_id: str
    pin: str  # hex SHA-256 of the cluster CA at enrolment
    certificate: str  # PEM
    ca: str  # PEM bundle
    map_key: str  # base64 of 32 octets, Ed25519: the newest that has signed anything
    appliances: list[str]
    generation: int  # the newest that was offered
    barred: str = ""  # a sentence; set when the appliances removed or refused the node
    machine: Facts | None = None  # as of the last registration: another one waits to be let in
    copy_of: str = ""  # ID of the node that this machine was turned away as a copy of
    copy_of_name: str = ""
    next_map_keys: list[str] = []  # that the map key, or one after another, named to follow it
    former_map_keys: list[str] = []  # good for the netmap on this disk and for nothing else
    trust: str = ""  # hex digest of the trust document that is kept here
    issuer: str = ""  # hex key identifier of the CA that the certificate should be signed by
    renew_within_s: float = 0.0  # over which it is renewed if it isn't
    starts: int = 0  # of the agent since `generation` was offered; its tries are counted from there
    schema: int = SCHEMA

    def __repr__(self) -> str:
        return f"Identity(node_id={self.keys.node_id!r}, name={self.name!r}, ...)"

    @property
    def node_id(self) -> str:
        """The UUID that the node made for itself."""
        return self.keys.node_id


def new_keys() -> Keys:
    """Make a node ID and both keys from octets that no clone shares."""
    scalar = int.from_bytes(key_octets("control key", _P256_OCTETS))
    control = ec.derive_private_key(scalar % (_P256_ORDER - 1) + 1, ec.SECP256R1())
    return Keys(
        node_id=new_node_id(),
        control_key=control.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode(),
        data_key=base64.b64encode(key_octets("data key")).decode(),
    )


def data_public_key(keys: Keys) -> str:
    """Return the base64 of the X25519 public key."""
    private = X25519PrivateKey.from_private_bytes(base64.b64decode(keys.data_key))
    return base64.b64encode(private.public_key().public_bytes_raw()).decode()


def certificate_request(keys: Keys) -> str:
    """Return a PEM request for a certificate whose subject is the node ID.

    Signed deterministically (RFC 6979): a random nonce drawn by a cloned generator for
    another message would give the key away.
    """
    control = serialization.load_pem_private_key(keys.control_key.encode(), None)
    if not isinstance(control, ec.EllipticCurvePrivateKey):
        raise TypeError("the control key is not an elliptic-curve key")
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, keys.node_id)])
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(subject)
        .sign(control, hashes.SHA256(), ecdsa_deterministic=True)
    )
    return request.public_bytes(serialization.Encoding.PEM).decode()
