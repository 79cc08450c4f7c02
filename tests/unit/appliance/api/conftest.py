"""An appliance without sockets, and a client of its admin."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from cairn_appliance.domain.access import Role

from tests.unit.appliance.operations import Operations, operations


@pytest.fixture
async def ops() -> Operations:
    """Return an appliance with the user `admin`."""
    made = operations()
    await made.add_user("admin", Role.ADMIN)
    return made


@pytest.fixture
async def admin(ops: Operations) -> AsyncIterator[httpx.AsyncClient]:
    """Yield a client that is logged in as `admin`."""
    async with ops.client(await ops.session()) as client:
        yield client
