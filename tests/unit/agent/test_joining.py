"""Enrolment: whom the agent shows its token to, and what it says when it doesn't."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from cairn_agent import onboarding
from cairn_agent.control import joining
from cairn_agent.control.tls import split_address
from cairn_agent.errors import BadInput, Environment, Refused, Unreachable
from cairn_agent.identity import new_keys
from cairn_agent.protocol.enrolment import Facts
from cairn_agent.protocol.token import Token, decode_token
from cairn_agent.settings import Settings

from tests.unit.agent.fakes.appliance import Authority, FakeAppliance


@pytest_asyncio.fixture
async def appliance(tmp_path: Path) -> AsyncIterator[FakeAppliance]:
    fake = FakeAppliance(tmp_path)
    await fake.start()
    yield fake
    await fake.stop()


async def enrol(token: str) -> joining.Identity:
    return await joining.enrol(
        decode_token(token), new_keys(), name="vm", facts=Facts(), version="0.1.0"
    )


async def test_the_token_is_shown_to_the_pinned_authority(appliance: FakeAppliance) -> None:
    identity = await enrol(appliance.token())

    assert identity.cluster_id == appliance.cluster.id
    [request] = appliance.asked("enrol")
    assert request["token_secret"] == "the-secret-of-the-token"
    assert request["node_id"] == identity.node_id


async def test_a_foreign_authority_never_sees_the_secret(appliance: FakeAppliance) -> None:
    with pytest.raises(Refused) as refused:
        await enrol(appliance.token(pin="ab" * 32))

    assert refused.value.code == "foreign_pin"
    await appliance.until(lambda fake: fake.connections == 1)
    assert appliance.requests == []


async def test_a_chain_that_only_shows_the_pinned_authority_is_not_believed(
    appliance: FakeAppliance, tmp_path: Path
) -> None:
    """An impostor may append the real CA's certificate to a chain that it didn't sign."""
    real = Authority("the real one")
    impostor = FakeAppliance(tmp_path, Authority("impostor"))
    impostor.authority.pem += real.pem
    await impostor.start()
    try:
        with pytest.raises(Refused) as refused:
            await enrol(impostor.token(pin=real.pin))
    finally:
        await impostor.stop()

    assert refused.value.code == "foreign_ca"
    assert impostor.requests == []


async def test_proxy_and_ca_variables_are_ignored(
    appliance: FakeAppliance, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent")

    assert (await enrol(appliance.token())).node_id == appliance.node_id


async def test_an_expired_server_certificate_points_at_the_clock(tmp_path: Path) -> None:
    fake = FakeAppliance(tmp_path)
    await fake.start(server_life=timedelta(seconds=-5))
    try:
        with pytest.raises(Environment) as wrong_clock:
            await enrol(fake.token())
    finally:
        await fake.stop()

    assert "clock" in wrong_clock.value.cause
    assert fake.requests == []


@pytest.mark.parametrize("code", ["token_expired", "token_used_up"])
async def test_a_refusal_ends_it_at_once(appliance: FakeAppliance, code: str) -> None:
    problem = {
        "title": "Not permitted",
        "status": 403,
        "code": code,
        "detail": "the token is no good",
    }
    appliance.answers["enrol"] = lambda _: (403, problem)

    with pytest.raises(Refused, match="the token is no good") as refused:
        await enrol(appliance.token())

    assert refused.value.code == code
    assert len(appliance.asked("enrol")) == 1


async def test_a_lost_answer_is_asked_for_again_by_the_same_node(appliance: FakeAppliance) -> None:
    failures = iter([503, 503])

    def sometimes(body: dict[str, object]) -> tuple[int, dict[str, object]]:
        for status in failures:
            return status, {"title": "busy", "status": status, "code": "unavailable"}
        return appliance.usual_answer("enrol", body)

    appliance.answers["enrol"] = sometimes

    await enrol(appliance.token())

    asked = appliance.asked("enrol")
    assert len(asked) == 3
    assert len({(request["node_id"], request["certificate_request"]) for request in asked}) == 1


async def test_the_second_address_of_a_token_is_tried(appliance: FakeAppliance) -> None:
    token = Token(["127.0.0.1:1", appliance.address], appliance.authority.pin, "i", "s")

    identity = await joining.enrol(token, new_keys(), name="", facts=Facts(), version="")

    assert identity.node_id == appliance.node_id


async def test_nobody_there_is_said_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "_BOUND_S", 0.0)
    token = Token(["127.0.0.1:1"], "ab" * 32, "i", "s")

    with pytest.raises(Unreachable, match="can't be reached: Connection refused"):
        await joining.enrol(token, new_keys(), name="", facts=Facts(), version="")


async def test_something_else_than_tls_is_named() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        with pytest.raises(Unreachable, match="doesn't speak TLS"):
            await joining.pinned_authority(address, "ab" * 32)


async def test_leaving_is_over_where_the_node_was_removed_before(appliance: FakeAppliance) -> None:
    identity = await enrol(appliance.token())
    problem = {"title": "Not permitted", "status": 403, "code": "node_removed"}
    appliance.answers["leave"] = lambda _: (403, problem)

    await joining.leave(identity)

    assert len(appliance.asked("leave")) == 1


def test_the_library_trusts_nothing_from_the_system(appliance_context: ssl.SSLContext) -> None:
    assert len(appliance_context.get_ca_certs()) == 1


@pytest.fixture
def appliance_context() -> ssl.SSLContext:
    from cairn_agent.control.tls import server_context

    return server_context(Authority().pem)


async def join_without_answer(appliance: FakeAppliance, settings: Settings, token: str) -> None:
    def lose(_: object) -> tuple[int, dict[str, Any]]:
        raise ConnectionResetError

    appliance.answers["enrol"] = lose
    with pytest.raises(Unreachable):
        await onboarding.join(settings, token, "vm")
    del appliance.answers["enrol"]


async def test_a_join_whose_answer_was_lost_goes_on_as_the_same_node(
    appliance: FakeAppliance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The appliance may have taken it in: with other keys the token would be used up."""
    monkeypatch.setattr(joining, "_BOUND_S", 0.1)
    settings = Settings(tmp_path / "state", tmp_path / "run")
    token = appliance.token()
    await join_without_answer(appliance, settings, token)
    assert (settings.state_dir / "joining.json").stat().st_mode & 0o777 == 0o600

    identity, _ = await onboarding.join(settings, token, "vm")

    shown = {(r["node_id"], r["data_public_key"]) for r in appliance.asked("enrol")}
    assert len(shown) == 1
    assert identity.node_id == shown.pop()[0]
    assert not (settings.state_dir / "joining.json").exists()


async def test_a_join_that_was_refused_or_never_reached_an_appliance_leaves_no_keys(
    appliance: FakeAppliance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "_BOUND_S", 0.1)
    settings = Settings(tmp_path / "state", tmp_path / "run")
    token = appliance.token()
    await join_without_answer(appliance, settings, token)
    problem = {"title": "No", "status": 403, "code": "token_used_up", "detail": "used up"}
    appliance.answers["enrol"] = lambda _: (403, problem)
    with pytest.raises(Refused):
        await onboarding.join(settings, token, "vm")
    assert not (settings.state_dir / "joining.json").exists()
    await appliance.stop()
    with pytest.raises(Unreachable):
        await onboarding.join(settings, token, "vm")
    assert not (settings.state_dir / "joining.json").exists()
    await appliance.start()


@pytest.mark.parametrize(
    "address", ["a b:8002", "x" * 300 + ":8002", "a..b:8002", "h:80\u0662", "h:1" + "0" * 5000, "h"]
)
async def test_an_address_that_is_none_is_bad_input(address: str) -> None:
    with pytest.raises(BadInput):
        split_address(address)
