"""The agent API above its services, without TLS: what a node may make it do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any
from unittest.mock import AsyncMock

import httpx
import pytest
from cairn_appliance.api.agent_v1 import app as app_module
from cairn_appliance.api.agent_v1.app import create_app
from cairn_appliance.api.client_certificate import EXTENSION, Connection
from cairn_appliance.domain.identity import SYSTEM
from cairn_appliance.pki.authority import issuer_id_of, utc_now
from cairn_appliance.services import presence as presence_module
from cairn_appliance.services.streams import Streams
from cairn_appliance.store import keys
from cairn_appliance.store.port import MAX_TRANSACTION_OCTETS, Put, Reset
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from tests.simulated_node import SimulatedNode
from tests.unit.appliance.replica import AUTHORITY, Replica


def client(replica: Replica, node: SimulatedNode, later_s: float = 0.0) -> httpx.AsyncClient:
    """Return a client whose connections show the node's certificate, so much later."""
    pem = AUTHORITY.issue_agent(node.certificate_request().encode(), node.id, utc_now())
    der = x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER)
    app = create_app(replica.services, lambda: utc_now().timestamp() + later_s)

    async def with_connection(scope: Any, receive: Any, send: Any) -> None:
        connection = Connection(der, lambda: None)
        await app({**scope, "extensions": {EXTENSION: connection}}, receive, send)

    transport = httpx.ASGITransport(app=with_connection)
    return httpx.AsyncClient(transport=transport, base_url="http://appliance/agent/v1")


ACK = {"revision": 1, "incarnation": 1, "digests": {"node": "ab" * 32}, "refused": ""}


async def test_a_replica_that_has_loaded_nothing_yet_does_not_call_a_node_removed() -> None:
    """The agent takes `node_removed` for good; it acknowledges as soon as it has registered."""
    replica = Replica()
    node = await replica.joined("n")
    assert not replica.services.streams.is_loaded
    async with client(replica, node) as api:
        assert (await api.post("/ack", json=ACK)).status_code == 204
        await replica.services.nodes.remove(node.id, SYSTEM)
        refused = await api.post("/ack", json=ACK)
    assert (refused.status_code, refused.json()["code"]) == (403, "node_removed")


@pytest.mark.parametrize(
    "digests",
    [{"node": "a" * 65}, {"no document": "ab"}, {str(n): "ab" for n in range(1000)}],
    ids=["long digest", "unknown document", "too many"],
)
async def test_an_acknowledgement_of_what_is_no_document_is_refused(
    digests: dict[str, str],
) -> None:
    replica = Replica()
    node = await replica.joined("n")
    async with client(replica, node) as api:
        answer = await api.post("/ack", json={**ACK, "digests": digests})
    assert answer.status_code == 422
    assert replica.services.presence.of(node.id) is None


async def test_acknowledgements_never_outgrow_a_write_of_presence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A node chooses its ID, and so the batch in which it is told to the other replicas."""
    monkeypatch.setattr(presence_module, "INTERVAL_S", 0.01)
    monkeypatch.setattr(presence_module, "_BATCHES", 1)
    replica = Replica()
    board = replica.services.presence
    digests = {str(vni): "ab" * 32 for vni in range(512)}
    for number in range(40):
        board.connected(f"n{number}")
        board.loaded(f"n{number}", 1, digests, "")
    sharing = asyncio.create_task(board.share())
    async with asyncio.timeout(5):
        while not (items := (await replica.memory.list(keys.PRESENCE)).items):
            await asyncio.sleep(0.005)
            assert not sharing.done()
    assert all(len(item.value) < MAX_TRANSACTION_OCTETS for item in items)
    sharing.cancel()
    await asyncio.gather(sharing, return_exceptions=True)


async def test_a_body_that_does_not_come_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(app_module, "BODY_WITHIN_S", 0.05)
    replica = Replica()
    node = await replica.joined("n")

    async def dribble() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(60)

    async with client(replica, node) as api, asyncio.timeout(10):
        answer = await api.post("/enrol", content=dribble())
    assert answer.status_code == 408


@pytest.mark.parametrize(("protocol", "older"), [(3, "the appliances"), (-1, "the agent")])
async def test_an_agent_that_is_too_far_away_is_told_who_has_to_be_updated(
    protocol: int, older: str
) -> None:
    replica = Replica()
    node = await replica.joined("n")
    asked = {"generation": node.generation, "facts": {}, "endpoints": [], "name": "n"}
    async with client(replica, node) as api:
        body = {**asked, "agent_version": "9.9.0", "protocol": protocol}
        refused = await api.post("/register", json=body)
        problem = refused.json()
        near = await api.post("/register", json={**body, "protocol": 2, "future": True})
    assert (refused.status_code, problem["code"]) == (422, "protocol_not_supported")
    assert f"update {older} first" in problem["remedy"]
    assert near.status_code == 200


def registering(node: SimulatedNode, number: int, **changes: object) -> dict[str, object]:
    body = {"generation": node.generation, "facts": {"dmi_uuid": node.facts.dmi_uuid}}
    address = f"192.0.2.{number % 2 + 1}:8002"
    more = {"endpoints": [address], "name": node.name, "agent_version": "0.1.0"}
    return {**body, **more, **changes}


async def test_a_node_that_registers_without_end_is_held_up_and_no_other() -> None:
    replica = Replica()
    hostile, honest = await replica.joined("hostile"), await replica.joined("honest")
    codes = []
    async with client(replica, hostile) as api:
        for number in range(int(app_module.REGISTRATIONS_AT_ONCE) + 10):
            answer = await api.post("/register", json=registering(hostile, number))
            codes.append(answer.status_code)
            if answer.status_code == 200:
                hostile.generation = answer.json()["generation"]
    async with client(replica, honest) as api:
        assert (await api.post("/register", json=registering(honest, 1))).status_code == 200
    assert codes[:60] == [200] * 60
    assert codes.count(429) >= 5
    assert answer.json()["code"] == "too_many_requests"
    assert answer.headers["retry-after"] == "1"
    changes = (await replica.kinds()).count("endpoints_changed")
    assert changes <= codes.count(200) + 1


async def test_fifty_copies_that_are_turned_away_leave_the_node_its_registrations(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(app_module, "REGISTRATIONS_AT_ONCE", 5.0)
    monkeypatch.setattr(Streams, "answers", AsyncMock(return_value=True))  # the original lives
    replica = Replica()
    node = await replica.joined("n")
    replica.services.presence.connected(node.id)
    async with client(replica, node) as api:
        copied = registering(node, 1, facts={"dmi_uuid": "another"})
        refused = [await api.post("/register", json=copied) for _ in range(50)]
        answer = await api.post("/register", json=registering(node, 1))
    assert {each.json()["code"] for each in refused} == {"duplicate_node"}
    assert answer.status_code == 200


async def test_a_removed_node_that_comes_when_its_record_is_gone_is_refused() -> None:
    replica = Replica()
    node = await replica.joined("n")
    await replica.services.nodes.remove(node.id, SYSTEM)
    replica.clock.now += 62 * 86_400.0
    await replica.services.nodes.tidy()
    assert await replica.memory.get(keys.node(node.id)) is None
    paths = {
        "/register": registering(node, 1),
        "/renew": {"certificate_request": node.certificate_request()},
        "/become": {"certificate_request": node.certificate_request()},
        "/ack": ACK,
    }
    codes = []
    async with client(replica, node, later_s=62 * 86_400.0) as api:
        for path, body in paths.items():
            refused = await api.post(path, json=body)
            codes.append((refused.status_code, refused.json()["code"]))
        refused = await api.get("/netmap")
        codes.append((refused.status_code, refused.json()["code"]))
    ended, removed = (403, "certificate_expired"), (403, "node_removed")
    assert codes == [ended, removed, ended, ended, ended]


async def test_a_node_that_renews_without_end_is_held_up() -> None:
    replica = Replica()
    node = await replica.joined("n")
    body = {"certificate_request": node.certificate_request()}
    async with client(replica, node) as api:
        codes = [(await api.post("/renew", json=body)).status_code for _ in range(65)]
    assert codes[:60] == [200] * 60
    assert codes[-1] == 429


async def test_a_replica_that_is_about_to_stop_is_not_ready_and_takes_no_agent() -> None:
    replica = Replica()
    node = await replica.joined("n")
    replica.services.streams.close()
    async with client(replica, node) as api:
        asked = {"generation": 1, "facts": {}, "endpoints": [], "name": "n", "agent_version": "1"}
        answers = [await api.post("/register", json=asked), await api.get("/netmap")]
        answers.append(await api.get("http://appliance/readyz"))
    assert [answer.status_code for answer in answers] == [503, 503, 503]
    assert all("about to stop" in answer.json()["detail"] for answer in answers)


async def test_a_certificate_of_a_retired_ca_gets_a_new_one_and_nothing_else() -> None:
    replica = Replica()
    await replica.vsubnet("red")
    node = await replica.joined("n", "red")
    services = replica.services

    async def follow() -> None:
        listing = await replica.memory.list(keys.MAP)
        services.netmaps.take([Reset(listing.revision, listing.items)])

    report = {
        "generation": node.generation,
        "facts": {"dmi_uuid": node.facts.dmi_uuid},
        "endpoints": list(node.endpoints),
        "name": "n",
        "agent_version": "0.1.0",
    }
    csr = {"certificate_request": node.certificate_request()}
    thief = SimulatedNode(id=node.id)
    await replica.memory.commit([], [Put(keys.CLUSTER_FORMAT, b"2")])
    async with client(replica, node) as own, client(replica, thief) as other:
        await services.rotation.begin_ca(SYSTEM)
        await services.rotation.issue_ca(SYSTEM)
        await follow()
        assert (await own.post("register", json=report)).status_code == 200, "believed still"
        await services.rotation.retire_ca(SYSTEM)
        await follow()
        for path, body in (("register", report), ("ack", ACK), ("leave", {}), ("become", csr)):
            answer = await own.post(path, json=body)
            assert (answer.status_code, answer.json()["code"]) == (403, "certificate_expired"), path
        assert (await own.get("netmap")).status_code == 403
        renewed = await own.post("renew", json=csr)
        assert renewed.status_code == 200
        assert renewed.json()["ca"] == services.keyring.believed
        certificate = x509.load_pem_x509_certificate(renewed.json()["certificate"].encode())
        assert issuer_id_of(certificate) == services.keyring.authority.key_id
        # Who has the retired CA's key can make certificates, but has no node's key.
        for body in (csr, {"certificate_request": thief.certificate_request()}):
            answer = await other.post("renew", json=body)
            assert answer.status_code == 403, answer.text
