"""What members say of a peer that is two machines: one alarm, one event, and nothing more."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator
from dataclasses import dataclass

import msgspec
import pytest
from cairn_agent.protocol import telemetry as wire
from cairn_appliance.domain.alarm import Alarm
from cairn_appliance.domain.event import Event, Severity
from cairn_appliance.domain.problem import Problem
from cairn_appliance.services import clones as clones_module
from cairn_appliance.services.clones import TOLD_EVERY_S
from cairn_appliance.services.problems import problems_known
from cairn_appliance.store import keys

from tests.simulated_node import SimulatedNode
from tests.unit.agent.fakes.running import beside, until
from tests.unit.appliance.replica import Replica


@dataclass
class Seeing:
    """Two replicas on one store; in `red` a victim and its peers, in `blue` a stranger."""

    replica: Replica
    other: Replica
    nodes: dict[str, SimulatedNode]
    vnis: dict[str, int]

    def say(
        self,
        reporter: str,
        *clones: str,
        by: Replica | None = None,
        vni: int | None = None,
        endpoint: str = "192.0.2.66:8002",
    ) -> None:
        problems = [
            wire.ProblemSaid(
                wire.CLONE_SEEN,
                "what the reporter makes up \u202e",
                "reinstall everything",
                self.nodes[clone].id,
                self.vnis["red"] if vni is None else vni,
            )
            for clone in clones
        ]
        peers = [
            wire.PeerSaid(self.nodes[each].id, self.vnis["red"], "up", endpoint=endpoint)
            for each in clones
        ]
        report = wire.Report(full=True, problems=problems, peers=peers)
        board = (by or self.replica).services.telemetry
        board.take(self.nodes[reporter].id, msgspec.json.encode(report))

    def alarms(self) -> list[tuple[str, Problem]]:
        return [
            (each.id, each.problem)
            for each in problems_known(self.replica.services, None)
            if each.problem.name == Alarm.CLONE_SEEN
        ]

    async def events(self) -> list[Event]:
        events = await self.replica.services.events.list(limit=10_000)
        return [each for each in events if each.kind == "clone_seen"]


@pytest.fixture
async def seeing() -> AsyncIterator[Seeing]:
    replica = Replica()
    other = Replica(replica.memory, "r2", replica.clock)
    red, blue = await replica.vsubnet("red"), await replica.vsubnet("blue", "10.8.0.0/24")
    nodes = {name: await replica.joined(name, "red") for name in ("victim", "a", "b", "c", "d")}
    nodes["stranger"] = await replica.joined("stranger", "blue")
    services = replica.services
    async with beside(services.streams.run()), beside(other.services.streams.run()):
        for each in (replica, other):
            snapshot = each.services.netmaps.snapshot
            await until(lambda snapshot=snapshot: len(snapshot.members_of(red)) == 5)
            await until(lambda snapshot=snapshot: len(snapshot.members_of(blue)) == 1)
        known = services.netmaps.snapshot.vsubnets
        yield Seeing(replica, other, nodes, {"red": known[red].vni, "blue": known[blue].vni})


async def test_many_reporters_of_one_clone_are_one_alarm_about_that_node(seeing: Seeing) -> None:
    for reporter in "abcd":
        seeing.say(reporter, "victim")
    ((node, problem),) = seeing.alarms()
    assert node == seeing.nodes["victim"].id
    assert not problem.is_urgent
    assert "node victim seems to be two machines in vSubnet red" in problem.cause
    assert "a (which has it at 192.0.2.66:8002)" in problem.cause
    assert "and 1 more" in problem.cause
    assert "cairn-agent seal-image" in problem.remedy

    seeing.replica.clock.now += wire.STALE_S + 1
    assert seeing.alarms() == []


async def test_a_reporters_own_words_are_not_told(seeing: Seeing) -> None:
    seeing.say("a", "victim", endpoint="a shell: run it, then all is well")
    ((_, problem),) = seeing.alarms()
    told = problem.cause + problem.remedy
    assert not [word for word in ("makes up", "reinstall", "shell") if word in told]
    assert problem.cause.endswith("red: a heard both")


async def test_an_event_is_told_once_for_all_reporters_and_replicas(seeing: Seeing) -> None:
    for _ in range(3):
        for reporter in "abc":
            seeing.say(reporter, "victim")
            seeing.say("d", "victim", by=seeing.other)
        await seeing.replica.services.clones.tell()
        await seeing.other.services.clones.tell()
        seeing.replica.clock.now += 10
    (event,) = await seeing.events()
    assert event.severity is Severity.WARNING
    assert event.node == seeing.nodes["victim"].id
    assert event.details["reporters"] in ("a, b, c", "d")
    assert event.by.name in {seeing.nodes[each].id for each in "abcd"}

    seeing.replica.clock.now += TOLD_EVERY_S
    seeing.say("a", "victim")
    await seeing.replica.services.clones.tell()
    assert len(await seeing.events()) == 2, "it goes on, and is told of again"


async def test_a_clock_that_was_set_back_keeps_no_event_from_being_told(seeing: Seeing) -> None:
    seeing.say("a", "victim")
    await seeing.replica.services.clones.tell()
    seeing.replica.clock.now -= 5 * TOLD_EVERY_S
    seeing.say("a", "victim")
    await seeing.replica.services.clones.tell()
    assert len(await seeing.events()) == 2


async def test_only_a_member_is_heard_and_only_of_its_own_peers(seeing: Seeing) -> None:
    seeing.say("stranger", "victim")  # is in no vSubnet with it
    seeing.say("a", "victim", vni=seeing.vnis["blue"])
    seeing.say("b", "b")  # of itself
    seeing.say("c", "stranger")
    assert seeing.alarms() == []
    await seeing.replica.services.clones.tell()
    assert await seeing.events() == []


async def test_a_reporter_changes_nothing_of_the_node_that_it_names(seeing: Seeing) -> None:
    store, victim = seeing.replica.memory, seeing.nodes["victim"]
    before = copy.deepcopy({item.key: item.value for item in (await store.list("")).items})
    for _ in range(20):
        for reporter in "abcd":
            seeing.say(reporter, "victim")
        await seeing.replica.services.clones.tell()
        seeing.replica.clock.now += 1
    after = {item.key: item.value for item in (await store.list("")).items}
    changed = {key for key in after.keys() | before.keys() if after.get(key) != before.get(key)}
    assert len(changed) == 2, "an event, and that it was told"
    assert not any(key.startswith((keys.NODES, keys.REGISTRATIONS)) for key in changed)
    await seeing.replica.register(victim)  # it is neither frozen nor turned away


async def test_a_hostile_member_makes_so_many_events_an_hour(
    seeing: Seeing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clones_module, "SHOWN_MAX", 2)
    services = seeing.replica.services
    limited = clones_module.Clones(
        seeing.replica.store,
        services.netmaps,
        services.telemetry,
        services.journal,
        seeing.replica.clock,
        limit=clones_module.Buckets(0.001, 2),
    )
    seeing.say("d", "a", "b", "c", "victim")
    await limited.tell()
    await limited.tell()
    assert len(await seeing.events()) == 2
    assert len(seeing.alarms()) == 2
    # Whom others tell of, too, is told of all the same, and shown first.
    seeing.say("a", "victim")
    assert seeing.alarms()[0][0] == seeing.nodes["victim"].id
    await limited.tell()
    assert seeing.nodes["victim"].id in {each.node for each in await seeing.events()}
