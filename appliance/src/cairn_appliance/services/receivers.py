"""Sends one event after the other to a receiver outside: syslog or webhook.

Every send ends within its bound and either has been taken or raises NotDelivered. What
"taken" is worth differs. A webhook says so itself. Of a stream the kernel at the other end
says that it has the octets: who dies before it reads them loses them, since syslog has no
acknowledgement of its own. Of a datagram nobody says anything.
"""

from __future__ import annotations

import asyncio
import base64
import fcntl
import socket
import ssl
import struct
import termios
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

import httpx
import msgspec
from cairn_agent.http_transport import HttpTransport

import cairn_appliance
from cairn_appliance.domain import syslog
from cairn_appliance.domain.event import Event
from cairn_appliance.domain.output import Receiver, Syslog, Transport, Webhook, signature
from cairn_appliance.pki.errors import PkiError
from cairn_appliance.pki.sealing import Sealer

WITHIN_S = 10.0
_LOOK_S, _LOOK_MAX_S = 0.002, 0.05
_ANSWER_OCTETS = 65_536  # of an answer nothing is read beyond it
_UNACKNOWLEDGED_MS = 10_000
_UNSURE_S, _UNSURE_MAX = 3.0, 200
# What these say is of one event. Others (401, 404, 429 ...) are of the place or of the moment.
_ABOUT_CONTENT = frozenset({400, 409, 413, 415, 422})
_CLOSED = "the connection was closed by the receiver"


class NotDelivered(Exception):
    """The receiver has not taken it; the text says why."""


class ContentRefused(NotDelivered):
    """The receiver answers, and does not like what is in this event."""


class Line(Protocol):
    """What one receiver is sent things by."""

    async def send(self, event: Event) -> None:
        """Return when the receiver has it; raise NotDelivered. It ends within WITHIN_S."""

    async def close(self) -> None:
        """Close what is open; a later send opens it again."""


Lines = Callable[[Receiver], Line]


def lines(sealer: Sealer, cluster: Callable[[], str]) -> Lines:
    """Return what makes lines; `cluster` is the ID that events are told with."""

    def line(receiver: Receiver) -> Line:
        if isinstance(receiver, Webhook):
            return WebhookLine(receiver, sealer, cluster)
        if receiver.transport is Transport.UDP:
            return DatagramLine(receiver, cluster)
        return StreamLine(receiver, cluster)

    return line


def secret_name(receiver_id: str) -> str:
    """Return the name under which a webhook's secret is sealed."""
    return f"outputs/{receiver_id}"


class DatagramLine:
    """Syslog over UDP (RFC 5426)."""

    def __init__(self, receiver: Syslog, cluster: Callable[[], str]) -> None:
        self._receiver = receiver
        self._cluster = cluster

    async def send(self, event: Event) -> None:
        """Send a datagram; that nobody listens is known where the receiver's host says so."""
        octets = syslog.message(event, _host(), self._cluster(), most=syslog.UDP_OCTETS)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(WITHIN_S):
                found = await loop.getaddrinfo(
                    self._receiver.host, self._receiver.port, type=socket.SOCK_DGRAM
                )
                family, kind, protocol, _, address = found[0]
                with socket.socket(family, kind, protocol) as sending:
                    sending.setblocking(False)
                    await loop.sock_connect(sending, address)
                    await loop.sock_sendall(sending, octets)
                    await asyncio.sleep(_LOOK_MAX_S)  # for the word that nobody listens
                    error = sending.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        except (OSError, TimeoutError, UnicodeError) as failed:
            raise _not_delivered(failed) from failed
        if error:
            raise _not_delivered(OSError(error, "nobody listens at that port"))

    async def close(self) -> None:
        """Nothing stays open."""


class StreamLine:
    """Syslog over TCP with octets counted (RFC 6587 3.4.1), and over TLS (RFC 5425)."""

    def __init__(self, receiver: Syslog, cluster: Callable[[], str]) -> None:
        self._receiver = receiver
        self._cluster = cluster
        self._open: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        # What its kernel took just before a connection was lost may never have been read.
        self._unsure: deque[tuple[float, bytes]] = deque(maxlen=_UNSURE_MAX)

    async def send(self, event: Event) -> None:
        """Send a message and wait until the other end's kernel has it.

        What was sent shortly before the connection was lost is sent again first.
        """
        octets = syslog.message(event, _host(), self._cluster(), most=syslog.STREAM_OCTETS)
        try:
            async with asyncio.timeout(WITHIN_S):
                await self._send(f"{len(octets)} ".encode() + octets)
        except (OSError, TimeoutError, ValueError, RuntimeError) as error:
            await self.close()  # RuntimeError: uvloop's word for a connection that is gone
            raise _not_delivered(error) from error
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Close the connection at once: nothing in it is waited for."""
        if self._open is not None:
            _, writer = self._open
            self._open = None
            writer.transport.abort()

    async def _send(self, framed: bytes) -> None:
        again: list[bytes] = []
        if self._open is not None and _is_lost(*self._open):
            await self.close()
        if self._open is None:
            self._open = await self._connect()
            again = [octets for _, octets in self._unsure]
        else:
            self._forget_sure()
        reader, writer = self._open
        writer.write(b"".join((*again, framed)))
        await writer.drain()
        await _acknowledged(reader, writer)
        now = time.monotonic()
        if again:
            self._unsure.clear()
        self._unsure.extend((now, octets) for octets in (*again, framed))

    def _forget_sure(self) -> None:
        """Forget what was sent a while before the connection was seen alive, as it is now."""
        since = time.monotonic() - _UNSURE_S
        while self._unsure and self._unsure[0][0] < since:
            self._unsure.popleft()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        receiver = self._receiver
        is_tls = receiver.transport is Transport.TLS
        reader, writer = await asyncio.open_connection(
            receiver.host, receiver.port, ssl=trusting(receiver.ca) if is_tls else None
        )
        connected = writer.get_extra_info("socket")
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNACKNOWLEDGED_MS)
        return reader, writer


class WebhookLine:
    """Posts JSON with a signature."""

    def __init__(self, receiver: Webhook, sealer: Sealer, cluster: Callable[[], str]) -> None:
        self._receiver = receiver
        self._sealer = sealer
        self._cluster = cluster
        self._client: httpx.AsyncClient | None = None

    async def send(self, event: Event) -> None:
        """Post it; only an answer of 2xx counts, and a redirect is not followed."""
        try:
            async with asyncio.timeout(WITHIN_S):
                status = await self._post(event)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, RuntimeError) as error:
            await self.close()
            raise _not_delivered(error) from error
        except PkiError as error:
            raise NotDelivered("its secret can't be opened: set the webhook again") from error
        if not 200 <= status < 300:
            kind = ContentRefused if status in _ABOUT_CONTENT else NotDelivered
            raise kind(f"it answered {status}")

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            client, self._client = self._client, None
            await client.aclose()

    async def _post(self, event: Event) -> int:
        if self._client is None:
            self._client = httpx.AsyncClient(
                transport=HttpTransport(
                    verify=trusting(self._receiver.ca),
                    trust_env=False,
                    limits=httpx.Limits(max_connections=1),
                ),
                follow_redirects=False,
                trust_env=False,
                timeout=WITHIN_S,
            )
        name = secret_name(self._receiver.id)
        secret = self._sealer.open(name, base64.b64decode(self._receiver.secret))
        body = msgspec.json.encode(told(event, self._cluster()))
        headers = {
            "Content-Type": "application/json",
            "User-Agent": f"cairn/{cairn_appliance.__version__}",
            "Cairn-Event-Id": event.id,
            "Cairn-Signature": signature(secret, int(time.time()), body),
        }
        async with self._client.stream(
            "POST", self._receiver.url, content=body, headers=headers
        ) as answer:
            read = 0
            async for octets in answer.aiter_raw():  # so that the connection can be used again
                read += len(octets)
                if read > _ANSWER_OCTETS:
                    break
            return answer.status_code


def told(event: Event, cluster: str) -> dict[str, object]:
    """Return what a webhook is told of an event."""
    return {
        "id": event.id,
        "sequence": event.sequence,
        "cluster": cluster,
        "at": event.at,
        "kind": event.kind,
        "severity": event.severity,
        "text": event.text,
        "by": {"kind": event.by.kind, "name": event.by.name, "address": event.by.address},
        "node": event.node or None,
        "vsubnet": event.vsubnet or None,
        "details": event.details,
    }


def trusting(ca: str) -> ssl.SSLContext:
    """Return the context that believes this CA, or whom the system believes; raise ValueError."""
    try:
        return ssl.create_default_context(cadata=ca or None)
    except (ssl.SSLError, TypeError) as error:  # TypeError: it isn't ASCII
        raise ValueError("the CA is no certificate in PEM") from error


async def _acknowledged(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Return once the other end's kernel has all that was written; raise ConnectionResetError."""
    connected = writer.get_extra_info("socket")
    look_s = _LOOK_S
    while not _is_lost(reader, writer):
        left = fcntl.ioctl(connected.fileno(), termios.TIOCOUTQ, bytes(4))
        if not writer.transport.get_write_buffer_size() and not struct.unpack("i", left)[0]:
            return
        await asyncio.sleep(look_s)
        look_s = min(2 * look_s, _LOOK_MAX_S)
    raise ConnectionResetError(_CLOSED)


def _is_lost(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    return reader.at_eof() or reader.exception() is not None or writer.is_closing()


def _not_delivered(error: Exception) -> NotDelivered:
    if isinstance(error, TimeoutError | httpx.TimeoutException):
        return NotDelivered(f"no answer within {WITHIN_S:.0f} s")
    if (why := unbelieved(error)) is not None:
        return NotDelivered(f"its certificate is not believed: {why}")
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return NotDelivered(text.rstrip("."))


def unbelieved(error: BaseException | None) -> str | None:
    """Return why a certificate was refused, where that is what is behind it."""
    while error is not None and not isinstance(error, ssl.SSLCertVerificationError):
        error = error.__cause__ or error.__context__
    return None if error is None else error.verify_message


def _host() -> str:
    return socket.gethostname()
