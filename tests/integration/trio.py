"""Three appliances on one LAN, two nodes, and writers; what is done to them.

one LAN:   m1   m2   m3   vm   second   client        `client` writes without a pause

`vm` is the node whose agent is looked at; probes go between it and `second`.
"""

from __future__ import annotations

import itertools
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.integration.takers import Operator, Taken, Takers, violations
from tests.lab import Host, Lab, Program, until
from tests.lab.cairn import OPS_PORT, Appliance, Network, Node
from tests.lab.machine import Machine
from tests.lab.probes import Probes
from tests.sim.history import Violation

_WRITER = Path(__file__).parents[1] / "lab" / "writer.py"


@dataclass(frozen=True)
class Write:
    """One write as its writer saw it; times are of the monotonic clock."""

    sent: float
    took: float
    place: str
    status: int
    id: str
    tries: int
    told: str = ""

    @property
    def done(self) -> float:
        return self.sent + self.took


@dataclass
class Probed:
    """What became of the probes between the two nodes, once the block has ended."""

    sent: int = 0
    lost: int = 0

    @property
    def none_lost(self) -> bool:
        return self.sent > 0 and self.lost == 0

    def __str__(self) -> str:
        return f"{self.lost} of {self.sent} probes lost"


@dataclass
class Trio:
    lab: Lab
    appliances: dict[str, Appliance]
    client: Host
    vm: Node
    network: Network
    growth: list[Write]
    others: list[Node] = field(default_factory=list)  # beside `vm`
    growth_probes: Probed = field(default_factory=Probed)
    _takers: Takers | None = None

    def leader(self) -> str:
        return until("one leads", self._leading, within_s=20)

    def _leading(self) -> str:
        return next((str(each["name"]) for each in self.shown() if each["leads"]), "")

    def shown(self) -> list[dict[str, Any]]:
        for appliance in self.appliances.values():
            if appliance.running and appliance.is_ready():
                found: list[dict[str, Any]] = appliance.cairn("cluster", "status")["appliances"]
                return found
        return []

    def wait_until_whole(self, *, within_s: float = 30.0) -> None:
        def whole() -> bool:
            every = list(self.appliances.values())
            return all(each.is_ready() for each in every) and every[0].voters() == len(every)

        until("all appliances are healthy, vote and are ready", whole, within_s=within_s)

    def served_by(self) -> str:
        link = self.vm.status()["link"]
        return str(link["appliance"]).rpartition(":")[0] if link["is_up"] else ""

    def add(
        self,
        name: str,
        host: Host,
        *,
        prepare: Callable[[Appliance], None] = lambda _: None,
        settings: dict[str, object] | None = None,
    ) -> None:
        """Let another appliance join, which the cluster calls `name`."""
        first, newcomer = next(iter(self.appliances.values())), Appliance(host)
        prepare(newcomer)
        string = str(first.cairn("cluster", "join-string")["join_string"])
        assert json.loads(newcomer.join(string).stdout)["name"] == name
        newcomer.set(**settings or {})
        newcomer.start()
        newcomer.password, newcomer.fingerprint = first.password, first.fingerprint
        newcomer.login()
        self.appliances[name] = newcomer

    @contextmanager
    def writing(
        self, *, first: str = "m1", retry_s: float = 0.0, within_s: float = 4.0
    ) -> Iterator[Writer]:
        names = sorted(self.appliances, key=lambda name: (name != first, name))
        places = [f"{self.appliances[name].host.v4}:{OPS_PORT}" for name in names]
        session = next(iter(self.appliances.values())).session()
        with writing(self.client, places, session, retry_s=retry_s, within_s=within_s) as writer:
            yield writer

    @contextmanager
    def probed(self) -> Iterator[Probed]:
        """Probe between the nodes in both directions; the counts are there afterwards."""
        with probed(self.lab, self.network, [self.vm, *self.others]) as counts:
            yield counts

    @contextmanager
    def taking(self) -> Iterator[Taken]:
        """Take addresses and uses of tokens at all appliances at once, inside the block."""
        operator = self.operator()
        if self._takers is None:
            self._takers = Takers(operator)
        appliances = list(self.appliances.values())
        with self._takers.at(operator, appliances) as taken:
            yield taken

    def operator(self) -> Operator:
        """One who asks an appliance that is ready, from the host of the writers."""
        ready = self.ready()
        return Operator(self.client, ready, ready.session())

    def ready(self) -> Appliance:
        """Wait until an appliance is ready, and return it."""

        def found() -> Appliance | None:
            return next((each for each in self.appliances.values() if each.is_ready()), None)

        return until("an appliance is ready", found, within_s=30)

    def violations(self, taken: Taken, written: list[Write]) -> list[Violation]:
        """What no truth explains of what was taken, used and acknowledged."""
        return violations(taken, [each.id for each in written], self.operator(), self.kept())

    def kept(self) -> set[str]:
        """The IDs of all tokens, as the cluster has them."""
        return {token["id"] for token in self.ready().cairn("token", "list")}


@contextmanager
def probed(lab: Lab, network: Network, nodes: list[Node]) -> Iterator[Probed]:
    """Probe between all the nodes inside the block."""
    addresses: dict[Machine, str] = {n.host: n.address(network) for n in nodes}
    probes = Probes(addresses, directory=lab.directory)
    time.sleep(1.0)  # until the sessions are there
    begun, counts = probes.now(), Probed()
    try:
        yield counts
    finally:
        probes.stop()
    pairs = probes.pairs(since=begun)
    counts.sent, counts.lost = sum(p.sent for p in pairs), sum(p.lost for p in pairs)


class Writer:
    """The running writer and what it has written."""

    def __init__(self, program: Program) -> None:
        self._program = program

    def writes(self) -> list[Write]:
        lines = self._program.text().splitlines()
        return [Write(**json.loads(line)) for line in lines if line.endswith("}")]

    def acknowledged(self) -> list[Write]:
        return [write for write in self.writes() if write.id]

    def wait_for(self, count: int, *, within_s: float = 10.0) -> None:
        goal = len(self.acknowledged()) + count
        until(
            f"{count} more writes are done",
            lambda: len(self.acknowledged()) >= goal,
            within_s=within_s,
        )


@contextmanager
def writing(
    host: Host,
    places: list[str],
    session: str,
    *,
    pause_s: float = 0.05,
    retry_s: float = 0.0,
    within_s: float = 4.0,
) -> Iterator[Writer]:
    asked = json.dumps(
        {
            "places": places,
            "session": session,
            "pause_s": pause_s,
            "retry_s": retry_s,
            "within_s": within_s,
        }
    )
    name = f"writer-{time.monotonic_ns()}"
    file = host.directory / f"{name}.json"
    file.write_text(asked + "\n")
    script = " ".join(host.python(_WRITER))
    program = host.start(["sh", "-c", f"exec {script} < {file}"], name=name)
    try:
        yield Writer(program)
    finally:
        program.stop()


def longest_stall(writes: list[Write], *, since: float = 0.0) -> float:
    """The longest time between one acknowledged write and the next."""
    done = sorted(write.done for write in writes if write.id and write.done >= since)
    return max((b - a for a, b in itertools.pairwise(done)), default=0.0)


def lost(trio: Trio, acknowledged: list[Write]) -> int:
    kept = trio.kept()
    return sum(write.id not in kept for write in acknowledged)


def grown_trio(
    lab: Lab,
    timers: dict[str, int] | None = None,
    *,
    prepare: Callable[[Appliance], None] = lambda _: None,
    settings: dict[str, object] | None = None,
) -> Trio:
    """Grow a cluster from one to three in a new lab while `client` writes.

    `timers` are those of the nodes; `prepare` is done to each appliance before it is made, and it
    has the settings.
    """
    site = lab.site("dc", families="4", closed=False)
    first = Appliance(site.host("m1"))
    prepare(first)
    first.init()
    first.set(**settings or {})
    first.start()
    first.login()
    network = first.network("prod", "10.7.0.0/24")
    vm, second = (Node(site.host(name), timers=timers) for name in ("vm", "second"))
    for node in (vm, second):
        node.start()
        node.join(first.token(network))
    second.wait_for_ping(vm.address(network), within_s=20)
    client = site.host("client")
    places = [f"{first.host.v4}:{OPS_PORT}"]
    appliances = {"m1": first}
    with (
        probed(lab, network, [vm, second]) as counts,
        writing(client, places, first.session()) as writer,
    ):
        writer.wait_for(20)
        trio = Trio(lab, appliances, client, vm, network, [], [second], counts)
        for name in ("m2", "m3"):
            trio.add(name, site.host(name), prepare=prepare, settings=settings)
            trio.wait_until_whole()  # another may join once this one has a vote
        writer.wait_for(20)
        trio.growth = writer.writes()
    return trio


def healthy(trio: Trio, name: str) -> bool:
    return any(each["healthy"] for each in trio.shown() if each["name"] == name)


def places(trio: Trio) -> set[str]:
    return {each.host.v4 for each in trio.appliances.values()}


@contextmanager
def at_appliance(trio: Trio, name: str, appliance: Appliance | None = None) -> Iterator[None]:
    """Let the agent follow this appliance: the others' agent ports are shut until it does."""
    wanted = appliance or trio.appliances[name]
    rules = "".join(
        f"ip daddr {each.host.v4} tcp dport 8002 reject with tcp reset;"
        for each in {id(a): a for a in trio.appliances.values()}.values()
        if each is not wanted
    )
    trio.vm.host.nft(
        f"table inet steer {{ chain out {{ type filter hook output priority 0; {rules} }}\n}}\n"
    )
    try:
        until(
            f"the agent follows {name}",
            lambda: trio.served_by() == wanted.host.v4,
            within_s=60,
        )
    finally:
        trio.vm.host.nft("delete table inet steer")
    yield


def moved_from(trio: Trio, victim: Appliance) -> float:
    """Return when the agent follows another appliance, by its log: a command takes a second."""
    agent = trio.vm.agent
    assert agent is not None
    came_up = re.compile(r"link is up appliance=(\S+):\d+")

    def elsewhere() -> float:
        places = came_up.findall(agent.text())
        return time.monotonic() if places and places[-1] != victim.host.v4 else 0.0

    return until("the agent is elsewhere", elsewhere, within_s=60)


def cut_off(appliance: Appliance, others: list[Appliance], way: str) -> None:
    """Drop what goes between an appliance and others; agents and writers still reach it."""
    theirs = ", ".join(each.host.v4 for each in others)
    rules = {"in": f"ip saddr {{ {theirs} }} drop;", "out": f"ip daddr {{ {theirs} }} drop;"}
    if way != "both ways":
        rules.pop("in" if way == "nothing out" else "out")
    appliance.host.nft(
        "table inet cut {\n"
        f" chain in {{ type filter hook input priority 0; {rules.get('in', '')} }}\n"
        f" chain out {{ type filter hook output priority 0; {rules.get('out', '')} }}\n"
        "}\n"
    )


def mend(appliance: Appliance) -> None:
    appliance.host.nft("delete table inet cut")
