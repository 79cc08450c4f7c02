"""The netmap stream as an HTTP response: lines in chunks, until one side ends it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from types import MappingProxyType

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from cairn_appliance.api.client_certificate import PIECE_OCTETS

log = logging.getLogger(__name__)

SLOW_READER_S = 15.0  # less than `UNACKNOWLEDGED_MS`, after which the kernel ends it without a word
_ANSWER = "cairn.answer"


class _ReaderGone(Exception):
    """The node closed its connection, or does not read."""


class NetmapStream(Response):
    """Sends lines as they come; a node that does not read is cut off and resumes later."""

    media_type = "application/x-ndjson"

    def __init__(
        self,
        node: str,
        first: bytes,
        rest: AsyncGenerator[bytes, None],
        abort: Callable[[], None],
        headers: Mapping[str, str] = MappingProxyType({}),
        say: Callable[[bytes], bool] = lambda _: False,
    ) -> None:
        """`say` sends a piece at once and without HTTP's layers, or says that it has to wait."""
        super().__init__(headers={"cache-control": "no-store", **headers})
        del self.headers["content-length"]
        self._node = node
        self._first = first
        self._rest = rest
        self._abort = abort
        self._say = say

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as an ASGI application does."""
        try:
            async with aclosing(self._rest), asyncio.TaskGroup() as tasks:
                watching = tasks.create_task(_watch(receive), name="watch the connection")
                await self._send(send)
                watching.cancel()
        except* _ReaderGone:
            log.debug("netmap stream ended by its reader node=%s", self._node)

    async def _send(self, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
        await self._bounded(send, start)
        await self._send_line(send, self._first)
        async for line in self._rest:
            await self._send_line(send, line)
        await self._bounded(send, {"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_line(self, send: Send, line: bytes) -> None:
        """Send it in pieces; each has the time that a reader is given."""
        for begin in range(0, len(line), PIECE_OCTETS):
            piece = line[begin : begin + PIECE_OCTETS]
            if not self._say(piece):
                await self._bounded(send, _body(piece))

    async def _bounded(self, send: Send, message: dict[str, object]) -> None:
        try:
            async with asyncio.timeout(SLOW_READER_S):
                await send(message)
        except TimeoutError as error:
            log.warning("slow reader cut off, it will resume node=%s", self._node)
            self._abort()
            raise _ReaderGone from error


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


async def _watch(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    raise _ReaderGone


def _body(octets: bytes) -> dict[str, object]:
    return {"type": "http.response.body", "body": octets, "more_body": True}
