"""An appliance's agent API in a few lines: real TLS, real certificates, real HTTP."""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import json
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from cairn_agent.protocol.token import Token, encode_token
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.unit.agent.fakes.netmaps import Cluster

PEM = serialization.Encoding.PEM


class Authority:
    """A cluster CA."""

    def __init__(self, name: str = "test cluster") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = self._builder(self._name, self._key.public_key(), timedelta(days=365))
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        self.certificate = builder.add_extension(constraints, True).sign(self._key, hashes.SHA256())
        self.pem = self.certificate.public_bytes(PEM).decode()
        der = self.certificate.public_bytes(serialization.Encoding.DER)
        self.pin = hashlib.sha256(der).hexdigest()

    def server(self, life: timedelta = timedelta(days=30)) -> tuple[str, str]:
        """Return certificate and key of a server."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "appliance")])
        builder = self._builder(name, key.public_key(), life).add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False
        )
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        certificate = builder.add_extension(names, False).sign(self._key, hashes.SHA256())
        private = key.private_bytes(
            PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return certificate.public_bytes(PEM).decode(), private.decode()

    def client(self, request_pem: str, life: timedelta = timedelta(days=30)) -> str:
        """Return a node's certificate."""
        request = x509.load_pem_x509_csr(request_pem.encode())
        key = request.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        builder = self._builder(request.subject, key, life).add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), False
        )
        return builder.sign(self._key, hashes.SHA256()).public_bytes(PEM).decode()

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, life: timedelta
    ) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        own = self._key.public_key()
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + life)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(own), False)
        )


class FakeAppliance:
    """Serves what the test puts into it, and writes down what it was asked."""

    def __init__(self, directory: Path, authority: Authority | None = None) -> None:
        self.authority = authority or Authority()
        self.cluster = Cluster()
        self.port = 0
        self.requests: list[tuple[str, dict[str, Any]]] = []
        self.connections = 0
        self.answers: dict[str, Callable[[dict[str, Any]], tuple[int, dict[str, Any]]]] = {}
        self.lines: list[bytes] = []  # what every stream begins with
        self.generation = 1
        self.state = "approved"
        self.date_skew = timedelta()
        self.certificate_life = timedelta(days=30)
        self.node_id = ""
        self.stream_queries: list[str] = []
        self.takes_reports = True  # one that is a version older doesn't
        self.takes_acks = True  # up the stream; likewise
        self.acks_up = 0
        self.retry_after_s = 0  # with an answer of 429
        self.reports: list[dict[str, Any]] = []
        self._directory = directory
        self._server: asyncio.Server | None = None
        self._streams: set[asyncio.Queue[bytes]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        """host:port."""
        return f"127.0.0.1:{self.port}"

    def token(self, pin: str = "") -> str:
        """Return a pasteable token."""
        return encode_token(
            Token([self.address], pin or self.authority.pin, "token-1", "the-secret-of-the-token")
        )

    async def start(self, server_life: timedelta = timedelta(days=30)) -> None:
        """Listen, on the same port as before."""
        certificate, key = self.authority.server(server_life)
        chain, private = self._directory / "server.pem", self._directory / "server.key"
        chain.write_text(certificate + self.authority.pem)
        private.write_text(key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(chain, private)
        context.load_verify_locations(cadata=self.authority.pem)
        context.verify_mode = ssl.CERT_OPTIONAL
        self._context = context
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]

    def trust(self, pem: str) -> None:
        """Let nodes of another authority in as well."""
        self._context.load_verify_locations(cadata=pem)

    async def stop(self) -> None:
        """Go away as a killed process does."""
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        await self._server.wait_closed()
        for task in list(self._serving):
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    def send(self, *lines: bytes) -> None:
        """Send lines on every open stream."""
        for stream in self._streams:
            for line in lines:
                stream.put_nowait(line)

    def end_streams(self) -> None:
        """End every open stream, as an appliance that is about to stop does."""
        for stream in self._streams:
            stream.put_nowait(b"")

    def asked(self, path: str) -> list[dict[str, Any]]:
        """Return the bodies of the requests to a path."""
        return [body for asked, body in self.requests if asked == path]

    async def until(
        self, condition: Callable[[FakeAppliance], object], within_s: float = 5
    ) -> None:
        """Wait until `condition(self)` holds."""
        async with asyncio.timeout(within_s):
            while not condition(self):
                await asyncio.sleep(0.01)

    @property
    def stream_count(self) -> int:
        """How many netmap streams are open."""
        return len(self._streams)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        try:
            while request := await _request(reader):
                method, target, body = request
                path = target.partition("?")[0].removeprefix("/agent/v1/")
                shown = writer.get_extra_info("peercert")
                if path != "enrol" and not shown:
                    await self._say(writer, 403, {"title": "no", "status": 403, "code": "no_cert"})
                elif method == "GET":
                    self.stream_queries.append(target.partition("?")[2])
                    reading = asyncio.create_task(self._read_reports(reader))
                    try:
                        await self._stream(writer)
                    finally:
                        reading.cancel()
                    return
                else:
                    self.requests.append((path, body))
                    answer = self.answers.get(path, partial(self.usual_answer, path))
                    await self._say(writer, *answer(body))
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._writers.discard(writer)
            writer.close()

    def usual_answer(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Return what is answered where the test has put in nothing else."""
        match path:
            case "enrol":
                self.node_id = body["node_id"]
                return 200, {
                    "state": self.state,
                    "cluster_id": self.cluster.id,
                    "certificate": self.authority.client(
                        body["certificate_request"], self.certificate_life
                    ),
                    "ca": self.authority.pem,
                    "map_key": self.cluster.map_key,
                    "appliances": [self.address],
                    "generation": self.generation,
                }
            case "register":
                self.generation += 1
                return 200, {
                    "state": self.state,
                    "generation": self.generation,
                    "seen_address": "127.0.0.1",
                    "appliances": [self.address],
                    "heartbeat_s": 15.0,
                }
            case "renew":
                certificate = self.authority.client(body["certificate_request"])
                return 200, {"certificate": certificate, "ca": self.authority.pem}
            case _:
                return 200, {}

    async def _say(self, writer: asyncio.StreamWriter, status: int, body: dict[str, Any]) -> None:
        octets = json.dumps(body).encode()
        after = f"retry-after: {self.retry_after_s}\r\n" if status == 429 else ""
        head = f"HTTP/1.1 {status} X\r\n{self._date()}{after}content-length: {len(octets)}\r\n\r\n"
        writer.write(head.encode() + octets)
        await writer.drain()

    async def _stream(self, writer: asyncio.StreamWriter) -> None:
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        takes = "cairn-reports: 1\r\n" if self.takes_reports else ""
        takes += "cairn-acks: 1\r\n" if self.takes_acks else ""
        head = f"HTTP/1.1 200 OK\r\n{self._date()}{takes}transfer-encoding: chunked\r\n\r\n"
        writer.write(head.encode())
        self._streams.add(queue)
        try:
            for line in self.lines:
                queue.put_nowait(line)
            while line := await queue.get():
                writer.write(f"{len(line) + 1:x}\r\n".encode() + line + b"\n\r\n")
                await writer.drain()
            writer.write(b"0\r\n\r\n")
        finally:
            self._streams.discard(queue)

    async def _read_reports(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            said = json.loads(line)
            if said.get("type") == "ack":
                self.acks_up += 1
                self.requests.append(("ack", said))
            else:
                self.reports.append(said)

    def _date(self) -> str:
        now = datetime.now(UTC) + self.date_skew
        return f"date: {now:%a, %d %b %Y %H:%M:%S} GMT\r\n"


async def _request(reader: asyncio.StreamReader) -> tuple[str, str, dict[str, Any]] | None:
    first = await reader.readline()
    if not first:
        return None
    method, target, _ = first.decode().split(" ", 2)
    length = 0
    while (line := await reader.readline()) not in (b"\r\n", b""):
        name, _, value = line.decode().partition(":")
        if name.lower() == "content-length":
            length = int(value)
    body = json.loads(await reader.readexactly(length)) if length else {}
    return method, target, body
