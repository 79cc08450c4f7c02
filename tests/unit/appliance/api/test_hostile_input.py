"""Whatever is sent to the operations API, it answers as its own description says, never with 5xx.

The requests are made from the OpenAPI document: right ones and wrong ones, each by itself.
"""

from __future__ import annotations

import asyncio

import pytest
import schemathesis
from cairn_appliance.api.ops_v1.app import ROOT
from cairn_appliance.domain.access import Role
from hypothesis import HealthCheck, settings

from tests.unit.appliance.api.described import CHECKS
from tests.unit.appliance.operations import operations

OPS = operations()
# A stream doesn't end, and a logout ends the session of all others.
SCHEMA = schemathesis.openapi.from_asgi(f"{ROOT}/openapi.json", OPS.app).exclude(
    path_regex="/(events/stream|stream|logout)$"
)


@pytest.fixture(scope="module")
def session() -> str:
    """Return the token of an admin's session."""

    async def begin() -> str:
        await OPS.add_user("admin", Role.ADMIN)
        return await OPS.session()

    return asyncio.run(begin())


@SCHEMA.parametrize()
@settings(max_examples=6, suppress_health_check=list(HealthCheck), database=None)
def test_each_route_answers_as_it_is_described(case: schemathesis.Case, session: str) -> None:
    case.call_and_validate(headers={"Authorization": f"Bearer {session}"}, checks=CHECKS)
