"""Pre-flights: those that the appliances ask for, and one asked for on this machine."""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from cairn_agent.errors import AgentError, BadInput
from cairn_agent.gateway.beats import Beats
from cairn_agent.gateway.duty import Surroundings
from cairn_agent.gateway.listening import listen
from cairn_agent.gateway.preflight import Analysis, Overlay, is_go
from cairn_agent.netmap.held import HeldVSubnet, Netmap
from cairn_agent.protocol.gateway import Guards, PreflightReport, PreflightTask

log = logging.getLogger(__name__)

_MAX_LISTEN_S: Final = 600.0
_MAX_DONE: Final = 256


class Preflights:
    """Does each of the netmap's tasks once, one after the other."""

    def __init__(self, around: Surroundings, beats: Beats) -> None:
        self._around = around
        self._beats = beats
        self._done: dict[str, None] = {}  # in the order in which they were done
        self._changed = asyncio.Event()

    def changed(self) -> None:
        """The netmap changed."""
        self._changed.set()

    async def run(self) -> None:
        """Do what is asked for until cancelled."""
        while True:
            self._changed.clear()
            task = self._next()
            if task is None:
                await self._changed.wait()
                continue
            self._done[task.task] = None
            while len(self._done) > _MAX_DONE:
                self._done.pop(next(iter(self._done)))
            log.info("pre-flight port=%s vlan=%d vni=%d", task.port, task.vlan, task.vni)
            self._beats.report(await preflight(self._around.netmap, task))

    def _next(self) -> PreflightTask | None:
        netmap = self._around.netmap
        tasks = netmap.node.document.preflights if netmap and netmap.node else []
        return next((task for task in tasks if task.task not in self._done), None)


async def preflight(netmap: Netmap | None, task: PreflightTask) -> PreflightReport:
    """Listen, and say what was heard; an error is part of the report."""
    try:
        return await _listened(netmap.vsubnets.get(task.vni) if netmap else None, task)
    except AgentError as error:
        text = f"{error.cause}; {error.remedy}" if error.remedy else error.cause
        return PreflightReport(task.task, False, 0.0, 0, [], text)


async def _listened(vsubnet: HeldVSubnet | None, task: PreflightTask) -> PreflightReport:
    analysis = Analysis(Overlay.of(vsubnet), task.vlan)
    seconds = min(max(task.listen_s, 0.1), _MAX_LISTEN_S)
    heard_s = await listen(task.port, seconds, analysis.take)
    findings = analysis.findings(heard_s, Guards())
    return PreflightReport(task.task, is_go(findings), round(heard_s, 1), analysis.frames, findings)


def vni_named(netmap: Netmap | None, name: str) -> int:
    """Return the VNI of a vSubnet by its name or number; raise BadInput."""
    for vni, vsubnet in (netmap.vsubnets if netmap else {}).items():
        if name in (vsubnet.header.name, str(vni)):
            return vni
    raise BadInput(
        f"this node is no member of a vSubnet {name!r}",
        "see `cairn-agent status` for those that it is in; "
        "or have an appliance ask: cairn gateway preflight",
    )
