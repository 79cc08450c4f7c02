"""All simulated agents: worker processes, and what they are told."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TypeVar

import msgspec

from tests.sim.messages import State

ROOT = Path(__file__).resolve().parents[2]
ANSWER_MAX = 1 << 28
T = TypeVar("T")


class RigError(Exception):
    """The rig itself failed, so that nothing was measured."""


class Worker:
    """One process."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._turn = asyncio.Lock()

    async def tell(self, do: str, answer: type[T], **details: object) -> T:
        """Tell it to do something and return its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        async with self._turn:
            self._process.stdin.write(msgspec.json.encode({"do": do, **details}) + b"\n")
            await self._process.stdin.drain()
            line = await self._process.stdout.readline()
        if not line:
            raise RigError(f"a worker ended while it should {do}; see its log")
        return msgspec.json.decode(line, type=answer)

    async def end(self) -> None:
        """Close its stdin, which ends it; kill it where that doesn't."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(20):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


class Fleet:
    """Agents in several processes."""

    def __init__(self, workers: list[Worker]) -> None:
        self.workers = workers

    @classmethod
    @contextlib.asynccontextmanager
    async def of(cls, processes: int, log: Path) -> AsyncIterator[Fleet]:
        """Start workers; they end with the block."""
        workers = []
        try:
            with log.open("ab") as errors:
                for _ in range(processes):
                    workers.append(
                        Worker(
                            await asyncio.create_subprocess_exec(
                                sys.executable,
                                *("-m", "tests.sim.worker"),
                                cwd=ROOT,
                                stdin=PIPE,
                                stdout=PIPE,
                                stderr=errors,
                                limit=ANSWER_MAX,
                            )
                        )
                    )
            yield cls(workers)
        finally:
            await asyncio.gather(*(worker.end() for worker in workers))

    async def all(self, do: str, answer: type[T], **details: object) -> list[T]:
        """Tell all workers the same; return their answers."""
        return list(
            await asyncio.gather(*(each.tell(do, answer, **details) for each in self.workers))
        )

    async def do(self, do: str, **details: object) -> None:
        """Tell all workers the same where there is nothing to answer."""
        await self.all(do, type(None), **details)

    async def state(self) -> State:
        """Return how all agents are, taken together; raise RigError where one died."""
        states = await self.all("state", State)
        ended = [text for each in states for text in each.ended]
        if ended:
            raise RigError(f"{len(ended)} simulated agents ended by themselves: {ended[0]}")
        return State(
            agents=sum(each.agents for each in states),
            following=sum(each.following for each in states),
            registered_at=[at for each in states for at in each.registered_at],
            synced_at=[at for each in states for at in each.synced_at],
            revisions=dict(sum((Counter(each.revisions) for each in states), Counter[int]())),
            octets=sum(each.octets for each in states),
            kinds=dict(sum((Counter(each.kinds) for each in states), Counter[str]())),
            unacknowledged=sum(each.unacknowledged for each in states),
            failures=dict(sum((Counter(each.failures) for each in states), Counter[str]())),
            barred=sum(each.barred for each in states),
            ended=[],
            verified=sum(each.verified for each in states),
            cpu_s=sum(each.cpu_s for each in states),
            back_at=[at for each in states for at in each.back_at],
            octets_back=sum(each.octets_back for each in states),
            places=dict(sum((Counter(each.places) for each in states), Counter[str]())),
            trusts=dict(sum((Counter(each.trusts) for each in states), Counter[str]())),
        )

    async def until_synced(self, within_s: float, *, every_s: float = 0.5) -> State:
        """Return the state once every agent is in sync since `forget`, or the time is up."""
        end = time.monotonic() + within_s
        while True:
            state = await self.state()
            if len(state.synced_at) + state.barred >= state.agents or time.monotonic() >= end:
                return state
            await asyncio.sleep(every_s)

    async def until_back(self, agents: int, within_s: float) -> State:
        """Return the state once so many have begun a session since `forget`, all of them one."""
        end = time.monotonic() + within_s
        while True:
            state = await self.state()
            is_whole = sum(state.places.values()) + state.barred >= state.agents
            if (len(state.back_at) >= agents and is_whole) or time.monotonic() >= end:
                return state
            await asyncio.sleep(0.2)
