"""Who may call what: every route, every role, and nobody else.

What is right stands in role_table.txt, a cell for each route and kind of caller. Nothing here
asks the product's own matrix for it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from cairn_appliance.api.ops_v1.gate import SESSION_COOKIE
from cairn_appliance.api.ops_v1.matrix import find
from cairn_appliance.domain.access import Role, csrf_of
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from tests import proofs
from tests.unit.appliance.operations import Operations, operations

ROLES = list(Role)
Entry = tuple[str, str]


def written_table() -> dict[Entry, dict[str, bool]]:
    """Return who may, by entry; each line is a method, a path and a cell for each column."""
    table: dict[Entry, dict[str, bool]] = {}
    for line in Path(__file__).with_name("role_table.txt").read_text("utf-8").splitlines():
        if line.startswith("#"):
            continue
        method, path, *cells = line.split()
        assert set(cells) <= {"yes", "-"}, line
        assert (method, path) not in table, line
        columns = ("nobody", *map(str, ROLES), "token")
        table[method, path] = dict(
            zip(columns, (cell == "yes" for cell in cells), strict=True),
        )
    return table


TABLE = written_table()
# A stream does not end: the gate is the same, and tests of the stream are elsewhere.
STREAMS = {entry for entry in TABLE if entry[1].endswith("/stream")}
CALLED = [entry for entry in TABLE if entry not in STREAMS]
GUARDED = [entry for entry in TABLE if not TABLE[entry]["nobody"]]
NOT_BY_TOKEN = {entry for entry in TABLE if not TABLE[entry]["token"]}
# All that is left to one whose password is known to someone else.
BEFORE_PASSWORD_CHANGE = {
    ("POST", "/api/v1/logout"),
    ("GET", "/api/v1/session"),
    ("POST", "/api/v1/session/password"),
}


def routes_of(app: FastAPI) -> set[Entry]:
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
        user="nobody",
        session="0" * 16,
        api_token="0" * 16,
        a="web-1",
        b="web-2",
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


async def test_every_route_has_a_line_and_every_line_a_route(ops: Operations) -> None:
    assert routes_of(ops.app) == set(TABLE)


def test_no_role_may_less_than_one_below_it_and_no_token_what_an_admin_may_not() -> None:
    for entry, may in TABLE.items():
        columns = [may["nobody"], *(may[role] for role in ROLES)]
        assert columns == sorted(columns), entry
        assert may[Role.ADMIN] >= may["token"], entry


def test_every_entry_is_found_by_a_path_of_its_own() -> None:
    for method, path in TABLE:
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


async def refused(client: httpx.AsyncClient, headers: dict[str, str]) -> set[Entry]:
    """Call everything there is, with no body, and return what was refused at the gate."""
    found = set()
    for method, path in sorted(CALLED, key=lambda entry: entry[1].endswith("logout")):
        answer = await client.request(method, url(path), headers=headers, content=b"{")
        if answer.status_code in (401, 403):
            found.add((method, path))
    return found


def kept_from(column: str) -> set[Entry]:
    """Return what the table keeps from a kind of caller."""
    return {entry for entry in CALLED if not TABLE[entry][column]}


async def test_each_role_may_what_the_table_says_and_no_more(
    user: tuple[Role, httpx.AsyncClient],
) -> None:
    role, client = user

    assert await refused(client, {}) == kept_from(role)


async def test_each_role_may_the_same_by_a_cookie(ops: Operations) -> None:
    others, asked = 0, 0
    for role in ROLES:
        await ops.add_user(f"the-{role}", role)
        token = await ops.session(f"the-{role}")
        cookie = {"Cookie": f"{SESSION_COOKIE}={token}"}
        async with ops.client() as client:
            changes = {each for each in CALLED if each[0] not in ("GET", "HEAD")}
            guarded = changes & {*GUARDED}

            assert await refused(client, cookie) == guarded | kept_from(role)
            with_csrf = {**cookie, "X-CSRF-Token": csrf_of(token)}
            others += len(await refused(client, with_csrf) ^ kept_from(role))
            asked += len(CALLED)
    assert proofs.record(
        "ROLES",
        what=f"{asked} pairs of role and endpoint: those that may otherwise than is written",
        bar="0",
        value=others,
        unit="pairs",
        holds=others == 0 and asked == len(ROLES) * len(CALLED),
    )


@pytest.mark.parametrize("scope", ROLES)
@pytest.mark.parametrize("owner", ROLES)
async def test_an_api_token_may_what_both_its_scope_and_its_owner_may(
    ops: Operations, owner: Role, scope: Role
) -> None:
    await ops.add_user("owner", owner)
    may = min(owner, scope, key=ROLES.index)
    async with ops.client(await ops.api_token(scope, "owner")) as client:
        assert await refused(client, {}) == kept_from(may) | NOT_BY_TOKEN


async def test_who_must_change_the_password_may_nothing_else(ops: Operations) -> None:
    await ops.add_user("fresh", Role.ADMIN, must_change_password=True)
    async with ops.client(await ops.session("fresh")) as client:
        assert await refused(client, {}) == {*GUARDED} - BEFORE_PASSWORD_CHANGE - STREAMS
        answer = await client.get("/api/v1/status")
    assert answer.status_code == 401  # the last call was the logout


async def test_a_role_that_is_too_low_is_told_which_one_is_needed(ops: Operations) -> None:
    await ops.add_user("looker", Role.VIEWER)
    async with ops.client(await ops.session("looker")) as client:
        answer = await client.post("/api/v1/vsubnets", json={"name": "office"})

    assert answer.status_code == 403
    assert answer.json()["code"] == "role_too_low"
    assert "looker is viewer, and this needs the role operator" in answer.json()["detail"]


async def test_a_route_that_is_in_no_matrix_is_answered_to_nobody(
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
