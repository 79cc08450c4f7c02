"""An appliance without sockets: the operations API over real services and a store in memory."""

from __future__ import annotations

import base64
import functools
import hashlib
import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import argon2
import httpx
from cairn_agent.protocol.token import decode_token
from cairn_appliance.api.ops_v1.app import create_app
from cairn_appliance.domain.access import ApiToken, Role, Session, User
from cairn_appliance.domain.cluster import FORMAT, Cluster
from cairn_appliance.domain.event import Event
from cairn_appliance.domain.identity import SYSTEM, Facts
from cairn_appliance.domain.output import Receiver
from cairn_appliance.pki.authority import Authority
from cairn_appliance.pki.keyring import Keyring
from cairn_appliance.pki.map_key import MapKey
from cairn_appliance.pki.sealing import Sealer, new_kek
from cairn_appliance.services import services as assembly
from cairn_appliance.services.api_tokens import key_of
from cairn_appliance.services.backups import Backups, Source
from cairn_appliance.services.enrolment import Newcomer
from cairn_appliance.services.membership import Membership
from cairn_appliance.services.receivers import NotDelivered
from cairn_appliance.services.tokens import TokenOrder
from cairn_appliance.store import keys, records
from cairn_appliance.store.codec import Codec
from cairn_appliance.store.memory import MemoryStore
from cairn_appliance.store.port import Compare, Put
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from fastapi import FastAPI

from tests.unit.appliance.backups import FakeShelf, FakeSnapshots
from tests.unit.appliance.etcd import CLUSTER_KEYS, FakeEtcd

PASSWORD = "correct horse battery"
CLUSTER_ID = "0f7b5e0e-5b0e-4a53-9f6e-0d6b6c2a1d11"


@dataclass
class Clock:
    """A wall clock that stands until it is moved."""

    now: float = field(default_factory=lambda: datetime(2026, 11, 23, tzinfo=UTC).timestamp())

    def __call__(self) -> float:
        """Return the time."""
        return self.now

    def advance(self, seconds: float) -> None:
        """Move it on."""
        self.now += seconds


class DeadLine:
    """A line to a receiver of events that takes nothing: tests of the API send nothing out."""

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver

    async def send(self, event: Event) -> None:
        """Refuse it."""
        raise NotDelivered("nobody is there")

    async def close(self) -> None:
        """Nothing is open."""


@dataclass
class Operations:
    """The application with everything behind it."""

    app: FastAPI
    services: assembly.Services
    store: MemoryStore
    authority: Authority
    sealer: Sealer
    clock: Clock
    etcd: FakeEtcd
    shelf: FakeShelf
    backups: Backups

    async def add_user(self, name: str, role: Role, *, must_change_password: bool = False) -> None:
        """Put a user with the password PASSWORD into the store, and the format as `init` does."""
        user = User(
            name, role, _known_hash(), self.clock(), must_change_password=must_change_password
        )
        key = keys.user(name)
        writes = [Put(key, Codec(User).encode(user)), Put(keys.CLUSTER_FORMAT, b"%d" % FORMAT)]
        await self.store.commit([Compare(key, 0)], writes)

    @asynccontextmanager
    async def client(
        self, token: str = "", *, address: str = "192.0.2.50"
    ) -> AsyncIterator[httpx.AsyncClient]:
        """Yield an HTTP client without sockets, with a session if a token is given."""
        transport = httpx.ASGITransport(self.app, client=(address, 50_000))
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with httpx.AsyncClient(
            transport=transport, base_url="https://appliance", headers=headers
        ) as client:
            yield client

    async def login(self, name: str = "admin", password: str = PASSWORD) -> str:
        """Return the token of a new session."""
        async with self.client() as client:
            answer = await client.post("/api/v1/login", json={"name": name, "password": password})
            assert answer.status_code == 200, answer.text
            token = answer.json()["token"]
            assert isinstance(token, str)
            return token

    async def session(self, user: str = "admin") -> str:
        """Return the token of a session that was opened without a login: that takes a while."""
        token = f"cs1_{uuid.uuid4().hex}"
        session = Session(user, self.clock(), self.clock())
        key = keys.session(hashlib.sha256(token.encode()).hexdigest())
        await self.store.commit([], [Put(key, Codec(Session).encode(session))])
        return token

    async def api_token(self, scope: Role, user: str = "admin", *, life_s: float = 0.0) -> str:
        """Return the string of a new API token of a user."""
        text = f"ct1_{uuid.uuid4().hex}"
        owner = await self.store.get(keys.user(user))
        assert owner is not None
        now = self.clock()
        ends = now + life_s if life_s else 0.0
        since = records.users.decode(owner).created_at
        token = ApiToken(f"of {text[-6:]}", user, since, scope, now, ends)
        await self.store.commit([], [Put(key_of(text), records.api_tokens.encode(token))])
        return text

    async def join(self, name: str, *vsubnets: str, site: str = "", pending: bool = False) -> str:
        """Let a node enrol with a token of its own; return its ID."""
        order = TokenOrder(vsubnets=vsubnets, site=site, needs_approval=pending)
        _, text = await self.services.tokens.create(order, SYSTEM)
        return await self.enrol(name, text)

    async def enrol(self, name: str, token_text: str) -> str:
        """Let a node enrol with a token; return its ID."""
        token = decode_token(token_text)
        node_id = str(uuid.uuid4())
        newcomer = Newcomer(
            token_id=token.id,
            token_secret=token.secret,
            node=node_id,
            name=name,
            certificate_request=certificate_request(node_id),
            data_public_key=base64.b64encode(os.urandom(32)).decode(),
            facts=Facts(machine_id=uuid.uuid4().hex),
            agent_version="0.1.0",
        )
        await self.services.enrolment.enrol(newcomer, "198.51.100.7")
        return node_id

    async def copy(self, name: str, original_id: str) -> str:
        """Let a copy of a node become a node of its own that waits; return its ID."""
        node_id = str(uuid.uuid4())
        newcomer = Newcomer(
            node=node_id,
            name=name,
            certificate_request=certificate_request(node_id),
            data_public_key=base64.b64encode(os.urandom(32)).decode(),
            facts=Facts(machine_id=uuid.uuid4().hex),
            agent_version="0.1.0",
        )
        await self.services.duplicates.admit(original_id, newcomer, "198.51.100.8")
        return node_id


def operations(clock: Clock | None = None) -> Operations:
    """Return an application on an empty store, with the user `admin`'s place still free."""
    clock = clock or Clock()
    store = MemoryStore()
    authority = Authority.create("Cairn test", datetime.now(UTC))
    sealer = Sealer(new_kek())
    services = assembly.build(
        store=store,
        cluster=Cluster(CLUSTER_ID, appliances=("192.0.2.1:8002",)),
        keyring=Keyring(sealer, authority, MapKey.create()),
        sealer=sealer,
        replica="r1",
        clock=clock,
        lines=DeadLine,
    )
    etcd = FakeEtcd()
    membership = Membership(
        store, etcd, lambda: services.cluster, lambda: authority.pin, lambda: CLUSTER_KEYS, clock
    )
    shelf = FakeShelf()
    source = Source("m1", lambda: CLUSTER_KEYS.kek, lambda: "")
    backups = Backups(
        store, FakeSnapshots(store), shelf, lambda: services.cluster, source, kept=3, clock=clock
    )
    app = create_app(services, membership, backups, clock=clock)
    return Operations(app, services, store, authority, sealer, clock, etcd, shelf, backups)


def certificate_request(node_id: str) -> str:
    """Return a certificate request as an agent makes it."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node_id)])
    request = x509.CertificateSigningRequestBuilder().subject_name(name)
    signed = request.sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM).decode()


@functools.cache
def _known_hash() -> str:
    """Return a hash that is checked at once: what it costs is in the hash itself."""
    return argon2.PasswordHasher(time_cost=1, memory_cost=8, parallelism=1).hash(PASSWORD)
