"""Refuses requests while the store has no quorum, at once and in words."""

from __future__ import annotations

import asyncio
from collections.abc import Container, Mapping
from types import MappingProxyType

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cairn_appliance.api import errors
from cairn_appliance.services.quorum import NoQuorum, Quorum

# A store call ends within 10 s; a request that needs several must end as well.
_ANSWER_WITHIN_S = 30.0
Long = Mapping[tuple[str, str], float]  # method and path -> seconds that it may take
_NOTHING_LONG: Long = MappingProxyType({})


class QuorumGuard:
    """ASGI middleware around the application; `open_paths` need no quorum."""

    def __init__(
        self,
        app: ASGIApp,
        quorum: Quorum,
        open_paths: Container[str],
        long: Long = _NOTHING_LONG,
    ) -> None:
        self._long = long
        self._app = app
        self._quorum = quorum
        self._open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on while there is a quorum; end it where the quorum goes."""
        if scope["type"] != "http" or scope["path"] in self._open_paths:
            await self._app(scope, receive, send)
            return
        try:
            self._quorum.check()
        except NoQuorum as error:
            await errors.answer_error(error)(scope, receive, send)
            return
        await self._guarded(scope, receive, send)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def send_noted(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                deadline.reschedule(None)  # a stream may last
            await send(message)

        try:
            within_s = self._long.get((scope["method"], scope["path"]), _ANSWER_WITHIN_S)
            async with asyncio.timeout(within_s) as deadline:
                with self._quorum.ending(deadline):
                    await self._app(scope, receive, send_noted)
        except TimeoutError:
            if started:
                raise
            late = NoQuorum("the store gives no answer in time; the change may have been made")
            await errors.answer_error(late)(scope, receive, send)
