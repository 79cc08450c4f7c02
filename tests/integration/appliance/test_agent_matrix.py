"""Who may call what of the agent API: every route, and each kind of client, at a real appliance.

What is right stands in the table, a cell for each. A route without a line fails.
"""

from __future__ import annotations

import signal
import ssl
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import httpx
import msgspec
import pytest
from cairn_agent.control.tls import server_context
from cairn_agent.protocol import enrolment as wire
from cairn_appliance.api.agent_v1.app import create_app
from cairn_appliance.api.agent_v1.packages import Packages
from cairn_appliance.cluster import bootstrap
from cairn_appliance.cluster.etcd_process import client_tls
from cairn_appliance.domain.identity import SYSTEM
from cairn_appliance.domain.telemetry import APPLIANCE
from cairn_appliance.pki.authority import Authority
from cairn_appliance.store.etcd import EtcdStore
from fastapi.routing import iter_route_contexts

from tests import proofs
from tests.integration.appliance.running import (
    Member,
    RunningAppliance,
    context_with,
    enrol_request,
    register_request,
)
from tests.simulated_node import SimulatedNode

pytestmark = pytest.mark.etcd

# A column each: a client without a certificate, a node, another appliance, a node whose
# certificate ended ten days ago, and one that an operator has removed. A cell is "yes" for who
# is let in (whether or not what it asks for is there), or what it is told instead: "cert"
# (another kind of certificate is needed), "expired", "removed"; "duty" where it is no gateway of
# the segment, "claim" where no operator gave it an identity, "empty" where it is granted or
# asked nothing, "whole" where the cluster was never restored.
# To leave twice is no error; whoever was removed and is a gateway no more is granted nothing.
TABLE = """
POST /agent/v1/enrol               yes   yes      yes   yes      yes
POST /agent/v1/register            cert  yes      cert  expired  removed
GET  /agent/v1/netmap              cert  yes      cert  expired  removed
POST /agent/v1/ack                 cert  yes      cert  expired  removed
POST /agent/v1/renew               cert  yes      cert  yes      removed
POST /agent/v1/reassert            cert  empty    cert  expired  empty
POST /agent/v1/reassert/vsubnet    cert  whole    cert  expired  whole
POST /agent/v1/copy                cert  yes      cert  yes      removed
POST /agent/v1/become              cert  claim    cert  claim    claim
POST /agent/v1/leave               cert  yes      cert  expired  yes
POST /agent/v1/gateway/beat        cert  empty    cert  expired  empty
POST /agent/v1/gateway/release     cert  duty     cert  expired  duty
POST /agent/v1/gateway/event       cert  duty     cert  expired  duty
POST /agent/v1/gateway/stations    cert  duty     cert  expired  duty
POST /agent/v1/gateway/preflight   cert  duty     cert  expired  duty
GET  /appliance/v1/stream          cert  cert     yes   cert     cert
GET  /appliance/v1/telemetry       cert  cert     yes   cert     cert
GET  /appliance/v1/update          cert  cert     yes   cert     cert
GET  /healthz                      yes   yes      yes   yes      yes
GET  /readyz                       yes   yes      yes   yes      yes
GET  /install.sh                   yes   yes      yes   yes      yes
GET  /packages/                    yes   yes      yes   yes      yes
GET  /packages/{name}              yes   yes      yes   yes      yes
"""
COLUMNS = ("stranger", "node", "appliance", "expired", "removed")
Entry = tuple[str, str]
ROWS: dict[Entry, dict[str, str]] = {
    (method, path): dict(zip(COLUMNS, cells, strict=True))
    for method, path, *cells in (line.split() for line in TABLE.strip().splitlines())
}


@pytest.fixture(scope="module")
def appliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAppliance]:
    appliance = RunningAppliance(tmp_path_factory.mktemp("appliance"))
    appliance.start()
    yield appliance
    appliance.end(signal.SIGTERM)


async def test_every_route_has_a_line_and_every_line_a_route(appliance: RunningAppliance) -> None:
    async with appliance.operator() as services:
        packages = Packages(appliance.data_dir, [appliance.address], lambda: b"")
        app = create_app(services, packages=packages)
        routes = {
            (method, context.path or "")
            for context in iter_route_contexts(app.routes)
            for method in context.methods or {"?"}
        }
    assert {entry for entry in routes if entry[0] != "HEAD"} == set(ROWS)


async def test_each_kind_of_client_may_what_the_table_says_and_no_more(
    appliance: RunningAppliance,
) -> None:
    found = {}
    for column in COLUMNS:
        member = await appliance.member(column)
        context = await _context(appliance, column, member)
        if column == "removed":
            async with appliance.operator() as services:
                await services.nodes.remove(member.node.id, SYSTEM)
        async with httpx.AsyncClient(verify=context, trust_env=False, timeout=30) as client:
            # Whoever has left is a node no more.
            for entry in sorted(ROWS, key=lambda entry: entry[1].endswith("/leave")):
                body = await _body(appliance, member, entry[1])
                found[entry, column] = await _outcome(client, appliance, entry, body)
    wrong = [
        f"{' '.join(entry)} as {column}: {told}"
        for (entry, column), told in found.items()
        if told != ROWS[entry][column]
    ]
    assert proofs.record(
        "ROLES-agent",
        what=f"{len(found)} pairs of client and route of the agent API: those that may otherwise "
        "than is written",
        bar="0",
        value=len(wrong),
        unit="pairs",
        holds=not wrong and len(found) == len(COLUMNS) * len(ROWS),
    ), "\n".join(wrong)


async def _context(appliance: RunningAppliance, column: str, member: Member) -> ssl.SSLContext:
    if column == "stranger":
        return server_context(appliance.ca)
    if column == "expired":
        then = datetime.now(UTC) - timedelta(days=40)  # of 30
        request = member.node.certificate_request().encode()
        async with _authority(appliance) as authority:
            pem = authority.issue_agent(request, member.node.id, then)
        return context_with(appliance, pem.decode(), member.node.key_pem)
    if column == "appliance":
        async with _authority(appliance) as authority:
            pair = authority.issue_pair(APPLIANCE, "client", (), datetime.now(UTC))
        return context_with(appliance, pair.certificate.decode(), pair.private_key)
    return member.context()


@asynccontextmanager
async def _authority(appliance: RunningAppliance) -> AsyncIterator[Authority]:
    local = bootstrap.load(appliance.data_dir)
    store = EtcdStore([local.etcd_endpoint], client_tls(local))
    try:
        yield (await bootstrap.load_secrets(store, local)).authority
    finally:
        await store.close()


async def _outcome(
    client: httpx.AsyncClient, appliance: RunningAppliance, entry: Entry, body: bytes
) -> str:
    """Return the cell: what the client was told, by the code of the answer."""
    method, path = entry
    url = f"https://{appliance.address}{path.format(name='nothing')}?node=nothing"
    # The netmap never ends, so only its head is waited for.
    async with client.stream(method, url, content=body) as answer:
        if answer.is_success and path.endswith(("/beat", "/reassert")):
            has_nothing = await answer.aread() in (b'{"grants":[]}', b'{"wanted":[]}')
            return "empty" if has_nothing else "yes"
        if answer.is_success:
            return "yes"
        code = msgspec.json.decode(await answer.aread())["code"]
    told = {
        (403, "certificate_required"): "cert",
        (403, "certificate_expired"): "expired",
        (403, "node_removed"): "removed",
        (403, "not_your_duty"): "duty",
        (403, "not_claimed"): "claim",
        (404, "not_found"): "yes",
        (422, "invalid"): "whole" if path.endswith("/reassert/vsubnet") else "invalid",
    }
    return told.get((answer.status_code, code), f"{answer.status_code} {code}")


async def _body(appliance: RunningAppliance, member: Member, path: str) -> bytes:
    """Return what is right for the route, so that nothing but the client is at fault."""
    node, gateway = member.node, {"segment": str(uuid.uuid4()), "term": 1}
    newcomer = SimulatedNode("newcomer")
    bodies: dict[str, object] = {
        "register": register_request(node),
        "ack": wire.AckRequest(1, 1),
        "renew": wire.RenewRequest(node.certificate_request()),
        "become": wire.RenewRequest(node.certificate_request()),
        "leave": wire.LeaveRequest(""),
        "beat": {"segments": []},
        "reassert": {
            "incarnation": 1,
            "revision": 1,
            "node": {"type": "node", "document": {}, "revision": 1, "signature": ""},
            "data_public_key": node.data_public_key,
        },
        "release": gateway,
        "event": {**gateway, "code": "storm", "detail": "none"},
        "stations": {**gateway, "is_full": True, "seen": [], "gone": []},
        "preflight": {
            "task": str(uuid.uuid4()),
            "is_go": True,
            "heard_s": 1.0,
            "frames": 1,
            "findings": [],
        },
    }
    name = path.rpartition("/")[2]
    if name == "enrol":
        return msgspec.json.encode(enrol_request(newcomer, await appliance.token()))
    if name == "copy":
        asked = msgspec.to_builtins(enrol_request(newcomer, await appliance.token()))
        return msgspec.json.encode({**asked, "facts": {}})
    return msgspec.json.encode(bodies.get(name, {}))
