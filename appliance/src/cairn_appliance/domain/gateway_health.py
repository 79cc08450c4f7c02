"""What is wrong with gateways and their LANs, and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cairn_appliance.domain.alarm import Alarm
from cairn_appliance.domain.forwarding import MOVES_MAX, MOVES_WINDOW_S
from cairn_appliance.domain.gateway import ALARMS, Trouble
from cairn_appliance.domain.problem import Problem


@dataclass(frozen=True, slots=True)
class GatewayHealth:
    """A gateway of a segment."""

    name: str
    is_able: bool
    why_not: str = ""
    code: str = ""


@dataclass(frozen=True, slots=True)
class SegmentHealth:
    """A segment with its gateways, and what they report."""

    name: str
    is_bridging: bool
    is_held_down: bool
    gateways: tuple[GatewayHealth, ...]
    troubles: tuple[Trouble, ...] = ()  # not over


REMEDIES: Mapping[Alarm, str] = {
    Alarm.LAN_LOOP: "take away the second connection that the event names (`cairn event list`); "
    "the port opens again by itself",
    Alarm.ROGUE_SERVER: "find the machine by its MAC and port; if it is the right server, allow it "
    "with `cairn gateway segment set {segment} --dhcp` or `--router-advertisements`",
    Alarm.LAN_SPOOF: "find the machine on the LAN that sends with the address of a member; what "
    "it sends does not cross",
    Alarm.LAN_STORM: "find what floods the LAN: a loop there, or a machine gone wrong; only a "
    "limited part crosses",
    Alarm.STATION_FROZEN: "find the second machine with this MAC, or the loop that makes it move; "
    "it is let go 10 minutes after its last move",
    Alarm.DUPLICATE_IP: "give one of the two machines another address; if both are to have it, "
    "share it: `cairn vsubnet set NAME --shared-ip ADDRESS`",
}


def problems_of_gateways(segments: tuple[SegmentHealth, ...]) -> tuple[Problem, ...]:
    """Return what is wrong, segment by segment, the urgent first."""
    found = [problem for segment in segments for problem in _of_segment(segment)]
    return tuple(sorted(found, key=lambda problem: not problem.is_urgent))


def _of_segment(segment: SegmentHealth) -> Iterator[Problem]:
    if segment.is_bridging and segment.gateways:
        if not any(each.is_able for each in segment.gateways):
            why = "; ".join(f"{each.name}: {each.why_not}" for each in segment.gateways)
            yield Problem(
                Alarm.NO_FORWARDER,
                f"segment {segment.name}: no gateway can forward: {why}",
                "see `cairn gateway list`; bring one of them back: its agent, its port, its link "
                "to the appliances",
                is_urgent=True,
            )
        elif segment.is_held_down:
            yield Problem(
                Alarm.FORWARDER_UNSTEADY,
                f"segment {segment.name} has changed its gateway {MOVES_MAX} times in "
                f"{MOVES_WINDOW_S / 60:.0f} minutes and does so no more by itself",
                "look why its gateways come and go, then `cairn gateway switch-over "
                f"{segment.name} --to NODE`",
            )
    yield from _troubles(segment)


def _troubles(segment: SegmentHealth) -> Iterator[Problem]:
    causes: dict[Alarm, str] = {}
    for gateway in segment.gateways:
        if gateway.code == "loop":
            causes[Alarm.LAN_LOOP] = f"{gateway.name}: {gateway.why_not}"
    for trouble in sorted(segment.troubles, key=lambda each: each.at):
        alarm = ALARMS.get(trouble.code)
        if alarm is not None:
            causes[alarm] = trouble.detail
    for alarm, cause in causes.items():
        remedy = REMEDIES[alarm].format(segment=segment.name)
        yield Problem(alarm, f"segment {segment.name}: {cause}", remedy)
