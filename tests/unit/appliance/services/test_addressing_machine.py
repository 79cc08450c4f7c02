"""No address and no MAC is ever held twice: a state machine over two replicas (BI-9)."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Coroutine
from typing import Any

from cairn_appliance.domain.addressing import QUARANTINE_S
from cairn_appliance.domain.errors import CairnError, NoAddressLeft, NotFound
from cairn_appliance.domain.identity import SYSTEM
from cairn_appliance.services.members import MemberChange, MemberOrder
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from tests.simulated_node import SimulatedNode
from tests.unit.appliance.replica import Replica

NODES = [SimulatedNode(f"n{number}") for number in range(8)]
PREFIXES = ("10.9.0.0/29", "fd00:9::/125")  # five addresses each for eight nodes
node_names = st.sampled_from([node.name for node in NODES])


class Addressing(RuleBasedStateMachine):
    """Two replicas on one store give out and take back the addresses of one vSubnet."""

    steps = 0

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        first = Replica()
        self.clock = first.clock
        self.replicas = [first, Replica(first.memory, "r2", first.clock)]
        self.held: dict[str, str] = {}  # address -> node, at the last look
        self.released: dict[str, tuple[str, float]] = {}  # address -> last holder, when

    def teardown(self) -> None:
        self.loop.close()

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    @initialize()
    def begin(self) -> None:
        self.run(self._begin())

    async def _begin(self) -> None:
        first = self.replicas[0]
        await first.vsubnet("red", *PREFIXES)
        token = await first.token(max_uses=len(NODES))
        for node in NODES:
            await first.enrol(node, token)

    @rule(names=st.lists(node_names, min_size=1, max_size=5, unique=True))
    def join_at_once_at_both_replicas(self, names: list[str]) -> None:
        Addressing.steps += 1
        self.run(self._join(names))

    async def _join(self, names: list[str]) -> None:
        orders = [MemberOrder("red", name) for name in names]
        outcomes = await asyncio.gather(
            *(
                replica.services.members.create(order, SYSTEM)
                for replica, each in zip(self.replicas, (orders, orders[::-1]), strict=True)
                for order in each
            ),
            return_exceptions=True,
        )
        for outcome in outcomes:
            assert not isinstance(outcome, BaseException) or isinstance(outcome, NoAddressLeft)

    @rule(name=node_names, host=st.integers(0, 7), which=st.integers(0, 1))
    def take_a_static_address(self, name: str, host: int, which: int) -> None:
        Addressing.steps += 1
        self.run(self._static(name, f"10.9.0.{host}", self.replicas[which]))

    async def _static(self, name: str, ip: str, replica: Replica) -> None:
        members = replica.services.members
        try:
            await members.create(MemberOrder("red", name, ips=(ip,)), SYSTEM)
            await members.change("red", name, MemberChange(ips=(ip,)), SYSTEM)
        except CairnError:
            return

    @rule(name=node_names, which=st.integers(0, 1))
    def leave(self, name: str, which: int) -> None:
        Addressing.steps += 1
        self.run(self._leave(name, self.replicas[which]))

    async def _leave(self, name: str, replica: Replica) -> None:
        with contextlib.suppress(NotFound):
            await replica.services.members.delete("red", name, SYSTEM)

    @rule(seconds=st.sampled_from([60.0, 3600.0, QUARANTINE_S]))
    def time_passes(self, seconds: float) -> None:
        Addressing.steps += 1
        self.clock.now += seconds

    @invariant()
    def nothing_is_held_twice_or_out_of_quarantine(self) -> None:
        self.run(self._check())

    async def _check(self) -> None:
        if not await self.replicas[0].services.vsubnets.list():
            return
        members = [m.value for m in await self.replicas[0].services.members.list("red")]
        ips = [ip for member in members for ip in member.ips]
        macs = [member.mac for member in members]
        assert len(set(ips)) == len(ips)
        assert len(set(macs)) == len(macs)
        assert not {"10.9.0.0", "10.9.0.7", "fd00:9::"} & set(ips)
        held = {ip: member.node for member in members for ip in member.ips}
        for ip, node in self.held.items():
            if held.get(ip) != node:
                self.released[ip] = (node, self.clock.now)
        for ip, node in held.items():
            if self.held.get(ip) != node:
                before, at = self.released.get(ip, (node, 0.0))
                assert before == node or self.clock.now >= at + QUARANTINE_S
        self.held = held


EXAMPLES = int(os.environ.get("CAIRN_ADDRESS_RUNS", "60"))  # of 50 steps; `make races` plays 300


def test_no_address_is_ever_held_twice() -> None:
    Addressing.steps = 0
    run_state_machine_as_test(
        Addressing,
        settings=settings(max_examples=EXAMPLES, stateful_step_count=50),
    )
    assert Addressing.steps >= 33 * EXAMPLES, Addressing.steps
