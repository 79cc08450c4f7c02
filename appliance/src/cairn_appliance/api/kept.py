"""A file that an appliance keeps, sent as fast as it is taken."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


class Kept(Protocol):
    """A file that is open."""

    octets: int

    def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield what is in it."""

    def close(self) -> None:
        """Close it."""


class KeptResponse(StreamingResponse):
    """The file as it is on the disk."""

    media_type = "application/octet-stream"

    def __init__(self, kept: Kept) -> None:
        super().__init__(kept.chunks(), headers={"Content-Length": str(kept.octets)})
        self._kept = kept

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it, and close it however that ends."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._kept.close()
