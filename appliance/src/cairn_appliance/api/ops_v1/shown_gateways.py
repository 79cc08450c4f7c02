"""Segments, gateways, stations and pre-flights as the operations API shows them."""

from __future__ import annotations

import math
from dataclasses import asdict

from cairn_appliance.api.ops_v1.models import (
    FindingOut,
    GatewayOut,
    GuardsModel,
    PreflightOut,
    SegmentOut,
    StationOut,
    moment,
    moment_or_none,
)
from cairn_appliance.api.ops_v1.shown import Names
from cairn_appliance.domain.gateway import Station
from cairn_appliance.domain.segment import Gateway, Preflight, PreflightResult, Segment
from cairn_appliance.services.election import SegmentStatus
from cairn_appliance.services.services import Services


def segment_out(services: Services, segment: Segment, names: Names) -> SegmentOut:
    """Return a segment with who forwards for it, as this replica sees it now."""
    status = services.election.status(segment)
    record = status.record
    guards = {**asdict(segment.guards), "silent_hosts": list(segment.guards.silent_hosts)}
    is_held = record.holder in segment.nodes
    return SegmentOut(
        id=segment.id,
        name=segment.name,
        vsubnet=names.vsubnet(segment.vsubnet),
        preference=segment.preference,
        bridging=segment.is_bridging,
        guards=GuardsModel(**guards),
        created_at=moment(segment.created_at),
        forwarder=names.node(record.holder) if is_held and segment.is_bridging else None,
        next=names.node(record.next) if record.next else None,
        term=record.term,
        since=moment_or_none(record.since) if is_held else None,
        held_down=status.stays_down,
        gateways=[_gateway_out(services, each, status, names) for each in segment.gateways],
    )


def station_out(station: Station, now: float) -> StationOut:
    """Return a machine on a LAN."""
    return StationOut(
        mac=station.mac,
        ips=list(station.ips),
        since=moment(station.since),
        moves=len(station.moves),
        frozen=station.is_frozen(now),
    )


def preflight_out(
    preflight: Preflight, result: PreflightResult | None, names: Names
) -> PreflightOut:
    """Return a pre-flight with what it has heard, if it has ended."""
    return PreflightOut(
        task=preflight.task,
        node=names.node(preflight.node),
        vsubnet=names.vsubnet(preflight.vsubnet),
        port=preflight.port,
        vlan=preflight.vlan,
        listen_s=preflight.listen_s,
        asked_at=moment(preflight.asked_at),
        done=result is not None,
        go=result.is_go if result else False,
        heard_s=result.heard_s if result else 0.0,
        frames=result.frames if result else 0,
        findings=[FindingOut(**asdict(each)) for each in result.findings] if result else [],
        error=result.error if result else "",
    )


def _gateway_out(
    services: Services, gateway: Gateway, status: SegmentStatus, names: Names
) -> GatewayOut:
    seen = status.of(gateway.node)
    said = seen.said
    holds = status.record.holder == gateway.node
    return GatewayOut(
        node=names.node(gateway.node),
        port=gateway.port,
        vlan=gateway.vlan,
        forwards=holds and seen.is_able and said is not None and said.is_forwarding,
        able=seen.is_able,
        why_not=services.gateway_health.why_not(seen),
        code=said.code if said and not seen.is_able else "",
        heard_ago_s=None if math.isinf(seen.age_s) else round(seen.age_s, 1),
        stations=said.stations if said else 0,
        counters=said.counters if said else {},
    )
