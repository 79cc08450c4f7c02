"""httpx's transport, with nothing left open where a TLS handshake is cancelled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx


class HttpTransport(httpx.AsyncHTTPTransport):
    """As httpx's, but a cancelled handshake closes its connection, too.

    httpcore (1.0.9, `start_tls`) closes it where the handshake fails or takes too long only.
    Cancelled, it would stay open until the collector comes by, and the appliance would wait for
    the rest of it.
    """

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request; raise httpx's errors."""
        request.extensions = {**request.extensions, "trace": _Handshake().trace}
        return await super().handle_async_request(request)


class _Handshake:
    """Follows the events of one request: https://www.encode.io/httpcore/extensions/#trace."""

    def __init__(self) -> None:
        self._connection: Any = None  # httpcore's network stream

    async def trace(self, event: str, info: Mapping[str, Any]) -> None:
        if event == "connection.connect_tcp.complete":
            self._connection = info["return_value"]
        elif event == "connection.start_tls.complete":
            self._connection = None  # its user closes it from here on
        elif event == "connection.start_tls.failed" and self._connection is not None:
            await self._connection.aclose()
