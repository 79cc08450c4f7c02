"""Receivers of events on loopback, that can be stopped and can fail: syslog and webhook."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import re
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_EVENT_ID = re.compile(r' id="([^"]+)"')


class SyslogStream:
    """A syslog server with octets counted, over TCP or TLS."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.messages: list[str] = []
        self.port = 0
        self._context = context
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        """Listen; again at the same port after a stop."""
        self._server = await asyncio.start_server(
            self._take, "127.0.0.1", self.port, ssl=self._context
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stop listening, and cut off who is connected."""
        assert self._server is not None
        self._server.close()
        for writer in self._open:
            writer.transport.abort()

    @property
    def ids(self) -> list[str]:
        """The IDs of the events that came."""
        return [found[1] for each in self.messages if (found := _EVENT_ID.search(each))]

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        try:
            while length := await reader.readuntil(b" "):
                self.messages.append((await reader.readexactly(int(length))).decode())
        except (asyncio.IncompleteReadError, OSError):
            return
        finally:
            self._open.discard(writer)
            writer.close()


class SyslogDatagrams(asyncio.DatagramProtocol):
    """A syslog server over UDP."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.port = 0

    async def start(self) -> None:
        """Listen."""
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(
            lambda: self, local_addr=("127.0.0.1", 0)
        )
        self._transport = transport
        self.port = transport.get_extra_info("sockname")[1]

    def stop(self) -> None:
        """Stop."""
        self._transport.close()

    def datagram_received(self, data: bytes, addr: Any) -> None:
        """Note one."""
        self.messages.append(data.decode())


class WebhookServer:
    """An HTTP server that answers with `status`, or not at all where that is 0."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.status = 200
        self.location = ""
        self.posts: list[tuple[str, dict[str, str], bytes]] = []  # those answered with 2xx
        self.tries = 0
        self.port = 0
        self.refuses = ""  # events with this in them, with 422
        self._context = context

    async def start(self) -> None:
        """Listen."""
        self._server = await asyncio.start_server(
            self._take, "127.0.0.1", self.port, ssl=self._context
        )
        self.port = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        """Stop listening."""
        self._server.close()

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """What was posted."""
        return [json.loads(body) for _, _, body in self.posts]

    @property
    def ids(self) -> list[str]:
        """The IDs of the events that came."""
        return [each["id"] for each in self.bodies]

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                lines = head.split("\r\n")
                pairs = (line.partition(": ") for line in lines[1:] if line)
                headers = {name.lower(): value for name, _, value in pairs}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                self.tries += 1
                if not self.status:
                    await asyncio.sleep(3600)
                refused = bool(self.refuses) and self.refuses.encode() in body
                status = 422 if refused else self.status
                if 200 <= status < 300:
                    self.posts.append((lines[0], headers, body))
                more = f"Location: {self.location}\r\n" if self.location else ""
                length = "" if self.status == 204 else "Content-Length: 0\r\n"
                writer.write(f"HTTP/1.1 {status} X\r\n{more}{length}\r\n".encode())
                await writer.drain()
        except (asyncio.IncompleteReadError, OSError):
            return
        finally:
            writer.close()


def own_certificate(directory: Path, name: str = "127.0.0.1") -> tuple[ssl.SSLContext, str]:
    """Return a server's context with a certificate of its own for an address, and its PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "receiver")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(name))]), False
        )
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    (directory / "receiver.pem").write_bytes(pem)
    (directory / "receiver-key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "receiver.pem", directory / "receiver-key.pem")
    return context, pem.decode()
