"""An update comes by the API: streamed to disk, looked at whole, recorded, and by admins only."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import msgspec
import pytest
from cairn_appliance.api.ops_v1 import matrix
from cairn_appliance.api.ops_v1.gate import BODY_MAX_OCTETS
from cairn_appliance.cluster.own_machine import OwnMachine
from cairn_appliance.domain.access import Role
from cairn_appliance.domain.errors import Unavailable
from cairn_appliance.domain.update import Standing
from cairn_appliance.services.updates import Updates
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.unit.appliance.domain.test_update import view
from tests.unit.appliance.image.updates import MIB, pem, update_of
from tests.unit.appliance.operations import Operations, operations
from tests.unit.appliance.services.test_updates import Making

ROOT = "/api/v1/cluster/update"
KEY = Ed25519PrivateKey.generate()
FILE = update_of(KEY, "0.1.0-2", os.urandom(3 * MIB))


class One:
    """A cluster of one."""

    async def view(self) -> object:
        return view(number=1)


async def nowhere(places: Sequence[str]) -> AsyncGenerator[bytes, None]:
    raise Unavailable("there is no other")
    yield b""


async def leads() -> bool:
    return True


@dataclass
class Served:
    """An appliance of the image, and an admin's client."""

    appliance: Operations
    admin: httpx.AsyncClient
    machine: OwnMachine
    updates: Updates


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    appliance = operations()
    (tmp_path / "inbox").mkdir()
    (tmp_path / "release.pem").write_bytes(pem(KEY))
    machine = OwnMachine(
        tmp_path / "inbox", tmp_path / "standing.json", tmp_path / "release.pem", 0
    )
    told = Standing("a", "0.1.0-1", {"a": "0.1.0-1"})
    machine.standing_file.write_bytes(msgspec.json.encode(told))
    updates = Updates(
        appliance.store,
        "m1",
        machine,
        One(),
        Making(),
        nowhere,
        leads,  # type: ignore[arg-type]
    )
    appliance.app.state.ops = replace(appliance.app.state.ops, updates=updates)
    await appliance.add_user("admin", Role.ADMIN)
    async with appliance.client(await appliance.session("admin")) as admin:
        yield Served(appliance, admin, machine, updates)


async def test_a_file_larger_than_other_bodies_is_kept_and_started(served: Served) -> None:
    assert len(FILE) > 2 * BODY_MAX_OCTETS
    put = await served.admin.put(f"{ROOT}/file", content=FILE)
    assert put.status_code == 200, put.text
    assert put.json()["version"] == "0.1.0-2"
    assert (served.machine.inbox / "bundle").read_bytes() == FILE
    shown = (await served.admin.get(ROOT)).json()
    assert shown["phase"] is None
    assert shown["appliances"][0]["uploaded"] == shown["uploaded"] == "0.1.0-2"
    begun = await served.admin.post(f"{ROOT}/start", json={"version": "0.1.0-2"})
    assert begun.status_code == 202 and begun.json()["phase"] == "backup"
    for _ in range(3):
        await served.updates.look()
    shown = (await served.admin.get(ROOT)).json()
    assert (shown["phase"], shown["current"]) == ("updating", "m1")
    assert (served.machine.inbox / "wish").exists()
    again = await served.admin.post(f"{ROOT}/start", json={"version": "0.1.0-2"})
    assert again.status_code == 409 and again.json()["code"] == "update_refused"


async def test_only_the_version_that_was_shown_is_started(served: Served) -> None:
    await served.admin.put(f"{ROOT}/file", content=FILE)
    other = await served.admin.post(f"{ROOT}/start", json={"version": "0.1.0-1"})
    assert other.status_code == 409 and "update 0.1.0-1 lies on no" in other.text, other.text
    assert "0.1.0-2" in other.json()["remedy"]
    assert (await served.admin.post(f"{ROOT}/start", json={})).status_code == 422
    assert (await served.admin.get(ROOT)).json()["phase"] is None


async def test_a_changed_file_is_refused_with_what_to_do(served: Served) -> None:
    changed = FILE[:-1] + bytes([FILE[-1] ^ 1])
    put = await served.admin.put(f"{ROOT}/file", content=changed)
    assert put.status_code == 422 and put.json()["code"] == "update_damaged"
    assert "SHA256SUMS" in put.json()["remedy"]
    assert not list(served.machine.inbox.iterdir())


async def test_it_is_in_the_audit_and_the_file_is_not(served: Served) -> None:
    await served.admin.put(f"{ROOT}/file", content=FILE)
    told = (await served.admin.get("/api/v1/audit")).json()["items"]
    (record,) = (each for each in told if each["action"] == f"PUT {ROOT}/file")
    assert record["outcome"] == "done" and "admin" in str(record), record


async def test_too_much_is_cut_off(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = ("PUT", f"{ROOT}/file")
    monkeypatch.setitem(matrix.UPLOADS, entry, len(FILE) - 1)
    put = await served.admin.put(f"{ROOT}/file", content=FILE)
    assert put.status_code == 413
    assert not list(served.machine.inbox.iterdir())


async def test_no_operator_brings_one(served: Served) -> None:
    await served.appliance.add_user("op", Role.OPERATOR)
    async with served.appliance.client(await served.appliance.session("op")) as operator:
        assert (await operator.get(ROOT)).status_code == 200
        put = await operator.put(f"{ROOT}/file", content=FILE)
        assert put.status_code == 403
    assert not list(served.machine.inbox.iterdir())
