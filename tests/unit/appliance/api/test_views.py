"""Overview, topology, latency, tables, reports, search and the stream over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from time import process_time
from typing import Any

import httpx
import msgspec
import pytest
from cairn_agent.protocol import telemetry as wire
from cairn_appliance.api.ops_v1.models_views import LatencyOut, TopologyOut
from cairn_appliance.api.ops_v1.routes import views
from cairn_appliance.domain.access import Role
from cairn_appliance.domain.gateway import Station, StationBatch
from cairn_appliance.domain.identity import SYSTEM
from cairn_appliance.domain.member import Member
from cairn_appliance.domain.node import Node, NodeState
from cairn_appliance.domain.output import Delivery, Position, Receivers, Syslog, Transport
from cairn_appliance.domain.vsubnet import VSubnet
from cairn_appliance.netmap.snapshot import Snapshot, Touched
from cairn_appliance.services.damaged import damaged_values
from cairn_appliance.services.vsubnets import VSubnetOrder
from cairn_appliance.store import keys, records
from cairn_appliance.store.port import Put
from cairn_appliance.store.records import quarantine

from tests.unit.agent.fakes.running import beside, until
from tests.unit.appliance.operations import Operations, operations

API = "/api/v1"


@dataclass
class Office:
    """Three nodes in vSubnet `office`, two sites, one more that waits."""

    ops: Operations
    client: httpx.AsyncClient
    vsubnet: str
    nodes: dict[str, str] = field(default_factory=dict)

    @property
    def snapshot(self) -> Snapshot:
        return self.ops.services.netmaps.snapshot

    @property
    def vni(self) -> int:
        return self.snapshot.vsubnets[self.vsubnet].vni

    def say(
        self, name: str, *peers: str, session: str = "up", full: bool = True, **more: object
    ) -> None:
        said = [
            wire.PeerSaid(
                self.nodes[peer],
                self.vni,
                session,  # type: ignore[arg-type]
                "direct",
                rtt_us=2000,
                rtt_max_us=4000,
                jitter_us=100,
                probes=10,
                lost=1,
                probed_s=1.0,
                mtu=1400,
            )
            for peer in peers
        ]
        report = wire.Report(full=full, peers=said, **more)  # type: ignore[arg-type]
        self.ops.services.telemetry.take(self.nodes[name], msgspec.json.encode(report))

    async def get(self, path: str, **query: str) -> Any:
        answer = await self.client.get(f"{API}{path}", params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture
async def office() -> AsyncIterator[Office]:
    ops = operations()
    await ops.add_user("admin", Role.ADMIN)
    vsubnet = (
        await ops.services.vsubnets.create(VSubnetOrder("office", ("10.7.0.0/24",)), SYSTEM)
    ).value.id
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(beside(ops.services.streams.run()))
        await stack.enter_async_context(beside(ops.services.board.run()))
        client = await stack.enter_async_context(ops.client(await ops.session()))
        made = Office(ops, client, vsubnet)
        for name, site in (("web-1", "north"), ("web-2", "south"), ("db", "north")):
            made.nodes[name] = await ops.join(name, "office", site=site)
        made.nodes["new"] = await ops.join("new", "office", pending=True)
        await until(lambda: len(made.snapshot.members_of(vsubnet)) == 3)
        await until(lambda: "new" in {each.name for each in made.snapshot.nodes.values()})
        yield made


async def test_the_topology_has_nodes_their_paths_and_how_old_the_word_is(office: Office) -> None:
    office.ops.services.presence.connected(office.nodes["web-1"])
    office.say("web-1", "web-2")
    got = await office.get("/topology")
    nodes = {each["name"]: each for each in got["nodes"]}
    assert {name: each["health"] for name, each in nodes.items()} == {
        "web-1": "up",
        "web-2": "stale",  # its peer hears it, and it says nothing
        "db": "down",
        "new": "pending",
    }
    assert nodes["web-1"]["reported_at"] == got["at"]
    assert nodes["web-2"]["reported_at"] is None
    assert got["sites"] == [{"name": "north"}, {"name": "south"}]
    (edge,) = got["edges"]
    assert [edge["a"], edge["b"]] == sorted([office.nodes["web-1"], office.nodes["web-2"]])
    assert edge["vsubnets"] == [office.vsubnet]
    shown = {name: edge[name] for name in ("path", "rtt_ms", "loss", "mtu", "up", "stale")}
    assert shown == {
        "path": "direct",
        "rtt_ms": 2.0,
        "loss": 0.1,
        "mtu": 1400,
        "up": True,
        "stale": False,
    }


async def test_latency_is_of_pairs_with_a_session_by_site_and_vsubnet(office: Office) -> None:
    office.say("web-1", "web-2")
    office.say("db", "web-1", session="handshaking")
    (row,) = (await office.get("/latency"))["rows"]
    assert (row["rtt_ms"], row["rtt_max_ms"], row["jitter_ms"], row["loss"]) == (2.0, 4.0, 0.1, 0.1)
    assert len((await office.get("/latency", site="south", vsubnet="office"))["rows"]) == 1
    assert (await office.get("/latency", site="nowhere"))["rows"] == []
    missing = await office.client.get(f"{API}/latency", params={"vsubnet": "none"})
    assert missing.status_code == 404


async def test_the_history_of_a_path_by_names_either_way(office: Office) -> None:
    ends = sorted(["web-1", "web-2"], key=lambda name: office.nodes[name])
    for _ in range(3):
        office.say(ends[0], ends[1])
        office.ops.clock.advance(30)
    got = await office.get("/latency/web-2/web-1")
    assert [got["a"], got["b"]] == [office.nodes[end] for end in ends]
    assert [(point["rtt_ms"], point["loss"]) for point in got["points"]] == [(2.0, 0.1)] * 3
    assert (await office.get("/latency/web-1/db"))["points"] == []


async def test_a_report_says_how_old_it_is(office: Office) -> None:
    missing = await office.client.get(f"{API}/nodes/web-1/report")
    assert (missing.status_code, missing.json()["code"]) == (404, "no_report")
    assert missing.json()["remedy"]

    office.say(
        "web-1",
        "web-2",
        agent_version="0.1.0",
        dataplane=wire.DataPlaneSaid(True, "0.1.0", loaded_revision=9, drops={"replayed": 2}),
        vsubnets=[wire.VSubnetSaid(office.vni, members=3, peers_up=1, mtu=1400, tx_frames=5)],
        problems=[wire.ProblemSaid("path_mtu", "narrow", "widen it")],
    )
    office.ops.clock.advance(31)
    got = await office.get("/nodes/web-1/report")
    assert (got["age_s"], got["stale"], got["agent_version"]) == (31.0, True, "0.1.0")
    assert got["dataplane"] == {
        "up": True,
        "version": "0.1.0",
        "loaded_revision": 9,
        "drops": {"replayed": 2},
    }
    assert [(each["name"], each["session"], each["loss"]) for each in got["peers"]] == [
        ("web-2", "up", 0.1)
    ]
    assert got["vsubnets"][0]["name"] == "office"
    assert got["problems"] == [{"name": "path_mtu", "cause": "narrow", "remedy": "widen it"}]


async def test_the_table_has_members_stations_and_what_was_learned(office: Office) -> None:
    services = office.ops.services
    segment = (await office.client.post(f"{API}/segments", json=_lan())).json()["id"]
    mac = office.snapshot.members_of(office.vsubnet)[office.nodes["db"]].mac
    twice = next(iter(office.snapshot.members_of(office.vsubnet)[office.nodes["web-2"]].ips))
    stations = StationBatch(
        (
            Station("00:11:22:33:44:55", (twice,), since=office.ops.clock() - 5),
            Station(
                "00:11:22:33:44:66", ("10.7.0.99",), moves=(1.0, 2.0), frozen_at=office.ops.clock()
            ),
        )
    )
    put = Put(keys.stations(segment, "00"), records.station_batches.encode(stations))
    await services.store.commit([], [put])
    await until(lambda: len(services.board.stations(segment)) == 2)
    await until(lambda: segment in office.snapshot.segments)
    learned = [
        wire.LearnedSaid("00:11:22:33:44:77", office.nodes["db"], 3.0),
        wire.LearnedSaid("00:11:22:33:44:55", office.nodes["db"], 3.0),  # a station: known
        wire.LearnedSaid("ff:ff:ff:ff:ff:ff", office.nodes["db"], 3.0),
        wire.LearnedSaid("00:11:22:33:44:88", "nobody", 3.0),
    ]
    drops = {"storm_limit": 40, "source_storm_limit": 2, "router": 7}
    office.say("web-1", vsubnets=[wire.VSubnetSaid(office.vni, drops=drops, learned=learned)])

    got = await office.get("/vsubnets/office/table")
    by_mac = {each["mac"]: each for each in got["entries"]}
    assert len(got["entries"]) == 3 + 2 + 1
    assert by_mac[mac]["kind"] == "member"
    assert by_mac[mac]["node_name"] == "db"
    assert by_mac["00:11:22:33:44:55"]["conflict"] == "duplicate_ip"
    assert by_mac["00:11:22:33:44:55"]["gateway_segment"] == segment
    assert by_mac["00:11:22:33:44:55"]["age_s"] == 5.0
    assert (by_mac["00:11:22:33:44:66"]["frozen"], by_mac["00:11:22:33:44:66"]["moves"]) == (
        True,
        2,
    )
    assert by_mac["00:11:22:33:44:77"]["kind"] == "learned"
    node = {"node": office.nodes["web-1"], "frames": None, "frames_per_s": None, "dropped": 42}
    assert got["bum"] == {"frames_per_s": None, "dropped_per_s": 0.0, "by_node": [node]}

    for more in (0, 30):
        for name, count in (("web-1", 700), ("db", 50)):
            counters = {"bum_sent": count + more}
            said = wire.VSubnetSaid(office.vni, counters=counters)
            office.say(name, vsubnets=[said], full=more == 0)
        office.ops.clock.advance(5 if more == 0 else 0)
    bum = (await office.get("/vsubnets/office/table"))["bum"]
    sent = {each["node"]: (each["frames"], each["frames_per_s"]) for each in bum["by_node"]}
    assert sent == {office.nodes["web-1"]: (730, 6.0), office.nodes["db"]: (80, 6.0)}
    assert bum["frames_per_s"] == 12.0


async def test_search_finds_by_name_id_mac_and_address(office: Office) -> None:
    member = office.snapshot.members_of(office.vsubnet)[office.nodes["db"]]
    node = ("node", office.nodes["db"])
    identity = ("member", f"{office.vsubnet}/{office.nodes['db']}")
    token = (await office.client.post(f"{API}/tokens", json={"vsubnets": ["office"]})).json()["id"]
    for text, wanted, where in (
        ("DB", node, "name"),
        (office.nodes["db"][:8], node, "id"),
        (member.mac.upper().replace(":", "-"), identity, "mac"),
        (member.ips[0], identity, "ip"),
        ("offi", ("vsubnet", office.vsubnet), "name"),
        (str(office.vni), ("vsubnet", office.vsubnet), "id"),
        ("north", ("site", "north"), "name"),
        (token[:6], ("token", token), "id"),
    ):
        items = (await office.get("/search", q=text))["items"]
        found = [(each["kind"], each["id"]) for each in items if each["where"] == where]
        assert wanted in found, (text, items)
    assert (await office.get("/search", q="  "))["items"] == []
    assert [each["name"] for each in (await office.get("/search", q="web"))["items"]] == [
        "web-1",
        "web-2",
    ]


async def test_the_overview_has_problems_of_nodes_with_their_subject(office: Office) -> None:
    office.say("web-1", problems=[wire.ProblemSaid("data_plane", "it is away", "start it")])
    began = office.ops.clock()
    first = await office.get("/overview")
    office.ops.clock.advance(5)
    second = await office.get("/overview")
    for got in (first, second):
        (problem,) = [each for each in got["problems"] if each["name"] == "data_plane"]
        assert problem["subject"] == {
            "kind": "node",
            "id": office.nodes["web-1"],
            "name": "web-1",
        }
        assert problem["since"] == views.moment(began).isoformat().replace("+00:00", "Z")
    assert (first["counts"]["nodes"], first["counts"]["gateways"]) == (4, 0)
    assert first["recent"][0]["kind"].startswith("node_")


async def test_overview_status_and_metrics_tell_the_same_problems(office: Office) -> None:
    """Receivers that fail and values that can't be read are among them."""
    services, now = office.ops.services, office.ops.clock()
    receivers = Receivers(syslog=(Syslog("log-1", "192.0.2.9", 514, Transport.UDP),))
    fails = Delivery("log-1", Position(1), failing_since=now - 99, last_error="nobody is there")
    writes = [
        Put(keys.RECEIVERS, records.receivers.encode(receivers)),
        Put(keys.delivery("log-1"), records.deliveries.encode(fails)),
        Put(keys.node("broken"), b"no such thing"),
    ]
    await services.store.commit([], writes)
    async with beside(services.outputs.run()):
        await until(lambda: bool(services.outputs.problems()))
        await until(lambda: bool(damaged_values(services.netmaps)))
        overview = (await office.get("/overview"))["problems"]
        status = (await office.get("/status"))["problems"]
        metrics = (await office.client.get("/metrics")).text
    quarantine.release(keys.node("broken"))

    subjects = {each["name"]: each["subject"] for each in overview}
    assert subjects["receiver_fails"] == {
        "kind": "receiver",
        "id": "log-1",
        "name": "syslog 192.0.2.9 port 514/udp",
    }
    assert subjects["values_unreadable"] == {"kind": "cluster", "id": "", "name": ""}
    assert [each["name"] for each in overview] == [each["name"] for each in status]
    for name in subjects:
        assert f'cairn_problems{{name="{name}"}} 1.0' in metrics


async def test_a_clone_that_two_members_see_is_one_problem_everywhere(office: Office) -> None:
    clone = office.nodes["db"]
    said = wire.ProblemSaid(wire.CLONE_SEEN, "db is two machines", "stop one", clone, office.vni)
    office.say("web-1", "db", problems=[said])
    office.say("web-2", "db", problems=[said])
    (shown,) = [
        each for each in (await office.get("/overview"))["problems"] if each["name"] == "clone_seen"
    ]
    assert shown["subject"] == {"kind": "node", "id": clone, "name": "db"}
    assert not shown["urgent"]
    assert "web-1, web-2 heard both" in shown["cause"]
    status = (await office.get("/status"))["problems"]
    causes = [each["cause"] for each in status if each["name"] == "clone_seen"]
    assert causes == [shown["cause"]]
    metrics = (await office.client.get("/metrics")).text
    assert 'cairn_problems{name="clone_seen"} 1.0' in metrics


async def test_enrolment_says_where_and_by_which_pin(office: Office) -> None:
    assert await office.get("/enrolment") == {
        "addresses": ["192.0.2.1:8002"],
        "pin": f"sha256//{office.ops.authority.pin}",
        "install_url": "",
    }


async def test_a_thousand_nodes_answer_in_time_and_small(office: Office) -> None:
    """Twenty sessions each. The CPU's time, since others use the machine as well."""
    fill(office, nodes=1000, sessions=20)
    headers = {"accept-encoding": "gzip"}
    models = {"/topology": (TopologyOut, "edges"), "/latency": (LatencyOut, "rows")}
    for path, (model, rows) in models.items():
        took_s = []
        for _ in range(3):
            began = process_time()
            async with office.client.stream("GET", f"{API}{path}", headers=headers) as answer:
                octets = b"".join([each async for each in answer.aiter_raw()])
            took_s.append(process_time() - began)
        assert answer.headers["content-encoding"] == "gzip"
        whole = await office.get(path)
        model.model_validate(whole)  # models are not made when it is answered
        assert len(whole[rows]) == 10_000
        assert len(octets) < 600_000
        assert min(took_s) < 0.3


def fill(office: Office, *, nodes: int, sessions: int) -> None:
    """Put nodes into the replica's memory, each with a session to the next few."""
    vsubnet: VSubnet = office.snapshot.vsubnets[office.vsubnet]
    ids = [f"{number:08x}-0000-4000-8000-000000000000" for number in range(nodes)]
    for number, node in enumerate(ids):
        office.snapshot._set(
            Node(node, f"n{number}", NodeState.APPROVED, "", "", 0.0, f"s{number % 9}"),
            Touched(),
        )
        mac = f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}"
        office.snapshot._set(Member(vsubnet.id, node, mac, 0.0), Touched())
    for number, node in enumerate(ids):
        peers = [ids[(number + step) % nodes] for step in range(-sessions // 2, sessions // 2 + 1)]
        said = [
            wire.PeerSaid(peer, vsubnet.vni, "up", "direct", rtt_us=5000 + number, probes=10)
            for peer in peers
            if peer != node
        ]
        office.ops.services.telemetry.take(
            node, msgspec.json.encode(wire.Report(full=True, peers=said))
        )


def _lan() -> dict[str, object]:
    return {"name": "lan", "vsubnet": "office"}
