"""A cluster that signs netmaps, and the lines that it would send."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Iterable

from cairn_agent.protocol import gateway
from cairn_agent.protocol import netmap as wire
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey


def node_id(number: int) -> str:
    """Return the ID of the n-th node of a test."""
    return str(uuid.UUID(int=(0x4000 << 64) | (0x8000 << 48) | number))


def public_key(number: int) -> str:
    """Return the data key of the n-th node."""
    private = X25519PrivateKey.from_private_bytes(number.to_bytes(32, "big"))
    return base64.b64encode(private.public_key().public_bytes_raw()).decode()


def member(number: int, **changes: object) -> wire.Member:
    """Return the n-th node as a member."""
    values: dict[str, object] = {
        "node_id": node_id(number),
        "name": f"vm-{number}",
        "site": "cloud",
        "role": "host",
        "public_key": public_key(number),
        "macs": [f"02:00:00:00:00:{number:02x}"],
        "ips": [f"10.7.0.{number}/24"],
        "endpoints": [f"192.0.2.{number}:8002"],
        "generation": 1,
    }
    return wire.Member(**(values | changes))  # type: ignore[arg-type]


def header(vni: int = 7, **changes: object) -> wire.VSubnetHeader:
    """Return a vSubnet's header."""
    values: dict[str, object] = {
        "vni": vni,
        "name": f"net-{vni}",
        "suite": 1,
        "mtu": 1400,
        "prefixes": ["10.7.0.0/24"],
        "psks": [wire.Psk(1, base64.b64encode(bytes(32)).decode())],
        "policy": wire.Policy(),
    }
    return wire.VSubnetHeader(**(values | changes))  # type: ignore[arg-type]


class Cluster:
    """A cluster's name, incarnation and map key."""

    def __init__(self, incarnation: int = 1) -> None:
        self.id = str(uuid.UUID(int=0xC1))
        self.incarnation = incarnation
        self._key = Ed25519PrivateKey.from_private_bytes(b"m" * 32)
        self.map_key = base64.b64encode(self._key.public_key().public_bytes_raw()).decode()

    def reset(self) -> bytes:
        """Return the line that begins a full set."""
        return wire.encode(wire.Reset(self.id, self.incarnation))

    def node(
        self,
        number: int,
        vnis: list[int],
        revision: int,
        appliances: Iterable[str] = (),
        gateways: Iterable[gateway.GatewayDuty] = (),
    ) -> bytes:
        """Return the document of the n-th node."""
        return self.node_of(node_id(number), vnis, revision, appliances, gateways=gateways)

    def node_of(
        self,
        node: str,
        vnis: list[int],
        revision: int,
        appliances: Iterable[str] = (),
        *,
        heartbeat_s: float = 15.0,
        gateways: Iterable[gateway.GatewayDuty] = (),
    ) -> bytes:
        """Return the document of a node that made its own ID."""
        settings = wire.Settings(heartbeat_s)
        document = wire.NodeDocument(
            node, "vm-1", "cloud", vnis, list(appliances), settings, list(gateways)
        )
        signature = self.sign("node", node, revision, wire.node_digest(document))
        return wire.encode(wire.NodeUpdate(document, revision, signature))

    def vsubnet(
        self,
        members: Iterable[wire.Member],
        revision: int,
        *,
        full: bool = True,
        send: Iterable[wire.Member] | None = None,
        remove: Iterable[str] = (),
        header_: wire.VSubnetHeader | None = None,
    ) -> bytes:
        """Return an update whose result is `members`; a delta carries `send` and `remove`."""
        head = header_ or header()
        result = list(members)
        digest = wire.vsubnet_digest(head, ((m.node_id, wire.member_digest(m)) for m in result))
        signature = self.sign("vsubnet", str(head.vni), revision, digest)
        carried = result if send is None else list(send)
        return wire.encode(
            wire.VSubnetUpdate(
                head.vni, revision, full, head, carried, list(remove), digest, signature
            )
        )

    def in_sync(self, revision: int) -> bytes:
        """Return the line that says all was sent."""
        return wire.encode(wire.InSync(revision))

    def full_set(self, number: int, members: Iterable[wire.Member], revision: int) -> list[bytes]:
        """Return a whole set with one vSubnet, 7."""
        return [
            self.reset(),
            self.node(number, [7], revision),
            self.vsubnet(members, revision),
            self.in_sync(revision),
        ]

    def sign(self, kind: str, key: str, revision: int, digest: str) -> str:
        """Return the signature of a document."""
        octets = wire.signed_octets(
            cluster_id=self.id,
            incarnation=self.incarnation,
            kind=kind,  # type: ignore[arg-type]
            key=key,
            revision=revision,
            digest=digest,
        )
        return base64.b64encode(self._key.sign(octets)).decode()
