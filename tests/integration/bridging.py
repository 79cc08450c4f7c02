"""Bridges and takes apart as an agent would, until it kills itself; a script of the tests.

Each line of standard input is a JSON object: what to do (`attach`, `detach`), the journal, the
bridge wanted, and before which change to die by SIGKILL; -1: not at all. With `each` every single
change of the kernel counts, else the steps of the journal. The answer is a line: `killed`, or
`done` where there were fewer changes.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from cairn_agent.host.bridge import BridgeWanted, ensure_bridges, remove_other_bridges
from cairn_agent.host.bridge_journal import Journal
from cairn_agent.protocol.gateway import Guards
from pyroute2 import AsyncIPRoute

_WRITES = {"add", "set", "del", "replace"}


class Countdown:
    """Kills this process when it has been asked so often."""

    def __init__(self, left: int) -> None:
        self._left = left

    def __call__(self, what: str = "") -> None:
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1


class Counted(AsyncIPRoute):  # type: ignore[misc]
    """Netlink of which each change counts."""

    countdown = Countdown(-1)

    async def link(self, command: str, **values: Any) -> Any:
        if command in _WRITES:
            self.countdown()
        return await super().link(command, **values)

    async def addr(self, command: str, **values: Any) -> Any:
        if command in _WRITES:
            self.countdown()
        return await super().addr(command, **values)

    async def route(self, command: str, **values: Any) -> Any:
        if command in _WRITES:
            self.countdown()
        return await super().route(command, **values)


async def act(order: dict[str, Any]) -> None:
    """Do what is asked, or die over it."""
    countdown = Countdown(order["die_before"])
    journal = Journal(Path(order["journal"]), None if order["each"] else countdown)
    values = order["wanted"]
    wanted = BridgeWanted(
        **(values | {"guards": Guards(), "overlay_macs": frozenset(values["overlay_macs"])})
    )
    async with Counted() as netlink:
        if order["each"]:
            netlink.countdown = countdown
        if order["do"] == "attach":
            outcome = (await ensure_bridges(netlink, [wanted], journal))[wanted.vni]
            assert outcome.error is None, outcome.error
        else:
            await remove_other_bridges(netlink, [], journal)


def main() -> None:
    """Fork for each order, so that Python starts but once."""
    print("ready", flush=True)
    for line in sys.stdin:
        if (child := os.fork()) == 0:
            try:
                asyncio.run(act(json.loads(line)))
            finally:
                sys.stderr.flush()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        was_killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        print("killed" if was_killed else f"done {status}", flush=True)


if __name__ == "__main__":
    main()
