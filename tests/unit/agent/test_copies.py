"""A machine that is turned away as a copy: what it becomes, and that it fights with nobody."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import pytest_asyncio
from cairn_agent import daemon
from cairn_agent.control import copies, joining
from cairn_agent.daemon import Agent
from cairn_agent.errors import Refused, StateUnusable
from cairn_agent.host.network import Network
from cairn_agent.identity import Identity, data_public_key, new_keys
from cairn_agent.protocol import enrolment
from cairn_agent.protocol.token import decode_token
from cairn_agent.settings import Settings
from cryptography import x509
from pyroute2 import AsyncIPRoute

from tests.unit.agent.fakes.appliance import FakeAppliance
from tests.unit.agent.fakes.netmaps import member
from tests.unit.agent.fakes.running import beside, until

HERE = enrolment.Facts(machine_id="here")
ELSEWHERE = enrolment.Facts(machine_id="elsewhere")
DUPLICATE = {"title": "No", "status": 409, "code": "duplicate_node", "detail": "you are a copy"}
BECAME = {"title": "No", "status": 403, "code": "node_became", "detail": "you are the node"}


class Joined:
    """An agent that has joined, on this machine, with its link running."""

    def __init__(self, appliance: FakeAppliance, agent: Agent, identity: Identity) -> None:
        self.appliance = appliance
        self.agent = agent
        self.identity = identity

    @property
    def now(self) -> Identity:
        assert self.agent.membership is not None
        return self.agent.membership.identity()

    @contextlib.asynccontextmanager
    async def linked(self) -> AsyncIterator[asyncio.Task[None]]:
        self.agent.load()
        async with beside(self.agent.keep_link()) as task:
            yield task

    async def until(self, condition: Callable[[], object], within_s: float = 8.0) -> None:
        await until(condition, within_s)

    async def until_up(self) -> None:
        """Wait until the link is up."""
        await self.until(lambda: self.agent.membership and self.agent.membership.link.state.is_up)

    def answer(self, path: str, status: int, body: dict[str, Any]) -> None:
        self.appliance.answers[path] = lambda _: (status, body)

    def serve(self, node: str, *, is_member: bool = True) -> None:
        """Let every stream begin with the netmap of a node."""
        cluster = self.appliance.cluster
        self.appliance.lines = [
            cluster.reset(),
            cluster.node_of(node, [7] if is_member else [], 5),
            *([cluster.vsubnet([member(2)], 5)] if is_member else []),
            cluster.in_sync(5),
        ]

    async def has_netmap(self) -> None:
        """Wait until the netmap is in use, and kept, as it is once it is applied."""
        await self.until(lambda: self.agent.membership and self.agent.membership.netmap)
        assert self.agent.membership is not None
        self.agent.membership.keep_newest()

    def answer_copies(self, *, state: str = "pending") -> None:
        """Answer `copy` and `become` as an appliance does."""

        def enrolled(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
            self.appliance.answers.pop("register", None)
            self.appliance.state = state
            self.serve(body.get("node_id", self.identity.node_id), is_member=state == "approved")
            status, fields = self.appliance.usual_answer("enrol", {"node_id": "", **body})
            return status, {**fields, "state": state, "generation": 1}

        self.appliance.answers["copy"] = self.appliance.answers["become"] = enrolled


@pytest_asyncio.fixture
async def joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Joined]:
    for module in ("daemon", "membership"):
        monkeypatch.setattr(f"cairn_agent.{module}.machine_facts", lambda _: HERE)
    appliance = FakeAppliance(tmp_path)
    await appliance.start()
    identity = await joining.enrol(
        decode_token(appliance.token()), new_keys(), name="vm", facts=HERE, version="0.1.0"
    )
    identity = msgspec.structs.replace(identity, machine=HERE)
    agent = Agent(
        Settings(tmp_path / "state", tmp_path / "run"), cast(AsyncIPRoute, None), Network()
    )
    agent.state.keep_identity(identity)
    made = Joined(appliance, agent, identity)
    made.serve(identity.node_id)
    yield made
    await appliance.stop()


async def test_a_copy_becomes_a_pending_node_with_an_id_and_keys_of_its_own(
    joined: Joined,
) -> None:
    joined.answer("register", 409, DUPLICATE)
    joined.answer_copies()
    async with joined.linked():
        await joined.until(lambda: joined.now.copy_of)
        await joined.until(lambda: joined.now.generation == 2)
    old, new = joined.identity, joined.now
    (request,) = joined.appliance.asked("copy")
    assert new.copy_of == old.node_id
    assert new.copy_of_name == "vm"
    assert (new.state, new.generation, new.barred) == ("pending", 2, "")
    assert request["node_id"] == new.node_id != old.node_id
    assert request["data_public_key"] == data_public_key(new.keys) != data_public_key(old.keys)
    assert new.keys.control_key != old.keys.control_key
    assert joined.agent.state.identity() == new
    assert new.name != "vm"
    certificate = x509.load_pem_x509_certificate(new.certificate.encode())
    assert certificate.subject.rfc4514_string() == f"CN={new.node_id}"


async def test_a_copy_gives_up_the_netmap_before_it_asks_for_anything(joined: Joined) -> None:
    async with joined.linked():
        await joined.has_netmap()
        assert joined.agent.state.netmap() is not None
        joined.answer("register", 409, DUPLICATE)
        joined.answer("copy", 503, {"title": "busy", "status": 503, "code": "unavailable"})
        membership = joined.agent.membership
        assert membership is not None
        membership.link.register_soon()
        await joined.until(lambda: joined.appliance.asked("copy"))
        assert membership.netmap is None
        assert "copy" in membership.waits
        assert joined.agent.state.netmap() is None
        joined.answer_copies()
        await joined.until(lambda: joined.now.copy_of)


async def test_a_lost_answer_makes_no_second_node(
    joined: Joined, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined.answer("register", 409, DUPLICATE)
    joined.answer("copy", 503, {"title": "busy", "status": 503, "code": "unavailable"})
    async with joined.linked():
        await joined.until(lambda: joined.appliance.asked("copy"))
    joined.answer_copies()
    async with joined.linked():  # the agent was killed and started again meanwhile
        await joined.until(lambda: joined.now.copy_of)
    assert len({body["node_id"] for body in joined.appliance.asked("copy")}) == 1


async def test_a_copy_that_is_refused_too_is_barred(joined: Joined) -> None:
    joined.answer("register", 409, DUPLICATE)
    gone = {"title": "No", "status": 403, "code": "node_removed", "detail": "it was removed"}
    joined.answer("copy", 403, gone)
    async with joined.linked():
        await joined.until(lambda: joined.now.barred)
    assert joined.now.barred == "it was removed"


async def test_a_full_disk_leaves_the_old_identity_and_is_tried_again(
    joined: Joined, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "_RETRY_S", 0.05)
    joined.answer("register", 409, DUPLICATE)
    joined.answer_copies()
    tries = 0

    def full(*_: object) -> None:
        nonlocal tries
        tries += 1
        raise StateUnusable("no space left")

    with monkeypatch.context() as patched:
        patched.setattr(joined.agent.state, "keep_attempt", full)
        async with joined.linked() as task:
            await joined.until(lambda: tries >= 2)
            assert not task.done()
    assert joined.appliance.asked("copy") == []
    assert joined.agent.state.identity() is not None


async def test_claimed_by_an_operator_the_copy_is_the_node_with_its_own_keys(
    joined: Joined,
) -> None:
    joined.answer("register", 409, DUPLICATE)
    joined.answer_copies()
    async with joined.linked():
        await joined.until(lambda: joined.now.copy_of)
        copy = joined.now
        await joined.appliance.until(lambda fake: fake.stream_count)
        joined.answer_copies(state="approved")
        joined.appliance.send(b'{"type":"removed","reason":"it is vm","code":"node_became"}')
        await joined.until(lambda: not joined.now.copy_of)
        await joined.until_up()
    now = joined.now
    assert (now.node_id, now.name, now.state) == (joined.identity.node_id, "vm", "approved")
    assert now.keys.data_key == copy.keys.data_key != joined.identity.keys.data_key
    request = x509.load_pem_x509_csr(
        joined.appliance.asked("become")[0]["certificate_request"].encode()
    )
    assert request.subject.rfc4514_string() == f"CN={joined.identity.node_id}"


async def test_claimed_while_it_was_off_it_hears_of_it_when_it_registers(joined: Joined) -> None:
    joined.answer("register", 409, DUPLICATE)
    joined.answer_copies()
    async with joined.linked():
        await joined.until(lambda: joined.now.copy_of)
    joined.answer("register", 403, BECAME)
    joined.answer_copies(state="approved")
    async with joined.linked():
        await joined.until(lambda: joined.now.node_id == joined.identity.node_id)
        await joined.until_up()


async def test_what_was_never_a_copy_becomes_nobody(joined: Joined) -> None:
    joined.answer("register", 403, BECAME)
    async with joined.linked():
        await joined.until(lambda: joined.now.barred)


async def test_on_another_machine_the_netmap_waits_for_an_appliance(
    joined: Joined, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with joined.linked():
        await joined.has_netmap()
    for module in ("daemon", "membership"):
        monkeypatch.setattr(f"cairn_agent.{module}.machine_facts", lambda _: ELSEWHERE)
    joined.agent.load()
    membership = joined.agent.membership
    assert membership is not None
    assert membership.netmap is None
    assert membership.waits
    async with joined.linked():
        await joined.has_netmap()
    assert joined.now.machine == ELSEWHERE
    joined.agent.load()
    assert joined.agent.membership is not None
    assert joined.agent.membership.netmap is not None, "let in once, it starts by itself"


async def test_the_same_machine_starts_without_asking_anybody(joined: Joined) -> None:
    async with joined.linked():
        await joined.has_netmap()
    joined.agent.load()
    assert joined.agent.membership is not None
    assert joined.agent.membership.netmap is not None


@pytest.mark.parametrize("name", ["vm", "", "x" * 63])
def test_a_copy_has_another_name_than_its_original(name: str) -> None:
    keys = new_keys()
    identity = cast(Identity, type("Named", (), {"name": name or "vm"})())
    called = copies.copy_name(identity, keys, name)
    assert called != identity.name
    assert len(called) <= 63
    assert copies.copy_name(identity, keys, "other") == "other"


async def test_nobody_answers_is_no_refusal(joined: Joined) -> None:
    await joined.appliance.stop()
    asking = asyncio.create_task(copies.enrol_copy(joined.identity, new_keys(), "", HERE))
    await asyncio.sleep(0.3)
    assert not asking.done()
    await joined.appliance.start()
    joined.answer("copy", 403, {"title": "No", "status": 403, "code": "x", "detail": "no"})
    with pytest.raises(Refused):
        await asyncio.wait_for(asking, 8)
