"""A replica whose agent API listens on loopback, with real TLS."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from cairn_appliance.api.agent_v1 import app as agent_api
from cairn_appliance.api.agent_v1.stream import Unwound
from cairn_appliance.api.client_certificate import CertificateProtocol, server_context
from cairn_appliance.pki.authority import utc_now
from cairn_appliance.serving import server

from tests.sim.connection import Connection
from tests.simulated_node import SimulatedNode
from tests.unit.agent.fakes.running import beside
from tests.unit.appliance.replica import AUTHORITY, Replica


@dataclass
class Served:
    """A replica whose agent API listens on loopback, and the files of its node's certificate."""

    replica: Replica
    port: int
    directory: Path

    @property
    def place(self) -> str:
        return f"127.0.0.1:{self.port}"

    def context(self, node: SimulatedNode | None = None) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(cadata=AUTHORITY.certificate.decode())
        if node is not None:
            pem = AUTHORITY.issue_agent(node.certificate_request().encode(), node.id, utc_now())
            path = self.directory / f"{node.id}.pem"
            path.write_bytes(pem + node.key_pem)
            context.load_cert_chain(path)
        return context

    async def stream(self, node: SimulatedNode) -> Connection:
        connection = await Connection.open(self.place, self.context(node))
        await connection.follow("netmap?incarnation=0&after=0", lambda _: None)
        assert connection.takes_reports
        return connection


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    replica = Replica()
    pair = AUTHORITY.issue_pair("appliance", "server", ("127.0.0.1",), utc_now())
    paths = {name: tmp_path / f"{name}.pem" for name in ("api", "key", "ca")}
    contents = (pair.certificate, pair.private_key, AUTHORITY.certificate)
    for path, octets in zip(paths.values(), contents, strict=True):
        path.write_bytes(octets)
    context = server_context(paths["api"], paths["key"], paths["ca"])
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    app = Unwound(agent_api.create_app(replica.services, lambda: utc_now().timestamp()))
    stop = asyncio.Event()
    running = server(app, context, CertificateProtocol, lifespan=False)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(beside(replica.services.streams.run()))
        serving = asyncio.create_task(running.run_until(stop, [listening]))
        yield Served(replica, listening.getsockname()[1], tmp_path)
        replica.services.streams.close()
        stop.set()
        await serving
