"""Tells the appliance what the node is like, while it listens (cairn_agent.telemetry)."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time

from cairn_agent.daemon import Agent
from cairn_agent.dataplane import Stats
from cairn_agent.protocol import telemetry as wire
from cairn_agent.reporting import status_of
from cairn_agent.telemetry import (
    PROBE_EVERY_S,
    REST_OF_ASKING,
    Teller,
    asked,
    encode,
    sessions_up,
)


async def tell(agent: Agent) -> None:
    """Measure and report until cancelled."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_measure(agent), name="measure the paths")
        tasks.create_task(_report(agent), name="report")


async def _measure(agent: Agent) -> None:
    while True:
        rest_s = PROBE_EVERY_S * random.uniform(0.8, 1.2)
        begun = time.monotonic()
        stats = await asked(agent.dataplane) if _is_heard(agent) else None
        rest_s = max(rest_s, (time.monotonic() - begun) * REST_OF_ASKING)
        if stats is not None and agent.dataplane is not None:
            await agent.ways.measure(agent.dataplane, sessions_up(stats))
        await asyncio.sleep(rest_s)


async def _report(agent: Agent) -> None:
    """Report in turn, and soon after a change; what is asked for is not asked for too often."""
    teller, stream = Teller(agent.ways), 0
    stats, measured_at, ask_at = Stats(""), 0.0, 0.0
    while True:
        agent.sessions_changed.clear()
        link = agent.membership.link if agent.membership else None
        if link is not None and link.takes_reports:
            begun = time.monotonic()
            if begun >= ask_at:
                stats = await asked(agent.dataplane) or Stats("")
                measured_at = time.monotonic()
            of_now = status_of(agent, stats)
            is_new = stream != link.streams
            report = teller.report(
                of_now, stats, full=is_new, measured_s=round(time.monotonic() - measured_at, 1)
            )
            took_s = time.monotonic() - begun
            ask_at = max(ask_at, begun + took_s * REST_OF_ASKING)
            if report is not None:
                stream = link.streams if await link.report(encode(report)) else -1
        await _wait(agent, wire.EVERY_S if link and link.takes_reports else wire.SOON_S)


async def _wait(agent: Agent, most_s: float) -> None:
    """Wait for a change, or for the next turn."""
    await asyncio.sleep(wire.SOON_S * random.uniform(0.5, 1.0))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(most_s * random.uniform(0.8, 1.0)):
            await agent.sessions_changed.wait()


def _is_heard(agent: Agent) -> bool:
    return agent.membership is not None and agent.membership.link.takes_reports
