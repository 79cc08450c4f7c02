"""Who is at the other end: the client certificate of the TLS connection.

uvicorn has no TLS extension, so a protocol of our own puts the certificate that TLS itself
has verified into the ASGI scope's `extensions`. Nothing of a request, no header above all,
can put anything there.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import math
import os
import socket
import ssl
import struct
import sys
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from starlette.requests import Request
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from cairn_appliance.domain.errors import CertificateRequired
from cairn_appliance.domain.telemetry import APPLIANCE
from cairn_appliance.pki.authority import issuer_id_of

log = logging.getLogger(__name__)

EXTENSION = "cairn.connection"
_NO_CHECK_TIME = ssl.VerifyFlags(0x200000)  # X509_V_FLAG_NO_CHECK_TIME
_TCP_INFO_OCTETS = 104  # of Linux's struct tcp_info
_LAST_ACK_AT = 56  # tcpi_last_ack_recv, milliseconds
HEADERS_MAX_OCTETS = 16_384  # of one request, URL included
UNWRITTEN_OCTETS = 32 * 1024  # beyond it a stream waits for its reader
PIECE_OCTETS = 16 * 1024  # of a stream, between two looks at whether its reader keeps up
_REMEMBERED = 256  # certificates
REQUEST_WITHIN_S = 10.0  # from the connection to the end of the first request's headers


@dataclass(frozen=True, slots=True)
class _Shown:
    """What a certificate says."""

    subject: str
    begins: float  # seconds since 1970, as the next one
    ends: float
    is_for_clients: bool
    control_key: str  # hex SHA-256
    issuer: str  # hex key identifier


class Heir(asyncio.Protocol):
    """Takes over a connection from HTTP, with the body of an answer that lasts for weeks."""

    __slots__ = ()

    def shutdown(self) -> None:
        """End it: the server does."""
        raise NotImplementedError

    def inherit(
        self, transport: asyncio.Transport, left: Callable[[Heir], None], *, is_slow: bool
    ) -> None:
        """Have the connection from now on, and say `left` when it has ended."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Connection:
    """What TLS knows of the other end."""

    certificate: bytes | None  # DER, verified against the cluster's CA
    abort: Callable[[], None]  # ends the connection at once, whatever waits to be sent
    # Leaves the connection to another, once the head of the answer is sent; False where it ends.
    hand_over: Callable[[Heir], bool] = lambda _: False


class CertificateProtocol(HttpToolsProtocol):
    """HTTP that knows the client's certificate, and is short with strangers."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Note the certificate once: it can't change while the connection lasts."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=UNWRITTEN_OCTETS)
        self._connection = Connection(
            _peer_certificate(transport),
            transport.abort,
            self._hand_over,
        )
        self._header_octets = 0
        self._stranger = self.loop.call_later(REQUEST_WITHIN_S, transport.abort)
        self._settled: asyncio.Future[None] | None = None
        self._is_settled = False

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers, and what refers to this in a circle.

        A circle keeps all that TLS has of the connection until Python's collector looks at every
        object there is, which beside idle agents it does hardly ever. A request that is still
        being answered has its own references.
        """
        self._stranger.cancel()
        self._settle()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        del self._connection
        self.cycle = self.scope = None  # type: ignore[assignment]

    async def settled(self) -> None:
        """Return once the first request is answered, or the connection has ended."""
        if not self._is_settled:
            self._settled = self.loop.create_future()
            await self._settled

    def on_response_complete(self) -> None:
        """The first answer makes a newcomer an ordinary client."""
        self._settle()
        super().on_response_complete()

    def on_message_begin(self) -> None:
        """Give the request its connection."""
        super().on_message_begin()
        self._header_octets = 0
        scope: dict[str, Any] = self.scope  # type: ignore[assignment]
        scope["extensions"] = {EXTENSION: self._connection}

    def on_url(self, url: bytes) -> None:
        """Bound the URL."""
        if self._fits(len(url)):
            super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Bound the headers."""
        if self._fits(len(name) + len(value)):
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the request unless it was too long to listen to."""
        self._stranger.cancel()
        if self._header_octets <= HEADERS_MAX_OCTETS:
            super().on_headers_complete()

    def _hand_over(self, heir: Heir) -> bool:
        """Take no part any more: HTTP's layers take more memory than all else of a stream."""
        transport, connections = self.transport, self.connections
        if self.cycle is None or transport.is_closing():
            return False
        self.cycle.disconnected = True  # uvicorn misses no end of the answer
        self._settle()
        connections.discard(self)
        connections.add(heir)  # type: ignore[arg-type]
        heir.inherit(transport, connections.discard, is_slow=self.flow.write_paused)
        transport.set_protocol(heir)
        del self._connection
        self.cycle = self.scope = self.parser = None  # type: ignore[assignment]
        return True

    def _settle(self) -> None:
        self._is_settled = True
        if self._settled is not None and not self._settled.done():
            self._settled.set_result(None)
        self._settled = None

    def _fits(self, octets: int) -> bool:
        before = self._header_octets
        self._header_octets += octets
        if self._header_octets <= HEADERS_MAX_OCTETS:
            return True
        if before <= HEADERS_MAX_OCTETS:
            log.info("connection ended, its headers are too long client=%s", self.client)
            self.transport.abort()
        return False


def connection_of(request: Request) -> Connection:
    """Return the connection of a request that came through CertificateProtocol."""
    connection = request.scope.get("extensions", {}).get(EXTENSION)
    if not isinstance(connection, Connection):
        raise CertificateRequired("the request did not come through the appliance's TLS")
    return connection


def node_of(connection: Connection, now: float, *, expired_for_s: float = 0.0) -> str:
    """Return the node ID that the certificate proves; raise CertificateRequired.

    TLS has checked the chain and that the key is there; the dates are checked here, so that
    a node that was away for long gets a sentence, and may renew: `expired_for_s`.
    """
    shown = _checked(connection)
    if now < shown.begins:
        raise CertificateRequired("the client certificate is not valid yet", "check the clocks")
    if now >= shown.ends + expired_for_s:
        raise CertificateRequired(
            "the client certificate has expired",
            "check the clock; the agent renews by itself up to 30 days after the end, then "
            "leave and join again with a new token",
            code="certificate_expired",
        )
    if not _is_node(shown.subject) or not shown.is_for_clients:
        raise CertificateRequired("the client certificate is not that of a node")
    return shown.subject


def appliance_of(connection: Connection, now: float) -> None:
    """Raise CertificateRequired unless the client is another appliance of the cluster.

    Its certificate is one that no node can have: the subject of a node's is its ID, a UUID.
    """
    shown = _checked(connection)
    is_in_time = shown.begins <= now < shown.ends
    if not is_in_time or shown.subject != APPLIANCE or not shown.is_for_clients:
        raise CertificateRequired("the client certificate is not that of an appliance")


def issued_at_of(connection: Connection) -> float:
    """Return when the client's certificate begins, in seconds since 1970."""
    return _shown(connection.certificate).begins if connection.certificate else 0.0


def control_key_of(connection: Connection) -> str:
    """Return the hex SHA-256 of the public key that the client has proved to hold, or nothing."""
    return _shown(connection.certificate).control_key if connection.certificate else ""


def issuer_of(connection: Connection) -> str:
    """Return the hex key identifier of the authority that signed the certificate, or nothing.

    TLS has checked the signature by that key: it believes no authority that has another
    identifier than the one that the certificate names.
    """
    return _shown(connection.certificate).issuer if connection.certificate else ""


def server_context(certificate: Path, key: Path, authority: Path) -> ssl.SSLContext:
    """Return the context of the agent API: TLS 1.3, a client certificate if there is one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_OPTIONAL
    context.verify_flags |= _NO_CHECK_TIME  # `node_of` looks at the dates
    context.num_tickets = 0  # each connection shows its certificate anew
    context.load_verify_locations(cafile=authority)
    context.load_cert_chain(certificate, key)
    return context


def heard_s_of(transport: asyncio.Transport) -> float:
    """Return the seconds since the other end's kernel acknowledged anything that was sent."""
    try:
        descriptor = os.dup(transport.get_extra_info("socket").fileno())
        with socket.socket(fileno=descriptor) as copy:
            info = copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_OCTETS)
    except (OSError, AttributeError):
        return math.inf  # it has ended
    return float(struct.unpack_from("=I", info, _LAST_ACK_AT)[0]) / 1000


def _peer_certificate(transport: asyncio.Transport) -> bytes | None:
    tls = transport.get_extra_info("ssl_object")
    if tls is None:
        return None
    certificate: bytes | None = tls.getpeercert(binary_form=True)
    return certificate


def _checked(connection: Connection) -> _Shown:
    if connection.certificate is None:
        raise CertificateRequired("the connection has no client certificate")
    return _shown(connection.certificate)


@lru_cache(_REMEMBERED)
def _shown(octets: bytes) -> _Shown:
    """Return what a certificate says; a request asks for it several times."""
    certificate = x509.load_der_x509_certificate(octets)
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return _Shown(
        subject=_subject(certificate),
        begins=certificate.not_valid_before_utc.timestamp(),
        ends=certificate.not_valid_after_utc.timestamp(),
        is_for_clients=_is_for_clients(certificate),
        control_key=hashlib.sha256(spki).hexdigest(),
        issuer=sys.intern(issuer_id_of(certificate)),  # one for all
    )


def _subject(certificate: x509.Certificate) -> str:
    subject = list(certificate.subject)
    if len(subject) != 1 or subject[0].oid != NameOID.COMMON_NAME:
        return ""
    return str(subject[0].value)


def _is_node(name: str) -> bool:
    try:
        return str(uuid.UUID(name)) == name
    except ValueError:
        return False


def _is_for_clients(certificate: x509.Certificate) -> bool:
    try:
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return False
    return ExtendedKeyUsageOID.CLIENT_AUTH in usage
