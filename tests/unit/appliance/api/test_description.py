"""What the API says of itself: conventions hold for each route, examples are true, one page."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import httpx
import jsonschema_rs
import pytest
from cairn_appliance.api.ops_v1.description import EXAMPLES
from cairn_appliance.api.ops_v1.matrix import ROOT

from tests.unit.appliance.operations import Operations, operations

# Lists without pages, and why.
WHOLE = {
    "/backups": "an appliance keeps a few, and forgets the oldest",
}
# DELETE of what is never changed: there is no other state to lose.
NOT_VERSIONED = {
    "/sessions/{session}",
    "/api-tokens/{api_token}",
    "/cluster/appliances/{appliance}",
}
# POST that makes something and yet can't know a client that sends again.
NOT_REPEATED = {"/cluster/join", "/login"}


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    description = operations().app.openapi()
    assert isinstance(description, dict)
    return description


def operations_of(described: dict[str, Any], *methods: str) -> list[tuple[str, dict[str, Any]]]:
    return [
        (path.removeprefix(ROOT), operation)
        for path, known in described["paths"].items()
        for method, operation in known.items()
        if method in methods
    ]


def parameters(operation: dict[str, Any]) -> set[str]:
    return {each["name"].lower() for each in operation.get("parameters", [])}


def answer(operation: dict[str, Any]) -> dict[str, Any]:
    content = next(
        known.get("content", {})
        for status, known in operation["responses"].items()
        if status.startswith("2")
    )
    schema = content.get("application/json", {}).get("schema", {})
    assert isinstance(schema, dict)
    return schema


def test_every_list_has_pages_and_a_filter(described: dict[str, Any]) -> None:
    lists = [
        (path, operation)
        for path, operation in operations_of(described, "get")
        if "Page_" in answer(operation).get("$ref", "") or answer(operation).get("type") == "array"
    ]
    assert len(lists) >= 12
    lacking = [
        path
        for path, operation in lists
        if not {"limit", "cursor"} <= parameters(operation)
        or not parameters(operation) - {"limit", "cursor"}
    ]
    assert set(lacking) - WHOLE.keys() == set()
    assert set(lacking) == WHOLE.keys(), "no longer an exception"


def test_every_change_of_a_versioned_thing_takes_if_match(described: dict[str, Any]) -> None:
    lacking = {
        path
        for path, operation in operations_of(described, "patch", "delete")
        if "if-match" not in parameters(operation)
    }
    assert lacking == NOT_VERSIONED


def test_every_post_that_makes_something_takes_an_idempotency_key(
    described: dict[str, Any],
) -> None:
    lacking = {
        path
        for path, operation in operations_of(described, "post")
        if "201" in operation["responses"] and "idempotency-key" not in parameters(operation)
    }
    assert lacking - NOT_REPEATED == set()
    said = {
        p for p, each in operations_of(described, "post") if "idempotency-key" in parameters(each)
    }
    assert {"/vsubnets", "/users", "/cluster/join-strings", "/backups"} <= said


def test_each_request_has_an_example_that_is_valid(described: dict[str, Any]) -> None:
    used = set()
    for path, known in described["paths"].items():
        for method, operation in known.items():
            for kind, body in operation.get("requestBody", {}).get("content", {}).items():
                place = (method.upper(), path.removeprefix(ROOT))
                if kind == "application/octet-stream":
                    continue  # a file
                assert "example" in body, place
                schema = {**body["schema"], "components": described["components"]}
                jsonschema_rs.Draft202012Validator(schema).validate(body["example"])
                used.add(place)
    assert used == EXAMPLES.keys()


async def test_examples_are_taken_by_the_appliance(admin: httpx.AsyncClient) -> None:
    """Those that need nothing else first: the models check more than the schema says."""
    for path in ("/vsubnets", "/users", "/api-tokens", "/cluster/join-strings", "/segments"):
        made = await admin.post(f"{ROOT}{path}", json=EXAMPLES["POST", path])
        assert made.status_code in (200, 201), (path, made.text)
    made = await admin.post(f"{ROOT}/tokens", json=EXAMPLES["POST", "/tokens"])
    assert made.status_code == 201, made.text
    put = await admin.put(f"{ROOT}/settings/events", json=EXAMPLES["PUT", "/settings/events"])
    assert put.status_code in (200, 428), put.text


async def test_lists_are_filtered(admin: httpx.AsyncClient) -> None:
    for name in ("office", "lab"):
        await admin.post(f"{ROOT}/vsubnets", json={"name": name})
        await admin.post(f"{ROOT}/segments", json={"name": f"lan-{name}", "vsubnet": name})
        await admin.post(f"{ROOT}/tokens", json={"vsubnets": [name], "site": name})
    await admin.post(f"{ROOT}/users", json={"name": "bob", "role": "viewer"})

    async def names(path: str, field: str = "name", **query: str) -> list[str]:
        got = await admin.get(f"{ROOT}{path}", params=query)
        assert got.status_code == 200, got.text
        return [each[field] for each in got.json()["items"]]

    assert await names("/vsubnets", name="OFF") == ["office"]
    assert await names("/segments", vsubnet="lab") == ["lan-lab"]
    assert await names("/segments", name="lan") == ["lan-lab", "lan-office"]
    assert await names("/tokens", "site", vsubnet="office") == ["office"]
    assert await names("/tokens", "site", site="la") == ["lab"]
    assert await names("/users", role="viewer") == ["bob"]
    assert await names("/users", name="adm") == ["admin"]
    assert await names("/sessions", "user", user="bob") == []


class Page(HTMLParser):
    """What a page has in it, and what it asks for."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.ids: set[str] = set()
        self.leads: set[str] = set()
        self.asks: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            if name == "id":
                assert value not in self.ids, value
                self.ids.add(value or "")
            elif name == "href" and (value or "").startswith("#"):
                self.leads.add((value or "")[1:])
            elif name in ("href", "src", "style") or name.startswith("on"):
                self.asks.append(f"{tag} {name}")


async def test_the_reference_is_one_page_that_needs_nothing_else(
    ops: Operations, described: dict[str, Any]
) -> None:
    async with ops.client() as stranger:
        got = await stranger.get(f"{ROOT}/docs")
    assert got.status_code == 200
    assert got.headers["content-type"].startswith("text/html")
    policy = got.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    page = Page()
    page.feed(got.text)
    assert page.asks == []
    assert not {"script", "img", "iframe", "link", "form"} & page.tags
    assert page.leads <= page.ids
    for path in described["paths"]:
        assert f"<code>{path}</code>" in got.text
