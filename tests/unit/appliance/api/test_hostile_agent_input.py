"""Whatever is sent to the agent API, it answers as it is described, never with 5xx but 503.

Right requests and wrong ones are made from the messages, shown by a node and by a stranger.
"""

from __future__ import annotations

import asyncio
from typing import Any
from unittest.mock import patch

import schemathesis
from cairn_appliance.api.agent_v1.app import create_app
from cairn_appliance.api.agent_v1.stream import Unwound
from cairn_appliance.api.client_certificate import EXTENSION, Connection
from cairn_appliance.pki.authority import utc_now
from cairn_appliance.services import registry
from cairn_appliance.store.keys import MAP
from cairn_appliance.store.port import Reset
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from starlette.responses import JSONResponse

from tests.unit.appliance.api import hostile
from tests.unit.appliance.api.agent_description import CALLS, NETMAP, described
from tests.unit.appliance.replica import AUTHORITY, Replica

REPLICA = Replica()
NODE = asyncio.run(REPLICA.joined("n"))
LISTING = asyncio.run(REPLICA.memory.list(MAP))
REPLICA.services.netmaps.take([Reset(LISTING.revision, LISTING.items)])
APP = create_app(REPLICA.services, lambda: utc_now().timestamp())
STANDING = hostile.Standing(REPLICA.memory)
asyncio.run(STANDING.take())
# Another machine that comes right after the node's own registration is told to wait, by a 503.
REPLICA.clock.now += 3600


def served(certificate: bytes | None) -> Any:
    """The API as who has this certificate reaches it, and its description."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope.get("path") == "/openapi.json":
            await JSONResponse(described())(scope, receive, send)
            return
        connection = Connection(certificate, lambda: None)
        await Unwound(APP)({**scope, "extensions": {EXTENSION: connection}}, receive, send)

    return app


PEM = AUTHORITY.issue_agent(NODE.certificate_request().encode(), NODE.id, utc_now())
SHOWN = x509.load_pem_x509_certificate(PEM).public_bytes(Encoding.DER)
BY_NODE = hostile.dress(schemathesis.openapi.from_asgi("/openapi.json", served(SHOWN)))
BY_STRANGER = hostile.dress(schemathesis.openapi.from_asgi("/openapi.json", served(None)))


@BY_NODE.parametrize()
@hostile.settings(15)
def test_a_node_gets_an_answer_as_it_is_described(case: schemathesis.Case) -> None:
    asyncio.run(STANDING.put_back())
    # A run put back to an old value is told to come again, by a 503 that is meant so.
    with patch.object(registry, "COMES_AGAIN_S", 0.0):
        hostile.check("node", case)


@BY_STRANGER.parametrize()
@hostile.settings(15)
def test_a_stranger_gets_an_answer_as_it_is_described(case: schemathesis.Case) -> None:
    asyncio.run(STANDING.put_back())
    hostile.check("stranger", case)


def test_every_call_is_described() -> None:
    calls = {route.path for route in APP.routes if route.path.startswith("/agent/")}  # type: ignore[attr-defined]
    assert calls == {*CALLS, NETMAP}
