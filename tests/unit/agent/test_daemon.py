"""What the daemon's tasks do when something else goes on at the same time, or fails."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import pytest
from cairn_agent import daemon
from cairn_agent.daemon import Agent, nobody
from cairn_agent.dataplane import DataPlane
from cairn_agent.errors import Environment, StateUnusable
from cairn_agent.host.network import Network
from cairn_agent.netmap.desired import DataPlaneState, nothing
from cairn_agent.settings import Settings
from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError


def an_agent(directory: Path) -> Agent:
    """Return an agent that has not joined and has no netlink."""
    settings = Settings(directory / "state", directory / "run")
    return Agent(settings, cast(AsyncIPRoute, None), Network())


class SlowDataPlane:
    """Takes a state when the test lets it."""

    def __init__(self) -> None:
        self.begun = asyncio.Event()
        self.let = asyncio.Event()
        self.applied = 0

    async def apply(self, _generation: int, _state: DataPlaneState) -> None:
        self.begun.set()
        await self.let.wait()
        self.applied += 1


async def test_a_tap_that_is_lost_during_an_apply_is_applied_again(tmp_path: Path) -> None:
    agent, slow = an_agent(tmp_path), SlowDataPlane()
    agent.dataplane, agent.generation = cast(DataPlane, slow), 1
    state = nothing(nobody()).state
    loading = asyncio.create_task(agent._load(state))
    await slow.begun.wait()
    agent._apply_anew()
    slow.let.set()
    await loading
    assert agent.wake.is_set()
    await agent._load(state)
    assert slow.applied == 2
    await agent._load(state)
    assert slow.applied == 2, "what is loaded is not applied again"


@pytest.mark.parametrize(
    "error", [Environment("it can't be removed"), NetlinkError(16, "busy")], ids=["own", "netlink"]
)
async def test_a_host_that_refuses_a_change_does_not_end_the_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(daemon, "_RETRY_S", 0.01)
    agent = an_agent(tmp_path)
    tries = 0

    async def refused() -> float:
        nonlocal tries
        tries += 1
        raise error

    monkeypatch.setattr(agent, "_apply", refused)
    applying = asyncio.create_task(agent.keep_applied())
    async with asyncio.timeout(5):
        while tries < 3:
            await asyncio.sleep(0.01)
            assert not applying.done()
    applying.cancel()
    await asyncio.gather(applying, return_exceptions=True)


async def test_a_full_runtime_directory_does_not_end_the_agent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "_BOOKS_S", 0.01)
    agent = an_agent(tmp_path)
    tries = 0

    async def full() -> None:
        nonlocal tries
        tries += 1
        raise StateUnusable("no space left")

    monkeypatch.setattr(agent, "write_books", full)
    keeping = asyncio.create_task(agent.keep_books())
    async with asyncio.timeout(5):
        while tries < 3:
            await asyncio.sleep(0.01)
            assert not keeping.done()
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
