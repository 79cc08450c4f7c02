"""`cairn node`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer
from rich.text import Text

from cairn_appliance.cli import output
from cairn_appliance.cli.connection import path_of
from cairn_appliance.cli.find import find_node
from cairn_appliance.cli.options import AsJson, Node, RevokeNow, Yes, connect, group
from cairn_appliance.cli.output import ago, local, short, span
from cairn_appliance.cli.replies import Attachment
from cairn_appliance.cli.replies import Node as NodeReply

app = group("Nodes: hosts with an agent.")

_STATES = {"approved": output.GOOD, "pending": output.WARN, "removed": output.DIM}
Reason = Annotated[str, typer.Option(metavar="TEXT", help="Why, for the events.")]


class State(StrEnum):
    """States of nodes."""

    PENDING = "pending"
    APPROVED = "approved"
    REMOVED = "removed"


@app.command("list")
def list_nodes(
    state: Annotated[State | None, typer.Option(help="Only those.")] = None,
    site: Annotated[str | None, typer.Option(metavar="NAME", help="Only those there.")] = None,
    as_json: AsJson = False,
) -> None:
    """List nodes; removed ones only with --state removed."""
    query = {"state": state.value if state else None, "site": site}
    asked = {name: value for name, value in query.items() if value is not None}
    with connect() as connection:
        replies = list(connection.pages(path_of("nodes"), NodeReply, asked))
    if as_json:
        output.print_json([reply.whole for reply in replies])
        return
    output.table(
        ("NAME", "ID", "STATE", "LINK", "SITE", "VSUBNETS", "LOADED", "AGENT"),
        (_row(reply.value) for reply in replies),
        fold=("NAME", "SITE", "VSUBNETS"),
        empty="No such node." if asked else "No node has joined yet: cairn token create",
    )


@app.command()
def show(node: Node, as_json: AsJson = False) -> None:
    """Show one node."""
    with connect() as connection:
        reply = find_node(connection, node)
    if as_json:
        output.print_json(reply.whole)
    else:
        _show(reply.value)


@app.command()
def approve(node: Node, as_json: AsJson = False) -> None:
    """Let a pending node in; a copy of another node becomes a node of its own."""
    with connect() as connection:
        known = find_node(connection, node)
        path = path_of("nodes", known.value.id, "approve")
        reply = connection.post(path, NodeReply)
    if as_json:
        output.print_json(reply.whole)
        return
    got = [_attached(member) for member in reply.value.members]
    joined = f" It is now a member of {', '.join(got)}." if got else ""
    output.say(output.clean(f"The node {reply.value.name} is approved.{joined}"))


@app.command()
def claim(node: Node, yes: Yes = False, as_json: AsJson = False) -> None:
    """Say that a waiting copy is the node that it is a copy of ("this one is X").

    The machine that is that node now is turned away, and becomes a copy that waits.
    """
    with connect() as connection:
        found = find_node(connection, node).value
        if found.copy_of is not None and found.state == State.PENDING:
            known = find_node(connection, found.copy_of.id).value
            lost = [f"the identity of the machine that is {_named(known)} now: it waits as a copy"]
            output.confirm(f"Make {_named(found)} the node {known.name}?", lost, yes=yes)
        reply = connection.post(path_of("nodes", found.id, "claim"), NodeReply)
    if as_json:
        output.print_json(reply.whole)
    else:
        output.say(output.clean(f"The machine {found.name} is the node {reply.value.name} now."))


@app.command()
def unfreeze(node: Node, as_json: AsJson = False) -> None:
    """Let a frozen node register again, after all but one of its machines are off."""
    with connect() as connection:
        known = find_node(connection, node)
        reply = connection.post(path_of("nodes", known.value.id, "unfreeze"), NodeReply)
    if as_json:
        output.print_json(reply.whole)
    else:
        output.say(output.clean(f"The node {reply.value.name} may register again."))


@app.command()
def reject(node: Node, reason: Reason = "", yes: Yes = False, as_json: AsJson = False) -> None:
    """Turn a pending node away."""
    with connect() as connection:
        known = find_node(connection, node)
        found = known.value
        if found.state == State.PENDING:
            lost = ["its identity: it has to join again, with a new token"]
            output.confirm(f"Reject the node {_named(found)}?", lost, yes=yes)
        path = path_of("nodes", found.id, "reject")
        connection.post(path, type(None), {"reason": reason})
    if as_json:
        output.print_json({"rejected": known.whole})
    else:
        output.say(output.clean(f"The node {found.name} is rejected."))


@app.command()
def delete(
    node: Node,
    reason: Reason = "",
    revoke_now: RevokeNow = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Cut a node off from every vSubnet, for good."""
    with connect() as connection:
        known = find_node(connection, node)
        found = known.value
        output.confirm(f"Delete the node {_named(found)}?", _lost(found), yes=yes)
        query = {"reason": reason, "revoke_now": "true" if revoke_now else "false"}
        connection.delete(path_of("nodes", found.id), query=query)
    if as_json:
        output.print_json({"deleted": known.whole})
    else:
        output.say(output.clean(f"The node {found.name} is deleted: every member drops it now."))


def _lost(node: NodeReply) -> list[str]:
    cut = [f"it is cut off from {_attached(member)}" for member in node.members]
    return [
        *cut,
        "its identity: to come back it has to join again, with a new token",
        "its addresses are kept back for a day",
    ]


def _row(node: NodeReply) -> tuple[output.Value, ...]:
    return (
        node.name,
        short(node.id),
        _state(node),
        _link(node),
        node.site or "-",
        [_attached(member) for member in node.members] or "-",
        _loaded(node),
        node.agent_version or "-",
    )


def _state(node: NodeReply) -> Text:
    text = Text(node.state, style=_STATES.get(node.state, ""))
    if node.copy_of is not None:
        text.append(f", copy of {output.clean(node.copy_of.name or node.copy_of.id)}")
    if node.frozen_at is not None:
        text.append(", frozen", style=output.BAD)
    return text


def _link(node: NodeReply) -> Text:
    if node.link is None:
        return Text("never seen", style=output.DIM)
    since = span(output.now() - node.link.since)
    if node.link.connected:
        return Text(f"up {since}", style=output.GOOD)
    return Text(f"down {since}", style=output.BAD)


def _loaded(node: NodeReply) -> Text:
    if node.link is None or not (node.link.loaded_revision or node.link.refused):
        return Text("-", style=output.DIM)
    if node.link.refused:
        return Text("refused", style=output.BAD)
    return Text(str(node.link.loaded_revision))


def _attached(member: Attachment) -> str:
    return " ".join([member.vsubnet.name or member.vsubnet.id, *member.ips])


def _named(node: NodeReply) -> str:
    return f"{node.name} ({node.id}{', at ' + node.site if node.site else ''})"


def _show(node: NodeReply) -> None:
    versions = f"agent {node.agent_version}, data plane {node.dataplane_version or 'unknown'}"
    pairs: list[tuple[str, output.Value]] = [
        ("state", _state(node)),
        ("removed", f"{ago(node.removed_at)}: {node.removed_why}" if node.removed_at else ""),
        ("link", _link_lines(node)),
        ("netmap", _netmap(node)),
        ("site", node.site),
        ("labels", [f"{name}={value}" for name, value in node.labels.items()]),
        ("vSubnets", [f"{_attached(member)}  {member.mac}" for member in node.members]),
        ("waits for", [vsubnet.name or vsubnet.id for vsubnet in node.wanted]),
        ("endpoints", node.endpoints),
        ("seen from", node.seen_address),
        ("versions", versions if node.agent_version else ""),
        ("offloads", [f"{name}: {value}" for name, value in node.offloads.items()]),
        ("machine", [f"{name} {value}" for name, value in node.machine.items()]),
        ("generation", str(node.generation)),
        ("registered", ago(node.registered_at) or "never"),
        ("joined", f"{local(node.created_at)} with token {node.token}" if node.created_at else ""),
        ("ID", node.id),
    ]
    output.facts(f"Node {output.clean(node.name)}", pairs)


def _link_lines(node: NodeReply) -> output.Value:
    if node.link is None:
        return _link(node)
    return [_link(node), f"last heard of {ago(node.link.last_seen)}"]


def _netmap(node: NodeReply) -> Text:
    if node.link is None or not (node.link.loaded_revision or node.link.refused):
        return Text("none loaded yet", style=output.DIM)
    revision = f"revision {node.link.loaded_revision} loaded"
    if node.link.refused:
        text = f"{revision}; the newest is refused: {output.clean(node.link.refused)}"
        return Text(text, style=output.BAD)
    return Text(revision)
