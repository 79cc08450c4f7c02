"""`cairn topology`, `latency`, `search`, `node report`, `vsubnet table`: what nodes report."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import typer
from rich.text import Text

from cairn_appliance.cli import output
from cairn_appliance.cli.connection import path_of
from cairn_appliance.cli.errors import CommandError, Exit
from cairn_appliance.cli.find import find_node
from cairn_appliance.cli.options import AsJson, Node, Vsubnet, connect
from cairn_appliance.cli.output import ago, counted, local, span
from cairn_appliance.cli.replies_views import (
    BumNode,
    Edge,
    Entry,
    History,
    Latency,
    Report,
    ReportPeer,
    Row,
    Search,
    Table,
    Topology,
    TopologyNode,
)

_HEALTH = {"up": output.GOOD, "stale": output.WARN, "down": output.BAD, "pending": output.WARN}
_CONFLICTS = {"duplicate_mac": "MAC is there twice", "duplicate_ip": "address is there twice"}
Site = Annotated[str, typer.Option(metavar="NAME", help="One end at least is there.")]
InVsubnet = Annotated[str, typer.Option(metavar="VSUBNET", help="The session is in it.")]
Pair = Annotated[list[str] | None, typer.Argument(metavar="[NODE NODE]", help="One pair.")]


def topology(as_json: AsJson = False) -> None:
    """Show how every node is, and the paths between them."""
    with connect() as connection:
        reply = connection.get(path_of("topology"), Topology)
    if as_json:
        output.print_json(reply.whole)
        return
    names = {each.id: each.name for each in reply.value.nodes}
    paths = [edge for edge in reply.value.edges if edge.up]
    output.table(
        ("NAME", "HEALTH", "SITE", "ROLE", "PATHS", "REPORTED"),
        (_node_row(each, paths) for each in reply.value.nodes),
        fold=("NAME", "SITE"),
        empty="No node has joined yet: cairn token create",
    )
    if reply.value.edges:
        output.say("")
        output.table(
            ("FROM", "TO", "STATE", "PATH", "RTT", "LOSS", "MTU"),
            (_edge_row(each, names) for each in reply.value.edges),
            fold=("FROM", "TO"),
            empty="",
        )


def latency(
    pair: Pair = None, site: Site = "", vsubnet: InVsubnet = "", as_json: AsJson = False
) -> None:
    """Show round-trip times and loss of all pairs with a session, or the last hour of one."""
    if pair:
        _history(pair, as_json=as_json)
        return
    query = {name: value for name, value in (("site", site), ("vsubnet", vsubnet)) if value}
    with connect() as connection:
        reply = connection.get(path_of("latency"), Latency, query)
        if as_json:
            output.print_json(reply.whole)
            return
        nodes = connection.get(path_of("topology"), Topology).value.nodes
    names = {each.id: each.name for each in nodes}
    output.table(
        ("FROM", "TO", "RTT", "WORST", "JITTER", "LOSS", "PATH", "TOLD"),
        (_latency_row(each, names) for each in reply.value.rows),
        fold=("FROM", "TO"),
        empty="Nothing is measured: no two nodes have a session there.",
    )


def search(
    text: Annotated[str, typer.Argument(help="A name, ID, MAC or IP address, or its beginning.")],
    as_json: AsJson = False,
) -> None:
    """Find nodes, vSubnets, segments, tokens, sites and members."""
    with connect() as connection:
        reply = connection.get(path_of("search"), Search, {"q": text})
    if as_json:
        output.print_json(reply.whole)
        return
    output.table(
        ("KIND", "NAME", "BY", "MATCHED", "ID"),
        ((each.kind, each.name, each.where, each.matched, each.id) for each in reply.value.items),
        fold=("NAME", "MATCHED", "ID"),
        empty="Nothing fits.",
    )


def report(node: Node, as_json: AsJson = False) -> None:
    """Show what a node's agent last reported of itself, and how old that is."""
    with connect() as connection:
        found = find_node(connection, node).value
        reply = connection.get(path_of("nodes", found.id, "report"), Report)
    if as_json:
        output.print_json(reply.whole)
        return
    of_node = reply.value
    age = f"{span(timedelta(seconds=of_node.age_s))} ago"
    plane = of_node.dataplane
    running = f"version {plane.version}, has loaded revision {plane.loaded_revision}"
    output.facts(
        f"Node {output.clean(of_node.name)}",
        [
            ("reported", Text(f"{age}: stale", style=output.WARN) if of_node.stale else age),
            ("agent", of_node.agent_version),
            ("data plane", running if plane.up else Text("away", style=output.BAD)),
            ("drops", _counters(plane.drops)),
            *(
                (
                    f"vSubnet {each.name}",
                    _vsubnet(each.members, each.peers_up, each.problem, each.drops),
                )
                for each in of_node.vsubnets
            ),
            *(("problem", f"{each.cause}; {each.remedy}") for each in of_node.problems),
        ],
    )
    if of_node.peers:
        output.say("")
        output.table(
            ("PEER", "SESSION", "PATH", "AT", "RTT", "LOSS", "MTU"),
            (_peer_row(each) for each in of_node.peers),
            fold=("PEER", "AT"),
            empty="",
        )


def table(vsubnet: Vsubnet, as_json: AsJson = False) -> None:
    """Show every MAC of a vSubnet and where it is."""
    with connect() as connection:
        reply = connection.get(path_of("vsubnets", vsubnet, "table"), Table)
    if as_json:
        output.print_json(reply.whole)
        return
    bum = reply.value.bum
    sent = {each.node: each for each in bum.by_node}
    output.table(
        ("MAC", "ADDRESSES", "NODE", "KIND", "AGE", "MOVES", "BUM SENT", "STATE"),
        (_entry_row(each, sent) for each in reply.value.entries),
        fold=("ADDRESSES", "NODE"),
        empty="Nothing is on it yet.",
    )
    if bum.frames_per_s is not None:
        output.say(f"{bum.frames_per_s:,.1f} BUM frames a second")
    if bum.dropped_per_s:
        dropped = f"{bum.dropped_per_s:.0f} BUM frames a second are dropped by limits"
        output.say(Text(dropped, style=output.WARN))


def _history(pair: list[str], *, as_json: bool) -> None:
    if len(pair) != 2:
        raise CommandError(Exit.BAD_INPUT, "a pair is two nodes", "cairn latency NODE NODE")
    with connect() as connection:
        ids = [find_node(connection, each).value.id for each in pair]
        reply = connection.get(path_of("latency", *ids), History)
    if as_json:
        output.print_json(reply.whole)
        return
    output.table(
        ("WHEN", "RTT", "LOSS"),
        ((local(each.at), _ms(each.rtt_ms), _share(each.loss)) for each in reply.value.points),
        fold=(),
        empty="This appliance has followed no session between them in the last hour.",
    )


def _node_row(node: TopologyNode, paths: list[Edge]) -> list[output.Value]:
    count = sum(node.id in (each.a, each.b) for each in paths)
    health = Text(node.health, style=_HEALTH.get(node.health, ""))
    return [node.name, health, node.site, node.role, str(count), ago(node.reported_at) or "never"]


def _edge_row(edge: Edge, names: dict[str, str]) -> list[output.Value]:
    state = Text("up", style=output.GOOD) if edge.up else Text("down", style=output.BAD)
    if edge.stale:
        state = Text("stale", style=output.WARN)
    mtu = str(edge.mtu) if edge.mtu else ""
    ends = [names.get(edge.a, edge.a), names.get(edge.b, edge.b)]
    return [*ends, state, edge.path, _ms(edge.rtt_ms), _share(edge.loss), mtu]


def _latency_row(row: Row, names: dict[str, str]) -> list[output.Value]:
    figures = [_ms(row.rtt_ms), _ms(row.rtt_max_ms), _ms(row.jitter_ms), _share(row.loss)]
    return [names.get(row.a, row.a), names.get(row.b, row.b), *figures, row.path, ago(row.at)]


def _peer_row(peer: ReportPeer) -> list[output.Value]:
    session = Text(peer.session, style=output.GOOD if peer.session == "up" else output.WARN)
    mtu = str(peer.mtu) if peer.mtu else ""
    figures = [_ms(peer.rtt_ms), _share(peer.loss), mtu]
    return [peer.name, session, peer.path, peer.endpoint, *figures]


def _entry_row(entry: Entry, sent: dict[str, BumNode]) -> list[output.Value]:
    age = "" if entry.age_s is None else span(timedelta(seconds=entry.age_s))
    states = [_CONFLICTS.get(entry.conflict, entry.conflict), "frozen" if entry.frozen else ""]
    state = Text(", ".join(filter(None, states)), style=output.BAD)
    where = entry.node_name or entry.node
    moves = str(entry.moves or "")
    bum = _bum(sent.get(entry.node)) if entry.kind == "member" else ""
    return [entry.mac, entry.ips, where, entry.kind, age, moves, bum, state]


def _bum(sent: BumNode | None) -> str:
    """Return what a member sent, of late where that is known; a gateway's LAN is in it."""
    if sent is None or sent.frames is None:
        return ""
    if sent.frames_per_s is None:
        return f"{sent.frames:,}"
    return f"{sent.frames:,} ({sent.frames_per_s:,.1f}/s)"


def _vsubnet(members: int, peers_up: int, problem: str, drops: dict[str, int]) -> output.Value:
    if problem:
        return Text(output.clean(problem), style=output.BAD)
    dropped = _counters(drops)
    known = f"{counted(members, 'member')}, sessions with {peers_up}"
    return f"{known}; dropped: {dropped}" if dropped else known


def _counters(counters: dict[str, int]) -> str:
    return ", ".join(f"{name} {number:,}" for name, number in sorted(counters.items()))


def _ms(milliseconds: float | None) -> str:
    return "" if milliseconds is None else f"{milliseconds:.1f} ms"


def _share(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"
