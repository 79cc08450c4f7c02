"""vSubnets, tokens, nodes and members over HTTP."""

from __future__ import annotations

import uuid
from typing import Any

import httpx
import pytest
from cairn_appliance.services.idempotency import Answer, Claim, Idempotency
from cairn_appliance.store.port import Unavailable

from tests.unit.appliance.operations import Operations

VSUBNETS = "/api/v1/vsubnets"
TOKENS = "/api/v1/tokens"
NODES = "/api/v1/nodes"


async def created(client: httpx.AsyncClient, path: str, **body: object) -> httpx.Response:
    answer = await client.post(path, json=body)
    assert answer.status_code == 201, answer.text
    return answer


async def items(client: httpx.AsyncClient, path: str, **query: str) -> list[dict[str, Any]]:
    answer = await client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["items"]
    return found


async def test_a_vsubnet_is_made_changed_and_deleted(admin: httpx.AsyncClient) -> None:
    made = await created(admin, VSUBNETS, name="office", prefixes=["fd00:7::/64", "10.7.0.0/24"])
    where = made.headers["location"]
    assert made.json()["prefixes"] == ["10.7.0.0/24", "fd00:7::/64"]
    assert 0 < made.json()["vni"] < 1 << 24

    for reference in ("office", made.json()["id"], str(made.json()["vni"])):
        assert (await admin.get(f"{VSUBNETS}/{reference}")).json() == made.json()

    etag = made.headers["etag"]
    body = {"mtu": 1380, "policy": {"ageing_s": 600}}
    changed = await admin.patch(where, json=body, headers={"If-Match": etag})
    assert changed.status_code == 200
    expected = {**made.json()["policy"], "ageing_s": 600}
    assert changed.json() == {**made.json(), "mtu": 1380, "policy": expected}

    assert (await admin.delete(where)).status_code == 204
    assert (await admin.get(where)).status_code == 404


async def test_a_change_needs_if_match_and_is_refused_when_stale(admin: httpx.AsyncClient) -> None:
    made = await created(admin, VSUBNETS, name="office")
    where, etag = made.headers["location"], made.headers["etag"]

    without = await admin.patch(where, json={"mtu": 1380})
    first = await admin.patch(where, json={"mtu": 1380}, headers={"If-Match": etag})
    second = await admin.patch(where, json={"mtu": 1300}, headers={"If-Match": etag})
    stale_delete = await admin.delete(where, headers={"If-Match": etag})
    nonsense = await admin.patch(where, json={"mtu": 1300}, headers={"If-Match": "yesterday"})
    anyhow = await admin.patch(where, json={"mtu": 1290}, headers={"If-Match": "*"})

    assert without.status_code == 428
    assert without.json()["code"] == "if_match_required"
    assert first.status_code == 200
    assert first.headers["etag"] != etag
    assert (second.status_code, second.json()["code"]) == (412, "changed_meanwhile")
    assert stale_delete.status_code == 412
    assert (nonsense.status_code, nonsense.json()["code"]) == (422, "invalid_etag")
    assert anyhow.status_code == 200
    current = await admin.get(where)
    assert current.json()["mtu"] == 1290
    assert current.headers["etag"] == anyhow.headers["etag"]


async def test_a_post_with_a_key_is_done_once(admin: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    first = await admin.post(TOKENS, json={"site": "a"}, headers=headers)
    again = await admin.post(TOKENS, json={"site": "a"}, headers=headers)
    other = await admin.post(TOKENS, json={"site": "b"}, headers=headers)

    assert first.json()["token"].startswith("cairn1.")
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert again.headers["etag"] == first.headers["etag"]
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["idempotency-replayed"] == "true"
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert len(await items(admin, TOKENS)) == 1


async def test_a_post_that_failed_may_be_repeated_with_its_key(admin: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    body = {"vsubnets": ["office"]}
    refused = await admin.post(TOKENS, json=body, headers=headers)
    await created(admin, VSUBNETS, name="office")

    assert refused.status_code == 404
    assert (await admin.post(TOKENS, json=body, headers=headers)).status_code == 201


async def test_what_is_done_is_told_even_if_its_answer_can_not_be_kept(
    ops: Operations, admin: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unavailable(_self: Idempotency, _claim: Claim, _answer: Answer) -> None:
        raise Unavailable("no quorum")

    monkeypatch.setattr(Idempotency, "finish", unavailable)
    headers = {"Idempotency-Key": str(uuid.uuid4())}
    made = await admin.post(TOKENS, json={}, headers=headers)
    monkeypatch.undo()
    again = await admin.post(TOKENS, json={}, headers=headers)

    assert made.status_code == 201
    assert (again.status_code, again.json()["code"]) == (409, "request_in_progress")
    assert len(await items(admin, TOKENS)) == 1


async def test_pages_hold_everything_once_while_others_write(admin: httpx.AsyncClient) -> None:
    names = [f"net-{number:02}" for number in range(7)]
    for name in names:
        await created(admin, VSUBNETS, name=name)

    seen, cursor = [], ""
    for _ in range(10):
        answer = (await admin.get(VSUBNETS, params={"limit": 3, "cursor": cursor})).json()
        seen += [item["name"] for item in answer["items"]]
        assert len(answer["items"]) <= 3
        cursor = answer["next"]
        if cursor is None:
            break
        if len(seen) == 3:
            await created(admin, VSUBNETS, name="net-00a")  # before the cursor: not shown
            await admin.delete(f"{VSUBNETS}/net-02")  # the one that the cursor names

    assert seen == names


async def test_a_node_joins_with_a_token_that_the_api_made(
    ops: Operations, admin: httpx.AsyncClient
) -> None:
    await created(admin, VSUBNETS, name="office", prefixes=["10.7.0.0/24"])
    token = (await created(admin, TOKENS, vsubnets=["office"], max_uses=2, site="cloud-a")).json()

    node_id = await ops.enrol("web-1", token["token"])

    node = (await admin.get(f"{NODES}/web-1")).json()
    assert (node["id"], node["state"], node["site"]) == (node_id, "approved", "cloud-a")
    assert [member["ips"] for member in node["members"]] == [["10.7.0.2"]]
    assert node["members"][0]["vsubnet"]["name"] == "office"
    used = (await admin.get(f"{TOKENS}/{token['id']}")).json()
    assert (used["uses"], used["state"]) == (1, "active")
    assert await items(admin, "/api/v1/sites") == [
        {"name": "cloud-a", "description": "", "nodes": 1, "nodes_connected": 0}
    ]


async def test_a_token_shows_from_which_networks_it_may_be_used(admin: httpx.AsyncClient) -> None:
    sources = ["192.0.2.0/24", "192.0.2.7", "192.0.2.0/24"]
    token = (await created(admin, TOKENS, sources=sources)).json()
    assert token["sources"] == ["192.0.2.0/24", "192.0.2.7/32"]
    shown = (await admin.get(f"{TOKENS}/{token['id']}")).json()
    assert shown["sources"] == token["sources"]
    refused = await admin.post(TOKENS, json={"sources": ["the office"]})
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_source")


async def test_a_token_shows_which_machines_may_use_it(admin: httpx.AsyncClient) -> None:
    instances = ["I-0ABC", "4c4c4544-0042", "i-0abc"]
    token = (await created(admin, TOKENS, instances=instances)).json()
    assert token["instances"] == ["i-0abc", "4c4c4544-0042"]
    shown = (await admin.get(f"{TOKENS}/{token['id']}")).json()
    assert shown["instances"] == token["instances"]
    refused = await admin.post(TOKENS, json={"instances": ["the printer"]})
    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_instance")
    refused = await admin.post(TOKENS, json={"instances": [f"i-{n}" for n in range(65)]})
    assert refused.status_code == 422


async def test_a_token_shows_when_it_is_expired_or_used_up(
    ops: Operations, admin: httpx.AsyncClient
) -> None:
    used = (await created(admin, TOKENS, max_uses=1)).json()
    await ops.enrol("web-1", used["token"])
    ops.clock.advance(1)
    await created(admin, TOKENS, life_s=60)
    ops.clock.advance(61)
    await created(admin, TOKENS)

    states = [token["state"] for token in await items(admin, TOKENS)]

    assert states == ["active", "expired", "used_up"]  # newest first


async def test_a_pending_node_is_let_in_or_turned_away(
    ops: Operations, admin: httpx.AsyncClient
) -> None:
    await created(admin, VSUBNETS, name="office", prefixes=["10.7.0.0/24"])
    good, bad = [await ops.join(name, "office", pending=True) for name in ("good", "bad")]
    assert [n["name"] for n in await items(admin, NODES, state="pending")] == ["bad", "good"]
    waiting = (await admin.get(f"{NODES}/good")).json()["wanted"]
    assert [each["name"] for each in waiting] == ["office"]

    approved = await admin.post(f"{NODES}/{good}/approve")
    rejected = await admin.post(f"{NODES}/{bad}/reject", json={"reason": "not ours"})

    assert approved.json()["members"][0]["ips"] == ["10.7.0.2"]
    assert rejected.status_code == 204
    assert [node["name"] for node in await items(admin, NODES)] == ["good"]
    removed = await items(admin, NODES, state="removed")
    assert [(node["name"], node["removed_why"]) for node in removed] == [("bad", "not ours")]


async def test_a_deleted_node_has_no_member_left(ops: Operations, admin: httpx.AsyncClient) -> None:
    await created(admin, VSUBNETS, name="office", prefixes=["10.7.0.0/24"])
    node_id = await ops.join("web-1", "office")

    deleted = await admin.delete(f"{NODES}/{node_id}", params={"reason": "lost"})

    assert deleted.status_code == 204
    assert await items(admin, "/api/v1/members") == []
    assert (await admin.get(f"{NODES}/web-1")).status_code == 404
    assert (await admin.get(f"{NODES}/{node_id}")).json()["state"] == "removed"


async def test_two_nodes_of_one_name_are_ambiguous(
    ops: Operations, admin: httpx.AsyncClient
) -> None:
    await ops.join("web-1")
    await ops.join("web-1")

    answer = await admin.get(f"{NODES}/web-1")

    assert (answer.status_code, answer.json()["code"]) == (409, "ambiguous")


async def test_a_member_is_made_changed_and_deleted(
    ops: Operations, admin: httpx.AsyncClient
) -> None:
    await created(admin, VSUBNETS, name="office", prefixes=["10.7.0.0/24"])
    await ops.join("web-1")
    members = f"{VSUBNETS}/office/members"

    made = await created(admin, members, node="web-1", ips=["10.7.0.99"])
    assert made.json()["ips"] == ["10.7.0.99"]
    where, etag = made.headers["location"], made.headers["etag"]
    assert await items(admin, members) == [made.json()]
    assert await items(admin, "/api/v1/members", node="web-1") == [made.json()]

    changed = await admin.patch(where, json={"ips": ["10.7.0.98"]}, headers={"If-Match": etag})
    stale = await admin.patch(where, json={"ips": ["10.7.0.97"]}, headers={"If-Match": etag})
    assert changed.json()["ips"] == ["10.7.0.98"]
    assert changed.json()["mac"] == made.json()["mac"]
    assert stale.status_code == 412

    assert (await admin.delete(where)).status_code == 204
    assert (await admin.get(where)).status_code == 404


@pytest.mark.parametrize("ip", ["10.8.0.1", "10.7.0.0", "10.7.0.255", "nonsense", "10.7.0.2/24"])
async def test_a_member_gets_no_address_from_elsewhere(
    ops: Operations, admin: httpx.AsyncClient, ip: str
) -> None:
    await created(admin, VSUBNETS, name="office", prefixes=["10.7.0.0/24"])
    await ops.join("web-1")

    answer = await admin.post(f"{VSUBNETS}/office/members", json={"node": "web-1", "ips": [ip]})

    assert answer.status_code in (409, 422), answer.text
    assert answer.json()["remedy"]


async def test_every_change_is_an_event_with_who_and_from_where(
    admin: httpx.AsyncClient,
) -> None:
    await created(admin, VSUBNETS, name="office")
    await created(admin, TOKENS)
    await admin.delete(f"{VSUBNETS}/office")

    events = await items(admin, "/api/v1/events")

    assert [event["kind"] for event in events] == [
        "vsubnet_deleted",
        "token_created",
        "vsubnet_created",
    ]
    assert {(e["by"]["kind"], e["by"]["name"], e["by"]["address"]) for e in events} == {
        ("operator", "admin", "192.0.2.50")
    }


async def test_events_are_filtered_and_come_in_pages(
    ops: Operations, admin: httpx.AsyncClient
) -> None:
    await created(admin, VSUBNETS, name="office", prefixes=["10.7.0.0/24"])
    node_id = await ops.join("web-1", "office")
    ops.clock.advance(1700)
    await created(admin, VSUBNETS, name="late")
    path = "/api/v1/events"
    everything = await items(admin, path)

    about = await items(admin, path, node=node_id)
    kinds = {event["kind"] for event in await items(admin, path, kind="token_created")}
    late = await items(admin, path, since="2026-11-23T00:20:00Z")
    early = await items(admin, path, until="2026-11-23T00:20:00Z")
    first = (await admin.get(path, params={"limit": 2})).json()
    second = (await admin.get(path, params={"limit": 100, "cursor": first["next"]})).json()

    assert {event["node"]["name"] for event in about} == {"web-1"}
    assert kinds == {"token_created"}
    assert [event["text"] for event in late] == [everything[0]["text"]]
    assert late + early == everything
    assert first["items"] + second["items"] == everything
    assert await items(admin, path, severity="alarm") == []


async def test_the_session_tells_who_asks_and_ends(
    ops: Operations, admin: httpx.AsyncClient
) -> None:
    who = (await admin.get("/api/v1/session")).json()
    assert (who["user"], who["role"]) == ("admin", "admin")
    assert who["ends_at"] == "2026-11-23T00:30:00Z"

    assert (await admin.post("/api/v1/logout")).status_code == 204

    assert (await admin.get("/api/v1/session")).status_code == 401


async def test_status_counts_what_there_is(ops: Operations, admin: httpx.AsyncClient) -> None:
    await created(admin, VSUBNETS, name="office", prefixes=["10.7.0.0/24"])
    node_id = await ops.join("web-1", "office", site="cloud-a")
    await ops.join("web-2", pending=True)
    ops.services.presence.connected(node_id)
    ops.services.presence.loaded(node_id, 7, {}, "a reason")

    status = (await admin.get("/api/v1/status")).json()

    assert status["store"]["healthy"] is True
    assert status["incarnation"] == 1
    assert status["counts"] == {
        "vsubnets": 1,
        "members": 1,
        "tokens": 2,
        "nodes": 2,
        "nodes_connected": 1,
        "nodes_pending": 1,
        "nodes_refusing": 1,
        "sites": 1,
    }
    link = (await admin.get(f"{NODES}/web-1")).json()["link"]
    assert (link["connected"], link["refused"]) == (True, "a reason")


async def test_the_ca_is_public_and_is_the_one_that_tokens_pin(ops: Operations) -> None:
    async with ops.client() as client:
        answer = await client.get("/api/v1/ca")

    assert answer.text == ops.authority.certificate.decode()


async def test_the_description_names_every_route_and_the_problem(ops: Operations) -> None:
    async with ops.client() as client:
        described = (await client.get("/api/v1/openapi.json")).json()

    assert "/api/v1/vsubnets/{vsubnet}/members/{node}" in described["paths"]
    answers = described["paths"]["/api/v1/tokens"]["post"]["responses"]
    assert "application/problem+json" in answers["4XX"]["content"]
