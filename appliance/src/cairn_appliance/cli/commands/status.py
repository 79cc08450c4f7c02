"""`cairn status`: is it all right?"""

from __future__ import annotations

import typer
from rich.text import Text

from cairn_appliance.cli import output
from cairn_appliance.cli.commands.cluster import show_problems
from cairn_appliance.cli.connection import path_of
from cairn_appliance.cli.errors import Exit
from cairn_appliance.cli.options import AsJson, connect
from cairn_appliance.cli.output import counted, until
from cairn_appliance.cli.replies import Counts, Status, StoreHealth
from cairn_appliance.cli.replies_access import Who


def status(as_json: AsJson = False) -> None:
    """Show whether the appliance and its nodes are all right."""
    with connect() as connection:
        reply = connection.get(path_of("status"), Status)
        if as_json:
            output.print_json(reply.whole)
        else:
            who = connection.get(path_of("session"), Who).value
            _show(connection.url, reply.value, who)
    if not reply.value.store.healthy:
        raise typer.Exit(Exit.UNREACHABLE)


def _show(url: str, status: Status, who: Who) -> None:
    counts = status.counts
    pairs: list[tuple[str, output.Value]] = [
        ("appliance", f"{url}, version {status.version}"),
        ("you", f"{who.user} ({who.role}){_ends(who)}"),
        ("agents reach", ", ".join(status.appliances)),
        ("store", _store(status.store)),
    ]
    if counts is not None:
        pairs += [
            ("nodes", _nodes(counts)),
            ("vSubnets", f"{counts.vsubnets}, with {counted(counts.members, 'member')}"),
            ("sites", str(counts.sites)),
            ("tokens", str(counts.tokens)),
        ]
    output.facts(f"Cluster {status.cluster_id}, incarnation {status.incarnation}", pairs)
    if counts is not None:
        output.say(*_hints(counts))
    show_problems(status.problems)


def _ends(who: Who) -> str:
    return f", the session ends {until(who.ends_at)} if not used" if who.ends_at else ""


def _store(store: StoreHealth) -> Text:
    if store.healthy:
        return Text(f"healthy, answered in {store.answered_in_ms} ms", style=output.GOOD)
    return Text(
        f"{store.detail}: vSubnets run on, changes wait; look at etcd's log on the appliance",
        style=output.BAD,
    )


def _nodes(counts: Counts) -> Text:
    if not counts.nodes:
        return Text("none yet", style=output.DIM)
    approved = counts.nodes - counts.nodes_pending
    text = f"{counts.nodes_connected} of {approved} connected"
    if counts.nodes_pending:
        text += f", {counts.nodes_pending} pending"
    return Text(text, style=output.GOOD if counts.nodes_connected >= approved else output.WARN)


def _hints(counts: Counts) -> list[Text]:
    hints = []
    if counts.nodes_pending:
        waits = "node waits" if counts.nodes_pending == 1 else "nodes wait"
        hints.append(
            f"{counts.nodes_pending} {waits} for approval: cairn node list --state pending"
        )
    if counts.nodes_refusing:
        hints.append(
            f"{counted(counts.nodes_refusing, 'node')} could not load the newest netmap: "
            "cairn node show NAME says why"
        )
    if not counts.vsubnets:
        hints.append("There is no vSubnet yet: cairn vsubnet create NAME --prefix 10.7.0.0/24")
    elif not counts.nodes:
        hints.append("No node has joined yet: cairn token create --vsubnet NAME")
    return [Text(hint, style=output.WARN) for hint in hints]
