"""A real appliance process on a real etcd, and clients of its agent API."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
from cairn_agent.control.replica import Replica
from cairn_agent.control.tls import server_context
from cairn_agent.protocol import enrolment as wire
from cairn_agent.protocol.token import decode_token
from cairn_appliance.cluster import bootstrap
from cairn_appliance.cluster.etcd_process import client_tls
from cairn_appliance.domain.identity import SYSTEM
from cairn_appliance.domain.joining import decode as decode_join_string
from cairn_appliance.initialising import Initialised, initialise
from cairn_appliance.joining import join
from cairn_appliance.running import current_cluster
from cairn_appliance.services.clock import Clock, wall_clock
from cairn_appliance.services.services import Services, build
from cairn_appliance.services.tokens import TokenOrder
from cairn_appliance.services.vsubnets import VSubnetOrder
from cairn_appliance.settings import Settings
from cairn_appliance.store.etcd import EtcdStore

from tests.ports import free_port
from tests.simulated_node import SimulatedNode

READY_S = 30.0


class RunningAppliance:
    """`cairn-appliance run` on ports of its own, with heartbeats every half second."""

    def __init__(
        self, directory: Path, *, heartbeat_s: float = 0.5, first: VSubnetOrder | None = None
    ) -> None:
        self._place(directory, heartbeat_s)
        order = first or VSubnetOrder("red", ("10.7.0.0/24", "fd00:7::/64"))
        self.made: Initialised = asyncio.run(initialise(self.data_dir, self.settings, order))

    @classmethod
    async def joining(cls, directory: Path, first: RunningAppliance) -> RunningAppliance:
        """Return one more of the first one's cluster, on ports of its own; that one runs."""
        appliance = cls.__new__(cls)
        appliance._place(directory, first.settings.heartbeat_s)
        appliance.made = first.made
        async with first.operations() as client:
            answer = await client.post("/cluster/join-strings", json={})
        string = decode_join_string(answer.raise_for_status().json()["join_string"])
        await join(appliance.data_dir, appliance.settings, string)
        return appliance

    def _place(self, directory: Path, heartbeat_s: float) -> None:
        self.data_dir = directory / "data"
        self.log = directory / "appliance.log"
        self.settings = Settings(
            addresses=["127.0.0.1"],
            agent_port=free_port(),
            ops_port=free_port(),
            heartbeat_s=heartbeat_s,
            etcd_client_port=free_port(),
            etcd_peer_port=free_port(),
            etcd_metrics_port=free_port(),
        )
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """host:port of the agent API."""
        return f"127.0.0.1:{self.settings.agent_port}"

    @property
    def ca(self) -> str:
        """The cluster's CA, PEM."""
        return (self.data_dir / "pki" / "ca.pem").read_text()

    def start(self, *options: str) -> None:
        """Start it and wait until it is ready."""
        command = [sys.executable, "-m", "cairn_appliance.main", "run", *options]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--data-dir", str(self.data_dir)], stdout=log, stderr=log
            )
        deadline = time.monotonic() + READY_S
        with httpx.Client(verify=server_context(self.ca), trust_env=False) as client:
            while not self._is_ready(client):
                assert self.process.poll() is None, self.log.read_text()
                assert time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.05)

    def _is_ready(self, client: httpx.Client) -> bool:
        try:
            return client.get(f"https://{self.address}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def end(self, number: signal.Signals) -> int:
        """Send a signal and return the exit status; the etcd child has ended, too.

        SIGKILL is for both, as where a machine is lost: left to itself etcd stops in good order.
        """
        assert self.process is not None
        etcd = self.etcd_pid()
        if number is signal.SIGKILL:
            os.kill(etcd, number)
        self.process.send_signal(number)
        status = self.process.wait(20)
        deadline = time.monotonic() + 15
        while Path(f"/proc/{etcd}/exe").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not Path(f"/proc/{etcd}/exe").exists(), "etcd is still there"
        return status

    def etcd_pid(self) -> int:
        """The process ID of its etcd."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        (pid,) = map(int, children.split())
        return pid

    @contextlib.asynccontextmanager
    async def operator(self, clock: Clock = wall_clock) -> AsyncIterator[Services]:
        """Services on the same etcd: what an operator, or another replica, does meanwhile."""
        local = bootstrap.load(self.data_dir)
        store = EtcdStore([local.etcd_endpoint], client_tls(local))
        try:
            yield build(
                store=store,
                cluster=await current_cluster(store, local.settings),
                keyring=await bootstrap.load_secrets(store, local),
                sealer=local.sealer,
                replica="operator",
                clock=clock,
            )
        finally:
            await store.close()

    @contextlib.asynccontextmanager
    async def operations(self) -> AsyncIterator[httpx.AsyncClient]:
        """A client of its operations API, logged in."""
        base = f"https://127.0.0.1:{self.settings.ops_port}/api/v1"
        context = server_context(self.ca)
        async with httpx.AsyncClient(
            base_url=base, verify=context, trust_env=False, timeout=30.0
        ) as client:
            login = {"name": self.made.admin_user, "password": self.made.admin_password}
            opened = (await client.post("/login", json=login)).raise_for_status()
            client.headers["Authorization"] = f"Bearer {opened.json()['token']}"
            yield client

    async def token(self, *vsubnets: str, **order: object) -> str:
        """Make a token."""
        async with self.operator() as services:
            wanted = TokenOrder(vsubnets=vsubnets, **order)  # type: ignore[arg-type]
            return (await services.tokens.create(wanted, SYSTEM))[1]

    async def enrol(self, node: SimulatedNode, token: str) -> wire.EnrolAnswer:
        """Enrol by the agent's own client."""
        async with Replica(self.address, server_context(self.ca)) as replica:
            return await replica.enrol(enrol_request(node, token))

    async def member(self, name: str, endpoint: str = "192.0.2.7:8002") -> Member:
        """Return a node that is a member of `red` and has registered."""
        node = SimulatedNode(name, endpoints=(endpoint,))
        answer = await self.enrol(node, await self.token("red"))
        member = Member(self, node, answer)
        await member.register()
        return member


@dataclass
class Member:
    """An enrolled node as a client of the agent API."""

    appliance: RunningAppliance
    node: SimulatedNode
    answer: wire.EnrolAnswer

    def context(self) -> ssl.SSLContext:
        """TLS with the node's certificate."""
        return context_with(self.appliance, self.answer.certificate, self.node.key_pem)

    def client(self) -> Replica:
        """The agent's own client."""
        return Replica(self.appliance.address, self.context())

    async def register(self, *endpoints: str) -> wire.RegisterAnswer:
        """Register, and keep what was offered."""
        async with self.client() as replica:
            answer = await replica.register(register_request(self.node, *endpoints))
        self.node.generation = answer.generation
        return answer


def context_with(appliance: RunningAppliance, certificate: str, key: bytes) -> ssl.SSLContext:
    """Return a context that trusts the cluster and shows a certificate."""
    context = server_context(appliance.ca)
    path = appliance.data_dir.parent / f"pair-{os.urandom(8).hex()}.pem"
    path.write_bytes(certificate.encode() + key)
    context.load_cert_chain(path)
    path.unlink()
    return context


def enrol_request(node: SimulatedNode, token: str, secret: str | None = None) -> wire.EnrolRequest:
    """What the agent sends to enrol."""
    parsed = decode_token(token)
    return wire.EnrolRequest(
        token_id=parsed.id,
        token_secret=parsed.secret if secret is None else secret,
        node_id=node.id,
        name=node.name,
        certificate_request=node.certificate_request(),
        data_public_key=node.data_public_key,
        facts=wire.Facts(dmi_uuid=node.facts.dmi_uuid),
        agent_version="0.1.0",
    )


def register_request(node: SimulatedNode, *endpoints: str) -> wire.RegisterRequest:
    """What the agent sends to register."""
    return wire.RegisterRequest(
        generation=node.generation,
        facts=wire.Facts(dmi_uuid=node.facts.dmi_uuid),
        endpoints=list(endpoints or node.endpoints),
        name=node.name,
        agent_version="0.1.0",
    )
