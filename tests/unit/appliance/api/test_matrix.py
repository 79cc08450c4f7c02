"""Who may call what: every route, every role, and nobody else."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from cairn_appliance.api.ops_v1.matrix import MATRIX, PUBLIC, find
from cairn_appliance.domain.access import Role
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from tests.unit.appliance.operations import Operations, operations

ROLES = list(Role)
# A stream does not end: the gate is the same, and tests of the stream are elsewhere.
CALLED = [entry for entry in MATRIX if entry != ("GET", "/api/v1/events/stream")]
GUARDED = [entry for entry in MATRIX if MATRIX[entry] is not PUBLIC]


def routes_of(app: FastAPI) -> set[tuple[str, str]]:
    return {
        (method, context.path or "")
        for context in iter_route_contexts(app.routes)
        for method in context.methods or {"?"}
    }


def url(path: str) -> str:
    return path.format(
        vsubnet="office",
        node="web-1",
        token="t1",
        appliance="m9",
        backup="b1",
        segment="lan",
        task="t9",
        mac="02:00:00:00:00:07",
    )


@pytest.fixture(params=ROLES)
async def user(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Role, httpx.AsyncClient]]:
    """Yield a role and a client that has it, at an appliance of its own."""
    role: Role = request.param
    ops = operations()
    await ops.add_user("someone", role)
    async with ops.client(await ops.session("someone")) as client:
        yield role, client


async def test_every_route_is_in_the_matrix_and_every_entry_has_a_route(ops: Operations) -> None:
    assert routes_of(ops.app) == set(MATRIX)


def test_every_entry_is_found_by_a_path_of_its_own() -> None:
    for method, path in MATRIX:
        listed, _ = find(method, url(path))
        assert listed is not None
        assert listed.path == path


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="no session"),
        pytest.param({"Authorization": "Bearer cs1_" + "A" * 43}, id="unknown session"),
        pytest.param({"Authorization": "Basic YWRtaW46YWRtaW4="}, id="other scheme"),
        pytest.param({"Authorization": "Bearer"}, id="no token"),
    ],
)
async def test_without_a_session_nothing_is_answered(
    ops: Operations, headers: dict[str, str]
) -> None:
    async with ops.client() as client:
        for method, path in GUARDED:
            # The body is no JSON: it must not even be looked at.
            answer = await client.request(method, url(path), headers=headers, content=b"{")

            assert answer.status_code == 401, (method, path)
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.json()["code"] in ("not_signed_in", "session_ended")


async def test_each_role_may_what_the_matrix_says_and_no_more(
    user: tuple[Role, httpx.AsyncClient],
) -> None:
    role, client = user
    wrong = []
    for method, path in sorted(CALLED, key=lambda entry: entry[1].endswith("logout")):
        needed = MATRIX[method, path]
        answer = await client.request(method, url(path), content=b"{")
        may = needed is PUBLIC or ROLES.index(role) >= ROLES.index(needed)
        if (answer.status_code not in (401, 403)) is not may:
            wrong.append((method, path, answer.status_code))

    assert wrong == []


async def test_a_role_that_is_too_low_is_told_which_one_is_needed(ops: Operations) -> None:
    await ops.add_user("looker", Role.VIEWER)
    async with ops.client(await ops.session("looker")) as client:
        answer = await client.post("/api/v1/vsubnets", json={"name": "office"})

    assert answer.status_code == 403
    assert answer.json()["code"] == "role_too_low"
    assert "looker is viewer, and this needs the role operator" in answer.json()["detail"]


async def test_a_route_that_is_not_in_the_matrix_is_answered_to_nobody(
    ops: Operations, admin: httpx.AsyncClient
) -> None:
    @ops.app.get("/api/v1/forgotten")
    async def forgotten() -> str:
        return "secret"

    answer = await admin.get("/api/v1/forgotten")

    assert answer.status_code == 404
    assert "secret" not in answer.text


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/api/v1/vsubnets/", 404),
        ("GET", "/api/v1/../etc/passwd", 404),
        ("GET", "//api/v1/status", 404),
        ("DELETE", "/api/v1/status", 405),
        ("TRACE", "/healthz", 405),
        ("GET", "/docs", 404),
    ],
)
async def test_what_is_not_there_is_a_problem_too(
    admin: httpx.AsyncClient, method: str, path: str, status: int
) -> None:
    answer = await admin.request(method, path)

    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["remedy"]


def test_roles_include_those_below_them() -> None:
    assert [[role.includes(other) for other in ROLES] for role in ROLES] == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]
