"""LAN segments, their gateways, and pre-flights."""

from __future__ import annotations

from dataclasses import replace

from fastapi import APIRouter, Response

from cairn_appliance.api.ops_v1.context import (
    ActorDep,
    ExpectedDep,
    OpsDep,
    RequiredDep,
    ServicesDep,
    tagged,
)
from cairn_appliance.api.ops_v1.idempotent import IdempotentRoute
from cairn_appliance.api.ops_v1.models import (
    AttachAsked,
    Page,
    PreflightAsked,
    PreflightOut,
    SegmentAsked,
    SegmentOut,
    SegmentPatch,
    StationOut,
    SwitchOverAsked,
)
from cairn_appliance.api.ops_v1.paging import PagingDep, Part, Reference, has
from cairn_appliance.api.ops_v1.shown import all_names
from cairn_appliance.api.ops_v1.shown_gateways import preflight_out, segment_out, station_out
from cairn_appliance.domain.segment import Guards, Preference, Segment
from cairn_appliance.services.preflights import PreflightOrder
from cairn_appliance.services.segments import SegmentChange, SegmentOrder
from cairn_appliance.services.services import Services
from cairn_appliance.services.stored import Stored

router = APIRouter(tags=["gateways"], route_class=IdempotentRoute)
ONE = "/segments/{segment}"


@router.get("/segments")
async def list_segments(
    services: ServicesDep, paging: PagingDep, vsubnet: Reference = "", name: Part = ""
) -> Page[SegmentOut]:
    """All LAN segments by name, with who forwards and how their gateways are."""
    place = (await services.vsubnets.get(vsubnet)).value.id if vsubnet else ""
    found = [each.value for each in await services.segments.list()]
    stored = [each for each in found if place in ("", each.vsubnet) and has(name, each.name)]
    page, following = paging.page(stored, lambda segment: f"{segment.name}\0{segment.id}")
    names = await all_names(services)
    return Page(items=[segment_out(services, each, names) for each in page], next=following)


@router.post("/segments", status_code=201)
async def create_segment(
    asked: SegmentAsked, response: Response, services: ServicesDep, by: ActorDep
) -> SegmentOut:
    """Make a LAN segment of a vSubnet."""
    order = SegmentOrder(
        asked.name, asked.vsubnet, Preference(asked.preference), _guards(asked.guards.model_dump())
    )
    stored = await services.segments.create(order, by)
    response.headers["Location"] = f"/api/v1/segments/{stored.value.id}"
    return await _out(services, stored, response)


@router.get(ONE)
async def get_segment(segment: str, response: Response, services: ServicesDep) -> SegmentOut:
    """One segment, by name or ID."""
    return await _out(services, await services.segments.get(segment), response)


@router.patch(ONE)
async def change_segment(
    segment: str,
    asked: SegmentPatch,
    response: Response,
    services: ServicesDep,
    by: ActorDep,
    expected: RequiredDep,
) -> SegmentOut:
    """Change a segment; If-Match is required."""
    current = await services.segments.get(segment)
    change = _change(asked, current.value.guards)
    stored = await services.segments.change(current.value.id, change, by, expected=expected)
    return await _out(services, stored, response)


@router.delete(ONE, status_code=204)
async def delete_segment(
    segment: str, services: ServicesDep, by: ActorDep, expected: ExpectedDep
) -> None:
    """Delete a segment without gateways."""
    await services.segments.delete(segment, by, expected=expected)


@router.post(ONE + "/gateways", status_code=201)
async def attach_gateway(
    segment: str, asked: AttachAsked, response: Response, services: ServicesDep, by: ActorDep
) -> SegmentOut:
    """Make a node a gateway of the segment, and so a member of its vSubnet."""
    stored = await services.segments.attach(segment, asked.node, asked.port, asked.vlan, by)
    return await _out(services, stored, response)


@router.delete(ONE + "/gateways/{node}", status_code=204)
async def detach_gateway(
    segment: str, node: str, services: ServicesDep, by: ActorDep, expected: ExpectedDep
) -> None:
    """Take a gateway out of the segment and the vSubnet; its port is as it was before."""
    await services.segments.detach(segment, node, by, expected=expected)


@router.post(ONE + "/switch-over")
async def switch_over(
    segment: str, asked: SwitchOverAsked, response: Response, services: ServicesDep, by: ActorDep
) -> SegmentOut:
    """Have another gateway forward; the answer comes before it does (`next`)."""
    return await _out(
        services, await services.election.switch_over(segment, asked.to, by), response
    )


@router.post(ONE + "/stop")
async def stop_bridging(
    segment: str, response: Response, services: ServicesDep, by: ActorDep
) -> SegmentOut:
    """Let nothing cross between LAN and vSubnet."""
    stored = await services.segments.set_bridging(segment, by, is_bridging=False)
    return await _out(services, stored, response)


@router.post(ONE + "/resume")
async def resume_bridging(
    segment: str, response: Response, services: ServicesDep, by: ActorDep
) -> SegmentOut:
    """Let it cross again."""
    stored = await services.segments.set_bridging(segment, by, is_bridging=True)
    return await _out(services, stored, response)


@router.get(ONE + "/stations")
async def list_stations(
    segment: str, services: ServicesDep, ops: OpsDep, paging: PagingDep, mac: Part = ""
) -> Page[StationOut]:
    """The machines on the segment's LAN, by MAC, as its forwarder reports them."""
    segment_id = (await services.segments.get(segment)).value.id
    stations = [each for each in services.lan_reports.on(segment_id) if has(mac, each.mac)]
    page, following = paging.page(stations, lambda station: station.mac)
    return Page(items=[station_out(each, ops.now()) for each in page], next=following)


@router.post(ONE + "/stations/{mac}/unfreeze")
async def unfreeze_station(
    segment: str, mac: str, services: ServicesDep, ops: OpsDep, by: ActorDep
) -> StationOut:
    """Let a machine that moved too often be on another LAN again."""
    found = (await services.segments.get(segment)).value
    return station_out(await services.lan_reports.unfreeze(found, mac, by), ops.now())


@router.post("/preflights", status_code=201)
async def ask_preflight(
    asked: PreflightAsked, response: Response, services: ServicesDep, by: ActorDep
) -> PreflightOut:
    """Have a node listen on a port, transmitting nothing, before it is bridged."""
    order = PreflightOrder(asked.node, asked.port, asked.vlan, asked.vsubnet, asked.listen_s)
    preflight = await services.preflights.ask(order, by)
    response.headers["Location"] = f"/api/v1/preflights/{preflight.task}"
    return preflight_out(preflight, None, await all_names(services))


@router.get("/preflights/{task}")
async def get_preflight(task: str, services: ServicesDep) -> PreflightOut:
    """What a pre-flight has heard; `done` says whether it has ended."""
    preflight, result = await services.preflights.get(task)
    return preflight_out(preflight, result, await all_names(services))


async def _out(services: Services, stored: Stored[Segment], response: Response) -> SegmentOut:
    tagged(response, stored.revision)
    return segment_out(services, stored.value, await all_names(services))


def _guards(fields: dict[str, object]) -> Guards:
    hosts = fields.pop("silent_hosts")
    assert isinstance(hosts, list)
    return Guards(silent_hosts=tuple(hosts), **fields)  # type: ignore[arg-type]


def _change(asked: SegmentPatch, guards: Guards) -> SegmentChange:
    changed = asked.guards.model_dump(exclude_none=True) if asked.guards else {}
    if "silent_hosts" in changed:
        changed["silent_hosts"] = tuple(changed["silent_hosts"])
    return SegmentChange(
        name=asked.name,
        preference=None if asked.preference is None else Preference(asked.preference),
        guards=replace(guards, **changed) if changed else None,
    )
