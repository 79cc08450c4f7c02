"""What a call of an appliance ends with where TLS does."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import ssl
from collections.abc import AsyncIterator

import pytest
from cairn_agent.control.replica import Replica
from cairn_agent.errors import Unreachable
from cairn_agent.protocol.enrolment import LeaveRequest


async def test_an_alert_that_comes_after_the_handshake_is_explained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In TLS 1.3 the server's word on our certificate comes with the first thing that is read."""

    @contextlib.asynccontextmanager
    async def alerted(*_arguments: object, **_more: object) -> AsyncIterator[None]:
        error = ssl.SSLError(1, "sslv3 alert unsupported certificate")
        error.reason = "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE"
        raise error
        yield

    async with Replica("192.0.2.1:8002", ssl.create_default_context()) as replica:
        monkeypatch.setattr(replica._client, "stream", alerted)
        with pytest.raises(Unreachable, match=r"192\.0\.2\.1:8002"):
            await replica.leave(LeaveRequest())


async def test_who_is_cancelled_in_the_handshake_leaves_no_connection_open() -> None:
    """Left to the collector, the appliance would wait for the rest of it."""
    begun, ended = asyncio.Event(), asyncio.Event()

    async def hung(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1024):
            begun.set()
        ended.set()
        writer.close()

    server = await asyncio.start_server(hung, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    gc.disable()
    try:
        async with Replica(f"{host}:{port}", ssl.create_default_context()) as replica:
            asked = asyncio.create_task(replica.leave(LeaveRequest()))
            async with asyncio.timeout(30):
                await begun.wait()
                asked.cancel()
                await asyncio.gather(asked, return_exceptions=True)
                await ended.wait()
    finally:
        gc.enable()
        server.close()
        await server.wait_closed()
