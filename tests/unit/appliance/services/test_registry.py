"""Registration in two phases, clones, moves, leaving and removal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from cairn_appliance.domain.errors import DuplicateNode, NodeFrozen, NodeRemoved, Unavailable
from cairn_appliance.domain.generation import Attempt, Generation
from cairn_appliance.domain.identity import SYSTEM, Facts
from cairn_appliance.domain.node import NodeState, Registration
from cairn_appliance.services import presence as presence_module
from cairn_appliance.store.keys import MAP
from cairn_appliance.store.port import Reset

from tests.simulated_node import SimulatedNode
from tests.unit.agent.fakes.running import beside, until
from tests.unit.appliance.following import Following
from tests.unit.appliance.replica import FakeClock, Replica

ELSEWHERE = Facts(dmi_uuid="elsewhere")


@asynccontextmanager
async def streaming(
    replica: Replica, node: SimulatedNode, heard_before_s: float = 0.0
) -> AsyncIterator[None]:
    """Have a stream of the node open, whose machine acknowledged something so long ago."""
    await follow_once(replica)
    stream = await replica.services.streams.open(node.id, 0, 0)
    link = Following()
    link.heard_before_s = heard_before_s
    stream.begin(link)
    try:
        yield
    finally:
        stream.over()


@asynccontextmanager
async def two_replicas(
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[tuple[Replica, Replica, SimulatedNode, FakeClock]]:
    """Two replicas that share their presence, and ask each other; a node that registered once."""
    monkeypatch.setattr(presence_module, "INTERVAL_S", 0.01)
    steady = FakeClock(1000.0)
    first = Replica(monotonic=steady)
    second = Replica(first.memory, "r2", first.clock, monotonic=steady)
    replicas = {"r1": first, "r2": second}

    async def ask(appliance: str, node: str) -> bool | None:
        return await replicas[appliance].services.streams.answers(node) is True

    for replica in replicas.values():
        replica.services.liveness.ask = ask
    node = await first.joined("n")
    first.clock.now += 60
    async with beside(first.services.presence.share()), beside(second.services.presence.share()):
        yield first, second, node, steady


async def registration(replica: Replica, node: SimulatedNode) -> Registration:
    return (await replica.services.nodes.get(node.id)).value.registration


async def test_each_registration_takes_the_offer_up_and_offers_the_next() -> None:
    replica = Replica()
    node = await replica.joined("n")
    assert (await registration(replica, node)).generation == Generation(1, 2)
    await replica.register(node)
    assert (await registration(replica, node)).generation == Generation(2, 3)


async def test_a_lost_answer_is_no_alarm_and_gets_the_same_offer() -> None:
    replica = Replica()
    node = await replica.joined("n")
    first = await replica.services.registry.register(node.id, node.report(), "198.51.100.9")
    again = await replica.services.registry.register(node.id, node.report(), "198.51.100.9")
    assert first == again
    assert "duplicate_node" not in await replica.kinds()


async def test_endpoints_and_the_seen_address_are_kept_and_a_change_is_an_event() -> None:
    replica = Replica()
    node = await replica.joined("n")
    assert (await registration(replica, node)).candidates == (
        "192.0.2.7:8002",
        "198.51.100.9:8002",
    )
    await replica.register(node, endpoints=("192.0.2.8:8002",))
    assert (await replica.kinds())[-1] == "endpoints_changed"
    before = len(await replica.kinds())
    await replica.register(node, endpoints=("192.0.2.8:8002",))
    assert len(await replica.kinds()) == before


async def test_a_vm_that_moved_to_another_host_goes_on_with_its_identity_and_address() -> None:
    replica = Replica()
    red = await replica.vsubnet()
    node = await replica.joined("n", red)
    before = (await replica.services.members.list())[0].value
    replica.clock.now += 15
    await replica.register(node, facts=Facts(dmi_uuid="another host"))
    assert (await replica.kinds())[-1] == "node_moved"
    assert (await replica.services.members.list())[0].value == before
    assert (await registration(replica, node)).sessions_since == 0


async def test_a_clone_beside_the_living_original_is_turned_away_and_told_once_a_minute() -> None:
    replica = Replica()
    node = await replica.joined("n")
    before = await registration(replica, node)
    async with streaming(replica, node):
        for _ in range(3):
            with pytest.raises(DuplicateNode):
                await replica.register(node, facts=Facts(dmi_uuid="copy"))
        assert (await replica.kinds()).count("duplicate_node") == 1
        assert await registration(replica, node) == before
        replica.clock.now += 60
        with pytest.raises(DuplicateNode):
            await replica.register(node, facts=Facts(dmi_uuid="copy"))
    assert (await replica.kinds()).count("duplicate_node") == 2


async def test_a_restored_snapshot_goes_on_and_its_peers_forget_their_sessions() -> None:
    steady = FakeClock(1000.0)
    replica = Replica(monotonic=steady)
    node = await replica.joined("n")
    for _ in range(3):
        await replica.register(node)
    with pytest.raises(Unavailable):  # what its machine gave up would come once
        await replica.register(node, generation=1)
    steady.now += 3
    await replica.register(node, generation=1)
    found = await registration(replica, node)
    assert found.sessions_since == found.generation.current > 3
    assert (await replica.kinds())[-1] == "node_restored"


async def test_a_restored_snapshot_whose_old_link_still_looks_alive_is_no_clone() -> None:
    steady = FakeClock(1000.0)
    replica = Replica(monotonic=steady)
    node = await replica.joined("n")
    for _ in range(3):
        await replica.register(node)
    replica.services.presence.connected(node.id)  # of before: nobody has noticed its end yet
    with pytest.raises(Unavailable):
        await replica.register(node, generation=1)
    steady.now += 20
    replica.services.presence.disconnected(node.id)
    await replica.register(node, generation=1)
    assert (await replica.kinds())[-1] == "node_restored"


async def test_an_old_generation_beside_a_link_that_lives_on_is_a_clone() -> None:
    steady = FakeClock(1000.0)
    replica = Replica(monotonic=steady)
    node = await replica.joined("n")
    for _ in range(3):
        await replica.register(node)
    async with streaming(replica, node):
        for _ in range(5):
            with pytest.raises(Unavailable):
                await replica.register(node, generation=1)
            replica.clock.now -= 60  # whatever is done to the wall clock
            steady.now += 5
        with pytest.raises(DuplicateNode):
            await replica.register(node, generation=1)


async def test_of_two_machines_with_one_memory_the_second_to_register_is_a_clone() -> None:
    steady = FakeClock(1000.0)
    replica = Replica(monotonic=steady)
    node = await replica.joined("n")
    memory = node.generation
    await replica.register(node, attempt=Attempt(1, "drawn here"))
    async with streaming(replica, node):
        with pytest.raises(Unavailable):
            await replica.register(node, generation=memory, attempt=Attempt(1, "drawn there"))
        steady.now += 25
        with pytest.raises(DuplicateNode):
            await replica.register(node, generation=memory, attempt=Attempt(2, "drawn there"))


async def test_of_two_that_got_one_offer_each_the_one_with_the_earlier_is_a_clone() -> None:
    steady = FakeClock(1000.0)
    replica = Replica(monotonic=steady)
    node = await replica.joined("n")
    other = replace(node)
    await replica.register(node, attempt=Attempt(1, "of both"))  # its answer is on the way
    await replica.register(other, attempt=Attempt(2, "drawn there", ("of both",)))
    async with streaming(replica, node):
        with pytest.raises(Unavailable):
            await replica.register(node, attempt=Attempt(1, "here"))
        steady.now += 25
        with pytest.raises(DuplicateNode):
            await replica.register(node, attempt=Attempt(2, "here"))
        await replica.register(other, attempt=Attempt(1, "there"))


async def test_what_a_machine_gave_up_changes_nothing_when_it_comes_late() -> None:
    replica = Replica()
    node = await replica.joined("n")
    given_up = node.report(attempt=Attempt(1, "a"), endpoints=("192.0.2.9:8002",))
    await replica.register(node, attempt=Attempt(2, "b", ("a",)))
    before = await registration(replica, node)
    late = await replica.services.registry.register(node.id, given_up, "198.51.100.9")
    assert late.again
    assert await registration(replica, node) == before


async def test_an_agent_that_does_not_tell_its_tries_apart_is_served_as_ever() -> None:
    replica = Replica()
    node = await replica.joined("n")
    await replica.register(node, attempt=Attempt(1, "a"))
    older = await replica.services.registry.register(node.id, node.report(), "198.51.100.9")
    again = await replica.services.registry.register(node.id, node.report(), "198.51.100.9")
    assert older == again


@pytest.mark.parametrize("boot", ["", "another boot"])
@pytest.mark.parametrize("offered", [False, True])
async def test_a_crashed_vm_that_is_back_before_its_old_link_is_noticed_dead_just_restarts(
    boot: str, offered: bool
) -> None:
    replica = Replica()
    node = await replica.joined("n")
    replica.services.presence.connected(node.id)
    facts = replace(node.facts, boot_id=boot)
    await replica.register(node, facts=facts, generation=node.generation - (not offered))
    kinds = await replica.kinds()
    assert not {"duplicate_node", "node_restored", "node_moved"} & set(kinds)


def test_a_machine_whose_only_fact_is_not_there_yet_is_not_another_one() -> None:
    assert Facts(first_mac="02:00:00:00:00:01").same_machine(Facts())
    assert not Facts(first_mac="02:00:00:00:00:01").same_machine(
        Facts(first_mac="02:00:00:00:00:02")
    )


async def test_two_replicas_asked_at_once_with_the_same_offer_agree_on_one_history() -> None:
    first = Replica()
    second = Replica(first.memory, "r2")
    node = await first.joined("n")
    answers = await asyncio.gather(
        *(
            replica.services.registry.register(node.id, node.report(), "198.51.100.9")
            for replica in (first, second)
            for _ in range(10)
        )
    )
    assert {answer.generation for answer in answers} == {3}
    assert (await registration(first, node)).generation == Generation(2, 3)


async def test_a_removed_node_is_refused_everywhere_and_gone_from_the_list() -> None:
    replica = Replica()
    red = await replica.vsubnet()
    node = await replica.joined("n", red)
    await replica.services.nodes.remove("n", SYSTEM, reason="stolen")
    with pytest.raises(NodeRemoved) as caught:
        await replica.register(node)
    assert "stolen" in caught.value.cause
    assert await replica.services.nodes.list() == ()
    assert len(await replica.services.nodes.list(NodeState.REMOVED)) == 1
    assert await replica.services.members.list() == ()


async def test_a_removal_cut_short_is_finished_by_housekeeping() -> None:
    replica = Replica()
    red = await replica.vsubnet()
    node = await replica.joined("n", red)
    removing = asyncio.create_task(replica.services.nodes.remove("n", SYSTEM))
    while (await replica.services.nodes.get(node.id)).value.node.state is not NodeState.REMOVED:
        await asyncio.sleep(0)
    removing.cancel()
    await asyncio.gather(removing, return_exceptions=True)
    assert len(await replica.services.members.list()) == 1
    await replica.services.nodes.tidy()
    assert await replica.services.members.list() == ()


async def test_leaving_is_removal_by_the_node_itself_and_may_be_repeated() -> None:
    replica = Replica()
    node = await replica.joined("n")
    await replica.services.registry.leave(node.id, "moving out", "198.51.100.9")
    await replica.services.registry.leave(node.id, "moving out", "198.51.100.9")
    assert (await replica.kinds()).count("node_removed") == 1


async def test_a_node_nobody_knows_is_refused() -> None:
    with pytest.raises(NodeRemoved):
        await Replica().register(SimulatedNode())


async def test_a_machine_that_comes_right_after_another_waits_until_it_is_known() -> None:
    replica = Replica()
    node = await replica.joined("n")
    with pytest.raises(Unavailable):
        await replica.register(node, facts=Facts(dmi_uuid="moved, or a copy"))
    async with streaming(replica, node):
        with pytest.raises(DuplicateNode):
            await replica.register(node, facts=Facts(dmi_uuid="moved, or a copy"))


async def test_of_machines_that_come_at_once_to_two_replicas_one_is_the_node() -> None:
    first = Replica()
    second = Replica(first.memory, "r2", first.clock)
    node = await first.joined("n")
    first.clock.now += 60
    reports = [node.report(facts=Facts(dmi_uuid=f"copy {n}")) for n in range(10)]
    answers = await asyncio.gather(
        *(
            replica.services.registry.register(node.id, report, "198.51.100.9")
            for replica in (first, second)
            for report in reports
        ),
        return_exceptions=True,
    )
    winners = [a for a in answers if not isinstance(a, BaseException)]
    assert 1 <= len(winners) <= 2, "the same machine may have asked both"
    assert all(isinstance(a, Unavailable) for a in answers if isinstance(a, BaseException))
    assert (await first.kinds()).count("node_moved") == 1


async def test_a_node_that_is_taken_over_again_and_again_is_frozen_with_one_alarm() -> None:
    steady = FakeClock(1000.0)
    replica = Replica(monotonic=steady)
    node = await replica.joined("n")
    for _ in range(3):
        await replica.register(node)
    for _ in range(4):
        with pytest.raises(Unavailable):
            await replica.register(node, generation=0)
        steady.now += 3
        await replica.register(node, generation=0)
    with pytest.raises(Unavailable):
        await replica.register(node, generation=0)
    steady.now += 3
    before = await registration(replica, node)
    for _ in range(10):
        with pytest.raises(NodeFrozen):
            await replica.register(node, generation=0)
        with pytest.raises(NodeFrozen):
            await replica.register(node)
    assert (await replica.kinds()).count("node_frozen") == 1
    assert (await registration(replica, node)).endpoints == before.endpoints
    await replica.services.duplicates.unfreeze("n", SYSTEM)
    await replica.register(node)
    assert (await replica.kinds())[-1] == "node_unfrozen"


async def test_four_takeovers_in_180_seconds_are_no_fight() -> None:
    replica = Replica()
    node = await replica.joined("n")
    for _ in range(20):
        replica.clock.now += 60
        await replica.register(node, facts=Facts(dmi_uuid=str(replica.clock.now)))
    assert "node_frozen" not in await replica.kinds()


async def test_a_machine_started_elsewhere_after_a_power_failure_waits_and_is_no_copy() -> None:
    replica = Replica()
    node = await replica.joined("n")
    replica.clock.now += 60
    listing = await replica.memory.list(MAP)
    replica.services.netmaps.take([Reset(listing.revision, listing.items)])
    stream = await replica.services.streams.open(node.id, 0, 0)
    link = Following()
    link.heard_before_s = 5.0
    stream.begin(link)
    moved = Facts(dmi_uuid="elsewhere")
    with pytest.raises(Unavailable):
        await replica.register(node, facts=moved)
    link.heard_before_s = 0.0  # it acknowledges after all
    with pytest.raises(DuplicateNode):
        await replica.register(node, facts=moved)
    stream.over()
    await replica.register(node, facts=moved)
    assert (await replica.kinds())[-1] == "node_moved"


@pytest.mark.parametrize("set_by_s", [-3600.0, 3600.0])
async def test_a_clock_that_was_set_holds_no_moved_machine_up(set_by_s: float) -> None:
    replica = Replica()
    node = await replica.joined("n")
    replica.clock.now += set_by_s
    await replica.register(node, facts=ELSEWHERE)
    assert (await replica.kinds())[-1] == "node_moved"


async def test_copies_are_told_of_also_after_the_clock_was_set_back() -> None:
    replica = Replica()
    node = await replica.joined("n")
    async with streaming(replica, node):
        for _ in range(2):
            with pytest.raises(DuplicateNode):
                await replica.register(node, facts=ELSEWHERE)
            replica.clock.now -= 3600
    assert (await replica.kinds()).count("duplicate_node") == 2


async def test_appliances_whose_clocks_are_apart_protect_who_registered_of_late() -> None:
    first = Replica()
    second = Replica(first.memory, "r2", FakeClock(first.clock.now - 9.0))
    node = await first.joined("n")
    with pytest.raises(Unavailable):
        await second.register(node, facts=ELSEWHERE)


async def test_a_machine_started_elsewhere_waits_also_where_another_replica_has_its_old_link(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with two_replicas(monkeypatch) as (first, second, node, _):
        async with streaming(first, node, 5.0):
            await until(lambda: second.services.presence.is_connected(node.id))
            with pytest.raises(Unavailable):
                await second.register(node, facts=ELSEWHERE)
        await until(lambda: not second.services.presence.is_connected(node.id))
        await second.register(node, facts=ELSEWHERE)
        assert (await first.kinds())[-1] == "node_moved"
        assert "duplicate_node" not in await first.kinds()


async def test_a_copy_of_a_node_that_lives_at_another_replica_is_turned_away_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with two_replicas(monkeypatch) as (first, second, node, _), streaming(first, node):
        await until(lambda: second.services.presence.is_connected(node.id))
        with pytest.raises(DuplicateNode):
            await second.register(node, facts=ELSEWHERE)


async def test_a_replica_that_was_killed_with_the_machine_makes_the_moved_one_no_copy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its presence goes with its lease; it is asked in vain until then."""

    async def no_answer(_appliance: str, _node: str) -> None:
        return None

    async with two_replicas(monkeypatch) as (first, second, node, steady):
        second.services.liveness.ask = no_answer
        async with streaming(first, node):
            await until(lambda: second.services.presence.is_connected(node.id))
            for _ in range(7):
                with pytest.raises(Unavailable):
                    await second.register(node, facts=ELSEWHERE)
                steady.now += 5
        await until(lambda: not second.services.presence.is_connected(node.id))
        await second.register(node, facts=ELSEWHERE)
        assert (await first.kinds())[-1] == "node_moved"


async def test_a_replica_that_is_there_and_gives_no_answer_has_a_link_that_lives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def no_answer(_appliance: str, _node: str) -> None:
        return None

    async with two_replicas(monkeypatch) as (first, second, node, steady), streaming(first, node):
        second.services.liveness.ask = no_answer
        await until(lambda: second.services.presence.is_connected(node.id))
        with pytest.raises(Unavailable):
            await second.register(node, facts=ELSEWHERE)
        steady.now += 40
        with pytest.raises(DuplicateNode):
            await second.register(node, facts=ELSEWHERE)


async def test_copies_that_come_at_once_to_a_replica_without_the_link_are_all_turned_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with two_replicas(monkeypatch) as (first, second, node, _), streaming(first, node):
        await until(lambda: second.services.presence.is_connected(node.id))
        answers = await asyncio.gather(
            *(
                replica.services.registry.register(
                    node.id, node.report(facts=Facts(dmi_uuid=f"copy {n}")), "198.51.100.9"
                )
                for replica in (first, second)
                for n in range(25)
            ),
            return_exceptions=True,
        )
        assert {type(answer) for answer in answers} == {DuplicateNode}
        assert (await first.kinds()).count("duplicate_node") == 1


async def follow_once(replica: Replica) -> None:
    listing = await replica.memory.list(MAP)
    replica.services.netmaps.take([Reset(listing.revision, listing.items)])


async def test_who_goes_on_is_not_read_from_the_store(monkeypatch: pytest.MonkeyPatch) -> None:
    replica = Replica()
    node = await replica.joined("n")
    await follow_once(replica)

    async def no_read(keys: object) -> None:
        raise AssertionError(f"read {keys}")

    with monkeypatch.context() as patched:
        for name in ("get", "get_all", "list"):
            patched.setattr(replica.store, name, no_read)
        await replica.register(node, endpoints=("192.0.2.8:8002",))
    assert "192.0.2.8:8002" in (await registration(replica, node)).endpoints


async def test_what_is_in_memory_may_be_behind() -> None:
    """The commit tells: then the store says what holds."""
    replica = Replica()
    node, gone = await replica.joined("n"), await replica.joined("gone")
    await follow_once(replica)
    for number in range(3):
        await replica.register(node, endpoints=(f"192.0.2.{number + 1}:8002",))
        found = await registration(replica, node)
        assert found.endpoints == (f"192.0.2.{number + 1}:8002",)
    assert found.generation == Generation(4, 5)
    await replica.services.nodes.remove(gone.id, SYSTEM)
    with pytest.raises(NodeRemoved):
        await replica.register(gone)
