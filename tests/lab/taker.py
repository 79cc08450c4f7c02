"""Takes addresses and uses of tokens at one appliance, in step with others at other appliances.

First line of stdin: {"client", "ops", "agents", "session", "node", "vsubnet", "first", "begun",
"every_s", "joins"}. Time is cut into rounds of `every_s` since `begun` (CLOCK_MONOTONIC), which
all takers share: in each round each of them asks at the same time for the same address, or for
any, for its own node, and gives it back; in every third it shows the next token of `joins`,
which all have. Each line of output is an operation as tests/sim/history.py knows it.
"""

import http.client
import ipaddress
import json
import random
import signal
import ssl
import sys
import time
from collections.abc import Iterator
from typing import Any

_WITHIN_S = 4.0
_NO_ANSWER = 0


class Api:
    """One API of an appliance, with a connection that is kept."""

    def __init__(self, address: str, headers: dict[str, str]) -> None:
        self._address = address
        self._headers = {**headers, "Content-Type": "application/json"}
        self._connection: http.client.HTTPSConnection | None = None

    def ask(self, method: str, path: str, body: object) -> tuple[int, dict[str, Any]]:
        """Return the status (0: no answer) and the answer."""
        try:
            if self._connection is None:
                context = ssl._create_unverified_context()
                self._connection = http.client.HTTPSConnection(
                    self._address, timeout=_WITHIN_S, context=context
                )
            octets = b"" if body is None else json.dumps(body).encode()
            self._connection.request(method, path, octets, self._headers)
            answer = self._connection.getresponse()
            return answer.status, json.loads(answer.read() or b"{}")
        except (OSError, http.client.HTTPException, ValueError):
            if self._connection is not None:
                self._connection.close()
            self._connection = None
            return _NO_ANSWER, {}


def outcome(status: int) -> str:
    """Return what the client knows: 503 may be a write that was begun."""
    if 200 <= status < 300:
        return "done"
    return "refused" if 400 <= status < 500 else "unknown"


class Taker:
    """The operations of one client."""

    def __init__(self, asked: dict[str, Any]) -> None:
        self._asked = asked
        session = {"Authorization": f"Bearer {asked['session']}"}
        self._ops = Api(asked["ops"], session)
        self._agents = Api(asked["agents"], {})
        self._members = f"/api/v1/vsubnets/{asked['vsubnet']}/members"
        self._first = ipaddress.ip_address(asked["first"])
        self._held: list[str] = []
        self._joins: Iterator[dict[str, Any]] = iter(asked["joins"])

    def take(self, number: int) -> None:
        """Attach the node, with the round's address or with any."""
        ips = [] if number % 2 else [str(self._first + number // 2)]
        body = {"node": self._asked["node"], "ips": ips}
        begun = time.monotonic()
        status, answer = self._ops.ask("POST", self._members, body)
        if outcome(status) == "done":
            self._held = [f"mac {answer['mac']}", *(f"ip {ip}" for ip in answer["ips"])]
        else:
            self.tell("take", f"ip {ips[0] if ips else 'any'}", begun, status)
            return
        for thing in self._held:
            self.tell("take", thing, begun, status)

    def let_go(self) -> None:
        """Detach the node; what it held stays its own until that has happened for certain."""
        begun = time.monotonic()
        status, _ = self._ops.ask("DELETE", f"{self._members}/{self._asked['node']}", None)
        for thing in self._held:
            self.tell("release", thing, begun, 204 if status == 404 else status)
        if outcome(status) == "done" or status == 404:
            self._held = []

    def join(self) -> None:
        """Show the next token, as a machine that was never seen before."""
        join = next(self._joins, None)
        if join is None:
            return
        begun = time.monotonic()
        status, _ = self._agents.ask("POST", "/agent/v1/enrol", join["body"])
        self.tell("use", f"token {join['token']}", begun, status, join["body"]["node_id"])

    def tell(self, kind: str, thing: str, begun: float, status: int, value: str = "") -> None:
        """Print an operation that has just ended."""
        line = {
            "client": self._asked["client"],
            "kind": kind,
            "thing": thing,
            "value": value or self._asked["node"],
            "asked": begun,
            "answered": time.monotonic(),
            "outcome": outcome(status),
        }
        print(json.dumps(line), flush=True)


def main() -> None:
    """Take until ended, which is between two rounds: nothing is begun that isn't told."""
    ending: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ending.append(number))
    asked = json.loads(sys.stdin.readline())
    taker, every_s = Taker(asked), asked["every_s"]
    while not ending:
        since = time.monotonic() - asked["begun"]
        number = int(since / every_s) + 1
        # All at once, but not always in the same order.
        time.sleep(number * every_s - since + random.uniform(0.0, 0.01))
        taker.take(number)
        taker.let_go()
        if number % 3 == 0:
            taker.join()


main()
