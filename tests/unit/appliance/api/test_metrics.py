"""What Prometheus reads of an appliance."""

from __future__ import annotations

import httpx
import pytest
from cairn_appliance.api.ops_v1 import exposition
from cairn_appliance.domain.access import Role
from cairn_appliance.domain.alarm import Alarm
from cairn_appliance.store import keys
from cairn_appliance.store.port import Reset
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from tests.unit.appliance.operations import Operations

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples_of(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def scrape(client: httpx.AsyncClient) -> Samples:
    answer = await client.get("/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return samples_of(answer.text)


async def take_map(ops: Operations) -> None:
    """Let the netmaps see what the store has, as the stream task does."""
    listing = await ops.store.list(keys.MAP)
    ops.services.netmaps.take([Reset(listing.revision, listing.items)])


async def test_a_viewer_scrapes_and_a_stranger_does_not(ops: Operations) -> None:
    await ops.add_user("prometheus", Role.VIEWER)
    async with ops.client() as stranger:
        assert (await stranger.get("/metrics")).status_code == 401
    async with ops.client(await ops.session("prometheus")) as viewer:
        samples = await scrape(viewer)

    assert samples["cairn_cluster_quorum", ()] == 1
    assert samples["cairn_problems_known", ()] == 1
    assert samples["cairn_etcd_member_healthy", (("member", "m1"),)] == 1


async def test_each_alarm_has_a_number_so_that_no_rule_waits_for_a_series(
    admin: httpx.AsyncClient,
) -> None:
    samples = await scrape(admin)

    for alarm in Alarm:
        assert ("cairn_problems", (("name", str(alarm)),)) in samples


async def test_nodes_sites_and_vsubnets_are_counted(
    ops: Operations, admin: httpx.AsyncClient
) -> None:
    assert (await admin.post("/api/v1/vsubnets", json={"name": "lab"})).status_code == 201
    node = await ops.join("web-1", "lab", site="office")
    await ops.join("web-2", "lab", site="office")
    ops.services.presence.connected(node)
    await take_map(ops)

    samples = await scrape(admin)

    assert samples["cairn_nodes", (("state", "approved"),)] == 2
    assert samples["cairn_nodes_connected", ()] == 1
    assert samples["cairn_site_nodes", (("site", "office"),)] == 2
    assert samples["cairn_site_nodes_connected", (("site", "office"),)] == 1
    assert samples["cairn_vsubnet_members", (("vsubnet", "lab"),)] == 2


async def test_requests_are_counted_by_route_and_never_by_path(
    ops: Operations, admin: httpx.AsyncClient
) -> None:
    for number in range(50):
        await admin.get(f"/api/v1/nodes/guess-{number}")
        await admin.get(f"/nowhere/{number}")
    await admin.request("BREW", "/nowhere")
    async with ops.client() as stranger:
        await stranger.post("/api/v1/login", json={"name": "admin", "password": "wrong"})

    samples = await scrape(admin)

    route = (("method", "GET"), ("route", "/api/v1/nodes/{node}"), ("status", "404"))
    other = (("method", "GET"), ("route", "other"), ("status", "404"))
    assert samples["cairn_http_requests_total", route] == 50
    assert samples["cairn_http_requests_total", other] == 50
    assert samples["cairn_logins_refused_total", ()] == 1
    assert not any("guess" in value for _, labels in samples for _, value in labels)
    assert not any(name.endswith("_created") for name, _ in samples)


async def test_what_is_beyond_the_bound_is_left_out_and_counted(
    admin: httpx.AsyncClient, ops: Operations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exposition, "LISTED", 3)
    for number in range(5):
        await admin.post("/api/v1/vsubnets", json={"name": f"v{number}"})
    await take_map(ops)

    samples = await scrape(admin)

    assert sum(name == "cairn_vsubnet_members" for name, _ in samples) == 3
    assert samples["cairn_metrics_left_out", (("kind", "vsubnet"),)] == 2


async def test_who_asks_for_openmetrics_gets_it(admin: httpx.AsyncClient) -> None:
    accept = "application/openmetrics-text;version=1.0.0"
    answer = await admin.get("/metrics", headers={"Accept": accept})

    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    names = {family.name for family in openmetrics.text_string_to_metric_families(answer.text)}
    assert "cairn_http_requests" in names
