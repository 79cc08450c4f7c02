"""Enrolment, registration, certificate renewal: requests and answers."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

PROTOCOL = 1
GIVEN_UP_MAX = 64

NodeState = Literal["pending", "approved"]


class Facts(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a machine says of itself; each only where it exists (control-plane: Identity)."""

    dmi_uuid: str = ""
    machine_id: str = ""
    cloud_instance_id: str = ""
    boot_id: str = ""
    root_disk_id: str = ""
    first_mac: str = ""


class EnrolRequest(msgspec.Struct, frozen=True):
    """The first message of a node; the only one that carries a token."""

    token_id: str
    token_secret: str
    node_id: str  # UUID, made by the node
    name: str  # host name, for people
    certificate_request: str  # PEM; P-256; subject CN = node_id
    data_public_key: str  # base64 of 32 octets (X25519)
    facts: Facts
    agent_version: str
    protocol: int = PROTOCOL


class CopyRequest(msgspec.Struct, frozen=True):
    """What a machine says that was turned away as a copy; it comes with the certificate of the
    node that it is a copy of, and with an ID and keys of its own."""

    node_id: str
    name: str
    certificate_request: str  # PEM; P-256; subject CN = node_id
    data_public_key: str  # base64 of 32 octets (X25519)
    facts: Facts
    agent_version: str
    protocol: int = PROTOCOL


class EnrolAnswer(msgspec.Struct, frozen=True):
    """What a node keeps for good after enrolment."""

    state: NodeState
    cluster_id: str  # UUID
    certificate: str  # PEM
    ca: str  # PEM bundle of the cluster CA
    map_key: str  # base64 of 32 octets (Ed25519 public key of the map signer)
    appliances: list[str]  # host:port of every replica's agent API
    generation: int


class RegisterRequest(msgspec.Struct, frozen=True):
    """What the node is and where it can be reached; repeated on change."""

    generation: int  # the newest that was offered to this node
    facts: Facts
    endpoints: list[str]  # own underlay addresses, "192.0.2.7:8002", "[2001:db8::7]:8002"
    name: str
    agent_version: str
    dataplane_version: str = ""
    offloads: dict[str, str] = {}
    loaded_revision: int = 0
    protocol: int = PROTOCOL
    incarnation: int = 0  # of the netmap that is held; 0: none, or an agent that can't reassert
    # Of this try with this generation; higher than that of each before it (docs/protocol.md 3.3).
    attempt: Annotated[int, msgspec.Meta(ge=0, le=(1 << 62))] = 0
    nonce: str = ""  # drawn as the try is sent; empty: the agent doesn't tell its tries apart
    given_up: Annotated[list[str], msgspec.Meta(max_length=GIVEN_UP_MAX)] = []  # nonces before it


class RegisterAnswer(msgspec.Struct, frozen=True):
    """`generation` is offered; it becomes current when the node first presents it."""

    state: NodeState
    generation: int
    seen_address: str  # the address the appliance saw the request come from
    appliances: list[str]
    heartbeat_s: float
    reassert: bool = False  # tell what you hold before you take anything newer
    again: bool = False  # a later try is on record already: register once more


class AckRequest(msgspec.Struct, frozen=True):
    """What the data plane has loaded, or why it has not."""

    revision: int
    incarnation: int
    digests: dict[str, str] = {}  # "node" and each VNI -> hex digest that is loaded
    refused: str = ""  # reason; the last good netmap stays loaded
    trust: str = ""  # hex digest of the trust document that the node keeps
    issuer: str = ""  # hex key identifier of the CA that signed the certificate that it keeps


class RenewRequest(msgspec.Struct, frozen=True):
    """A new certificate for the same node."""

    certificate_request: str


class RenewAnswer(msgspec.Struct, frozen=True):
    """The new certificate and the CA bundle of now."""

    certificate: str
    ca: str


class LeaveRequest(msgspec.Struct, frozen=True):
    """The node leaves for good."""

    reason: str = ""


class Problem(msgspec.Struct, frozen=True):
    """An error as `application/problem+json` (RFC 9457) with our code and remedy."""

    title: str
    status: int
    code: str
    detail: str = ""
    remedy: str = ""
    type: str = "about:blank"
