"""Gathers how gateways and LANs are, for the alarms."""

from __future__ import annotations

from cairn_appliance.domain.gateway_health import (
    GatewayHealth,
    SegmentHealth,
    problems_of_gateways,
)
from cairn_appliance.domain.problem import Problem
from cairn_appliance.domain.segment import Segment
from cairn_appliance.netmap.netmaps import Netmaps
from cairn_appliance.services.clock import Clock, wall_clock
from cairn_appliance.services.election import Election, GatewayStatus
from cairn_appliance.services.gateway_board import GatewayBoard

_LISTENS_S = 3.0  # before that nobody can have been heard


class GatewayHealths:
    """What this replica knows is wrong with gateways; from memory."""

    def __init__(
        self, netmaps: Netmaps, election: Election, board: GatewayBoard, clock: Clock = wall_clock
    ) -> None:
        self._netmaps = netmaps
        self._election = election
        self._board = board
        self._clock = clock

    def problems(self) -> tuple[Problem, ...]:
        """Return what is wrong; nothing while it can't be known yet."""
        if self._board.listens_s < _LISTENS_S:
            return ()
        return problems_of_gateways(tuple(map(self._health, self._segments())))

    def problems_by_segment(self) -> list[tuple[Segment, Problem]]:
        """Return the same, with whose problem it is."""
        if self._board.listens_s < _LISTENS_S:
            return []
        return [
            (segment, problem)
            for segment in self._segments()
            for problem in problems_of_gateways((self._health(segment),))
        ]

    def _segments(self) -> list[Segment]:
        return sorted(self._netmaps.snapshot.segments.values(), key=lambda each: each.name)

    def why_not(self, status: GatewayStatus) -> str:
        """Return why a gateway can't forward; empty where it can."""
        if status.is_able:
            return ""
        if status.age_s > 2.0:
            return "not heard of late"
        return (status.said.why_not if status.said else "") or "it doesn't say why"

    def _health(self, segment: Segment) -> SegmentHealth:
        now, status = self._clock(), self._election.status(segment)
        troubles = (each for each in self._board.troubles(segment.id) if not each.is_over(now))
        return SegmentHealth(
            name=segment.name,
            is_bridging=segment.is_bridging,
            is_held_down=status.stays_down,
            gateways=tuple(map(self._gateway, status.gateways)),
            troubles=tuple(troubles),
        )

    def _gateway(self, status: GatewayStatus) -> GatewayHealth:
        known = self._netmaps.snapshot.nodes.get(status.node)
        return GatewayHealth(
            name=known.name if known else status.node,
            is_able=status.is_able,
            why_not=self.why_not(status),
            code=status.said.code if status.said and not status.is_able else "",
        )
