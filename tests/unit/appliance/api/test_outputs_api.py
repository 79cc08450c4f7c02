"""Who is told of events, over the operations API."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.unit.appliance.operations import Operations

PATH = "/api/v1/settings/events"
HOOK: dict[str, Any] = {"url": "https://siem.example/in", "secret": "s" * 16}
SERVER: dict[str, Any] = {"host": "log.example", "port": 6514, "protocol": "tls"}


async def put(client: httpx.AsyncClient, body: dict[str, Any], etag: str = "") -> httpx.Response:
    etag = etag or (await client.get(PATH)).headers["etag"]
    return await client.put(PATH, json=body, headers={"If-Match": etag})


async def test_receivers_are_set_shown_and_kept_apart_by_etag(admin: httpx.AsyncClient) -> None:
    empty = await admin.get(PATH)
    assert empty.json() == {"syslog": [], "webhooks": []}
    made = await put(admin, {"syslog": [SERVER], "webhooks": [HOOK]})
    assert made.status_code == 200, made.text
    shown = await admin.get(PATH)

    assert shown.json() == made.json()
    assert shown.headers["etag"] == made.headers["etag"]
    assert made.json()["syslog"][0]["min_severity"] == "info"
    assert made.json()["webhooks"][0]["last_ok_at"] is None
    late = await put(admin, {"syslog": []}, empty.headers["etag"])
    assert late.status_code == 412
    assert (await admin.put(PATH, json={})).status_code == 428


async def test_a_secret_is_never_told_nor_kept_in_the_clear(
    ops: Operations, admin: httpx.AsyncClient
) -> None:
    secret = "a very secret secret"
    made = await put(admin, {"webhooks": [{**HOOK, "secret": secret}]})
    hook = made.json()["webhooks"][0]

    assert "secret" not in hook
    assert secret not in made.text
    assert not any(secret.encode() in item.value for item in (await ops.store.list("/")).items)
    again = await put(admin, {"webhooks": [{"id": hook["id"], "url": hook["url"]}]})
    assert again.status_code == 200, again.text


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"webhooks": [{"url": "https://siem.example/"}]}, "secret_required"),
        ({"webhooks": [{**HOOK, "secret": "short"}]}, "invalid"),
        ({"webhooks": [{**HOOK, "url": "http://siem.example/"}]}, "invalid"),
        ({"webhooks": [{**HOOK, "url": "https://ada:pw@siem.example/"}]}, "invalid"),
        ({"webhooks": [{**HOOK, "url": "file:///etc/passwd"}]}, "invalid"),
        ({"webhooks": [{**HOOK, "url": "https://[::1/"}]}, "invalid"),
        ({"webhooks": [{**HOOK, "ca": "no PEM"}]}, "invalid"),
        ({"webhooks": [{**HOOK, "ca": "\u0080"}]}, "invalid"),
        ({"syslog": [{**SERVER, "host": "a b"}]}, "invalid"),
        ({"syslog": [{**SERVER, "port": 0}]}, "invalid"),
        ({"syslog": [{**SERVER, "id": "../x"}]}, "invalid"),
        ({"syslog": [{**SERVER, "id": "a"}] * 2}, "invalid"),
        ({"syslog": [SERVER] * 10, "webhooks": [HOOK] * 10}, "invalid"),
    ],
)
async def test_what_can_not_be_is_refused(
    admin: httpx.AsyncClient, body: dict[str, Any], code: str
) -> None:
    answer = await put(admin, body)

    assert (answer.status_code, answer.json()["code"]) == (422, code)


async def test_a_test_says_how_it_went_for_each(admin: httpx.AsyncClient) -> None:
    made = await put(admin, {"syslog": [SERVER], "webhooks": [HOOK]})
    ids = [each["id"] for kind in ("syslog", "webhooks") for each in made.json()[kind]]
    answer = await admin.post(f"{PATH}/test", json={})

    assert answer.json()["results"] == [
        {"id": each, "ok": False, "error": "nobody is there"} for each in ids
    ]
    assert (await admin.post(f"{PATH}/test", json={"id": "none"})).status_code == 404
