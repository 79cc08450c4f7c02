"""Logging in by way of an identity provider: a real one over HTTPS, honest and otherwise."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import httpx
import pytest
from cairn_appliance.api.ops_v1.gate import SESSION_COOKIE
from cairn_appliance.api.ops_v1.routes.oidc import WAITING_COOKIE
from cairn_appliance.domain.access import Role
from cairn_appliance.domain.oidc import Identity, OidcState
from cairn_appliance.services.access import Caller, OpenedSession
from cairn_appliance.store import keys, records

from tests.identity_provider import CLIENT, SECRET, Running, identity_provider
from tests.unit.appliance.operations import PASSWORD, Clock, Operations, operations

API = "/api/v1"
SETTINGS = f"{API}/settings/oidc"
NAME = "ada.lovelace"


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Yield a provider for all tests."""
    with identity_provider(tmp_path_factory.mktemp("provider")) as running:
        yield running


@pytest.fixture
def provider(started: Running) -> Running:
    """Return the provider as it is honest."""
    started.does()
    return started


@pytest.fixture
async def ops(provider: Running) -> Operations:
    """Return an appliance that knows the provider."""
    made = operations(Clock(time.time()))
    await made.add_user("admin", Role.ADMIN)
    await set_provider(made, provider)
    return made


@pytest.fixture
async def admin(ops: Operations) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client that is logged in as `admin`."""
    async with ops.client(await ops.session()) as client:
        yield client


async def set_provider(ops: Operations, provider: Running, **more: Any) -> httpx.Response:
    body = {
        "name": "the office login",
        "issuer": provider.issuer,
        "client_id": CLIENT,
        "client_secret": SECRET,
        "roles": {"cairn-admins": "admin", "cairn-operators": "operator"},
        "ca": provider.ca,
        **more,
    }
    body = {name: value for name, value in body.items() if value is not ...}
    async with ops.client(await ops.session()) as client:
        answer = await client.put(SETTINGS, json=body, headers={"If-Match": "*"})
        if not more:
            assert answer.status_code == 200, answer.text
        return answer


@asynccontextmanager
async def browser(ops: Operations, address: str = "192.0.2.77") -> AsyncIterator[httpx.AsyncClient]:
    """Yield a browser at the appliance's console."""
    async with ops.client(address=address) as client:
        client.headers["X-Cairn-Console"] = "1"
        yield client


async def to_provider(client: httpx.AsyncClient, to: str = "/") -> str:
    begun = await client.get(f"{API}/oidc/login", params={"to": to})
    assert begun.status_code == 200, begun.text
    url = begun.json()["url"]
    assert isinstance(url, str)
    return url


def at_provider(provider: Running, url: str) -> dict[str, str]:
    """Let the provider let the person in; return what it sends the browser back with."""
    sent = provider.client.get(url)
    assert sent.status_code == 302, sent.text
    back = urlsplit(sent.headers["location"])
    assert (back.netloc, back.path) == ("appliance", "/oidc")
    return dict(parse_qsl(back.query))


async def come_back(client: httpx.AsyncClient, brought: dict[str, str]) -> httpx.Response:
    return await client.post(f"{API}/oidc/callback", json=brought)


async def log_in(ops: Operations, provider: Running, address: str = "192.0.2.77") -> httpx.Response:
    async with browser(ops, address) as client:
        return await come_back(client, at_provider(provider, await to_provider(client)))


# What is to go well


async def test_a_person_comes_in_with_the_role_of_their_group(
    ops: Operations, admin: httpx.AsyncClient, provider: Running
) -> None:
    async with browser(ops) as client:
        methods = (await client.get(f"{API}/login-methods")).json()
        assert methods == {"password": True, "oidc": {"name": "the office login"}}
        brought = at_provider(provider, await to_provider(client, "/nodes?state=pending"))
        entered = await come_back(client, brought)

        assert entered.status_code == 200, entered.text
        told = entered.json()
        assert (told["user"], told["role"], told["kind"]) == (NAME, "operator", "oidc")
        assert told["to"] == "/nodes?state=pending"
        assert "token" not in told
        cookie = entered.headers["set-cookie"]
        assert all(word in cookie for word in (SESSION_COOKIE, "Secure", "HttpOnly", "strict"))
        session = (await client.get(f"{API}/session")).json()
        assert (session["user"], session["csrf"]) == (NAME, told["csrf"])
        made = await client.post(
            f"{API}/vsubnets", json={"name": "one"}, headers={"X-CSRF-Token": told["csrf"]}
        )
        assert made.status_code == 201
        own = await client.post(f"{API}/session/totp", headers={"X-CSRF-Token": told["csrf"]})
        assert (own.status_code, own.json()["code"]) == (409, "external_user")

    user = (await admin.get(f"{API}/users/{NAME}")).json()
    assert (user["external"], user["role"], user["totp"]) == (True, "operator", False)
    events = [each["kind"] for each in (await admin.get(f"{API}/events")).json()["items"]]
    assert {"user_created", "logged_in", "oidc_changed"} <= set(events)
    audited = (await admin.get(f"{API}/audit")).json()["items"]
    login = next(each for each in audited if each["action"].endswith("/oidc/callback"))
    assert (login["actor"]["name"], login["outcome"]) == (NAME, "done")
    assert login["actor"]["address"] == "192.0.2.77"


async def test_the_role_is_that_of_the_last_login(
    ops: Operations, admin: httpx.AsyncClient, provider: Running
) -> None:
    assert (await log_in(ops, provider)).json()["role"] == "operator"
    provider.does(claims={"groups": ["cairn-admins", "cairn-operators"]})
    assert (await log_in(ops, provider)).json()["role"] == "admin"
    # An administrator of the provider's does not count as the last one: it may be away.
    refused = await admin.delete(f"{API}/users/admin")
    assert (refused.status_code, refused.json()["code"]) == (409, "last_admin")
    provider.does(claims={"groups": ["staff"]})
    refused = await log_in(ops, provider)
    assert (refused.status_code, refused.json()["code"]) == (403, "oidc_not_allowed")


async def test_an_external_user_has_no_password(
    ops: Operations, admin: httpx.AsyncClient, provider: Running
) -> None:
    await log_in(ops, provider)
    async with ops.client() as client:
        for password in ("", "x", PASSWORD):
            body = {"name": NAME, "password": password or " "}
            answer = await client.post(f"{API}/login", json=body)
            assert answer.json()["code"] == "wrong_login"
    for change in ({"password": "a long password here"}, {"role": "admin"}):
        url = f"{API}/users/{NAME}"
        answer = await admin.patch(url, json=change, headers={"If-Match": "*"})
        assert (answer.status_code, answer.json()["code"]) == (409, "external_user")


async def test_a_disabled_user_is_refused_and_sessions_end(
    ops: Operations, admin: httpx.AsyncClient, provider: Running
) -> None:
    async with browser(ops) as client:
        await come_back(client, at_provider(provider, await to_provider(client)))
        body = {"disabled": True}
        await admin.patch(f"{API}/users/{NAME}", json=body, headers={"If-Match": "*"})
        assert (await client.get(f"{API}/session")).status_code == 401
    refused = await log_in(ops, provider)
    assert (refused.status_code, refused.json()["code"]) == (403, "user_disabled")


@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
async def test_a_new_key_is_found_by_its_name(
    ops: Operations, provider: Running, algorithm: str
) -> None:
    assert (await log_in(ops, provider)).status_code == 200
    line = ops.app.state.ops.oidc._line
    line._now = lambda: time.monotonic() + 31.0  # asked again at most twice a minute
    provider.does(key=algorithm)
    assert (await log_in(ops, provider)).status_code == 200
    assert provider.does()["keys"] == 1


# Who may not


MAY: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({"allowed_domains": ["Office.Example"]}, {}, ""),
    ({"allowed_domains": ["other.example"]}, {}, "oidc_not_allowed"),
    ({"allowed_domains": ["office.example"]}, {"email_verified": False}, "oidc_not_allowed"),
    ({"allowed_domains": ["office.example"]}, {"email_verified": None}, "oidc_not_allowed"),
    ({"allowed_domains": ["office.example"]}, {"email": None}, "oidc_not_allowed"),
    (
        {"allowed_domains": ["office.example"]},
        {"email": "ada@office.example@evil.example"},
        "oidc_not_allowed",
    ),
    ({"allowed_groups": ["staff"]}, {}, ""),
    ({"allowed_groups": ["board"]}, {}, "oidc_not_allowed"),
    ({"role_claim": "realm_access.roles"}, {}, "oidc_not_allowed"),
    (
        {"role_claim": "realm_access.roles"},
        {"realm_access": {"roles": ["cairn-admins"]}},
        "",
    ),
    ({"roles": {}, "default_role": "viewer"}, {"groups": None}, ""),
    ({"user_claim": "nickname"}, {"email": None}, "oidc_not_allowed"),
    ({}, {"preferred_username": "ADMIN"}, "oidc_name_taken"),
    ({}, {"sub": None}, "oidc_token"),
    ({}, {"sub": "a b"}, "oidc_token"),
]


async def test_who_may_come_in_is_what_was_set(ops: Operations, provider: Running) -> None:
    for index, (settings, claims, code) in enumerate(MAY):
        put = await set_provider(ops, provider, client_secret=..., **settings)
        assert put.status_code == 200, put.text
        person = {"sub": f"person-{index}", "preferred_username": f"ada-{index}"}
        provider.does(claims={**person, **claims})
        answer = await log_in(ops, provider)

        assert answer.json().get("code", "") == code, (settings, claims, answer.text)


async def test_a_name_that_is_given_to_another_person_opens_nothing(
    ops: Operations, provider: Running
) -> None:
    await log_in(ops, provider)
    provider.does(claims={"sub": "somebody-else"})
    refused = await log_in(ops, provider)

    assert (refused.status_code, refused.json()["code"]) == (403, "oidc_name_taken")


# What an attacker tries


LIES: dict[str, dict[str, Any]] = {
    "wrong nonce": {"claims": {"nonce": "another"}},
    "no nonce": {"claims": {"nonce": None}},
    "alg none": {"alg": "none"},
    "alg None": {"alg": "None"},
    "HMAC with the public key": {"alg": "HS256"},
    "an algorithm that is not allowed": {"alg": "RS512"},
    "signed by another key": {"forged": True},
    "a key that is unknown": {"header": {"kid": "unheard"}},
    "crit": {"header": {"crit": ["b64"], "b64": True}},
    "expired": {"claims": {"exp": 1}},
    "no end": {"claims": {"exp": None}},
    "an end that is none": {"claims": {"exp": True}},
    "from the future": {"claims": {"iat": 4_000_000_000}},
    "from before the login": {"claims": {"iat": 1_000_000_000}},
    "not yet": {"claims": {"nbf": 4_000_000_000}},
    "other audience": {"claims": {"aud": "another-client"}},
    "other audiences": {"claims": {"aud": ["another-client"]}},
    "two audiences, no azp": {"claims": {"aud": [CLIENT, "x"]}},
    "other party": {"claims": {"azp": "another-client"}},
    "other issuer": {"claims": {"iss": "https://evil.example"}},
}


async def test_a_token_that_is_not_of_this_login_opens_nothing(
    ops: Operations, provider: Running
) -> None:
    for index, (what, lie) in enumerate(LIES.items()):
        provider.does(**lie)
        answer = await log_in(ops, provider, f"192.0.2.{index}")

        assert (answer.status_code, answer.json()["code"]) == (403, "oidc_token"), what
        assert answer.json()["remedy"]
        assert SESSION_COOKIE not in answer.headers.get("set-cookie", "")
        assert await ops.store.get(keys.user(NAME)) is None
    provider.does()
    assert (await log_in(ops, provider)).status_code == 200


async def test_a_login_opens_once_and_in_its_own_browser_only(
    ops: Operations, provider: Running
) -> None:
    async with browser(ops) as client, browser(ops) as other:
        brought = at_provider(provider, await to_provider(client))
        for stranger, what in (
            (other, brought),  # a browser that has begun nothing
            (client, {**brought, "state": "A" * 43}),
            (client, {**brought, "iss": "https://evil.example"}),
        ):
            refused = await come_back(stranger, what)
            assert (refused.status_code, refused.json()["code"]) == (403, "oidc_state")
        await to_provider(other)  # its own login is not the one that is brought
        assert (await come_back(other, brought)).json()["code"] == "oidc_state"

        waiting = client.cookies[WAITING_COOKIE]
        assert (await come_back(client, brought)).status_code == 200
        client.cookies.set(WAITING_COOKIE, waiting, domain="appliance")
        fresh = at_provider(provider, await to_provider(other))
        again = await come_back(client, {**brought, "code": fresh["code"]})
        assert (again.status_code, again.json()["code"]) == (403, "oidc_state")
    async with browser(ops) as client:
        brought = at_provider(provider, await to_provider(client))
        ops.clock.advance(601)
        late = await come_back(client, brought)
        assert (late.status_code, late.json()["code"]) == (403, "oidc_state")


async def test_what_says_that_a_login_has_been_is_forgotten_in_time(
    ops: Operations, provider: Running
) -> None:
    await log_in(ops, provider)
    oidc = ops.app.state.ops.oidc
    assert await oidc.sweep() == 0
    ops.clock.advance(700)
    assert await oidc.sweep() == 1
    assert (await ops.store.list(keys.OIDC_USED)).items == ()


async def test_two_at_once_with_one_login_open_one_session(
    ops: Operations, provider: Running
) -> None:
    """The provider would refuse the code; the appliance does not rely on it."""
    logins = ops.app.state.ops.oidc._logins
    identity = Identity("https://login.example 1", "ada", Role.VIEWER)
    caller = Caller("192.0.2.1")
    tries = (logins.open(identity, keys.oidc_used("ab"), caller) for _ in range(5))
    ends = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(each, OpenedSession) for each in ends) == 1
    assert sum(isinstance(each, OidcState) for each in ends) == 4


async def test_a_code_of_another_login_is_worth_nothing(ops: Operations, provider: Running) -> None:
    """PKCE: whoever gets hold of a code lacks what the other browser keeps."""
    async with browser(ops) as client, browser(ops) as thief:
        stolen = at_provider(provider, await to_provider(client))["code"]
        own = at_provider(provider, await to_provider(thief))
        refused = await come_back(thief, {**own, "code": stolen})

        assert (refused.status_code, refused.json()["code"]) == (403, "oidc_denied")


async def test_the_way_back_stays_at_the_appliance(ops: Operations, provider: Running) -> None:
    for to in ("//evil.example/", "https://evil.example", "/\\evil.example", "x", "/a b"):
        async with browser(ops) as client:
            brought = at_provider(provider, await to_provider(client, to))
            assert (await come_back(client, brought)).json()["to"] == "/", to


async def test_what_the_provider_says_is_not_repeated_as_it_is(
    ops: Operations, provider: Running
) -> None:
    provider.does(denies="access_denied")
    refused = await log_in(ops, provider)
    assert (refused.status_code, refused.json()["code"]) == (403, "oidc_denied")
    assert "access_denied" in refused.json()["detail"]
    provider.does(denies="call 555-0100 to unlock")
    assert "555" not in (await log_in(ops, provider)).text


async def test_logins_are_limited_by_address(ops: Operations, provider: Running) -> None:
    async with browser(ops) as client:
        await to_provider(client)
        answers = [await come_back(client, {"state": "A" * 43, "code": "x"}) for _ in range(21)]
        assert [each.status_code for each in answers] == [403] * 20 + [429]
        begun = [await client.get(f"{API}/oidc/login") for _ in range(30)]
        assert [each.status_code for each in begun][-2:] == [200, 429]


# When the provider is away, or does odd things


async def test_while_the_provider_is_away_passwords_open(
    ops: Operations, admin: httpx.AsyncClient, provider: Running
) -> None:
    async with browser(ops) as client:
        provider.process.send_signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            away = await client.get(f"{API}/oidc/login")
            again = await client.get(f"{API}/oidc/login")
            took = time.monotonic() - began
            assert await ops.login()
        finally:
            provider.process.send_signal(signal.SIGCONT)
        assert (away.status_code, away.json()["code"]) == (503, "oidc_unavailable")
        assert "password" in away.json()["remedy"]
        assert again.json()["detail"] == away.json()["detail"]
        assert took < 8.0  # the second is told what the first has found
        assert (await set_provider(ops, provider, issuer="https://127.0.0.1:1")).status_code == 200
        refused = await client.get(f"{API}/oidc/login")
        assert (refused.status_code, refused.json()["code"]) == (503, "oidc_unavailable")
    tested = (await admin.post(f"{SETTINGS}/test")).json()
    assert (tested["ok"], "127.0.0.1:1" in tested["error"]) == (False, True)


async def test_a_certificate_that_nobody_vouches_for_is_refused(
    ops: Operations, provider: Running
) -> None:
    assert (await set_provider(ops, provider, ca="")).status_code == 200
    async with browser(ops) as client:
        answer = await client.get(f"{API}/oidc/login")
    assert answer.status_code == 503
    assert "not believed" in answer.json()["detail"]
    assert "--ca" in answer.json()["remedy"]


@pytest.mark.parametrize(
    "lie",
    [
        pytest.param({"metadata": {"issuer": "https://evil.example"}}, id="another issuer"),
        pytest.param({"metadata": {"token_endpoint": "http://127.0.0.1/"}}, id="in the clear"),
        pytest.param({"metadata": {"jwks_uri": None}}, id="no keys"),
        pytest.param(
            {"metadata": {"id_token_signing_alg_values_supported": ["HS256"]}}, id="only HMAC"
        ),
        pytest.param({"jwks": "endless"}, id="keys without end"),
        pytest.param({"token": "redirect"}, id="a redirect with the secret"),
    ],
)
async def test_a_provider_that_does_odd_things_is_told_of(
    ops: Operations, provider: Running, lie: dict[str, Any]
) -> None:
    provider.does(**lie)
    async with browser(ops) as client:
        answer = await client.get(f"{API}/oidc/login")
        if answer.status_code == 200:
            answer = await come_back(client, at_provider(provider, answer.json()["url"]))
    assert (answer.status_code, answer.json()["code"]) == (503, "oidc_unavailable"), answer.text


async def test_guessed_key_names_make_nobody_ask_the_provider(
    ops: Operations, provider: Running
) -> None:
    provider.does(header={"kid": "unheard"})
    for _ in range(5):
        await log_in(ops, provider)
    assert provider.does()["keys"] == 1


# What is set


async def test_the_secret_is_told_to_nobody_and_not_kept_in_the_clear(
    ops: Operations, admin: httpx.AsyncClient, provider: Running
) -> None:
    shown = await admin.get(SETTINGS)
    assert shown.json()["has_secret"] is True
    assert shown.json()["redirect_uri"] == "https://appliance/oidc"
    assert SECRET not in shown.text
    assert "client_secret" not in shown.json()
    stored = (await ops.store.list(keys.ROOT)).items
    assert not any(SECRET.encode() in item.value for item in stored)
    kept = await set_provider(ops, provider, client_secret=..., name="another word")
    assert kept.json()["has_secret"] is True
    assert (await log_in(ops, provider)).status_code == 200
    for other in ({"issuer": "https://evil.example"}, {"client_id": "another"}):
        refused = await set_provider(ops, provider, client_secret=..., **other)
        assert (refused.status_code, refused.json()["code"]) == (422, "secret_required")
    public = await set_provider(ops, provider, client_secret="", client_id="another")
    assert public.json()["has_secret"] is False


async def test_it_is_changed_by_persons_with_what_they_have_read(
    ops: Operations, admin: httpx.AsyncClient
) -> None:
    tag = (await admin.get(SETTINGS)).headers["etag"]
    body = {"issuer": "https://login.example", "client_id": "cairn", "client_secret": "x"}
    assert (await admin.put(SETTINGS, json=body)).status_code == 428
    assert (await admin.put(SETTINGS, json=body, headers={"If-Match": tag})).status_code == 200
    assert (await admin.put(SETTINGS, json=body, headers={"If-Match": tag})).status_code == 412
    async with ops.client(await ops.api_token(Role.ADMIN)) as program:
        for method in ("PUT", "DELETE"):
            answer = await program.request(method, SETTINGS, json=body)
            assert (answer.status_code, answer.json()["code"]) == (403, "person_needed")
    assert (await admin.delete(SETTINGS)).status_code == 204
    assert (await admin.get(SETTINGS)).json()["issuer"] == ""
    async with ops.client() as client:
        gone = await client.get(f"{API}/oidc/login")
        assert (gone.status_code, gone.json()["code"]) == (404, "oidc_not_set")
    audited = (await admin.get(f"{API}/audit")).json()["items"]
    put = next(
        each
        for each in audited
        if each["action"] == "PUT /api/v1/settings/oidc" and each["outcome"] == "done"
    )
    assert "issuer" in put["details"]
    assert "client_secret" not in put["details"]


CAN_NOT_BE: list[dict[str, Any]] = [
    {"issuer": "http://login.example"},
    {"issuer": "https://ada:pw@login.example"},
    {"issuer": "https://login.example/?a=b"},
    {"issuer": "https://login.example/#x"},
    {"issuer": "file:///etc/passwd"},
    {"ca": "no PEM"},
    {"ca": "\u0080"},
    {"roles": {"x": "king"}},
    {"allowed_domains": ["a b"]},
    {"client_id": "a b"},
    {"unknown": 1},
]


async def test_what_can_not_be_is_refused(admin: httpx.AsyncClient) -> None:
    whole = {"issuer": "https://login.example", "client_id": "cairn", "client_secret": "x"}
    for body in CAN_NOT_BE:
        answer = await admin.put(SETTINGS, json={**whole, **body}, headers={"If-Match": "*"})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid"), body


async def test_the_user_is_bound_to_issuer_and_subject(ops: Operations, provider: Running) -> None:
    await log_in(ops, provider)
    item = await ops.store.get(keys.user(NAME))
    assert item is not None
    user = records.users.decode(item)

    assert user.external == f"{provider.issuer} 7c1e-ada"
    assert user.password_hash == ""
