"""Users, sessions, codes and API tokens, as the operations API has them."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from cairn_appliance.api.ops_v1 import gate
from cairn_appliance.api.ops_v1.gate import SESSION_COOKIE
from cairn_appliance.domain import totp
from cairn_appliance.domain.access import Role
from cairn_appliance.domain.cluster import ACCESS_FORMAT
from cairn_appliance.store import keys
from cairn_appliance.store.port import Put

from tests.unit.appliance.operations import PASSWORD, Operations

API = "/api/v1"
OTHER = "another long password"
CONSOLE = {"X-Cairn-Console": "1"}


def credentials(name: str = "admin", password: str = PASSWORD, **more: str) -> dict[str, str]:
    return {"name": name, "password": password, **more}


async def set_up_totp(client: httpx.AsyncClient, ops: Operations) -> tuple[bytes, list[str]]:
    """Ask for codes from now on; return the secret and the recovery codes."""
    offered = (await client.post(f"{API}/session/totp")).json()
    secret = base64.b32decode(offered["secret"])
    answer = await client.post(f"{API}/session/totp/confirm", json={"code": code(secret, ops)})
    assert answer.status_code == 200, answer.text
    ops.clock.advance(60)
    return secret, answer.json()["recovery_codes"]


def code(secret: bytes, ops: Operations) -> str:
    return totp.code_at(secret, int(ops.clock() // totp.STEP_S))


@asynccontextmanager
async def of(ops: Operations, name: str, role: Role) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client of a new user."""
    await ops.add_user(name, role)
    async with ops.client(await ops.session(name)) as client:
        yield client


async def patch(
    client: httpx.AsyncClient, name: str, body: dict[str, object], etag: str = "*"
) -> httpx.Response:
    return await client.patch(f"{API}/users/{name}", json=body, headers={"If-Match": etag})


# Users


async def test_a_new_user_gets_a_password_once_and_has_to_change_it(
    ops: Operations, admin: httpx.AsyncClient
) -> None:
    made = await admin.post(f"{API}/users", json={"name": "bob", "role": "operator"})
    assert made.status_code == 201, made.text
    drawn = made.json()["password"]
    assert "password" not in (await admin.get(f"{API}/users/bob")).json()
    assert (made.json()["must_change_password"], made.json()["last_login_at"]) == (True, None)

    async with ops.client(await ops.login("bob", drawn)) as bob:
        held = await bob.get(f"{API}/status")
        assert (held.status_code, held.json()["code"]) == (403, "password_change_needed")
        assert (await bob.get(f"{API}/session")).json()["must_change_password"] is True
        short = await bob.post(f"{API}/session/password", json={"old": drawn, "new": "short"})
        same = await bob.post(f"{API}/session/password", json={"old": drawn, "new": drawn})
        assert (short.status_code, same.status_code) == (422, 422)
        done = await bob.post(f"{API}/session/password", json={"old": drawn, "new": OTHER})
        assert done.status_code == 204, done.text
        assert (await bob.get(f"{API}/status")).status_code == 200

    shown = (await admin.get(f"{API}/users/bob")).json()
    assert shown["must_change_password"] is False
    assert shown["last_login_at"] is not None
    assert await ops.login("bob", OTHER)


@pytest.mark.parametrize(
    ("body", "status", "problem"),
    [
        ({"name": "admin", "role": "viewer", "password": OTHER}, 409, "user_exists"),
        ({"name": "Not A Name", "role": "viewer"}, 422, "invalid"),
        ({"name": "bob", "role": "king"}, 422, "invalid"),
        ({"name": "bob", "role": "viewer", "password": "short"}, 422, "invalid"),
    ],
)
async def test_what_no_user_can_be(
    admin: httpx.AsyncClient, body: dict[str, str], status: int, problem: str
) -> None:
    answer = await admin.post(f"{API}/users", json=body)

    assert (answer.status_code, answer.json()["code"]) == (status, problem)


async def test_another_role_counts_from_the_next_request_on(
    ops: Operations, admin: httpx.AsyncClient
) -> None:
    async with of(ops, "bob", Role.OPERATOR) as bob:
        assert (await bob.post(f"{API}/vsubnets", json={"name": "one"})).status_code == 201
        assert (await patch(admin, "bob", {"role": "viewer"})).status_code == 200
        assert (await bob.post(f"{API}/vsubnets", json={"name": "two"})).status_code == 403


@pytest.mark.parametrize("how", ["disable", "password", "delete"])
async def test_sessions_end_at_once_with_what_opened_them(
    ops: Operations, admin: httpx.AsyncClient, how: str
) -> None:
    async with of(ops, "bob", Role.OPERATOR) as bob:
        assert (await bob.get(f"{API}/status")).status_code == 200
        if how == "delete":
            assert (await admin.delete(f"{API}/users/bob")).status_code == 204
        else:
            body: dict[str, object] = {"disabled": True} if how == "disable" else {"password": ""}
            assert (await patch(admin, "bob", body)).status_code == 200

        answer = await bob.get(f"{API}/status")
        assert (answer.status_code, answer.json()["code"]) == (401, "session_ended")
        # Made or enabled again, the user is another one to the sessions of before.
        if how == "delete":
            again = {"name": "bob", "role": "operator", "password": OTHER}
            assert (await admin.post(f"{API}/users", json=again)).status_code == 201
        elif how == "disable":
            assert (await patch(admin, "bob", {"disabled": False})).status_code == 200
        assert (await bob.get(f"{API}/status")).status_code == 401


async def test_the_own_new_password_ends_all_other_sessions(ops: Operations) -> None:
    async with of(ops, "bob", Role.VIEWER) as bob, ops.client(await ops.session("bob")) as other:
        body = {"old": PASSWORD, "new": OTHER}
        assert (await bob.post(f"{API}/session/password", json=body)).status_code == 204

        assert (await bob.get(f"{API}/status")).status_code == 200
        assert (await other.get(f"{API}/status")).status_code == 401


async def test_a_disabled_user_is_told_so_only_for_the_right_password(
    ops: Operations, admin: httpx.AsyncClient
) -> None:
    await ops.add_user("bob", Role.VIEWER)
    await patch(admin, "bob", {"disabled": True})

    wrong = await admin.post(f"{API}/login", json=credentials("bob", "wrong"))
    right = await admin.post(f"{API}/login", json=credentials("bob"))

    assert (wrong.status_code, wrong.json()["code"]) == (401, "wrong_login")
    assert (right.status_code, right.json()["code"]) == (403, "user_disabled")


async def test_the_last_admin_stays(ops: Operations, admin: httpx.AsyncClient) -> None:
    await ops.add_user("off", Role.ADMIN)
    assert (await patch(admin, "off", {"disabled": True})).status_code == 200

    answers = [
        await patch(admin, "admin", {"role": "operator"}),
        await patch(admin, "admin", {"disabled": True}),
        await admin.delete(f"{API}/users/admin"),
    ]

    assert [(a.status_code, a.json()["code"]) for a in answers] == [(409, "last_admin")] * 3


async def test_two_admins_that_demote_each_other_leave_one(ops: Operations) -> None:
    async with of(ops, "one", Role.ADMIN) as one, of(ops, "two", Role.ADMIN) as two:
        await one.delete(f"{API}/users/admin")
        await asyncio.gather(
            patch(one, "two", {"role": "viewer"}), patch(two, "one", {"role": "viewer"})
        )
        roles = [(await each.get(f"{API}/session")).json()["role"] for each in (one, two)]

    assert sorted(roles) == ["admin", "viewer"]


async def test_a_change_needs_what_it_was_read_as(
    ops: Operations, admin: httpx.AsyncClient
) -> None:
    await ops.add_user("bob", Role.VIEWER)
    etag = (await admin.get(f"{API}/users/bob")).headers["etag"]
    await ops.login("bob")  # a login is no change of the user

    first = await patch(admin, "bob", {"role": "operator"}, etag)
    second = await patch(admin, "bob", {"role": "admin"}, etag)
    without = await admin.patch(f"{API}/users/bob", json={"role": "admin"})

    assert [first.status_code, second.status_code, without.status_code] == [200, 412, 428]


async def test_the_own_password_is_not_reset_without_the_old_one(admin: httpx.AsyncClient) -> None:
    answer = await patch(admin, "admin", {"password": OTHER})

    assert answer.status_code == 422
    assert "cairn user password" in answer.json()["remedy"]


async def test_a_wrong_old_password_does_not_end_the_session_and_is_counted(
    admin: httpx.AsyncClient,
) -> None:
    body = {"old": "wrong", "new": OTHER}
    answers = [await admin.post(f"{API}/session/password", json=body) for _ in range(6)]

    assert [each.status_code for each in answers] == [403] * 5 + [429]
    assert answers[0].json()["code"] == "wrong_password"
    assert (await admin.get(f"{API}/session")).status_code == 200
    shown = (await admin.get(f"{API}/users/admin")).json()
    assert shown["locked_until"] is not None


async def test_a_reset_opens_the_lock(ops: Operations, admin: httpx.AsyncClient) -> None:
    await ops.add_user("bob", Role.VIEWER)
    for _ in range(5):
        await admin.post(f"{API}/login", json=credentials("bob", "wrong"))
    locked = await admin.post(f"{API}/login", json=credentials("bob"))

    drawn = (await patch(admin, "bob", {"password": ""})).json()["password"]

    assert locked.status_code == 429
    assert await ops.login("bob", drawn)


async def test_nothing_that_the_version_before_would_not_heed_is_written_before_the_upgrade_ends(
    ops: Operations, admin: httpx.AsyncClient
) -> None:
    await ops.store.commit([], [Put(keys.CLUSTER_FORMAT, b"%d" % (ACCESS_FORMAT - 1))])

    answers = [
        await admin.post(f"{API}/users", json={"name": "bob", "role": "viewer"}),
        await patch(admin, "admin", {"disabled": False}),
        await admin.post(f"{API}/session/totp"),
        await admin.post(f"{API}/session/password", json={"old": PASSWORD, "new": OTHER}),
        await admin.post(f"{API}/api-tokens", json={"name": "ci", "scope": "viewer"}),
    ]

    assert [each.json()["code"] for each in answers] == ["upgrade_unfinished"] * 5
    assert await ops.login()


# Sessions of the console


async def test_the_console_has_its_session_in_a_cookie_and_nowhere_else(ops: Operations) -> None:
    async with ops.client() as client:
        answer = await client.post(f"{API}/login", json=credentials(), headers=CONSOLE)
        cookie = answer.headers["set-cookie"]
        parts = {part.strip().lower() for part in cookie.split(";")[1:]}
        token = cookie.split(";")[0].removeprefix(f"{SESSION_COOKIE}=")

        assert parts == {"secure", "httponly", "samesite=strict", "path=/"}
        assert answer.json()["token"] == ""
        assert token not in answer.text
        csrf = answer.json()["csrf"]
        # httpx keeps the cookie, as a browser does.
        assert (await client.get(f"{API}/session")).json()["csrf"] == csrf
        body = {"name": "office"}
        for wrong in ({}, {"X-CSRF-Token": ""}, {"X-CSRF-Token": "ü"}, {"X-CSRF-Token": csrf[:-1]}):
            headers = {name: text.encode() for name, text in wrong.items()}
            refused = await client.post(f"{API}/vsubnets", json=body, headers=headers)
            assert (refused.status_code, refused.json()["code"]) == (403, "csrf")
        good = {"X-CSRF-Token": csrf}
        made = await client.post(f"{API}/vsubnets", json=body, headers=good)
        assert made.status_code == 201
        ended = await client.post(f"{API}/logout", headers=good)
        assert ended.status_code == 204
        assert "max-age=0" in ended.headers["set-cookie"].lower()
        assert (await client.get(f"{API}/session")).status_code == 401


async def test_the_csrf_token_of_another_session_is_worth_nothing(ops: Operations) -> None:
    async with ops.client() as mine, ops.client() as theirs:
        await mine.post(f"{API}/login", json=credentials(), headers=CONSOLE)
        other = await theirs.post(f"{API}/login", json=credentials(), headers=CONSOLE)

        headers = {"X-CSRF-Token": other.json()["csrf"]}
        answer = await mine.post(f"{API}/vsubnets", json={"name": "office"}, headers=headers)

    assert (answer.status_code, answer.json()["code"]) == (403, "csrf")


async def test_a_cookie_beside_another_authorization_is_not_looked_at(ops: Operations) -> None:
    async with ops.client() as client:
        await client.post(f"{API}/login", json=credentials(), headers=CONSOLE)
        headers = {"Authorization": "Basic YWRtaW46YWRtaW4="}
        assert (await client.get(f"{API}/session", headers=headers)).status_code == 401


async def test_sessions_are_listed_and_ended(ops: Operations, admin: httpx.AsyncClient) -> None:
    async with of(ops, "bob", Role.VIEWER) as bob:
        await bob.post(
            f"{API}/login",
            json=credentials("bob"),
            headers={"User-Agent": "Fire\x7ffox" + "x" * 999},
        )
        own = (await bob.get(f"{API}/sessions")).json()["items"]
        all_of_them = (await admin.get(f"{API}/sessions")).json()["items"]

        assert {each["user"] for each in own} == {"bob"}
        assert [each["current"] for each in own].count(True) == 1
        named = [each for each in own if each["client"]]
        assert [(each["address"], each["client"][:7]) for each in named] == [
            ("192.0.2.50", "Firefox")
        ]
        assert len(named[0]["client"]) == 120
        assert sorted(each["user"] for each in all_of_them) == ["admin", "bob", "bob"]
        admins = next(each["id"] for each in all_of_them if each["user"] == "admin")
        assert (await bob.delete(f"{API}/sessions/{admins}")).status_code == 404
        mine = next(each["id"] for each in own if each["current"])
        assert (await admin.delete(f"{API}/sessions/{mine}")).status_code == 204
        assert (await bob.get(f"{API}/session")).status_code == 401
    for wrong in ("..", "0" * 16, "0", "*", "%2e%2e%2fusers"):
        assert (await admin.delete(f"{API}/sessions/{wrong}")).status_code == 404


@asynccontextmanager
async def stream(
    ops: Operations, name: str, value: str
) -> AsyncIterator[asyncio.Queue[dict[str, Any]]]:
    """Yield what the stream of events sends to a request with this header."""
    sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    path = f"{API}/events/stream"
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(name.encode(), value.encode())],
        "client": ("192.0.2.50", 50_000),
        "scheme": "https",
        "server": ("appliance", 443),
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
    }
    streaming = asyncio.create_task(ops.app(scope, receive, sent.put))
    async with asyncio.timeout(20):
        assert (await sent.get())["status"] == 200
        yield sent
    streaming.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await streaming


async def goes_on(sent: asyncio.Queue[dict[str, Any]], awaited: str) -> bool:
    """Return whether the stream tells of something; False: it has ended before."""
    told = b""
    while awaited.encode() not in told:
        message = await sent.get()
        told += message["body"]
        if not message["more_body"]:
            return False
    return True


@pytest.mark.parametrize("how", ["still open", "logged out", "disabled"])
async def test_a_stream_ends_with_the_session_before_it_tells_anything_more(
    ops: Operations, admin: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(gate, "CHECKED_EVERY_S", 0.0)
    await ops.add_user("bob", Role.VIEWER)
    token = await ops.session("bob")
    async with stream(ops, "authorization", f"Bearer {token}") as sent:
        if how == "logged out":
            async with ops.client(token) as bob:
                await bob.post(f"{API}/logout")
        elif how == "disabled":
            await patch(admin, "bob", {"disabled": True})
        await admin.post(f"{API}/vsubnets", json={"name": "office"})

        assert await goes_on(sent, "office") is (how == "still open")


@pytest.mark.parametrize("by_cookie", [True, False])
async def test_a_page_that_is_only_left_open_does_not_keep_its_session(
    ops: Operations, monkeypatch: pytest.MonkeyPatch, by_cookie: bool
) -> None:
    monkeypatch.setattr(gate, "CHECKED_EVERY_S", 0.0)
    await ops.add_user("bob", Role.VIEWER)
    token = await ops.session("bob")
    bearer, cookie = ("authorization", f"Bearer {token}"), ("cookie", f"{SESSION_COOKIE}={token}")
    async with stream(ops, *(cookie if by_cookie else bearer)) as sent:
        told = []
        for number in range(4):
            ops.clock.advance(10 * 60)
            async with ops.client(await ops.session()) as admin:
                await admin.post(f"{API}/vsubnets", json={"name": f"net-{number}"})
            told.append(await goes_on(sent, f"net-{number}"))
            if not told[-1]:
                break

    assert told == ([True, True, False] if by_cookie else [True] * 4)


# Codes


async def test_with_a_code_on_the_password_alone_opens_nothing(
    ops: Operations, admin: httpx.AsyncClient
) -> None:
    secret, _ = await set_up_totp(admin, ops)

    async with ops.client() as client:
        without = await client.post(f"{API}/login", json=credentials())
        wrong = await client.post(f"{API}/login", json=credentials(code="000000"))
        right = await client.post(f"{API}/login", json=credentials(code=code(secret, ops)))

    assert (without.status_code, without.json()["code"]) == (401, "totp_required")
    assert (wrong.status_code, wrong.json()["code"]) == (401, "wrong_code")
    assert right.status_code == 200
    assert right.json()["totp"] is True
    assert (await admin.get(f"{API}/users/admin")).json()["totp"] is True


async def test_a_code_opens_once(ops: Operations, admin: httpx.AsyncClient) -> None:
    secret, _ = await set_up_totp(admin, ops)
    body = credentials(code=code(secret, ops))

    async with ops.client() as client:
        answers = await asyncio.gather(*(client.post(f"{API}/login", json=body) for _ in range(4)))

    assert sorted(each.status_code for each in answers) == [200, 401, 401, 401]


async def test_the_code_that_confirmed_opens_nothing_more(
    ops: Operations, admin: httpx.AsyncClient
) -> None:
    offered = (await admin.post(f"{API}/session/totp")).json()
    secret = base64.b32decode(offered["secret"])
    first = code(secret, ops)
    await admin.post(f"{API}/session/totp/confirm", json={"code": first})

    answer = await admin.post(f"{API}/login", json=credentials(code=first))

    assert answer.json()["code"] == "wrong_code"


async def test_a_recovery_code_opens_once_however_it_is_typed(
    ops: Operations, admin: httpx.AsyncClient
) -> None:
    _, codes = await set_up_totp(admin, ops)
    assert len(set(codes)) == 10
    typed = credentials(code=codes[3].upper().replace("-", " "))

    async with ops.client() as client:
        statuses = [(await client.post(f"{API}/login", json=typed)).status_code for _ in range(2)]
        other = await client.post(f"{API}/login", json=credentials(code=codes[4]))

    assert (statuses, other.status_code) == ([200, 401], 200)
    texts = [each.text for each in await ops.services.events.latest()]
    assert "user admin logged in with a recovery code; 9 are left" in texts


async def test_wrong_codes_lock_the_account_as_wrong_passwords_do(
    ops: Operations, admin: httpx.AsyncClient
) -> None:
    secret, _ = await set_up_totp(admin, ops)
    async with ops.client() as client:
        wrong = [
            await client.post(f"{API}/login", json=credentials(code="000000")) for _ in range(5)
        ]
        right = await client.post(f"{API}/login", json=credentials(code=code(secret, ops)))

    assert {each.status_code for each in wrong} == {401}
    assert (right.status_code, right.json()["code"]) == (429, "account_locked")
    kinds = [each.kind for each in await ops.services.events.latest()]
    assert kinds.count("account_locked") == 1


async def test_a_secret_counts_only_once_it_was_confirmed(
    ops: Operations, admin: httpx.AsyncClient
) -> None:
    early = await admin.post(f"{API}/session/totp/confirm", json={"code": "000000"})
    await admin.post(f"{API}/session/totp")
    wrong = await admin.post(f"{API}/session/totp/confirm", json={"code": "000000"})

    assert (early.status_code, wrong.status_code) == (409, 422)
    assert wrong.json()["code"] == "wrong_code"
    assert await ops.login()


async def test_codes_are_taken_away_by_the_password_or_by_an_admin(
    ops: Operations, admin: httpx.AsyncClient
) -> None:
    async with of(ops, "bob", Role.VIEWER) as bob:
        await set_up_totp(bob, ops)
        twice = await bob.post(f"{API}/session/totp")
        wrong = await bob.post(f"{API}/session/totp/remove", json={"password": "wrong"})
        gone = await bob.post(f"{API}/session/totp/remove", json={"password": PASSWORD})
        assert (twice.json()["code"], wrong.status_code, gone.status_code) == (
            "totp_is_on",
            403,
            204,
        )
        assert await ops.login("bob")
        await set_up_totp(bob, ops)
        assert (await patch(admin, "bob", {"totp": True})).status_code == 422
        assert (await patch(admin, "bob", {"totp": False})).json()["totp"] is False
        assert await ops.login("bob")


async def test_a_session_is_shown_while_the_store_gives_no_answer(
    ops: Operations, admin: httpx.AsyncClient
) -> None:
    await set_up_totp(admin, ops)
    before = (await admin.get(f"{API}/session")).json()
    ops.store.fail()

    assert (await admin.get(f"{API}/session")).json() == before
    assert before["totp"] is True


# API tokens


async def test_an_api_token_is_told_once_and_works_until_it_is_deleted(
    ops: Operations, admin: httpx.AsyncClient
) -> None:
    made = await admin.post(
        f"{API}/api-tokens", json={"name": "ci", "scope": "operator", "life_s": 3600}
    )
    assert made.status_code == 201, made.text
    token, token_id = made.json()["token"], made.json()["id"]
    assert token.startswith("ct1_")

    async with ops.client(token) as program:
        who = (await program.get(f"{API}/session")).json()
        assert (who["user"], who["role"], who["kind"]) == ("admin", "operator", "api-token")
        assert (await program.post(f"{API}/vsubnets", json={"name": "office"})).status_code == 201
        shown = (await admin.get(f"{API}/api-tokens")).json()["items"][0]
        assert shown["last_used_at"] is not None
        assert "token" not in shown
        assert (await admin.delete(f"{API}/api-tokens/{token_id}")).status_code == 204
        answer = await program.get(f"{API}/session")
        assert (answer.status_code, answer.json()["code"]) == (401, "session_ended")
        assert "cairn api-token create" in answer.json()["remedy"]
    by = [each.by.name for each in await ops.services.events.latest() if each.vsubnet]
    assert by == ["admin (API token ci)"]


async def test_an_api_token_expires(ops: Operations) -> None:
    async with ops.client(await ops.api_token(Role.ADMIN, life_s=60)) as program:
        assert (await program.get(f"{API}/session")).status_code == 200
        ops.clock.advance(60)
        assert (await program.get(f"{API}/session")).status_code == 401


async def test_an_api_token_follows_its_owner(ops: Operations, admin: httpx.AsyncClient) -> None:
    await ops.add_user("bob", Role.ADMIN)
    async with ops.client(await ops.api_token(Role.ADMIN, "bob")) as program:
        assert (await program.get(f"{API}/session")).json()["role"] == "admin"
        await patch(admin, "bob", {"role": "viewer"})
        assert (await program.get(f"{API}/session")).json()["role"] == "viewer"
        await patch(admin, "bob", {"disabled": True})
        assert (await program.get(f"{API}/session")).status_code == 401
        await patch(admin, "bob", {"disabled": False})
        assert (await program.get(f"{API}/session")).status_code == 200
        await admin.delete(f"{API}/users/bob")
        ops.clock.advance(1)
        await ops.add_user("bob", Role.ADMIN)
        assert (await program.get(f"{API}/session")).status_code == 401


async def test_a_reset_password_does_not_stop_the_programs_of_a_user(
    ops: Operations, admin: httpx.AsyncClient
) -> None:
    await ops.add_user("bob", Role.VIEWER)
    async with ops.client(await ops.api_token(Role.VIEWER, "bob")) as program:
        await patch(admin, "bob", {"password": ""})
        assert (await program.get(f"{API}/status")).status_code == 200


async def test_no_api_token_is_above_its_maker(ops: Operations) -> None:
    async with of(ops, "bob", Role.OPERATOR) as bob:
        above = await bob.post(f"{API}/api-tokens", json={"name": "ci", "scope": "admin"})
        good = await bob.post(f"{API}/api-tokens", json={"name": "ci", "scope": "operator"})
        twice = await bob.post(f"{API}/api-tokens", json={"name": "ci", "scope": "viewer"})

    assert (above.status_code, above.json()["code"]) == (403, "role_too_low")
    assert (good.status_code, twice.json()["code"]) == (201, "api_token_exists")


async def test_api_tokens_are_ones_own_but_for_admins(
    ops: Operations, admin: httpx.AsyncClient
) -> None:
    await ops.api_token(Role.VIEWER)
    async with of(ops, "bob", Role.VIEWER) as bob:
        assert (await bob.get(f"{API}/api-tokens")).json()["items"] == []
        token_id = (await admin.get(f"{API}/api-tokens")).json()["items"][0]["id"]
        assert (await bob.delete(f"{API}/api-tokens/{token_id}")).status_code == 404
        await bob.post(f"{API}/api-tokens", json={"name": "his", "scope": "viewer"})
    users = [each["user"] for each in (await admin.get(f"{API}/api-tokens")).json()["items"]]
    assert sorted(users) == ["admin", "bob"]


async def test_the_use_of_an_api_token_is_written_once_a_minute(ops: Operations) -> None:
    async with ops.client(await ops.api_token(Role.VIEWER)) as program:
        await program.get(f"{API}/session")
        before = (await ops.store.list(keys.API_TOKENS)).items
        for _ in range(5):
            ops.clock.advance(11)
            await program.get(f"{API}/session")
        assert (await ops.store.list(keys.API_TOKENS)).items == before
        ops.clock.advance(11)
        await program.get(f"{API}/session")
        assert (await ops.store.list(keys.API_TOKENS)).items != before


async def test_tokens_of_those_who_are_gone_are_swept(
    ops: Operations, admin: httpx.AsyncClient
) -> None:
    await ops.add_user("bob", Role.VIEWER)
    await ops.api_token(Role.VIEWER, "bob")
    await ops.api_token(Role.VIEWER)
    await admin.delete(f"{API}/users/bob")

    await ops.app.state.ops.access.sweep()

    assert len((await ops.store.list(keys.API_TOKENS)).items) == 1


async def test_the_ways_to_log_in_are_told_to_anybody(ops: Operations) -> None:
    async with ops.client() as client:
        answer = await client.get(f"{API}/login-methods")

    assert answer.json() == {"password": True, "oidc": None}
