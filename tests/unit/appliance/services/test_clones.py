"""One machine is never taken for two, and of two with one memory one is found out.

A state machine makes up what happens to the registrations of a node: answers that are lost,
requests that a paused replica gets to after their machine gave them up, crashes at each step.
The machines are the real agent's side of it (cairn_agent.membership), on disks in memory; the
replicas are the real registry. What is made up is who has a link.
"""

from __future__ import annotations

import asyncio
import copy
import random
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from cairn_agent.identity import Identity, new_keys
from cairn_agent.membership import Membership
from cairn_agent.protocol import enrolment as wire
from cairn_agent.state import Standing
from cairn_appliance.domain.errors import DuplicateNode, NodeFrozen, Unavailable
from cairn_appliance.domain.generation import Attempt
from cairn_appliance.domain.identity import Facts
from cairn_appliance.services.registry import Registered, Registry, Report
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.simulated_node import SimulatedNode
from tests.unit.appliance.replica import FakeClock, Replica

REPLICAS = 3
NOTICED_S = 20.0  # a dead link, at the latest
ADDRESS = "198.51.100.9"
replicas = st.integers(0, REPLICAS - 1)


@dataclass
class Disk:
    """What a machine has kept; in place of cairn_agent.state.StateDir."""

    kept: Identity

    def keep_identity(self, identity: Identity) -> None:
        self.kept = identity

    def standing(self) -> Standing:
        return Standing()

    def keep_standing(self, standing: Standing) -> None: ...


class Machine:
    """A machine that is the node, or believes so."""

    def __init__(self, identity: Identity) -> None:
        self.disk = Disk(identity)
        self.membership = self._started()
        self.is_told = False  # that it is a copy

    def _started(self) -> Membership:
        return Membership(self.disk.kept, self.disk, None, lambda: None)  # type: ignore[arg-type]

    def restart(self) -> None:
        self.membership = self._started()

    def resumed(self) -> Machine:
        """Another machine from this one's memory and disk."""
        other = Machine(self.disk.kept)
        for name in ("_identity", "_tries", "_is_counted"):
            value = copy.copy(getattr(self.membership, name))
            setattr(other.membership, name, value)
        return other


@dataclass
class Links:
    """Who has a link, in place of presence and streams: one that is dead is not noticed at once."""

    clock: FakeClock
    open: set[Machine] = field(default_factory=set)
    ghosts: list[float] = field(default_factory=list)  # since when

    def is_connected(self, _node: str) -> bool:
        self.ghosts = [at for at in self.ghosts if self.clock() - at < NOTICED_S]
        return bool(self.open or self.ghosts)

    async def answers(self, _node: str) -> bool | None:
        return bool(self.open)

    def seen(self, _node: str) -> None: ...

    def lose(self, machine: Machine, *, noticed: bool) -> None:
        if machine in self.open:
            self.open.remove(machine)
            if not noticed:
                self.ghosts.append(self.clock())


class OneMachine(RuleBasedStateMachine):
    """A node whose machine is one."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.steady = FakeClock(1000.0)
        self.links = Links(self.steady)
        first = Replica(monotonic=self.steady)
        self.replicas = [first, *(self._replica(first, n) for n in range(1, REPLICAS))]
        self.registries: list[Registry] = []
        for replica in self.replicas:
            registry = replica.services.registry
            registry._presence = self.links  # type: ignore[assignment]
            registry._answers = self.links.answers
            self.registries.append(registry)
        self.paused: dict[int, list[wire.RegisterRequest]] = {}
        self.machines: list[Machine] = []

    def _replica(self, first: Replica, number: int) -> Replica:
        return Replica(first.memory, f"r{number + 1}", first.clock, monotonic=self.steady)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    @initialize()
    def enrol(self) -> None:
        self.node = SimulatedNode("n")

        async def enrolled() -> None:
            first = self.replicas[0]
            await first.enrol(self.node, await first.token())

        self.run(enrolled())
        keys = msgspec.structs.replace(new_keys(), node_id=self.node.id)
        identity = Identity(keys, "n", "approved", "c", "", "", "", "", ["192.0.2.1:8002"], 1)
        self.machines = [Machine(identity)]

    # --- what happens to one registration

    @rule(which=st.integers(0, 1), at=replicas)
    def registers(self, which: int, at: int) -> None:
        self._answered(self._machine(which), at)

    @rule(which=st.integers(0, 1), at=replicas, is_processed=st.booleans())
    def gets_no_answer(self, which: int, at: int, is_processed: bool) -> None:
        machine = self._machine(which)
        request = machine.membership.registration()
        if is_processed and at not in self.paused:
            self._processed(request, at)

    @rule(which=st.integers(0, 1), at=replicas)
    def gives_up(self, which: int, at: int) -> None:
        """The replica is paused, and gets to it later."""
        request = self._machine(which).membership.registration()
        self.paused.setdefault(at, []).append(request)

    @precondition(lambda self: self.paused)
    @rule(data=st.data())
    def a_replica_goes_on(self, data: st.DataObject) -> None:
        at = data.draw(st.sampled_from(sorted(self.paused)))
        for request in data.draw(st.permutations(self.paused.pop(at))):
            self._processed(request, at)

    @rule(which=st.integers(0, 1), at=replicas, step=st.integers(0, 3))
    def crashes(self, which: int, at: int, step: int) -> None:
        """Before it sends; before it is answered; before it keeps the answer; after that."""
        machine = self._machine(which)
        if step == 3:
            self._answered(machine, at)
        else:
            request = machine.membership.registration()
            if step and at not in self.paused:
                self._processed(request, at)
        self.links.lose(machine, noticed=step % 2 == 0)
        machine.restart()

    @rule(which=st.integers(0, 1), noticed=st.booleans())
    def loses_its_link(self, which: int, noticed: bool) -> None:
        self.links.lose(self._machine(which), noticed=noticed)

    @rule(seconds=st.sampled_from([0.5, 3.0, 10.0, 30.0, 3600.0]))
    def time_passes(self, seconds: float) -> None:
        self.steady.now += seconds
        self.replicas[0].clock.now += seconds

    # --- what must hold

    @invariant()
    def one_machine_is_one(self) -> None:
        if len(self.machines) == 1:
            kinds = set(self.run(self.replicas[0].kinds()))
            assert not kinds & {"duplicate_node", "node_restored", "node_frozen"}
            assert not self.machines[0].is_told

    def teardown(self) -> None:
        self.loop.close()

    def _machine(self, which: int) -> Machine:
        standing = [each for each in self.machines if not each.is_told]
        return standing[which % len(standing)]

    def _answered(self, machine: Machine, at: int) -> bool:
        """Register and keep the answer; return whether there was one for good."""
        if machine.is_told:
            return True
        if at in self.paused:
            return False
        while True:
            answer = self._processed(machine.membership.registration(), at)
            if isinstance(answer, DuplicateNode):
                machine.is_told = True
                self.links.lose(machine, noticed=True)
            elif isinstance(answer, Registered):
                machine.membership.registered(
                    wire.RegisterAnswer(answer.state.value, answer.generation, ADDRESS, [], 15.0)
                )
                if answer.again:
                    continue
                self.links.open.add(machine)
            return not isinstance(answer, Unavailable)

    def _processed(self, request: wire.RegisterRequest, at: int) -> object:
        report = Report(
            generation=request.generation,
            facts=Facts(**msgspec.structs.asdict(request.facts)),
            endpoints=("192.0.2.7:8002",),
            name=request.name,
            agent_version="",
            dataplane_version="",
            offloads={},
            attempt=Attempt(request.attempt, request.nonce, tuple(request.given_up)),
        )
        try:
            return self.run(self.registries[at].register(self.node.id, report, ADDRESS))
        except (DuplicateNode, NodeFrozen, Unavailable) as error:
            return error


class TwoMachines(OneMachine):
    """A node whose memory goes on in two machines after a while."""

    found = 0  # in how many runs

    @precondition(lambda self: len(self.machines) == 1)
    @rule()
    def is_resumed_twice(self) -> None:
        """What it gave up before is of neither."""
        self.paused.clear()
        self.machines.append(self.machines[0].resumed())

    def teardown(self) -> None:
        if len(self.machines) == 2:
            self._both_register_twice()
            is_frozen = "node_frozen" in self.run(self.replicas[0].kinds())
            assert is_frozen or [each.is_told for each in self.machines].count(True) == 1
            TwoMachines.found += 1
        super().teardown()

    def _both_register_twice(self) -> None:
        self.paused.clear()
        dice = random.Random(len(self.links.ghosts))
        for machine in [*dice.sample(self.machines, 2), *dice.sample(self.machines, 2)]:
            for _ in range(30):
                if self._answered(machine, dice.randrange(REPLICAS)):
                    break
                self.time_passes(5.0)


EXAMPLES, STEPS = 150, 30
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)  # to shrink one takes minutes


@pytest.mark.timeout(600)
@pytest.mark.parametrize("machines", [OneMachine, TwoMachines])
def test_one_machine_is_never_two_and_of_two_one_is_found(
    machines: type[OneMachine],
) -> None:
    TwoMachines.found = 0
    run_state_machine_as_test(
        machines,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            phases=PHASES,
        ),
    )
    assert TwoMachines.found > 20 or machines is OneMachine
