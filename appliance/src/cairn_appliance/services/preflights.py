"""Pre-flights: an operator asks, the node listens on the port, and the answer is kept a day."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass

from cairn_agent.protocol import gateway as wire

from cairn_appliance.domain.errors import Clash, Invalid, NotFound, Refused
from cairn_appliance.domain.identity import Actor
from cairn_appliance.domain.node import NodeState
from cairn_appliance.domain.segment import (
    Finding,
    Preflight,
    PreflightResult,
    checked_listening,
    checked_port,
    checked_vlan,
)
from cairn_appliance.netmap.netmaps import Netmaps
from cairn_appliance.services.clock import Clock, wall_clock
from cairn_appliance.services.commit import until_committed
from cairn_appliance.services.directory import find_node
from cairn_appliance.services.events import Journal
from cairn_appliance.services.presence import PresenceBoard
from cairn_appliance.services.stored import Stored, read, read_all
from cairn_appliance.services.vsubnets import VSubnets
from cairn_appliance.store import keys, records
from cairn_appliance.store.port import Compare, Delete, Put, Store

WAITING_MAX = 8  # of one node
GIVEN_UP_AFTER_S = 120.0  # beyond the time that it listens
_KEPT_S = 86_400.0
_FINDINGS_MAX = 256
_WORDS_MAX = 400


@dataclass(frozen=True, slots=True)
class PreflightOrder:
    """What is to be listened to."""

    node: str  # name or ID
    port: str
    vlan: int
    vsubnet: str  # name, ID or VNI
    listen_s: float = 20.0


class Preflights:
    """Passes the question on to the node, and its answer back."""

    def __init__(
        self,
        store: Store,
        vsubnets: VSubnets,
        netmaps: Netmaps,
        presence: PresenceBoard,
        journal: Journal,
        clock: Clock = wall_clock,
    ) -> None:
        self._store = store
        self._vsubnets = vsubnets
        self._netmaps = netmaps
        self._presence = presence
        self._journal = journal
        self._clock = clock

    async def ask(self, order: PreflightOrder, by: Actor) -> Preflight:
        """Return the question as it waits for the node; raise NotFound, Invalid, Clash."""
        node = (await find_node(self._store, order.node)).value
        if node.state is not NodeState.APPROVED:
            raise Clash(
                f"node {node.name} is {node.state}, not approved",
                "approve it first (`cairn node approve`)",
                code="node_not_approved",
            )
        if not self._presence.is_connected(node.id):
            raise Clash(
                f"node {node.name} has no link to an appliance now, so it can't be asked",
                "look at `cairn node show` and start its agent",
                code="node_away",
            )
        vsubnet = (await self._vsubnets.get(order.vsubnet)).value
        waiting = await read_all(self._store, records.preflights, f"{keys.PREFLIGHTS}{node.id}/")
        if len(waiting) >= WAITING_MAX:
            raise Clash(
                f"{len(waiting)} pre-flights wait for node {node.name} already",
                "wait for their ends",
                code="too_many_preflights",
            )
        preflight = Preflight(
            task=str(uuid.UUID(bytes=os.getrandom(16), version=4)),
            node=node.id,
            port=checked_port(order.port),
            vlan=checked_vlan(order.vlan),
            vsubnet=vsubnet.id,
            asked_at=self._clock(),
            listen_s=checked_listening(order.listen_s),
        )
        key = keys.preflight(node.id, preflight.task)
        text = f"node {node.name} is to listen on {preflight.port} for vSubnet {vsubnet.name}"
        entry = self._journal.entry(
            "preflight_asked", text, by, node=node.id, vsubnet=vsubnet.id, task=preflight.task
        )
        put = Put(key, records.preflights.encode(preflight))
        await self._store.commit([Compare(key, 0)], [put, entry])
        return preflight

    async def take(self, node: str, report: wire.PreflightReport) -> None:
        """Take the node's answer; raise Refused for a task that is none of its own."""
        if len(report.findings) > _FINDINGS_MAX:
            raise Invalid(f"at most {_FINDINGS_MAX} findings", code="invalid_body")

        async def attempt() -> None:
            try:
                key = keys.preflight(node, report.task)
            except ValueError as error:
                raise _none_of_yours() from error
            found = await read(self._store, records.preflights, key)
            result_key = keys.preflight_result(report.task)
            if found is None:
                known = await read(self._store, records.preflight_results, result_key)
                if known is not None and known.value.preflight.node == node:
                    return  # the answer came twice
                raise _none_of_yours()
            result = _result(found.value, report, self._clock())
            put = Put(result_key, records.preflight_results.encode(result))
            await self._store.commit([Compare(key, found.revision)], [Delete(key), put])

        await until_committed(attempt)

    async def get(self, task: str) -> tuple[Preflight, PreflightResult | None]:
        """Return a question with its answer, None while it is waited for; raise NotFound."""
        try:
            result_key = keys.preflight_result(task)
        except ValueError as error:
            raise _no_such(task) from error
        result = await read(self._store, records.preflight_results, result_key)
        if result:
            return result.value.preflight, result.value
        for waiting in await self._waiting():
            if waiting.value.task == task:
                return waiting.value, None
        result = await read(self._store, records.preflight_results, result_key)
        if result:  # it came between the two
            return result.value.preflight, result.value
        raise _no_such(task)

    async def tidy(self) -> None:
        """Give up what no node has answered, and forget old answers."""
        now = self._clock()
        for stored in await self._waiting():
            asked = stored.value
            if now - asked.asked_at < asked.listen_s + GIVEN_UP_AFTER_S:
                continue
            error = "the node gave no answer: its agent is away, or too old for gateway mode"
            result = PreflightResult(asked, now, error=error)
            key = keys.preflight(asked.node, asked.task)
            put = Put(keys.preflight_result(asked.task), records.preflight_results.encode(result))
            await self._store.commit([Compare(key, stored.revision)], [Delete(key), put])
        for old in await read_all(self._store, records.preflight_results, keys.PREFLIGHT_RESULTS):
            if now - old.value.at >= _KEPT_S:
                key = keys.preflight_result(old.value.preflight.task)
                await self._store.commit([Compare(key, old.revision)], [Delete(key)])

    async def _waiting(self) -> list[Stored[Preflight]]:
        return await read_all(self._store, records.preflights, keys.PREFLIGHTS)


def _result(asked: Preflight, report: wire.PreflightReport, now: float) -> PreflightResult:
    findings = tuple(
        Finding(each.code[:32], each.level, each.what[:_WORDS_MAX], each.guard[:_WORDS_MAX])
        for each in report.findings
    )
    return PreflightResult(
        preflight=asked,
        at=now,
        is_go=report.is_go and not report.error,
        heard_s=max(0.0, report.heard_s),
        frames=max(0, min(report.frames, 1 << 53)),
        findings=findings,
        error=report.error[:_WORDS_MAX],
    )


def _none_of_yours() -> Refused:
    return Refused(
        "the node was not asked for this pre-flight, or too long ago",
        "nothing: an operator asks again",
        code="not_your_duty",
    )


def _no_such(task: str) -> NotFound:
    return NotFound(f"there is no pre-flight {task[:80]!r}", "ask anew: `cairn gateway preflight`")
