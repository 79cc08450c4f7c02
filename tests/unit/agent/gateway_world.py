"""Several gateways and the appliances that grant, with everything that can go wrong in time.

A discrete simulation, the same for the same seed: delays, losses, cuts, pauses of agents and
data planes, restarts, ports that go down, switch-overs. The appliances keep the rules of
docs/protocol.md section 5 on one record. Wrong wall clocks can't be simulated: nobody asks one.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from cairn_agent.gateway.probe import Probe
from cairn_agent.gateway.standing import NS, Output, Release, SetGate, Speak, Standing
from cairn_agent.protocol.gateway import GatewayDuty, Grant, Guards, Preference, SegmentState

MS = NS // 1000
SEGMENT = "00000000-0000-4000-8000-00000000000a"


@dataclass
class Faults:
    """What is planted: each of these rules kept wrong makes two gates open at once."""

    silence_s: float = 2.0
    is_counted_from_answer: bool = False
    is_promise_kept: bool = True


@dataclass
class Gate:
    """The data plane's: it looks at the clock itself."""

    term: int = 0
    until: int = 0


@dataclass
class Record:
    """The forwarding record of the segment."""

    holder: str = ""
    term: int = 0
    life: int = -1  # of the holder's agent: another one gets another term
    next: str = ""
    asked_at: int = 0


@dataclass
class Gateway:
    """One of them: agent and data plane."""

    node: str
    standing: Standing
    gate: Gate = field(default_factory=Gate)
    paused_until: int = 0
    commands_at: int = 0  # when the newest command to the data plane arrives: they are in order
    life: int = 0
    trouble: tuple[str, str] = ("", "")


class World:
    """The simulation; `run` raises AssertionError at the first instant with two open gates."""

    def __init__(
        self,
        seed: int,
        *,
        count: int = 2,
        preference: Preference = "safety",
        faults: Faults | None = None,
    ) -> None:
        self.chance = random.Random(seed)
        self.faults = faults or Faults()
        self.now = 5 * NS
        self.record = Record()
        self.seen: dict[str, tuple[int, bool]] = {}  # beat keys: when written, able
        self.lives: dict[str, int] = {}
        self.cut: set[frozenset[str]] = set()
        self.opened = 0
        self.open_ns = 0
        self.is_calm = False
        nodes = [f"00000000-0000-4000-8000-0000000000{n:02x}" for n in range(1, count + 1)]
        self.duty = GatewayDuty(SEGMENT, "office", 7, "eth1", 0, "", nodes, preference, Guards())
        self._events: list[tuple[int, int, Callable[[], None]]] = []
        self._number = itertools.count()
        self.gateways = {node: self._gateway(node) for node in nodes}
        for each in self.gateways.values():
            self._begin(each)

    def run(self, seconds: float, *, calm_s: float = 0.0) -> None:
        """Run with faults, then `calm_s` without any."""
        self._after(0, self._disturb)
        self._until(self.now + int(seconds * NS))
        self.is_calm = True
        self.cut.clear()
        for each in self.gateways.values():
            self._set_trouble(each, "", "")
        self._until(self.now + int(calm_s * NS))

    def open_gates(self) -> list[str]:
        """Whose gates are open now."""
        return [each.node for each in self.gateways.values() if each.gate.until > self.now]

    def _until(self, end: int) -> None:
        while self._events and self._events[0][0] <= end:
            self.now, _, what = heapq.heappop(self._events)
            what()
        self.now = end

    def _after(self, delay: int, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + delay, next(self._number), what))

    def _gateway(self, node: str) -> Gateway:
        return Gateway(node, self._standing(node))

    def _standing(self, node: str) -> Standing:
        boot = self.chance.getrandbits(64)
        standing = Standing(node, self.duty, boot, self.now, chance=self.chance.random)
        standing.trouble(self.now, "", "")
        if not self.faults.is_promise_kept:
            standing._must_stand_by = lambda _now: False  # type: ignore[method-assign]
        return standing

    def _begin(self, each: Gateway) -> None:
        life = each.life
        self._after(self.chance.randrange(500 * MS), lambda: self._beat(each, life))
        self._after(self.chance.randrange(200 * MS), lambda: self._probe(each, life))

    # What an agent does

    def _as_agent(self, each: Gateway, life: int, what: Callable[[], list[Output]]) -> None:
        """Do something in an agent, once it isn't paused and if it still is the same."""
        if each.life != life:
            return
        if each.paused_until > self.now:
            again = each.paused_until - self.now + 1
            self._after(again, lambda: self._as_agent(each, life, what))
            return
        self._do(each, what())

    def _do(self, each: Gateway, outputs: list[Output]) -> None:
        for output in outputs:
            match output:
                case SetGate():
                    self._command(each, output)
                case Release():
                    self._to_service(each, lambda term=output.term: self._release(each, term))
                case Speak():
                    self._speak(each)
                case _:
                    pass

    def _command(self, each: Gateway, gate: SetGate) -> None:
        life = each.life
        each.commands_at = max(each.commands_at, self.now) + self.chance.randrange(20 * MS)

        def arrives() -> None:
            if gate.term < each.gate.term:
                return
            each.gate = Gate(gate.term, gate.until_ns)
            if gate.until_ns > self.now:
                self.opened += 1
                both = self.open_gates()
                assert both == [each.node], f"{self.now / NS:.3f} s: {both} forward"
            back = self.chance.randrange(20 * MS)
            self._after(
                back,
                lambda: self._as_agent(each, life, lambda: each.standing.gate_set(self.now, gate)),
            )

        self._after(each.commands_at - self.now, arrives)

    def _beat(self, each: Gateway, life: int) -> None:
        if each.life != life:
            return
        if each.paused_until > self.now:
            self._after(each.paused_until - self.now, lambda: self._beat(each, life))
            return
        sent = self.now
        state = each.standing.beat(sent, 0, {})
        if state is not None:
            self._to_service(each, lambda: self._answer(each, life, sent, state))
        self._as_agent(each, life, lambda: each.standing.tick(self.now))
        self._after(50 * MS if each.standing.is_next else 500 * MS, lambda: self._beat(each, life))

    def _answer(self, each: Gateway, life: int, sent: int, state: SegmentState) -> None:
        grant = self._grant(each.node, life, state)
        if self._is_cut("service", each.node):
            return

        def comes() -> list[Output]:
            from_when = self.now if self.faults.is_counted_from_answer else sent
            return each.standing.answered(self.now, from_when, grant)

        self._after(self._delay(), lambda: self._as_agent(each, life, comes))

    def _probe(self, each: Gateway, life: int) -> None:
        if each.life != life:
            return
        if each.paused_until <= self.now:
            self._speak(each)
        self._after(200 * MS, lambda: self._probe(each, life))

    def _speak(self, each: Gateway) -> None:
        for side in ("lan", "overlay"):
            probe = each.standing.probe(self.now, side)
            if probe is None:
                continue
            for other in self.gateways.values():
                if other is not each and not self._is_cut(each.node, other.node):
                    self._carry(other, probe)

    def _carry(self, other: Gateway, probe: Probe) -> None:
        if self.chance.random() < 0.1 and not self.is_calm:
            return
        life = other.life
        self._after(
            self.chance.randrange(30 * MS),
            lambda: self._as_agent(
                other, life, lambda: other.standing.heard(self.now, probe.side, probe)
            ),
        )

    # The appliances

    def _to_service(self, each: Gateway, what: Callable[[], None]) -> None:
        if not self._is_cut("service", each.node):
            self._after(self._delay(), what)

    def _delay(self) -> int:
        if self.chance.random() < 0.05 and not self.is_calm:
            return self.chance.randrange(8 * NS)  # a paused appliance, a full queue
        return self.chance.randrange(1, 30 * MS)

    def _grant(self, node: str, life: int, state: SegmentState) -> Grant:
        record = self.record
        holder_seen = self.seen.get(record.holder, (self.now, True))[0]
        is_silent = self.now - holder_seen >= self.faults.silence_s * NS
        self.seen[node] = (self.now, state.is_able)
        self.lives[node] = life
        if record.holder == node:
            if not state.is_able and state.term == record.term:
                self._give(self._best(without=node))
            elif state.is_able and record.life != life:
                self.record = Record(node, record.term + 1, life, record.next, record.asked_at)
        elif state.is_able and (not record.holder or is_silent):
            self._give(node if record.holder else self._best())
        record = self.record
        is_ready = record.next and self.seen.get(record.next, (0, False))[0] > record.asked_at
        return Grant(
            SEGMENT,
            record.term,
            record.holder,
            1.5 if record.holder == node else 0.0,
            record.next == node,
            record.next if record.holder == node and is_ready else "",
        )

    def _release(self, each: Gateway, term: int) -> None:
        if self.record.holder == each.node and self.record.term == term:
            self._give(self.record.next or self._best())

    def _best(self, without: str = "") -> str:
        live = [
            node
            for node, (at, is_able) in self.seen.items()
            if is_able and self.now - at < 2 * NS and node != without
        ]
        return max(live, default="")

    def _give(self, node: str) -> None:
        self.record = Record(node, self.record.term + 1, self.lives.get(node, -1))

    # What goes wrong

    def _is_cut(self, one: str, other: str) -> bool:
        return frozenset((one, other)) in self.cut

    def _disturb(self) -> None:
        if self.is_calm:
            return
        each = self.chance.choice(list(self.gateways.values()))
        match self.chance.randrange(8):
            case 0:
                each.paused_until = self.now + self.chance.randrange(6 * NS)
            case 1:
                self._cut_for(frozenset(("service", each.node)))
            case 2:
                for node in self.gateways:
                    self._cut_for(frozenset(("service", node)), seconds=8)
            case 3:
                self._cut_for(frozenset(self.chance.sample(list(self.gateways), 2)))
            case 4:
                self._set_trouble(each, "port_down", "eth1 has no carrier")
                self._after(self.chance.randrange(4 * NS), lambda: self._set_trouble(each, "", ""))
            case 5:
                others = [node for node in self.gateways if node != self.record.holder]
                self.record.next, self.record.asked_at = self.chance.choice(others), self.now
            case 6:
                each.life += 1  # the agent is killed and starts again
                each.standing, each.paused_until = self._standing(each.node), 0
                self._begin(each)
            case 7:
                each.gate = Gate()  # the data plane is killed and starts again
                life = each.life
                self._as_agent(each, life, lambda: each.standing.gate_lost(self.now))
        self._after(self.chance.randrange(2 * NS), self._disturb)

    def _cut_for(self, what: frozenset[str], seconds: int = 5) -> None:
        self.cut.add(what)
        self._after(self.chance.randrange(seconds * NS), lambda: self.cut.discard(what))

    def _set_trouble(self, each: Gateway, code: str, why: str) -> None:
        life = each.life
        self._as_agent(each, life, lambda: each.standing.trouble(self.now, code, why))
