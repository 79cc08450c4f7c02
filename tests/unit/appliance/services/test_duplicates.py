"""Copies of a node: each waits as a node of its own, until an operator says what it is."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from cairn_appliance.domain.errors import (
    Clash,
    DuplicateNode,
    Invalid,
    NodeBecame,
    NodeRemoved,
    NotFound,
    Refused,
    TooMany,
)
from cairn_appliance.domain.identity import SYSTEM
from cairn_appliance.domain.node import Node, NodeState, Registration
from cairn_appliance.services import duplicates
from cairn_appliance.services.enrolment import Credentials, Newcomer, control_key_of

from tests.simulated_node import SimulatedNode
from tests.unit.appliance.replica import Replica


def newcomer(node: SimulatedNode) -> Newcomer:
    return Newcomer(
        node=node.id,
        name=node.name,
        certificate_request=node.certificate_request(),
        data_public_key=node.data_public_key,
        facts=node.facts,
        agent_version="0.1.0",
    )


async def admit(replica: Replica, original: SimulatedNode, copy: SimulatedNode) -> Credentials:
    return await replica.services.duplicates.admit(original.id, newcomer(copy), "198.51.100.9")


async def kept(replica: Replica, node: SimulatedNode) -> tuple[Node, Registration]:
    view = (await replica.services.nodes.get(node.id)).value
    return view.node, view.registration


async def test_a_copy_is_a_pending_node_that_says_whose_copy_it_is() -> None:
    replica = Replica()
    original = await replica.joined("web", await replica.vsubnet())
    before = await kept(replica, original)
    copy = SimulatedNode("web-copy")
    credentials = await admit(replica, original, copy)
    node, _ = await kept(replica, copy)
    assert (credentials.state, credentials.generation) == (NodeState.PENDING, 1)
    assert (node.state, node.copy_of) == (NodeState.PENDING, original.id)
    assert await kept(replica, original) == before
    assert [m.value.node for m in await replica.services.members.list()] == [original.id]
    await replica.register(copy)
    assert "copy_enrolled" in await replica.kinds()


async def test_a_lost_answer_can_be_asked_for_again() -> None:
    replica = Replica()
    original = await replica.joined("web")
    copy = SimulatedNode("web-copy")
    first, again = await asyncio.gather(*(admit(replica, original, copy) for _ in range(2)))
    assert first.generation == again.generation
    assert (await replica.kinds()).count("copy_enrolled") == 1


async def test_another_machine_cannot_take_the_id_of_a_copy_or_of_a_node() -> None:
    replica = Replica()
    original = await replica.joined("web")
    copy = SimulatedNode("web-copy")
    await admit(replica, original, copy)
    for taken in (copy.id, original.id):
        with pytest.raises(Clash):
            await admit(replica, original, SimulatedNode("thief", id=taken))


async def test_a_copy_with_the_originals_keys_is_refused() -> None:
    replica = Replica()
    original = await replica.joined("web")
    for part in ("key", "data_public_key"):
        copy = SimulatedNode("web-copy")
        setattr(copy, part, getattr(original, part))
        with pytest.raises(Invalid):
            await admit(replica, original, copy)


async def test_a_copy_of_a_removed_node_is_nobody() -> None:
    replica = Replica()
    original = await replica.joined("web")
    await replica.services.nodes.remove("web", SYSTEM)
    with pytest.raises(NodeRemoved):
        await admit(replica, original, SimulatedNode("web-copy"))


async def test_only_so_many_copies_of_a_node_wait_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "COPIES_MAX", 3)
    replica = Replica()
    original = await replica.joined("web")
    copies = [SimulatedNode(f"copy-{n}") for n in range(8)]
    answers = await asyncio.gather(
        *(admit(replica, original, copy) for copy in copies), return_exceptions=True
    )
    admitted = [a for a in answers if isinstance(a, Credentials)]
    assert len(admitted) == 3
    assert all(isinstance(a, TooMany) for a in answers if isinstance(a, BaseException))
    waiting = await replica.services.nodes.list(NodeState.PENDING)
    await replica.services.nodes.reject(waiting[0].value.node.id, SYSTEM)
    await admit(replica, original, SimulatedNode("one more"))


async def test_approved_it_is_a_new_node_with_addresses_of_its_own() -> None:
    replica = Replica()
    red = await replica.vsubnet()
    original = await replica.joined("web", red)
    copy = SimulatedNode("web-copy")
    await admit(replica, original, copy)
    await replica.services.nodes.approve("web-copy", SYSTEM)
    members = {m.value.node: m.value for m in await replica.services.members.list()}
    assert members.keys() == {original.id, copy.id}
    assert not set(members[original.id].ips) & set(members[copy.id].ips)
    assert members[original.id].mac != members[copy.id].mac


async def test_this_one_is_x_gives_the_copy_everything_but_the_keys() -> None:
    replica = Replica()
    red = await replica.vsubnet()
    original = await replica.joined("web", red)
    member = (await replica.services.members.list())[0].value
    copy = SimulatedNode("web-copy", endpoints=("192.0.2.99:8002",))
    await admit(replica, original, copy)
    await replica.register(copy)
    before, _ = await kept(replica, original)
    assert await replica.services.duplicates.claim("web-copy", SYSTEM) == original.id

    node, registration = await kept(replica, original)
    assert (node.id, node.name, node.state) == (original.id, "web", NodeState.APPROVED)
    assert node.data_public_key == copy.data_public_key
    assert registration.endpoints == copy.endpoints
    assert [m.value for m in await replica.services.members.list()] == [member]
    assert node.lost_keys == (before.control_key,)

    # The copy is told that it is another node, and gets that node's certificate.
    with pytest.raises(NodeBecame):
        await replica.register(copy)
    copy_as_original = replace(copy, id=original.id)
    copy_as_original.key, copy_as_original.data_public_key = copy.key, copy.data_public_key
    credentials = await replica.services.duplicates.become(
        copy.id, copy_as_original.certificate_request()
    )
    assert credentials.state is NodeState.APPROVED
    copy_as_original.generation = credentials.generation
    await replica.register(copy_as_original)

    # What it was until now is a copy from here on, however new a generation it shows.
    for generation in (original.generation, credentials.generation, 1000):
        with pytest.raises(DuplicateNode):
            await replica.services.registry.register(
                original.id,
                original.report(generation=generation, control_key=before.control_key),
                "198.51.100.9",
            )
    with pytest.raises(DuplicateNode):
        await replica.services.registry.known_at(original.id, before.control_key)
    with pytest.raises(DuplicateNode):
        await replica.services.enrolment.renew(original.id, original.certificate_request())
    with pytest.raises(DuplicateNode):
        await replica.services.registry.leave(original.id, "", "", before.control_key)
    fresh = SimulatedNode("web-old")
    await admit(replica, original, fresh)
    assert (await kept(replica, fresh))[0].copy_of == original.id
    await replica.services.duplicates.claim("web-old", SYSTEM)
    assert (await kept(replica, original))[0].data_public_key == fresh.data_public_key


async def test_only_one_of_two_operators_gives_the_identity_away() -> None:
    replica = Replica()
    original = await replica.joined("web")
    copies = [SimulatedNode(f"copy-{n}") for n in range(2)]
    for copy in copies:
        await admit(replica, original, copy)
    await asyncio.gather(*(replica.services.duplicates.claim(copy.id, SYSTEM) for copy in copies))
    node, _ = await kept(replica, original)
    keys = {control_key_of(copy.certificate_request(), copy.id) for copy in copies}
    assert node.control_key in keys
    assert len(node.lost_keys) == 2, "one after the other: the first was taken from again"


async def test_what_is_no_waiting_copy_cannot_be_claimed() -> None:
    replica = Replica()
    original = await replica.joined("web")
    with pytest.raises(Clash):
        await replica.services.duplicates.claim("web", SYSTEM)
    copy = SimulatedNode("web-copy")
    await admit(replica, original, copy)
    with pytest.raises(Refused):
        await replica.services.duplicates.become(copy.id, original.certificate_request())
    await replica.services.nodes.approve("web-copy", SYSTEM)
    with pytest.raises(Clash):
        await replica.services.duplicates.claim("web-copy", SYSTEM)
    late = SimulatedNode("late")
    await admit(replica, original, late)
    await replica.services.nodes.remove("web", SYSTEM)
    with pytest.raises(NotFound):
        await replica.services.duplicates.claim("late", SYSTEM)


async def test_whoever_has_become_another_node_gets_a_certificate_for_no_other_key() -> None:
    replica = Replica()
    original = await replica.joined("web")
    copy = SimulatedNode("web-copy")
    await admit(replica, original, copy)
    await replica.services.duplicates.claim("web-copy", SYSTEM)
    with pytest.raises(Refused):
        await replica.services.duplicates.become(copy.id, original.certificate_request())
