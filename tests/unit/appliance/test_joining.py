"""What a machine that is to join is told of an appliance that can't be asked."""

from __future__ import annotations

import socket
import ssl

import pytest
from cairn_appliance import joining
from cairn_appliance.domain.errors import Unavailable

CONTEXT = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


async def _asked(place: str) -> Unavailable:
    with pytest.raises(Unavailable) as refused:
        async with joining._client(place, CONTEXT) as client:
            await client.get("/api/v1/ca")
    return refused.value


async def test_one_that_says_nothing_gives_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "_CONNECT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        told = await _asked(f"127.0.0.1:{port}")
    assert told.cause == f"the appliance at 127.0.0.1:{port} gives no answer in time"
    assert f"TCP {port} passes" in (told.remedy or "")


async def test_where_nobody_listens_the_reason_is_told() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    told = await _asked(f"127.0.0.1:{port}")
    assert told.cause.startswith(f"the appliance at 127.0.0.1:{port} can't be reached: ")
    assert not told.cause.endswith(": ")
    assert f"TCP {port} passes" in (told.remedy or "")
