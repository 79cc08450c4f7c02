"""One process of simulated agents; commands come in on stdin, answers go out on stdout.

`python -m tests.sim.worker`: a line of JSON each way. It ends when stdin does, so that no
worker is left behind.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import resource
import sys
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import msgspec
import uvloop
from cairn_agent.identity import certificate_request, data_public_key, new_keys
from cairn_agent.protocol import enrolment
from cairn_agent.protocol.token import Token

from tests.sim.agent import Credentials, SimulatedAgent, Site
from tests.sim.churn import Arrivals, endpoint_at
from tests.sim.connection import Connection, Lost, Refused
from tests.sim.messages import Applied, Churned, Enrolled, Held, Moved, State

_ENROL_AT_ONCE = 4
_ENROL_TRIES = 20
_MOVE_TRIES = 5
_MOVE_AGAIN_S = 2.0  # an election takes a second or two
_PROBE_EVERY_S = 1.0  # as often as an appliance lets a node
_MOVING_MAX = 500  # changes under way
_WIDENED_AT_ONCE = 8
_COLLECTED_AFTER = 50_000  # new objects: else the collector has a fifth of a large process


class Worker:
    """The agents of this process."""

    def __init__(self) -> None:
        self._site: Site | None = None
        self._credentials: list[Credentials] = []
        self._agents: list[SimulatedAgent] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._probing: asyncio.Task[None] | None = None
        self._probed: list[float] = []
        self._churning: asyncio.Task[None] | None = None
        self._moving: dict[str, asyncio.Task[None]] = {}  # node -> its change under way
        self._asked = 0  # changes, whether or not they could be begun
        self._answered: list[float] = []  # seconds, of those that were

    def commands(self) -> dict[str, Callable[..., Awaitable[msgspec.Struct | None]]]:
        """Return what it can be told to do, by name."""
        return {
            "enrol": self.enrol,
            "start": self.start,
            "state": self.state,
            "expect": self.expect,
            "applied": self.applied,
            "move": self.move,
            "cut": self.cut,
            "forget": self.forget,
            "deafen": self.deafen,
            "hear": self.hear,
            "held": self.held,
            "probe": self.probe,
            "spread": self.spread,
            "widen": self.widen,
            "churn": self.churn,
            "churned": self.churned,
        }

    async def enrol(
        self, *, address: str, ca: str, tokens: list[Any], first: int, count: int
    ) -> Enrolled:
        """Let nodes join through the API, with keys of their own, by one token after the other."""
        shown = msgspec.convert(tokens, list[Token])
        self._site = Site(ca, "", "", appliances=(address,))
        numbers = iter(range(first, first + count))
        begun = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for _ in range(_ENROL_AT_ONCE):
                tasks.create_task(self._enrol_some(self._site, shown, numbers))
        took_s = time.monotonic() - begun
        self._agents = [SimulatedAgent(self._site, each) for each in self._credentials]
        return Enrolled(len(self._credentials), took_s)

    async def _enrol_some(self, site: Site, tokens: list[Token], numbers: Iterator[int]) -> None:
        """Enrol one after the other on one connection; what is sent is what the agent sends."""
        line: Connection | None = None
        for number in numbers:
            keys, token = new_keys(), tokens[number % len(tokens)]
            facts = str(uuid.uuid4())
            request = enrolment.EnrolRequest(
                token_id=token.id,
                token_secret=token.secret,
                node_id=keys.node_id,
                name=f"sim-{number}",
                certificate_request=certificate_request(keys),
                data_public_key=data_public_key(keys),
                facts=enrolment.Facts(dmi_uuid=facts),
                agent_version="0.1.0",
            )
            for attempt in range(_ENROL_TRIES):
                try:
                    if line is None or not line.is_open:
                        line = await Connection.open(site.appliances[0], site.context())
                    octets = await line.post("enrol", request)
                    break
                except (Lost, Refused) as error:
                    site.failures[f"enrol: {error}"] += 1
                    if attempt == _ENROL_TRIES - 1:
                        raise
                    await asyncio.sleep(random.uniform(0, 2.0))
            answer = msgspec.json.decode(octets, type=enrolment.EnrolAnswer)
            site.cluster_id, site.map_key = answer.cluster_id, answer.map_key
            self._credentials.append(
                Credentials(
                    node_id=keys.node_id,
                    name=request.name,
                    key=keys.control_key,
                    certificate=answer.certificate,
                    dmi_uuid=facts,
                    endpoint=endpoint_of(number),
                    generation=answer.generation,
                )
            )
        if line is not None:
            line.abort()

    async def start(self, *, spread_s: float) -> None:
        """Let all agents come, each at a random time of the spread."""
        for agent in self._agents:
            run = agent.run(random.uniform(0, spread_s))
            self._tasks.append(asyncio.create_task(run, name=agent.credentials.name))

    async def state(self) -> State:
        """Return how all agents are."""
        site = self._there()
        collected = Counter[str]()
        for agent in self._agents:
            collected.update(agent.kinds)
        ended = [task for task in self._tasks if task.done() and not task.cancelled()]
        return State(
            agents=len(self._agents),
            following=sum(agent.is_following for agent in self._agents),
            registered_at=[a.registered_at for a in self._agents if a.registered_at],
            synced_at=[a.synced_at for a in self._agents if a.synced_at],
            revisions=dict(Counter(a.netmap.revision for a in self._agents if a.netmap)),
            octets=sum(agent.octets for agent in self._agents),
            kinds=dict(collected),
            unacknowledged=sum(agent.has_to_acknowledge for agent in self._agents),
            failures=dict(site.failures),
            barred=sum(bool(agent.refusal) for agent in self._agents),
            ended=[str(task.exception()) for task in ended if task.exception()],
            verified=site.shared.verified,
            cpu_s=sum(resource.getrusage(resource.RUSAGE_SELF)[:2]),
            back_at=[a.back_at for a in self._agents if a.back_at],
            octets_back=sum(a.octets for a in self._agents if a.back_at),
            places=dict(Counter(a.place for a in self._agents if a.place)),
            trusts=dict(Counter(agent.trusts for agent in self._agents)),
        )

    async def expect(self, *, marker: str) -> None:
        """Time when an endpoint arrives at each agent."""
        self._there().marker = marker.encode()
        for agent in self._agents:
            agent.marked_at = 0.0

    async def applied(self) -> Applied:
        """Return when the expected endpoint was applied, by each agent that got it."""
        return Applied([agent.marked_at for agent in self._agents if agent.marked_at])

    async def move(self, *, which: int, endpoint: str) -> Moved:
        """Give an agent another endpoint; return when it asked and when it was answered."""
        begun, agent = time.monotonic(), self._agents[which]
        for _ in range(_MOVE_TRIES):
            try:
                _, answered = await agent.move(endpoint)
                return Moved(begun, answered)
            except (Lost, Refused) as error:
                self._there().failures[f"move: {error}"] += 1
                await asyncio.sleep(_MOVE_AGAIN_S)
        raise Lost("a move was not answered in any try")

    async def cut(self) -> None:
        """Cut all connections; the agents come back by themselves."""
        for agent in self._agents:
            agent.cut()

    async def forget(self) -> None:
        """Begin a new measurement."""
        self._there().failures.clear()
        for agent in self._agents:
            agent.forget_times()

    async def deafen(self, *, share: float) -> None:
        """Let a share of the agents stop reading."""
        for agent in self._agents[: round(len(self._agents) * share)]:
            agent.deafen()

    async def hear(self) -> None:
        """Let all agents read again."""
        for agent in self._agents:
            agent.hear()

    async def held(self) -> Held:
        """Return what each agent holds, what it did and saw, and where it says that it is."""
        history = self._there().history
        return Held(
            digests={a.credentials.node_id: a.netmap.digests() for a in self._agents if a.netmap},
            operations=history.operations,
            seen=history.seen,
        )

    async def probe(self, *, on: bool) -> Applied:
        """Let the first agent register again and again, until told to stop; return seconds."""
        if on:
            self._probed = []
            self._probing = asyncio.create_task(self._probe(), name="probe")
        elif self._probing is not None:
            self._probing.cancel()
            self._probing = None
        return Applied(self._probed)

    async def spread(self, *, appliances: list[str]) -> None:
        """Let all agents know these appliances from now on, and be at one of them by turns."""
        self._there().appliances = tuple(appliances)
        for number, agent in enumerate(self._agents):
            agent.go_to(appliances[number % len(appliances)])

    async def widen(self) -> None:
        """Let all agents register as many endpoints as they may, some at a time."""
        turns = asyncio.Semaphore(_WIDENED_AT_ONCE)

        async def widened(agent: SimulatedAgent) -> None:
            async with turns:
                for _ in range(_ENROL_TRIES):
                    try:
                        return await agent.widen()
                    except (Lost, Refused) as error:
                        self._there().failures[f"widen: {error}"] += 1
                        await asyncio.sleep(random.uniform(0, 2.0))
                raise Lost("a node could not be given more endpoints")

        await asyncio.gather(*(widened(agent) for agent in self._agents))

    async def churn(self, *, per_s: float, began: float) -> None:
        """Let agents change their endpoint, one after the other at this rate; 0 ends it."""
        if self._churning is not None:
            self._churning.cancel()
            await asyncio.gather(self._churning, return_exceptions=True)
            await asyncio.gather(*self._moving.values())  # each is bounded
            self._churning = None
        if per_s:
            self._there().arrivals = Arrivals(began)
            self._churning = asyncio.create_task(self._churn(per_s, began), name="churn")

    @property
    def _most(self) -> int:
        """How many changes are under way at once, at most."""
        return max(1, min(_MOVING_MAX, len(self._agents) // 2))

    async def churned(self) -> Churned:
        """Return what came of it since it was asked last."""
        arrivals = self._there().arrivals
        answered, self._answered = self._answered, []
        asked, self._asked = self._asked, 0
        return Churned(
            asked=asked,
            answered=answered,
            waiting=len(self._moving),
            ages=dict(arrivals.taken()) if arrivals is not None else {},
        )

    async def _churn(self, per_s: float, began: float) -> None:
        due = time.monotonic()
        while True:
            due += 1 / per_s
            await asyncio.sleep(due - time.monotonic())
            self._asked += 1
            agent = random.choice(self._agents)
            while agent.credentials.node_id in self._moving and len(self._moving) < self._most:
                agent = random.choice(self._agents)
            if len(self._moving) < self._most:
                node = agent.credentials.node_id
                self._moving[node] = asyncio.create_task(self._change(agent, began), name="change")

    async def _change(self, agent: SimulatedAgent, began: float) -> None:
        """Let one agent have another endpoint, however often it has to ask."""
        asked = time.monotonic()
        endpoint = endpoint_at(asked - began)
        try:
            for _ in range(_MOVE_TRIES):
                try:
                    await agent.move(endpoint)
                except (Lost, Refused) as error:
                    self._there().failures[f"change: {error}"] += 1
                else:
                    self._answered.append(time.monotonic() - asked)
                    return
        finally:
            del self._moving[agent.credentials.node_id]

    async def _probe(self) -> None:
        """Register each second; a failure counts as what it took."""
        agent = self._agents[0]
        while True:
            begun = time.monotonic()
            try:
                await agent.move(agent.endpoint)
            except (Lost, Refused) as error:
                self._there().failures[f"probe: {error}"] += 1
            self._probed.append(time.monotonic() - begun)
            await asyncio.sleep(_PROBE_EVERY_S)

    def _there(self) -> Site:
        if self._site is None:
            raise RuntimeError("enrol comes first")
        return self._site


def endpoint_of(number: int) -> str:
    """Return an endpoint that no other agent has."""
    return f"198.18.{number >> 8 & 255}.{number & 255}:{8002 + (number >> 16)}"


async def serve() -> None:
    """Answer commands until stdin ends."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 26)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    worker = Worker()
    commands = worker.commands()
    while line := await reader.readline():
        order = msgspec.json.decode(line)
        answer = await commands[order.pop("do")](**order)
        octets = msgspec.json.encode(answer) + b"\n"
        while octets:
            octets = octets[os.write(sys.stdout.fileno(), octets) :]


def main() -> None:
    """Run the process, with as many open files as it may have: an agent takes one or two."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    gc.freeze()
    gc.set_threshold(_COLLECTED_AFTER)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())


if __name__ == "__main__":
    main()
