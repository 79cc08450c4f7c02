"""One appliance asks another, over real TLS, whether a node's stream lives."""

from __future__ import annotations

import socket
import ssl
import time

import httpx
import pytest
from cairn_appliance.cluster import stream_questions
from cairn_appliance.cluster.stream_questions import StreamQuestions
from cairn_appliance.domain.cluster import Appliance
from cairn_appliance.domain.node import SHARED_STREAM

from tests.unit.agent.fakes.running import until
from tests.unit.appliance.cluster.conftest import Served


def questions(served: Served, *places: str) -> StreamQuestions:
    appliances = [Appliance("r1", (*places, served.place)), Appliance("r2", ("127.0.0.1:1",))]
    return StreamQuestions(served.replica.services.keyring, lambda: appliances)


async def test_a_stream_that_lives_is_told_from_one_that_ended(served: Served) -> None:
    node = await served.replica.joined("n")
    streams = served.replica.services.streams
    await until(lambda: streams.is_loaded)
    asking = questions(served)
    assert await asking.answers("r1", node.id) is False
    connection = await served.stream(node)
    assert await asking.answers("r1", node.id) is True
    connection.abort()
    await until(lambda: streams.count == 0)
    assert await asking.answers("r1", node.id) is False
    await asking.close()


async def test_who_does_not_say_is_not_waited_for_for_long(served: Served) -> None:
    silent = socket.create_server(("127.0.0.1", 0))  # the kernel accepts, and nobody speaks
    port = silent.getsockname()[1]
    appliances = [Appliance("paused", (f"127.0.0.1:{port}",)), Appliance("dead", ("127.0.0.1:1",))]
    asking = StreamQuestions(served.replica.services.keyring, lambda: appliances)
    for name in ("paused", "dead", "never heard of"):
        begun = time.monotonic()
        assert await asking.answers(name, "n") is None
        assert time.monotonic() - begun < stream_questions.ANSWER_S + 2
    silent.close()
    await asking.close()


async def test_one_address_that_answers_is_enough(served: Served) -> None:
    node = await served.replica.joined("n")
    await until(lambda: served.replica.services.streams.is_loaded)
    await served.stream(node)
    silent = socket.create_server(("127.0.0.1", 0))  # the kernel accepts, and nobody speaks
    port = silent.getsockname()[1]
    asking = questions(served, "127.0.0.1:1", f"127.0.0.1:{port}")
    assert await asking.answers("r1", node.id) is True
    silent.close()
    await asking.close()


async def test_nodes_and_strangers_are_not_told(served: Served) -> None:
    node = await served.replica.joined("n")
    contexts: tuple[ssl.SSLContext, ...] = (served.context(node), served.context())
    for context in contexts:
        async with httpx.AsyncClient(verify=context) as client:
            url = f"https://{served.place}{SHARED_STREAM}"
            answer = await client.get(url, params={"node": node.id})
        assert answer.status_code == 403
        assert answer.json()["code"] == "certificate_required"


async def test_an_appliance_of_the_version_before_does_not_say(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers 404."""
    monkeypatch.setattr(stream_questions, "SHARED_STREAM", "/appliance/v1/not-known-there")
    asking = questions(served)
    assert await asking.answers("r1", "n") is None
    await asking.close()
