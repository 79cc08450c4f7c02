"""The beats of a gateway: every half a second to one appliance, over a connection that is kept.

An appliance that doesn't answer within 0.4 s is not waited for alone: the next one is asked
beside it, and whoever answers first is the one that is asked from then on. A beat counts by
its answer only, so asking twice does no harm.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from cairn_agent.control.replica import Replica
from cairn_agent.control.tls import is_address, node_context
from cairn_agent.errors import AgentError, Refused, Unreachable
from cairn_agent.gateway.clock import now_ns
from cairn_agent.identity import Identity
from cairn_agent.protocol.gateway import (
    BEAT_S,
    BeatAnswer,
    GatewayBeat,
    GatewayEvent,
    PreflightReport,
    SegmentState,
)
from cairn_agent.racing import first_to_end

log = logging.getLogger(__name__)

_TIMEOUT_S: Final = 1.0
_PATIENCE_S: Final = 0.4  # then the next one is asked too
_HURRY_S: Final = 0.05
_MAX_EVENTS: Final = 64
_AGAIN_MIN_S, _AGAIN_MAX_S = 0.5, 5.0
_POST_S: Final = 5.0

Post = Callable[[Replica], Awaitable[None]]


class Speaker(Protocol):
    """Whose beats these are."""

    boot: str

    def states(self) -> list[SegmentState]:
        """Return what to say now."""

    def answered(self, sent: int, answer: BeatAnswer) -> None:
        """An appliance answered the beat that was sent at `sent`."""

    def is_hurried(self) -> bool:
        """Whether a switch-over waits for this gateway."""


class Beats:
    """The connection of all duties of a node; `identity` and `preferred` may change any time."""

    def __init__(self, identity: Callable[[], Identity], preferred: Callable[[], str]) -> None:
        self._identity = identity
        self._preferred = preferred  # by the link
        self._good = ""  # who answered last
        self._replicas: dict[str, tuple[Replica, tuple[str, str]]] = {}
        self._soon = asyncio.Event()
        self._queue: deque[Post] = deque(maxlen=_MAX_EVENTS)
        self._queued = asyncio.Event()
        self._told: dict[str, str] = {}  # address -> why the last beat failed, as logged
        self.error: AgentError | None = None

    def beat_soon(self) -> None:
        """Beat now: something changed that others wait for."""
        self._soon.set()

    def tell(self, event: GatewayEvent) -> None:
        """Have an event told; the oldest is forgotten where nobody takes them for long."""
        log.warning("gateway segment=%s event=%s: %s", event.segment, event.code, event.detail)
        self._later(lambda replica: replica.gateway_event(event))

    def report(self, report: PreflightReport) -> None:
        """Have a pre-flight's report told."""
        self._later(lambda replica: replica.gateway_preflight(report))

    async def run(self, speaker: Speaker) -> None:
        """Beat until cancelled."""
        try:
            await first_to_end(self._beat(speaker), self._tell())
        finally:
            await self._close_all()

    async def post(self, what: Post) -> None:
        """Say something to the appliance that answered last; raise AgentError."""
        order = self._order()
        if not order:
            raise Unreachable("no appliance is known", "leave with --force and join again")
        replica = await self._replica(order[0])
        try:
            async with asyncio.timeout(_POST_S):
                await what(replica)
        except TimeoutError as error:
            raise Unreachable(f"{replica.address} gives no answer", "") from error

    async def _beat(self, speaker: Speaker) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self._soon.clear()
            begun = loop.time()
            states = speaker.states()
            if states:
                await self._ask(speaker, GatewayBeat(states, speaker.boot))
            pause_s = _HURRY_S if speaker.is_hurried() else BEAT_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.01, begun + pause_s - loop.time())):
                    await self._soon.wait()

    async def _ask(self, speaker: Speaker, beat: GatewayBeat) -> None:
        """Ask one appliance after the other, not waiting for long; the first answer counts."""
        running: set[asyncio.Task[bool]] = set()
        try:
            for address in self._order():
                running.add(asyncio.ensure_future(self._try(address, speaker, beat)))
                if await _one_succeeds(running, _PATIENCE_S):
                    return
            await _one_succeeds(running, _TIMEOUT_S)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _try(self, address: str, speaker: Speaker, beat: GatewayBeat) -> bool:
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                replica = await self._replica(address)
                sent = now_ns()
                answer = await replica.gateway_beat(beat)
        except TimeoutError:
            self._failed(address, Unreachable(f"{address} gives no answer to beats", ""))
            return False
        except AgentError as error:
            self._failed(address, error)
            return False
        self._good, self.error = address, None
        self._told.clear()
        speaker.answered(sent, answer)
        return True

    def _failed(self, address: str, error: AgentError) -> None:
        if self._told.get(address) != error.cause:
            log.warning("a beat was not answered appliance=%s: %s", address, error.cause)
        self._told[address] = error.cause
        self.error = error
        if self._good == address:
            self._good = ""

    def _order(self) -> list[str]:
        known = list(filter(is_address, dict.fromkeys(self._identity().appliances)))
        first = [each for each in (self._good, self._preferred()) if each in known]
        return list(dict.fromkeys([*first, *known]))

    async def _replica(self, address: str) -> Replica:
        identity = self._identity()
        shown = (identity.certificate, identity.ca)
        found = self._replicas.get(address)
        if found is not None and found[1] == shown:
            return found[0]
        if found is not None:
            await found[0].__aexit__(None, None, None)
        replica = Replica(address, node_context(identity))
        self._replicas[address] = (replica, shown)
        return replica

    def _later(self, what: Post) -> None:
        self._queue.append(what)
        self._queued.set()

    async def _tell(self) -> None:
        wait_s = _AGAIN_MIN_S
        while True:
            self._queued.clear()
            if not self._queue:
                await self._queued.wait()
                continue
            first = self._queue[0]
            try:
                await self.post(first)
            except Refused as error:
                log.warning("the appliances did not take a report: %s", error.cause)
            except AgentError:
                await asyncio.sleep(random.uniform(_AGAIN_MIN_S, wait_s))
                wait_s = min(wait_s * 2, _AGAIN_MAX_S)
                continue
            wait_s = _AGAIN_MIN_S
            if self._queue and self._queue[0] is first:
                self._queue.popleft()

    async def _close_all(self) -> None:
        for replica, _ in self._replicas.values():
            await replica.__aexit__(None, None, None)
        self._replicas.clear()


async def _one_succeeds(running: set[asyncio.Task[bool]], within_s: float) -> bool:
    """Wait until one has succeeded, or all have failed, or the time is over."""
    deadline = asyncio.get_running_loop().time() + within_s
    while any(not task.done() for task in running):
        left_s = deadline - asyncio.get_running_loop().time()
        if left_s <= 0:
            break
        pending = [task for task in running if not task.done()]
        await asyncio.wait(pending, timeout=left_s, return_when=asyncio.FIRST_COMPLETED)
        if any(task.done() and task.result() for task in running):
            return True
    return any(task.done() and task.result() for task in running)
