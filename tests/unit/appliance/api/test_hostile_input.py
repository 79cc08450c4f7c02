"""Whatever is sent to the operations API, it answers as its own description says, never with 5xx.

The requests are made from the OpenAPI document: right ones and wrong ones, each by itself,
about what isn't there and about what is.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import os
from typing import Any

import pytest
import schemathesis
from cairn_appliance.api.ops_v1 import gate
from cairn_appliance.api.ops_v1.app import ROOT
from cairn_appliance.domain.access import Role

from tests.unit.appliance.api import hostile
from tests.unit.appliance.operations import Operations, operations


class Stage:
    """An appliance with one of each thing, new for each operation, the same for each request."""

    def __init__(self) -> None:
        self._addresses = itertools.cycle(f"192.0.2.{i}" for i in range(1, 255))
        self._renew()

    def _renew(self) -> None:
        self._ops: Operations = operations()
        self._began = self._ops.clock()
        self._standing = hostile.Standing(self._ops.store)
        self.session = ""
        self.there: dict[str, str] = {}

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve a request, each from another place: what is limited is limited by place."""
        await self._ops.app({**scope, "client": (next(self._addresses), 50_000)}, receive, send)

    async def set(self) -> None:
        """Begin anew: an admin's session, and one of each thing."""
        self._renew()
        await self._ops.add_user("admin", Role.ADMIN)
        await self._ops.add_user("bob", Role.OPERATOR)
        self.session = await self._ops.session()
        await self._ops.session("bob")
        await self._ops.api_token(Role.VIEWER)
        self.there = await self._furnish()
        await self._standing.take()

    async def begin(self) -> None:
        """Undo what the request before did."""
        self._ops.clock.now = self._began
        await self._standing.put_back()

    async def _furnish(self) -> dict[str, str]:
        async with self._ops.client(self.session) as client:

            async def make(path: str, **body: Any) -> dict[str, Any]:
                made = await client.post(f"{ROOT}/{path}", json=body)
                assert made.status_code in (200, 201), made.text
                answer: dict[str, Any] = made.json()
                return answer

            async def one(path: str, **wanted: str) -> str:
                items = (await client.get(f"{ROOT}/{path}")).json()["items"]
                found = next(i for i in items if wanted.items() <= i.items())
                return str(found["id"])

            vsubnet = await make("vsubnets", name="office", prefixes=["10.7.0.0/24"])
            first = await self._ops.join("web-1", "office", site="north")
            second = await self._ops.join("web-2", "office")
            await self._ops.join("gw-1")
            segment = await make("segments", name="lan", vsubnet="office")
            await make(f"segments/{segment['id']}/gateways", node="gw-1", port="eth1")
            key = base64.b64encode(os.urandom(32)).decode()
            await client.put(f"{ROOT}/backups/key", json={"public_key": key})
            return {
                "vsubnet": vsubnet["id"],
                "segment": segment["id"],
                "node": first,
                "a": first,
                "b": second,
                "token": (await make("tokens", vsubnets=["office"]))["id"],
                "user": "bob",
                "session": await one("sessions", user="bob"),
                "api_token": await one("api-tokens"),
                "backup": (await make("backups"))["name"],
                "mac": "02:00:00:00:00:07",
                "appliance": "m1",
            }


STAGE = Stage()
# A stream doesn't end, and a logout ends the session of all others.
SCHEMA = hostile.dress(
    schemathesis.openapi.from_asgi(f"{ROOT}/openapi.json", STAGE.app).exclude(
        path_regex="/(events/stream|stream|logout)$"
    ),
    lambda: STAGE.there,
)


@pytest.fixture(autouse=True)
def stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the stage for one operation; that this machine is slow is no fault of the API."""
    monkeypatch.setattr(gate, "ANSWER_WITHIN_S", 3600.0)
    asyncio.run(STAGE.set())


@SCHEMA.parametrize()
@hostile.settings(6)
def test_each_route_answers_as_it_is_described(case: schemathesis.Case) -> None:
    asyncio.run(STAGE.begin())
    hostile.check("admin", case, headers={"Authorization": f"Bearer {STAGE.session}"})
