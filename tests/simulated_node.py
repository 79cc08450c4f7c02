"""A node without data plane: its keys, what it says, and a netmap copy as agents hold it."""

from __future__ import annotations

import base64
import hashlib
import os
import uuid
from dataclasses import dataclass, field

from cairn_agent.netmap.held import NetmapCopy
from cairn_agent.protocol import netmap as wire
from cairn_agent.protocol.token import decode_token
from cairn_appliance.domain.identity import Facts
from cairn_appliance.services.enrolment import Newcomer
from cairn_appliance.services.registry import Report
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass
class SimulatedNode:
    """A node with keys of its own."""

    name: str = "vm"
    id: str = field(default_factory=lambda: str(uuid.UUID(bytes=os.urandom(16), version=4)))
    facts: Facts = field(default_factory=lambda: Facts(dmi_uuid=str(uuid.uuid4())))
    endpoints: tuple[str, ...] = ("192.0.2.7:8002",)
    generation: int = 1

    def __post_init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.data_public_key = base64.b64encode(os.urandom(32)).decode()

    @property
    def key_pem(self) -> bytes:
        """The control key, PEM."""
        return self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )

    def certificate_request(self) -> str:
        """A request for a certificate with the node ID as its subject."""
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.id)])
        builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
        request = builder.sign(self.key, hashes.SHA256())
        return request.public_bytes(serialization.Encoding.PEM).decode()

    def newcomer(self, token: str) -> Newcomer:
        """What it says when it joins with a pasteable token."""
        parsed = decode_token(token)
        return Newcomer(
            token_id=parsed.id,
            token_secret=parsed.secret,
            node=self.id,
            name=self.name,
            certificate_request=self.certificate_request(),
            data_public_key=self.data_public_key,
            facts=self.facts,
            agent_version="0.1.0",
        )

    def report(self, **changes: object) -> Report:
        """What it says when it registers."""
        fields: dict[str, object] = {
            "generation": self.generation,
            "facts": self.facts,
            "endpoints": self.endpoints,
            "name": self.name,
            "agent_version": "0.1.0",
            "dataplane_version": "0.1.0",
            "offloads": {},
        }
        return Report(**{**fields, **changes})  # type: ignore[arg-type]

    def copy(self, cluster_id: str, map_key: str) -> Follower:
        """A netmap copy of this node, empty."""
        return Follower(NetmapCopy(cluster_id=cluster_id, node_id=self.id, map_key=map_key))


class Follower:
    """Applies stream lines with every check of the real agent, and counts them."""

    def __init__(self, copy: NetmapCopy) -> None:
        self.copy = copy
        self.kinds: list[str] = []
        self.octets = 0

    def take(self, line: bytes) -> wire.ReceivedMessage:
        """Verify and apply one line."""
        message = wire.decode_received(line)
        name = type(message).__name__.removeprefix("Received").lower()
        if isinstance(message, wire.ReceivedVSubnet):
            name = "full" if message.full else "delta"
        self.kinds.append(name)
        self.octets += len(line)
        self.copy.apply(message)
        return message

    def take_all(self, lines: list[bytes]) -> list[str]:
        """Apply lines; return their kinds."""
        before = len(self.kinds)
        for line in lines:
            self.take(line)
        return self.kinds[before:]

    @property
    def revision(self) -> int:
        """The revision that it is in sync with."""
        return self.copy.current.revision if self.copy.current else 0

    @property
    def digests(self) -> dict[str, str]:
        """The digest of each document."""
        return self.copy.current.digests() if self.copy.current else {}

    def names(self, vni: int) -> list[str]:
        """The names of a vSubnet's members."""
        assert self.copy.current is not None
        vsubnet = self.copy.current.vsubnets.get(vni)
        return sorted(member.name for member in vsubnet.readable()) if vsubnet else []

    def fingerprint(self) -> str:
        """One hash over all documents."""
        text = repr(sorted(self.digests.items())).encode()
        return hashlib.sha256(text).hexdigest()
