"""`cairn gateway`."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from enum import StrEnum
from typing import Annotated

import typer
from rich.text import Text

from cairn_appliance.cli import output
from cairn_appliance.cli.connection import Connection, path_of
from cairn_appliance.cli.errors import CommandError, Exit
from cairn_appliance.cli.find import find_node
from cairn_appliance.cli.options import AsJson, Node, Yes, completed, connect, group
from cairn_appliance.cli.output import ago, counted, local, span
from cairn_appliance.cli.replies import (
    Gateway,
    Preflight,
    Reply,
    Segment,
    SegmentGuards,
    Station,
)

app = group("Gateways: nodes that put a LAN on a vSubnet.")
segments = group("LAN segments: what is put on which vSubnet, and what may cross.")
app.add_typer(segments, name="segment")

NO_GO = 1  # exit code of a pre-flight that found what no guard handles
_SWITCHED_WITHIN_S = 10.0
_ASKED_EVERY_S = 0.5
_ANSWER_AFTER_S = 30.0  # beyond the time that a pre-flight listens


class Preference(StrEnum):
    """What gateways do that can't reach an appliance."""

    SAFETY = "safety"
    AVAILABILITY = "availability"


def _complete_segment(incomplete: str) -> list[str]:
    return completed("segments", incomplete)


SegmentName = Annotated[
    str,
    typer.Argument(metavar="SEGMENT", help="Name or ID.", autocompletion=_complete_segment),
]
Port = Annotated[
    str, typer.Option("--port", metavar="PORT", help="The node's LAN interface, for example eth1.")
]
Vlan = Annotated[
    int, typer.Option("--vlan", min=0, max=4094, help="The 802.1Q tag; 0: frames without one.")
]
Prefers = Annotated[
    Preference | None,
    typer.Option(
        "--prefer",
        help="What a gateway does that reaches no appliance: stop (safety), or go on while all "
        "others stand by (availability).",
    ),
]
Dhcp = Annotated[bool | None, typer.Option("--dhcp/--no-dhcp", help="Let DHCP servers across.")]
RouterAdvertisements = Annotated[
    bool | None,
    typer.Option(
        "--router-advertisements/--no-router-advertisements",
        help="Let IPv6 routers' advertisements across.",
    ),
]
SilentHosts = Annotated[
    list[str] | None,
    typer.Option(
        "--silent-host",
        metavar="MAC",
        help="A machine on the LAN that gets frames though it never spoke. Repeatable.",
    ),
]
MacLimit = Annotated[int | None, typer.Option("--mac-limit", help="Machines on the LAN.")]
BumPps = Annotated[
    int | None,
    typer.Option("--bum-pps", help="Broadcast, unknown and multicast frames a second, each way."),
]
SourceBumPps = Annotated[
    int | None, typer.Option("--source-bum-pps", help="The same, from one machine.")
]


@segments.command("create")
def create(
    name: Annotated[str, typer.Argument(metavar="SEGMENT", help="Its name.")],
    vsubnet: Annotated[str, typer.Option("--vsubnet", metavar="VSUBNET", help="Name, ID or VNI.")],
    prefer: Prefers = None,
    dhcp: Dhcp = None,
    router_advertisements: RouterAdvertisements = None,
    silent_host: SilentHosts = None,
    mac_limit: MacLimit = None,
    bum_pps: BumPps = None,
    source_bum_pps: SourceBumPps = None,
    as_json: AsJson = False,
) -> None:
    """Make a LAN segment of a vSubnet; attach gateways to it next."""
    body: dict[str, object] = {"name": name, "vsubnet": vsubnet}
    body |= _settings(
        prefer, dhcp, router_advertisements, silent_host, mac_limit, bum_pps, source_bum_pps
    )
    with connect() as connection:
        reply = connection.post(path_of("segments"), Segment, body)
    _print(reply, as_json)
    if not as_json:
        output.say(f"Next: cairn gateway attach {output.clean(name)} NODE --port eth1")


@segments.command("list")
def list_segments(as_json: AsJson = False) -> None:
    """List all LAN segments."""
    with connect() as connection:
        replies = list(connection.pages(path_of("segments"), Segment))
    if as_json:
        output.print_json([reply.whole for reply in replies])
        return
    output.table(
        ("SEGMENT", "VSUBNET", "GATEWAYS", "FORWARDER", "PREFERS"),
        (
            (
                each.name,
                each.vsubnet.name or each.vsubnet.id,
                str(len(each.gateways)),
                _forwarder(each),
                each.preference,
            )
            for each in (reply.value for reply in replies)
        ),
        fold=("SEGMENT", "VSUBNET", "FORWARDER"),
        empty="There are no segments yet: cairn gateway segment create NAME --vsubnet VSUBNET",
    )


@segments.command("show")
def show(segment: SegmentName, as_json: AsJson = False) -> None:
    """Show one segment with its guards and gateways."""
    with connect() as connection:
        _print(connection.get(path_of("segments", segment), Segment), as_json)


@segments.command("set")
def change(
    segment: SegmentName,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="A new name.")] = None,
    prefer: Prefers = None,
    dhcp: Dhcp = None,
    router_advertisements: RouterAdvertisements = None,
    silent_host: SilentHosts = None,
    mac_limit: MacLimit = None,
    bum_pps: BumPps = None,
    source_bum_pps: SourceBumPps = None,
    as_json: AsJson = False,
) -> None:
    """Change a segment; what is not named stays."""
    body = _settings(
        prefer, dhcp, router_advertisements, silent_host, mac_limit, bum_pps, source_bum_pps
    )
    if name is not None:
        body["name"] = name
    if not body:
        raise CommandError(
            Exit.BAD_INPUT, "nothing to change is named", "look at `cairn gateway segment set -h`"
        )
    with connect() as connection:
        known = connection.get(path_of("segments", segment), Segment)
        path = path_of("segments", known.value.id)
        _print(connection.patch(path, Segment, body, known.etag), as_json)


@segments.command("delete")
def delete(segment: SegmentName, yes: Yes = False, as_json: AsJson = False) -> None:
    """Delete a segment without gateways."""
    with connect() as connection:
        known = connection.get(path_of("segments", segment), Segment)
        output.confirm(f"Delete segment {known.value.name}?", ["its guards' settings"], yes=yes)
        connection.delete(path_of("segments", known.value.id), known.etag)
    if as_json:
        output.print_json({"deleted": known.whole})
        return
    output.say(output.clean(f"The segment {known.value.name} is deleted."))


@app.command()
def attach(
    segment: SegmentName, node: Node, port: Port, vlan: Vlan = 0, as_json: AsJson = False
) -> None:
    """Make a node a gateway: it bridges the port into the segment's vSubnet."""
    with connect() as connection:
        node_id = find_node(connection, node).value.id
        body = {"node": node_id, "port": port, "vlan": vlan}
        path = path_of("segments", segment, "gateways")
        _print(connection.post(path, Segment, body), as_json)


@app.command()
def detach(segment: SegmentName, node: Node, yes: Yes = False, as_json: AsJson = False) -> None:
    """Take a gateway out of a segment and its vSubnet; the port is as it was before."""
    with connect() as connection:
        found = find_node(connection, node).value
        known = connection.get(path_of("segments", segment), Segment).value
        question = f"Take {found.name} out of segment {known.name}?"
        output.confirm(question, _lost(known, found.id), yes=yes)
        connection.delete(path_of("segments", known.id, "gateways", found.id))
    if as_json:
        output.print_json({"detached": {"segment": known.id, "node": found.id}})
        return
    output.say(output.clean(f"{found.name} is no gateway of {known.name} any more."))


@app.command("list")
def list_gateways(as_json: AsJson = False) -> None:
    """List gateways: who forwards, since when, and who could not and why."""
    with connect() as connection:
        replies = list(connection.pages(path_of("segments"), Segment))
    if as_json:
        output.print_json([reply.whole for reply in replies])
        return
    output.table(
        ("SEGMENT", "VSUBNET", "NODE", "PORT", "STATE", "SINCE", "TERM", "MACS", "GUARDS"),
        (row for reply in replies for row in _rows(reply.value)),
        fold=("SEGMENT", "VSUBNET", "NODE", "STATE", "GUARDS"),
        empty="There are no gateways yet: cairn gateway segment create NAME --vsubnet VSUBNET",
    )
    for reply in replies:
        if reply.value.held_down:
            text = f"{reply.value.name} has moved too often and stays as it is: cairn event list"
            output.say(Text(output.clean(text), style=output.WARN))


@app.command("switch-over")
def switch_over(
    segment: SegmentName,
    to: Annotated[str, typer.Option("--to", metavar="NODE", help="Who is to forward.")],
    as_json: AsJson = False,
) -> None:
    """Have another gateway forward, without a gap that anybody notices."""
    with connect() as connection:
        wanted = find_node(connection, to).value
        path = path_of("segments", segment, "switch-over")
        asked = connection.post(path, Segment, {"to": wanted.id})
        reply = _switched(connection, asked, wanted.id)
    if as_json:
        output.print_json(reply.whole)
        return
    output.say(output.clean(f"{wanted.name} forwards for {reply.value.name}."))


@app.command()
def stop(segment: SegmentName, yes: Yes = False, as_json: AsJson = False) -> None:
    """Let nothing cross between LAN and vSubnet; the gateways stay attached."""
    with connect() as connection:
        known = connection.get(path_of("segments", segment), Segment).value
        question = f"Stop bridging {known.name}?"
        gateways = output.counted(len(known.gateways), "gateway")
        lost = [
            f"its LAN and vSubnet {known.vsubnet.name} reach each other no more",
            f"{gateways} of it forward nothing until `cairn gateway resume {known.name}`",
        ]
        output.confirm(question, lost, yes=yes)
        _print(connection.post(path_of("segments", known.id, "stop"), Segment), as_json)


@app.command()
def resume(segment: SegmentName, as_json: AsJson = False) -> None:
    """Let it cross again."""
    with connect() as connection:
        _print(connection.post(path_of("segments", segment, "resume"), Segment), as_json)


@app.command()
def stations(segment: SegmentName, as_json: AsJson = False) -> None:
    """List the machines on a segment's LAN, as its forwarder sees them."""
    with connect() as connection:
        replies = list(connection.pages(path_of("segments", segment, "stations"), Station))
    if as_json:
        output.print_json([reply.whole for reply in replies])
        return
    output.table(
        ("MAC", "ADDRESSES", "HERE SINCE", "STATE"),
        (
            (
                each.mac,
                each.ips or "-",
                ago(each.since),
                Text("frozen: moved too often", style=output.BAD) if each.frozen else "",
            )
            for each in (reply.value for reply in replies)
        ),
        fold=("ADDRESSES", "STATE"),
        empty="No machine has been seen on this LAN.",
    )


@app.command()
def unfreeze(
    segment: SegmentName,
    mac: Annotated[str, typer.Argument(metavar="MAC", help="As `cairn gateway stations` has it.")],
    as_json: AsJson = False,
) -> None:
    """Let a machine that moved too often be on another LAN again, once the cause is gone."""
    with connect() as connection:
        known = connection.get(path_of("segments", segment), Segment).value
        path = path_of("segments", known.id, "stations", mac, "unfreeze")
        reply = connection.post(path, Station)
    if as_json:
        output.print_json(reply.whole)
        return
    text = f"{reply.value.mac} may be on any LAN of {known.vsubnet.name} again."
    output.say(output.clean(text))


@app.command()
def preflight(
    node: Node,
    port: Port,
    vsubnet: Annotated[str, typer.Option("--vsubnet", metavar="VSUBNET", help="Name, ID or VNI.")],
    vlan: Vlan = 0,
    listen: Annotated[float, typer.Option(help="Seconds to listen.", min=1, max=300)] = 20.0,
    as_json: AsJson = False,
) -> None:
    """Listen on a port before it is bridged, transmitting nothing: go or no-go, and why."""
    with connect() as connection:
        body = {
            "node": find_node(connection, node).value.id,
            "port": port,
            "vlan": vlan,
            "vsubnet": vsubnet,
            "listen_s": listen,
        }
        asked = connection.post(path_of("preflights"), Preflight, body)
        reply = _heard(connection, asked)
    if as_json:
        output.print_json(reply.whole)
    else:
        _print_preflight(reply.value)
    if not reply.value.go:
        raise typer.Exit(NO_GO)


def _settings(
    prefer: Preference | None,
    dhcp: bool | None,
    router_advertisements: bool | None,
    silent_hosts: list[str] | None,
    mac_limit: int | None,
    bum_pps: int | None,
    source_bum_pps: int | None,
) -> dict[str, object]:
    """Return what was named on the command line, as the API takes it."""
    named = {
        "dhcp": dhcp,
        "router_advertisements": router_advertisements,
        "silent_hosts": silent_hosts or None,
        "mac_limit": mac_limit,
        "bum_pps": bum_pps,
        "source_bum_pps": source_bum_pps,
    }
    guards = {field: value for field, value in named.items() if value is not None}
    body: dict[str, object] = {}
    if guards:
        body["guards"] = guards
    if prefer is not None:
        body["preference"] = prefer.value
    return body


def _switched(connection: Connection, asked: Reply[Segment], node: str) -> Reply[Segment]:
    """Return the segment once the node forwards; raise CommandError where it doesn't in time."""
    reply, until = asked, time.monotonic() + _SWITCHED_WITHIN_S
    path = path_of("segments", asked.value.id)
    while reply.value.forwarder is None or reply.value.forwarder.id != node:
        if time.monotonic() > until or (reply.value.next is None and reply is not asked):
            holder = reply.value.forwarder
            raise CommandError(
                Exit.REFUSED,
                f"{holder.name if holder else 'nobody'} forwards for {reply.value.name} still",
                "see `cairn gateway list` and `cairn event list` for why",
            )
        time.sleep(_ASKED_EVERY_S)
        reply = connection.get(path, Segment)
    return reply


def _heard(connection: Connection, asked: Reply[Preflight]) -> Reply[Preflight]:
    """Return the pre-flight when it has ended, and say meanwhile how far it is."""
    begun, reply = time.monotonic(), asked
    path = path_of("preflights", asked.value.task)
    while not reply.value.done:
        passed = time.monotonic() - begun
        if passed > asked.value.listen_s + _ANSWER_AFTER_S:
            raise CommandError(
                Exit.UNREACHABLE,
                f"node {asked.value.node.name} gives no answer",
                "look at its agent: `cairn node show`, and its log there",
            )
        _progress(asked.value, passed)
        time.sleep(_ASKED_EVERY_S)
        reply = connection.get(path, Preflight)
    _progress(asked.value, None)
    return reply


def _progress(asked: Preflight, passed: float | None) -> None:
    """Say on a terminal how long it has listened; None: wipe that out."""
    if not sys.stderr.isatty():
        return
    if passed is None:
        sys.stderr.write("\r\x1b[K")
    else:
        listened = min(passed, asked.listen_s)
        sys.stderr.write(f"\rlistening: {listened:.0f} of {asked.listen_s:.0f} s\x1b[K")
    sys.stderr.flush()


def _print_preflight(heard: Preflight) -> None:
    place = heard.port + (f", VLAN {heard.vlan}" if heard.vlan else "")
    title = f"{place} of {heard.node.name} for vSubnet {heard.vsubnet.name}"
    verdict = Text("go", style=output.GOOD) if heard.go else Text("no-go", style=output.BAD)
    frames = f"{counted(heard.frames, 'frame')} in {heard.heard_s:.0f} s"
    why = Text(output.clean(heard.error), style=output.BAD) if heard.error else ""
    output.facts(output.clean(title), [("verdict", verdict), ("heard", frames), ("error", why)])
    if heard.error:
        return
    output.table(
        ("FINDING", "", "WHAT WAS HEARD", "GUARD, OR WHAT TO DO FIRST"),
        ((each.code, _level(each.level), each.what, each.guard) for each in heard.findings),
        fold=("WHAT WAS HEARD", "GUARD, OR WHAT TO DO FIRST"),
        empty="Nothing that stands in the way was heard.",
    )


def _level(level: str) -> Text:
    styles = {"no_go": ("no-go", output.BAD), "handled": ("handled", output.GOOD)}
    text, style = styles.get(level, (output.clean(level), output.DIM))
    return Text(text, style=style)


def _forwarder(segment: Segment) -> output.Cell:
    if not segment.bridging:
        return Text("stopped", style=output.WARN)
    if segment.forwarder is None:
        return Text("nobody", style=output.BAD if segment.gateways else output.DIM)
    return segment.forwarder.name or segment.forwarder.id


def _rows(segment: Segment) -> Iterator[tuple[output.Value, ...]]:
    for gateway in segment.gateways:
        is_holder = segment.forwarder is not None and segment.forwarder.id == gateway.node.id
        yield (
            segment.name,
            segment.vsubnet.name or segment.vsubnet.id,
            gateway.node.name or gateway.node.id,
            _port(gateway),
            _state(segment, gateway, is_holder=is_holder),
            ago(segment.since) if is_holder else "",
            str(segment.term) if is_holder else "",
            str(gateway.stations) if is_holder else "",
            [f"{name} {count}" for name, count in sorted(gateway.counters.items()) if count] or "-",
        )


def _state(segment: Segment, gateway: Gateway, *, is_holder: bool) -> Text:
    if not gateway.able:
        return Text(output.clean(f"unable: {gateway.why_not}"), style=output.BAD)
    if not segment.bridging:
        return Text("stopped", style=output.WARN)
    if gateway.forwards:
        return Text("forwards", style=output.GOOD)
    if is_holder:
        return Text("about to forward", style=output.WARN)
    if segment.next is not None and segment.next.id == gateway.node.id:
        return Text("takes over", style=output.WARN)
    return Text("stands by")


def _port(gateway: Gateway) -> str:
    return f"{gateway.port} VLAN {gateway.vlan}" if gateway.vlan else gateway.port


def _lost(segment: Segment, node: str) -> list[str]:
    lost = ["its port leaves the bridge and is as it was before"]
    others = [each for each in segment.gateways if each.node.id != node and each.able]
    if not others:
        lost.append(f"no other gateway could forward: the LAN leaves {segment.vsubnet.name}")
    elif segment.forwarder is not None and segment.forwarder.id == node:
        lost.append(
            "it forwards now: another takes over after about 2 s (`switch-over` first: none)"
        )
    return lost


def _guards(guards: SegmentGuards) -> list[str]:
    return [
        f"DHCP servers {'cross' if guards.dhcp else 'are stopped'}",
        f"router advertisements {'cross' if guards.router_advertisements else 'are stopped'}",
        f"{guards.bum_pps} BUM frames a second each way, {guards.source_bum_pps} from one machine",
        f"up to {guards.mac_limit} machines on the LAN",
        *(f"silent host {mac}" for mac in guards.silent_hosts),
    ]


def _print(reply: Reply[Segment], as_json: bool) -> None:
    if as_json:
        output.print_json(reply.whole)
        return
    found = reply.value
    is_safe = found.preference != Preference.AVAILABILITY
    held = "it has moved too often and stays as it is" if found.held_down else ""
    since = f", since {local(found.since)} ({ago(found.since)})" if found.since else ""
    gateways = [
        f"{each.node.name or each.node.id} at {_port(each)}"
        + ("" if each.able else f", unable: {each.why_not}")
        for each in found.gateways
    ]
    pairs: list[tuple[str, output.Value]] = [
        ("forwarder", _forwarder(found)),
        ("term", f"{found.term}{since}" if found.term and found.forwarder else ""),
        ("held down", Text(held, style=output.WARN) if held else ""),
        ("gateways", [output.clean(each) for each in gateways] or "none yet"),
        ("guards", _guards(found.guards)),
        (
            "without an appliance",
            f"it stops within {span(timedelta(seconds=2))}"
            if is_safe
            else "it goes on while all other gateways stand by",
        ),
        ("created", ago(found.created_at)),
    ]
    output.facts(
        output.clean(f"{found.name} on {found.vsubnet.name} (VNI {found.vsubnet.vni})"), pairs
    )
