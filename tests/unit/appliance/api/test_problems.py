"""Every error is a problem with a stable code, a cause and a remedy, in bounded time."""

from __future__ import annotations

import asyncio
import base64

import httpx
import pytest
from cairn_appliance.api.ops_v1 import gate
from cairn_appliance.api.ops_v1.matrix import MATRIX, PUBLIC
from cairn_appliance.store.memory import MemoryStore
from cairn_appliance.store.port import Item

from tests.unit.appliance.operations import Operations


@pytest.mark.parametrize(
    ("body", "field"),
    [
        pytest.param(b"{", "", id="no JSON"),
        pytest.param(b"[]", "", id="no object"),
        pytest.param(b"{}", "name", id="a field is missing"),
        pytest.param(b'{"name": 7}', "name", id="a wrong type"),
        pytest.param(b'{"name": ""}', "name", id="too short"),
        pytest.param(b'{"name": "' + b"x" * 64 + b'"}', "name", id="too long"),
        pytest.param(b'{"name": "a", "colour": "red"}', "colour", id="an unknown field"),
        pytest.param(b'{"name": "a", "prefixes": ["1", "2", "3"]}', "prefixes", id="too many"),
        pytest.param(b'{"name": "a", "policy": {"bum_pps": 0}}', "policy.bum_pps", id="nested"),
        pytest.param(b'{"name": "a", "mtu": 1e400}', "mtu", id="infinite"),
        pytest.param(b'\xff\xfe{"name": "a"}', "", id="no UTF-8"),
    ],
)
async def test_a_request_that_breaks_the_schema_is_told_where(
    admin: httpx.AsyncClient, body: bytes, field: str
) -> None:
    answer = await admin.post(
        "/api/v1/vsubnets", content=body, headers={"Content-Type": "application/json"}
    )

    assert answer.status_code in (400, 422)
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["code"] in ("invalid", "bad_request")
    assert problem["detail"]
    assert problem["remedy"]
    if field:
        assert field in [each["field"] for each in problem["errors"]]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "vsubnets/nope", None, 404, "not_found"),
        ("GET", "nodes/nope", None, 404, "not_found"),
        ("GET", "tokens/nope", None, 404, "not_found"),
        ("GET", "vsubnets/a%2F..%2Fb", None, 404, "unknown_route"),
        ("GET", "nodes/%00", None, 404, "not_found"),
        ("GET", "tokens/%E2%80%AE", None, 404, "not_found"),
        ("POST", "vsubnets", {"name": "taken"}, 409, "name_taken"),
        ("POST", "vsubnets", {"name": "a b"}, 422, "invalid_name"),
        ("POST", "vsubnets", {"name": "x", "prefixes": ["10.7.0.1/24"]}, 422, "invalid_prefix"),
        ("POST", "vsubnets", {"name": "x", "mtu": 100}, 422, "invalid_mtu"),
        ("POST", "tokens", {"vsubnets": ["nope"]}, 404, "not_found"),
        ("POST", "tokens", {"max_uses": 0}, 422, "invalid"),
        ("POST", "tokens", {"life_s": -1}, 422, "invalid"),
        ("POST", "vsubnets/taken/members", {"node": "nope"}, 404, "not_found"),
        ("POST", "nodes/nope/approve", None, 404, "not_found"),
        ("POST", "nodes/nope/claim", None, 404, "not_found"),
        ("POST", "nodes/nope/unfreeze", None, 404, "not_found"),
        ("GET", "nodes?state=bad", None, 422, "invalid"),
        ("GET", "nodes?limit=0", None, 422, "invalid"),
        ("GET", "nodes?cursor=%25", None, 422, "invalid_cursor"),
        ("GET", "events?since=yesterday", None, 422, "invalid"),
        ("DELETE", "vsubnets/nope", None, 404, "not_found"),
    ],
)
async def test_an_error_has_a_stable_code_and_a_remedy(
    admin: httpx.AsyncClient,
    method: str,
    path: str,
    body: dict[str, object] | None,
    status: int,
    code: str,
) -> None:
    await admin.post("/api/v1/vsubnets", json={"name": "taken"})

    answer = await admin.request(method, f"/api/v1/{path}", json=body)

    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.json()["detail"]
    assert answer.json()["remedy"]


async def test_a_body_that_is_too_large_is_refused(admin: httpx.AsyncClient) -> None:
    answer = await admin.post("/api/v1/vsubnets", json={"name": "x" * (1 << 20)})

    assert answer.status_code == 413
    assert answer.json()["code"] == "too_large"


async def test_an_unforeseen_error_tells_nothing_of_itself(
    ops: Operations, admin: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken() -> None:
        raise ValueError("secret detail")

    monkeypatch.setattr(ops.services.vsubnets, "list", broken)
    transport = httpx.ASGITransport(ops.app, raise_app_exceptions=False)
    async with httpx.AsyncClient(
        transport=transport, base_url="https://appliance", headers=admin.headers
    ) as client:
        answer = await client.get("/api/v1/vsubnets")

    assert answer.status_code == 500
    assert answer.json()["code"] == "internal_error"
    assert "secret" not in answer.text


async def test_without_a_store_every_route_says_so_and_when_to_come_back(
    ops: Operations, admin: httpx.AsyncClient
) -> None:
    ops.store.fail()
    for (method, path), needed in MATRIX.items():
        if needed is PUBLIC:
            continue
        answer = await admin.request(method, path, json={})

        assert answer.status_code == 503, (method, path)
        assert answer.json()["code"] == "unavailable"
        assert int(answer.headers["retry-after"]) >= 1


async def test_without_a_store_it_is_alive_and_not_ready(
    ops: Operations, admin: httpx.AsyncClient
) -> None:
    assert (await admin.get("/readyz")).status_code == 200
    ops.store.fail()

    assert (await admin.get("/healthz")).status_code == 200
    ready = await admin.get("/readyz")
    assert ready.status_code == 503
    assert ready.headers["retry-after"]


async def test_a_store_that_never_answers_ends_in_503(
    ops: Operations, admin: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(_store: MemoryStore, _key: str) -> Item | None:
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(gate, "ANSWER_WITHIN_S", 0.05)
    monkeypatch.setattr(MemoryStore, "get", never)

    answer = await admin.get("/api/v1/vsubnets")

    assert answer.status_code == 503
    assert answer.headers["retry-after"]


async def test_logging_in_too_often_is_429_with_a_time(ops: Operations) -> None:
    async with ops.client() as client:
        for _ in range(5):
            body = {"name": "admin", "password": "wrong"}
            assert (await client.post("/api/v1/login", json=body)).status_code == 401
        answer = await client.post("/api/v1/login", json=body)

    assert answer.status_code == 429
    assert answer.json()["code"] == "account_locked"
    assert int(answer.headers["retry-after"]) == 15 * 60


async def test_who_guesses_at_join_strings_is_held_up(ops: Operations) -> None:
    asked = {
        "id": "0123456789abcdef",
        "secret": "A" * 43,
        "nonce": base64.b64encode(bytes(16)).decode(),
        "peer_url": "https://192.0.2.9:2380",
    }
    async with ops.client() as stranger, ops.client(address="192.0.2.51") as other:
        answers = [await stranger.post("/api/v1/cluster/join", json=asked) for _ in range(11)]
        ops.clock.advance(-3600)
        answers.append(await stranger.post("/api/v1/cluster/join", json=asked))
        elsewhere = await other.post("/api/v1/cluster/join", json=asked)
    refused = elsewhere.status_code
    assert refused in (401, 403)
    assert [answer.status_code for answer in answers] == [refused] * 10 + [429] * 2
    # Also where the clock is set back: for a minute, and not for an hour.
    assert all(1 <= float(each.headers["retry-after"]) <= 60 for each in answers[-2:])
