"""Takers at all appliances of a trio at once, and whether one truth explains what they were told.

In a vSubnet of their own, nodes that exist only here are attached and detached, at the same
time, with the same address, at each appliance; and tokens for two are shown by three.
"""

from __future__ import annotations

import itertools
import json
import signal
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from cairn_agent.protocol.token import decode_token

from tests.integration.appliance.running import enrol_request
from tests.lab import Host, Program, until
from tests.lab.cairn import OPS_PORT, Appliance
from tests.sim import history
from tests.sim.history import Kind, Operation, Outcome, Violation
from tests.simulated_node import SimulatedNode

AGENT_PORT = 8002
VSUBNET = "taken"
_PREFIX = "10.200.0.0/16"
_FIRST = "10.200.128.0"  # asked for; what is given to who asks for any is below
_EVERY_S = 0.5
_TOKENS = 12
_USES = 2
_TAKER = Path(__file__).parents[1] / "lab" / "taker.py"
_numbers = itertools.count()


@dataclass
class Taken:
    """What the takers of one block were told; complete once it has ended."""

    operations: list[Operation] = field(default_factory=list)
    uses: dict[str, int] = field(default_factory=dict)
    _programs: list[Program] = field(default_factory=list)

    def read(self) -> list[Operation]:
        """Return what they have told so far."""
        lines = [line for program in self._programs for line in program.text().splitlines()]
        return [msgspec.json.decode(x, type=Operation) for x in lines if x.endswith("}")]

    def wait_for(self, count: int, *, within_s: float = 30.0) -> None:
        """Wait until so many more operations went well."""
        goal = self._done() + count
        until(f"{count} more are taken", lambda: self._done() >= goal, within_s=within_s)

    def _done(self) -> int:
        return sum(each.outcome is Outcome.DONE for each in self.read())

    def __str__(self) -> str:
        told = Counter(each.outcome for each in self.operations)
        return f"{told[Outcome.DONE]} takes and uses, {told[Outcome.REFUSED]} refused"

    def begin(self, host: Host, asked: dict[str, Any]) -> None:
        """Start one taker."""
        name = f"taker-{next(_numbers)}"
        file = host.directory / f"{name}.json"
        file.write_text(json.dumps(asked) + "\n")
        script = " ".join(host.python(_TAKER))
        self._programs.append(host.start(["sh", "-c", f"exec {script} < {file}"], name=name))

    def end(self) -> None:
        """End them all."""
        for program in self._programs:
            program.send_signal(signal.SIGTERM)
        for program in self._programs:
            program.wait(within_s=30)
        self.operations = self.read()


@dataclass
class Operator:
    """An operator at the host of the writers, who asks one appliance by curl."""

    host: Host
    appliance: Appliance
    session: str

    def ask(self, method: str, path: str, body: object = None, *, port: int = OPS_PORT) -> Any:
        """Return the answer; raise CommandError for any that is an error."""
        url = f"https://{self.appliance.host.v4}:{port}{path}"
        command = ["curl", "-sSk", "--fail-with-body", "-m", "10", "-X", method, url]
        command += ["-H", "Content-Type: application/json"]
        if port == OPS_PORT:
            command += ["-H", f"Authorization: Bearer {self.session}"]
        if body is not None:
            command += ["--data", "@-"]
        done = self.host.run(command, stdin=json.dumps(body) if body is not None else "")
        return json.loads(done.stdout or "{}")

    def everything(self, path: str) -> Iterator[dict[str, Any]]:
        """Yield all items of a list."""
        following = ""
        while True:
            page = self.ask("GET", f"{path}?limit=200{following}")
            yield from page["items"]
            if not page["next"]:
                return
            following = f"&cursor={page['next']}"

    def enrolled(self, name: str) -> SimulatedNode:
        """Return a node that has joined."""
        node = SimulatedNode(name)
        token = self.ask("POST", "/api/v1/tokens", {})["token"]
        body = msgspec.to_builtins(enrol_request(node, token))
        assert self.ask("POST", "/agent/v1/enrol", body, port=AGENT_PORT)["state"] == "approved"
        return node


class Takers:
    """The nodes and the vSubnet that the takers of one cluster use."""

    def __init__(self, operator: Operator) -> None:
        operator.ask("POST", "/api/v1/vsubnets", {"name": VSUBNET, "prefixes": [_PREFIX]})
        self._nodes = [operator.enrolled(f"taker-{n}") for n in range(5)]
        self._begun = time.monotonic()

    @contextmanager
    def at(self, operator: Operator, appliances: Sequence[Appliance]) -> Iterator[Taken]:
        """Let one take at each of the appliances, in step, until the block ends."""
        taken = Taken()
        joins: list[list[dict[str, Any]]] = [[] for _ in appliances]
        for _ in range(_TOKENS):
            made = operator.ask("POST", "/api/v1/tokens", {"max_uses": _USES})["token"]
            token = decode_token(made).id
            taken.uses[f"token {token}"] = _USES
            for each in joins:
                body = enrol_request(SimulatedNode(f"joined-{next(_numbers)}"), made)
                each.append({"token": token, "body": msgspec.to_builtins(body)})
        with ExitStack() as stack:
            stack.callback(taken.end)
            for number, appliance in enumerate(appliances):
                taken.begin(
                    operator.host,
                    {
                        "client": appliance.host.name,
                        "ops": f"{appliance.host.v4}:{OPS_PORT}",
                        "agents": f"{appliance.host.v4}:{AGENT_PORT}",
                        "session": operator.session,
                        "node": self._nodes[number].id,
                        "vsubnet": VSUBNET,
                        "first": _FIRST,
                        "begun": self._begun,
                        "every_s": _EVERY_S,
                        "joins": joins[number],
                    },
                )
            yield taken


def violations(
    taken: Taken, written: Sequence[str], operator: Operator, kept: set[str]
) -> list[Violation]:
    """Return what no truth explains, of what was taken, used and written (IDs of tokens).

    `kept` are the tokens at the end. An acknowledged use is a node that there is; who was given
    an address and hasn't asked to leave it has it.
    """
    now = time.monotonic()
    joined = [each for each in taken.operations if each.kind is Kind.USE]
    members = operator.everything(f"/api/v1/vsubnets/{VSUBNET}/members")
    owners = {
        thing: str(member["node"]["id"])
        for member in members
        for thing in (f"mac {member['mac']}", *(f"ip {ip}" for ip in member["ips"]))
    }
    final = {f"node {node['id']}": "made" for node in operator.everything("/api/v1/nodes")}
    final |= {f"token {each}": "made" for each in kept}
    writes = [
        Operation("writer", Kind.WRITE, f"token {each}", "made", now, now, Outcome.DONE)
        for each in written
    ]
    writes += [
        Operation(each.client, Kind.WRITE, f"node {each.value}", "made", now, now, each.outcome)
        for each in joined
        if each.outcome is Outcome.DONE
    ]
    operations = [*taken.operations, *writes]
    found = history.check(operations, final=final, uses=taken.uses)
    return [*found, *history.evicted(operations, owners)]
