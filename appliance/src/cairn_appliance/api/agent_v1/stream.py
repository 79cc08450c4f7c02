"""The netmap stream as an HTTP response: lines in chunks, until one side ends it.

Nothing of the HTTP server is left around an open stream: a node's connection lasts for weeks, and
ten thousand of them are open at once.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from cairn_appliance.api.client_certificate import PIECE_OCTETS, Heir, heard_s_of
from cairn_appliance.services.streams import Stream

log = logging.getLogger(__name__)

SLOW_READER_S = 15.0  # less than `UNACKNOWLEDGED_MS`, after which the kernel ends it without a word
SHORT_OCTETS = 2048  # of a line
_ANSWER = "cairn.answer"


class StreamConnection(Heir):
    """A connection once the head of the answer is sent: lines go down it, and others come up.

    It is all that there is of HTTP for a node that follows its netmap: chunks, and a bound to how
    long a reader may be slow.
    """

    __slots__ = (
        "_is_ending",
        "_left",
        "_said",
        "_slow",
        "_stream",
        "_take",
        "_transport",
        "_unsaid",
        "is_slow",
    )

    def __init__(self, stream: Stream, take: Callable[[bytes], None]) -> None:
        """`take` takes what comes up."""
        self._stream: Stream | None = stream
        self._take: Callable[[bytes], None] | None = take
        self._transport: asyncio.Transport | None = None
        self._left: Callable[[Heir], None] = lambda _: None
        self._slow: asyncio.TimerHandle | None = None
        self._unsaid: tuple[bytes, ...] = ()
        self._said = 0  # octets of the first of them
        self._is_ending = False
        self.is_slow = False

    def inherit(
        self, transport: asyncio.Transport, left: Callable[[Heir], None], *, is_slow: bool
    ) -> None:
        """Have the connection from now on."""
        self._transport, self._left = transport, left
        if is_slow:
            self.pause_writing()

    def begin(self) -> None:
        """Let the stream speak."""
        if self._stream is not None:
            self._stream.begin(self)

    def say(self, lines: Sequence[bytes]) -> None:
        """Send lines, as fast as they are read; short ones together, long ones uncopied."""
        self._unsaid += tuple(_together(lines))
        self._send()

    def end(self) -> None:
        """Send no more after what was said, and pass over what comes."""
        self._stream, self._take, self._is_ending = None, None, True
        self._send()

    def heard_s(self) -> float:
        """Return how long ago the node's machine acknowledged anything."""
        return math.inf if self._transport is None else heard_s_of(self._transport)

    def data_received(self, data: bytes) -> None:
        """Take lines that come up."""
        if self._take is not None:
            self._take(data)

    def pause_writing(self) -> None:
        """Wait for a reader who is slow, but not for ever."""
        self.is_slow = True
        if self._slow is None:
            loop = asyncio.get_running_loop()
            self._slow = loop.call_later(SLOW_READER_S, self._cut_off)

    def resume_writing(self) -> None:
        """Go on."""
        self._forget_slowness()
        self._send()
        if not self.is_slow and self._stream is not None:
            self._stream.resumed()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the stream with the connection, and leave no circle."""
        self._forget_slowness()
        self._left(self)
        stream, self._stream, self._take, self._transport = self._stream, None, None, None
        self._unsaid = ()
        if stream is not None:
            stream.over()

    def shutdown(self) -> None:
        """End it: the server does, once all streams were sent away."""
        if self._transport is not None:
            self._transport.close()

    def _send(self) -> None:
        """Send piece by piece, until the reader is slow."""
        transport = self._transport
        while self._unsaid and transport is not None and not self.is_slow:
            line, begin = self._unsaid[0], self._said
            piece = line[begin : begin + PIECE_OCTETS]
            self._said += len(piece)
            if self._said >= len(line):
                self._unsaid, self._said = self._unsaid[1:], 0
            transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))  # a chunk
        if self._is_ending and not self._unsaid and transport is not None:
            self._is_ending = False
            transport.write(b"0\r\n\r\n")
            transport.close()

    def _forget_slowness(self) -> None:
        self.is_slow = False
        if self._slow is not None:
            self._slow.cancel()
            self._slow = None

    def _cut_off(self) -> None:
        node = "" if self._stream is None else self._stream.node_id
        log.warning("slow reader cut off, it will resume node=%s", node)
        if self._transport is not None:
            self._transport.abort()


class NetmapStream(Response):
    """Sends the head of the answer, and leaves the rest to `StreamConnection`."""

    media_type = "application/x-ndjson"

    def __init__(
        self,
        reader: StreamConnection,
        hand_over: Callable[[Heir], bool],
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__(headers={"cache-control": "no-store", **headers})
        del self.headers["content-length"]
        self._reader = reader
        self._hand_over = hand_over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as an ASGI application does."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        if self._hand_over(self._reader):
            self._reader.begin()


class Afterwards(Response):
    """An answer that `Unwound` sends, once everything that has led to it has returned."""

    def __init__(self, answer: Response) -> None:
        super().__init__()
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Leave it where `Unwound` finds it."""
        scope["extensions"][_ANSWER] = self._answer


class Unwound:
    """Sends an answer that lasts for weeks without the layers of the application around it.

    They take as much memory for each stream as the stream itself; so this is the outermost one.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as an ASGI application does."""
        await self._app(scope, receive, send)
        answer = scope.get("extensions", {}).pop(_ANSWER, None)
        if answer is not None:
            for name in [each for each in scope if each.startswith("fastapi_")]:
                del scope[name]  # they refer to all of it
            await answer(scope, receive, send)


def _together(lines: Sequence[bytes]) -> Iterator[bytes]:
    """Yield the lines, short ones joined; long ones are shared by streams and not copied."""
    short: list[bytes] = []
    for line in lines:
        if len(line) > SHORT_OCTETS:
            if short:
                yield b"".join(short)
                short = []
            yield line
        else:
            short.append(line)
    if short:
        yield b"".join(short)
