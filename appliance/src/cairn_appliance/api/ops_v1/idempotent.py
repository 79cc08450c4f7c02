"""POST with an Idempotency-Key: done once, answered as often as it is asked."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from cairn_appliance.api.ops_v1.context import Ops
from cairn_appliance.domain.access import Principal
from cairn_appliance.services.idempotency import Answer, Claim
from cairn_appliance.store.port import StoreError

Handler = Callable[[Request], Coroutine[Any, Any, Response]]
log = logging.getLogger(__name__)

_GIVE_UP_WITHIN_S = 1.0
_KEPT_HEADERS = ("etag", "location", "content-type")


class IdempotentRoute(APIRoute):
    """A route whose POSTs honour the Idempotency-Key header."""

    has_secrets = False  # a body that could be guessed from its plain hash

    def get_route_handler(self) -> Handler:
        """Return the handler that looks for an earlier answer first."""
        handler = super().get_route_handler()

        async def once(request: Request) -> Response:
            client_key = request.headers.get("idempotency-key")
            if request.method != "POST" or client_key is None:
                return await handler(request)
            asked = await _asked(request)
            if self.has_secrets:
                asked = hmac.digest(client_key.encode(), asked, hashlib.sha256)
            return await _once(handler, request, client_key, asked)

        return once


class SecretRoute(IdempotentRoute):
    """The same for bodies with a password: the store alone must not tell what was asked."""

    has_secrets = True


async def _asked(request: Request) -> bytes:
    line = f"{request.method} {request.url.path}?{request.url.query}\n".encode()
    return line + await request.body()


async def _once(handler: Handler, request: Request, client_key: str, asked: bytes) -> Response:
    ops: Ops = request.app.state.ops
    principal: Principal = request.state.principal
    begun = await ops.idempotency.begin(principal.name, client_key, asked)
    if isinstance(begun, Answer):
        return _again(begun)
    try:
        response = await handler(request)
    except BaseException:
        await _give_up(ops, begun)
        raise
    await _keep(ops, begun, response)
    return response


async def _give_up(ops: Ops, claim: Claim) -> None:
    """Let the next one try: the request failed or was cancelled.

    Bounded, as the store may be why; an open claim is void after a minute by itself.
    """
    with suppress(StoreError, TimeoutError):
        async with asyncio.timeout(_GIVE_UP_WITHIN_S):
            await ops.idempotency.abandon(claim)


async def _keep(ops: Ops, claim: Claim, response: Response) -> None:
    headers = [(name, response.headers[name]) for name in _KEPT_HEADERS if name in response.headers]
    answer = Answer(response.status_code, headers, bytes(response.body).decode())
    try:
        await ops.idempotency.finish(claim, answer)
    except StoreError as error:
        # It is done and must be told; only a repetition would be told nothing for a minute.
        log.warning("answer not kept for its Idempotency-Key reason=%s", error)


def _again(answer: Answer) -> Response:
    headers = {**dict(answer.headers), "Idempotency-Replayed": "true"}
    return Response(answer.body, answer.status, headers)
