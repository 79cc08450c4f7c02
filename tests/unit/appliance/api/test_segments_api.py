"""Segments over the operations API, and gateways over the agent API."""

from __future__ import annotations

import httpx
import pytest
from cairn_appliance.store import keys
from cairn_appliance.store.port import Reset

from tests.unit.appliance.api.test_agent_api import client
from tests.unit.appliance.gateways import Office
from tests.unit.appliance.operations import Operations


async def make(admin: httpx.AsyncClient, ops: Operations) -> dict[str, object]:
    """Make a vSubnet, a node and a segment; return the segment."""
    await admin.post("/api/v1/vsubnets", json={"name": "red", "prefixes": ["10.7.0.0/24"]})
    await ops.join("g1")
    made = await admin.post("/api/v1/segments", json={"name": "lan", "vsubnet": "red"})
    assert made.status_code == 201
    assert made.headers["location"] == f"/api/v1/segments/{made.json()['id']}"
    found: dict[str, object] = made.json()
    return found


async def test_a_segment_is_made_changed_with_its_etag_and_deleted(
    admin: httpx.AsyncClient, ops: Operations
) -> None:
    made = await make(admin, ops)
    url = f"/api/v1/segments/{made['id']}"
    one = await admin.get(url)
    assert one.json() == made | {"vsubnet": one.json()["vsubnet"]}
    patch = {"guards": {"dhcp": True}, "preference": "availability"}
    assert (await admin.patch(url, json=patch)).status_code == 428
    stale = await admin.patch(url, json=patch, headers={"If-Match": '"1"'})
    assert stale.status_code == 412
    done = await admin.patch(url, json=patch, headers={"If-Match": one.headers["etag"]})
    assert done.status_code == 200
    assert done.json()["guards"] == {**made["guards"], "dhcp": True}  # type: ignore[dict-item]
    assert (await admin.delete(url)).status_code == 204
    assert (await admin.get(url)).json()["code"] == "not_found"


async def test_attach_and_detach(admin: httpx.AsyncClient, ops: Operations) -> None:
    await make(admin, ops)
    url = "/api/v1/segments/lan/gateways"
    attached = await admin.post(url, json={"node": "g1", "port": "eth1", "vlan": 7})
    assert attached.status_code == 201
    (gateway,) = attached.json()["gateways"]
    assert (gateway["node"]["name"], gateway["port"], gateway["vlan"]) == ("g1", "eth1", 7)
    assert (gateway["able"], gateway["heard_ago_s"]) == (False, None)
    members = (await admin.get("/api/v1/members")).json()["items"]
    assert [(each["role"], each["ips"]) for each in members] == [("gateway", [])]
    assert (await admin.delete(url + "/g1")).status_code == 204
    assert (await admin.delete(url + "/g1")).json()["code"] == "not_found"
    assert (await admin.get("/api/v1/members")).json()["items"] == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"node": "g1", "port": "eth1", "vlan": 4095}, 422),
        ({"node": "g1", "port": "", "vlan": 0}, 422),
        ({"node": "nobody", "port": "eth1"}, 404),
        ({"node": "g1", "port": "eth1", "surprise": 1}, 422),
    ],
)
async def test_what_can_t_be_attached_is_refused(
    admin: httpx.AsyncClient, ops: Operations, body: dict[str, object], status: int
) -> None:
    await make(admin, ops)
    refused = await admin.post("/api/v1/segments/lan/gateways", json=body)
    assert refused.status_code == status
    assert refused.json()["remedy"]


async def test_a_pre_flight_of_a_node_that_is_away_is_refused(
    admin: httpx.AsyncClient, ops: Operations
) -> None:
    await make(admin, ops)
    body = {"node": "g1", "port": "eth1", "vsubnet": "red"}
    refused = await admin.post("/api/v1/preflights", json=body)
    assert (refused.status_code, refused.json()["code"]) == (409, "node_away")
    assert (await admin.get("/api/v1/preflights/none")).status_code == 404


async def test_a_gateway_beats_and_reports_and_a_stranger_may_nothing() -> None:
    office = await Office().open("g1")
    stranger = await office.replica.joined("h1", "red")
    await office.look()
    said = {"segment": office.segment, "is_able": True}
    async with client(office.replica, office.gateways[0]) as api:
        answer = await api.post("/gateway/beat", json={"segments": [said], "boot": "b1"})
        assert answer.status_code == 200
        (grant,) = answer.json()["grants"]
        assert (grant["holder"], grant["hold_s"]) == (office.gateways[0].id, 1.5)
        event = {"segment": office.segment, "code": "storm", "detail": "too much"}
        assert (await api.post("/gateway/event", json=event)).status_code == 204
        await office.look()
        seen = {"mac": "02:00:00:00:00:07", "ips": []}
        report = {"term": grant["term"], "is_full": True, "seen": [seen], "gone": []}
        report["segment"] = office.segment
        assert (await api.post("/gateway/stations", json=report)).status_code == 204
        released = {"segment": office.segment, "term": grant["term"]}
        assert (await api.post("/gateway/release", json=released)).status_code == 204
        for _ in range(25):
            limited = await api.post("/gateway/event", json=event)
        assert limited.status_code == 429
        assert int(limited.headers["retry-after"]) >= 1
    async with client(office.replica, stranger) as api:
        assert (await api.post("/gateway/beat", json={"segments": [said]})).json() == {"grants": []}
        for call, body in (("event", event), ("stations", report), ("release", released)):
            refused = await api.post(f"/gateway/{call}", json=body)
            assert (refused.status_code, refused.json()["code"]) == (403, "not_your_duty")


async def test_a_replica_that_knows_no_map_yet_confirms_nobody() -> None:
    office = await Office().open("g1")
    third = type(office.replica)(office.memory, "r3")
    said = {"segment": office.segment, "is_able": True}
    async with client(third, office.gateways[0]) as api:
        answer = await api.post("/gateway/beat", json={"segments": [said]})
        assert answer.status_code == 503
        listing = await office.memory.list(keys.MAP)
        third.services.netmaps.take([Reset(listing.revision, listing.items)])
        assert (await api.post("/gateway/beat", json={"segments": [said]})).status_code == 200
