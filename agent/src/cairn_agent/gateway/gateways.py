"""All duties of this node, as the netmap has them: each runs by itself, and none ends another."""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import Callable
from typing import Final

from cairn_agent.dataplane import Event
from cairn_agent.gateway.beats import Beats
from cairn_agent.gateway.clock import now_ns
from cairn_agent.gateway.duty import Duty, Surroundings
from cairn_agent.gateway.tasks import Preflights
from cairn_agent.gateway.wanted import duties
from cairn_agent.protocol.gateway import BeatAnswer, GatewayDuty, SegmentState
from cairn_agent.racing import first_to_end
from cairn_agent.report import GatewayReport

log = logging.getLogger(__name__)

_AGAIN_S: Final = (1.0, 3.0)  # before a duty that broke is begun anew


class Gateways:
    """Starts and ends duties as the netmap changes; speaks for all of them."""

    def __init__(self, around: Surroundings, beats: Beats, confirm: Callable[[int], None]) -> None:
        self.boot = secrets.token_hex(8)
        self._around = around
        self._beats = beats
        self._confirm = confirm  # an appliance answered what was sent then
        self._duties: dict[str, Duty] = {}
        self._tasks: dict[asyncio.Task[None], str] = {}
        self._broken: dict[str, float] = {}  # segment -> when it may begin anew
        self._changed = asyncio.Event()
        self._preflights = Preflights(around, beats)

    def changed(self) -> None:
        """The netmap changed."""
        self._changed.set()
        self._preflights.changed()

    async def run(self) -> None:
        """Do all duties until cancelled."""
        await first_to_end(self._beats.run(self), self._keep(), self._preflights.run())

    def states(self) -> list[SegmentState]:
        """Return what to say with a beat."""
        states = (duty.state() for duty in self._duties.values())
        return [state for state in states if state is not None]

    def answered(self, sent: int, answer: BeatAnswer) -> None:
        """Give each duty its grant."""
        self._confirm(sent)
        for grant in answer.grants:
            if duty := self._duties.get(grant.segment):
                duty.answered(sent, grant)

    def is_hurried(self) -> bool:
        """Whether a switch-over waits for this gateway."""
        return any(duty.standing.is_next for duty in self._duties.values())

    def note(self, event: Event) -> None:
        """The data plane says something of a gate, or of a frame that came back."""
        for duty in self._duties.values():
            if duty.duty.vni == event.vni:
                duty.note(event)

    def reports(self) -> list[GatewayReport]:
        """Return how each duty is, for people."""
        return [self._report(duty) for _, duty in sorted(self._duties.items())]

    def _report(self, duty: Duty) -> GatewayReport:
        standing, now = duty.standing, now_ns()
        code, why = standing.why_not()
        is_forwarding = standing.is_forwarding(now)
        if code == "loop":
            state = "blocked"
        elif is_forwarding:
            state = "forwarding"
        else:
            state = "unable" if code else "standby"
        if state == "standby":
            why = self._why_standby(duty)
        return GatewayReport(
            segment=duty.duty.segment,
            name=duty.duty.name,
            vni=duty.duty.vni,
            port=duty.duty.port,
            vlan=duty.duty.vlan,
            state=state,
            code=code,
            why=why,
            term=standing.own_term,
            forwarder=duty.name_of(standing.holder) if standing.holder else "",
            stations=duty.stations,
            counters={name: count for name, count in duty.counters.items() if count},
        )

    def _why_standby(self, duty: Duty) -> str:
        holder = duty.standing.holder
        if self._beats.error is not None:
            return f"no appliance confirms who forwards: {self._beats.error.cause}"
        if holder and holder != self._around.node_id:
            return f"{duty.name_of(holder)} forwards"
        return "waits for an appliance's word"

    async def _keep(self) -> None:
        try:
            while True:
                self._changed.clear()
                self._match()
                wake = asyncio.ensure_future(self._changed.wait())
                left_s = self._begin_again_in_s()
                try:
                    await asyncio.wait(
                        [wake, *self._tasks],
                        timeout=left_s,
                        return_when=asyncio.FIRST_COMPLETED,
                    )
                finally:
                    wake.cancel()
                self._look_at_ended()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            self._tasks.clear()
            self._duties.clear()

    def _match(self) -> None:
        """Have the duties that the netmap names, and no others."""
        wanted = duties(self._around.netmap)
        now = asyncio.get_running_loop().time()
        for segment, running in list(self._duties.items()):
            if segment not in wanted or _is_other(running.duty, wanted[segment]):
                running.leave()
            elif wanted[segment] != running.duty:
                running.update(wanted[segment])
        for segment, duty in wanted.items():
            if segment in self._tasks.values() or self._broken.get(segment, 0.0) > now:
                continue
            made = Duty(duty, self._around, self._beats, secrets.randbits(64))
            self._duties[segment] = made
            task = asyncio.create_task(made.run(), name=f"gateway {duty.name}")
            self._tasks[task] = segment
            log.info("gateway duty begins segment=%s port=%s", duty.name, duty.port)

    def _begin_again_in_s(self) -> float | None:
        now = asyncio.get_running_loop().time()
        left = [at - now for at in self._broken.values() if at > now]
        return min(left) + 0.01 if left else None

    def _look_at_ended(self) -> None:
        for task in [task for task in self._tasks if task.done()]:
            segment = self._tasks.pop(task)
            self._duties.pop(segment, None)
            error = None if task.cancelled() else task.exception()
            if error is not None:
                # A mistake in one duty is no reason to stop the others.
                log.error("gateway duty broke segment=%s", segment, exc_info=error)
                wait_s = random.uniform(*_AGAIN_S)
                self._broken[segment] = asyncio.get_running_loop().time() + wait_s


def _is_other(one: GatewayDuty, two: GatewayDuty) -> bool:
    """Whether it is another place, so that it has to begin anew."""
    return (one.vni, one.port, one.vlan) != (two.vni, two.port, two.vlan)
