"""HTTP/1.1 on one TLS connection, as light as thousands of clients in a process need it."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass

import httptools
import msgspec
from cairn_agent.control.tls import CONNECT_TIMEOUT_S, is_turned_away
from cairn_agent.protocol import acks, telemetry
from cairn_agent.protocol import enrolment as wire

ANSWER_S = 15.0  # as the agent's own client


class Lost(Exception):
    """The connection could not be made, or it ended, or no answer came in time."""


class NoAnswer(Lost):
    """No answer came in time."""


class TurnedAway(Lost):
    """The appliance has more newcomers than it can serve in time."""


class Refused(Exception):
    """The appliance answered no."""

    def __init__(self, status: int, code: str, retry_after_s: float) -> None:
        super().__init__(f"{status} {code}")
        self.status = status
        self.code = code
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back."""

    status: int
    octets: bytes
    retry_after_s: float

    def checked(self) -> bytes:
        """Return the body; raise Refused where the appliance said no."""
        if 200 <= self.status < 300:
            return self.octets
        try:
            code = msgspec.json.decode(self.octets, type=wire.Problem).code
        except msgspec.MsgspecError:
            code = "?"
        raise Refused(self.status, code, self.retry_after_s)


class Connection(asyncio.Protocol):
    """One request after the other, the last of which may be a stream."""

    def __init__(self) -> None:
        self.octets = 0  # received, after TLS
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._answer: asyncio.Future[Answer] | None = None
        self._take: Callable[[bytes], None] | None = None
        self._body = bytearray()
        self._retry_after_s = 0.0
        self.takes_reports = False  # the appliance reads what comes up the stream
        self.takes_acks = False

    @classmethod
    async def open(cls, place: str, context: ssl.SSLContext, *, window: int = 0) -> Connection:
        """Connect, TCP and TLS each within the time of the agent's own client; raise Lost.

        `window` is the size of the receive buffer, in octets, where it isn't the system's.
        """
        loop = asyncio.get_running_loop()
        plain = socket.socket()
        plain.setblocking(False)
        if window:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        try:
            await _connect(plain, place)
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                # The descriptor is the loop's from here on. Closed by both, it may be another
                # connection's by the second time.
                _, connection = await loop.create_connection(
                    cls, sock=plain, ssl=context, server_hostname=""
                )
        except (OSError, TimeoutError, RuntimeError) as error:
            if is_turned_away(error):
                raise TurnedAway("turned away at the door") from error
            kind = NoAnswer if isinstance(error, TimeoutError) else Lost
            raise kind(f"no connection: {type(error).__name__}") from error
        return connection

    @property
    def is_open(self) -> bool:
        """True while a request may be sent."""
        return not self.ended.done()

    async def post(self, path: str, body: msgspec.Struct) -> bytes:
        """Send a message and return the answer's body; raise Lost, Refused."""
        return (await self._request("POST", path, msgspec.json.encode(body))).checked()

    async def follow(self, path: str, take: Callable[[bytes], None]) -> None:
        """Ask for a stream, whose lines are given to `take` from now on; raise Lost, Refused.

        `ended` tells of its end. An error that `take` raises ends the connection.
        """
        (await self._request("GET", path, b"", take)).checked()

    def report(self, line: bytes) -> None:
        """Send a line up the stream, where its appliance reads it."""
        if self._transport is not None and self.takes_reports:
            self._transport.write(line)

    def ack(self, ack: wire.AckRequest) -> bool:
        """Send an acknowledgement up the stream; return whether its appliance reads it there."""
        if self._transport is None or not self.takes_acks:
            return False
        self._transport.write(acks.encode(ack))
        return True

    def abort(self) -> None:
        """End it at once; what has come and was not taken yet is not taken any more."""
        self._take = self._parser = None
        if self._transport is not None:
            self._transport.abort()

    def pause(self) -> None:
        """Read no more, TLS included, which would read half a megabyte ahead."""
        if self._transport is not None:
            self._transport.set_read_buffer_limits(high=1024)  # type: ignore[attr-defined]
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._transport is not None:
            self._transport.resume_reading()

    async def _request(
        self, method: str, path: str, body: bytes, take: Callable[[bytes], None] | None = None
    ) -> Answer:
        if self._transport is None or self.ended.done():
            raise Lost("the connection has ended")
        self._parser = httptools.HttpResponseParser(self)
        self._take, self._retry_after_s = take, 0.0
        self._body.clear()
        self._answer = asyncio.get_running_loop().create_future()
        head = (
            f"{method} /agent/v1/{path} HTTP/1.1\r\nhost: appliance\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        self._transport.write(head.encode() + body)
        try:
            async with asyncio.timeout(ANSWER_S):
                return await self._answer
        except TimeoutError as error:
            self.abort()
            raise NoAnswer("no answer in time") from error

    # What the transport and the parser call.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = transport  # type: ignore[assignment]

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits."""
        self._transport = None
        self._parser = None
        self._take = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(Lost("the connection ended before the answer"))
        if not self.ended.done():
            self.ended.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Parse."""
        self.octets += len(data)
        if self._parser is None:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.abort()  # also where a line made us end it: the parser was in the middle

    def on_header(self, name: bytes, value: bytes) -> None:
        """Note when to come back."""
        if name.lower() == b"retry-after" and value.isdigit():
            self._retry_after_s = float(value)
        elif name.lower() == telemetry.HEADER.encode():
            self.takes_reports = value == b"%d" % telemetry.VERSION
        elif name.lower() == acks.HEADER.encode():
            self.takes_acks = value == b"%d" % acks.VERSION

    def on_headers_complete(self) -> None:
        """A stream has begun."""
        if self._parser is None:
            return
        status = self._parser.get_status_code()
        if self._take is not None and status == 200:
            self._done(Answer(status, b"", 0.0))
        else:
            self._take = None

    def on_body(self, body: bytes) -> None:
        """Give whole lines away."""
        self._body += body
        if self._take is None:
            return
        begin = 0
        while (end := self._body.find(b"\n", begin)) >= 0:
            line = bytes(self._body[begin:end])
            begin = end + 1
            self._take(line)
            if self._take is None:  # it ended the connection
                return
        del self._body[:begin]

    def on_message_complete(self) -> None:
        """The answer is whole; a stream has ended."""
        if self._parser is None:
            return
        if self._take is not None:
            self.abort()
        else:
            self._done(
                Answer(self._parser.get_status_code(), bytes(self._body), self._retry_after_s)
            )

    def _done(self, answer: Answer) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)


async def _connect(plain: socket.socket, place: str) -> None:
    """Connect by TCP, within the time of the agent's own client; it is closed where that fails."""
    host, _, port = place.rpartition(":")
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            await asyncio.get_running_loop().sock_connect(plain, (host, int(port)))
    except BaseException:
        plain.close()
        raise
