"""`cairn member`."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from cairn_appliance.cli import output
from cairn_appliance.cli.connection import Connection, path_of
from cairn_appliance.cli.errors import CommandError, Exit
from cairn_appliance.cli.find import find_node
from cairn_appliance.cli.options import AsJson, Node, Vsubnet, Yes, connect, group
from cairn_appliance.cli.output import ago, local, short
from cairn_appliance.cli.replies import Member, Reply, VSubnet

app = group("Members: nodes attached to vSubnets.")

Ips = Annotated[
    list[str] | None,
    typer.Option(
        "--ip", metavar="ADDRESS", help="A static address. Repeatable. None: one is allocated."
    ),
]


class Role(StrEnum):
    """Roles of members."""

    HOST = "host"
    GATEWAY = "gateway"


@app.command("list")
def list_members(
    vsubnet: Annotated[str | None, typer.Option(metavar="NAME", help="Only of this one.")] = None,
    node: Annotated[str | None, typer.Option(metavar="NODE", help="Only of this one.")] = None,
    as_json: AsJson = False,
) -> None:
    """List members of all vSubnets, or of one vSubnet or node."""
    with connect() as connection:
        query = {}
        if vsubnet is not None:
            query["vsubnet"] = vsubnet
        if node is not None:
            query["node"] = find_node(connection, node).value.id
        replies = list(connection.pages(path_of("members"), Member, query))
    if as_json:
        output.print_json([reply.whole for reply in replies])
        return
    output.table(
        ("VSUBNET", "NODE", "NODE ID", "ADDRESSES", "MAC", "ROLE"),
        (_row(reply.value) for reply in sorted(replies, key=lambda reply: _order(reply.value))),
        fold=("VSUBNET", "NODE", "ADDRESSES"),
        empty="No such member." if query else "There are no members yet: cairn token create",
    )


@app.command()
def show(vsubnet: Vsubnet, node: Node, as_json: AsJson = False) -> None:
    """Show one member."""
    with connect() as connection:
        _print(connection.get(_path(connection, vsubnet, node), Member), as_json)


@app.command()
def create(
    vsubnet: Vsubnet,
    node: Node,
    ip: Ips = None,
    role: Annotated[Role, typer.Option(help="What it may do there.")] = Role.HOST,
    as_json: AsJson = False,
) -> None:
    """Attach a node to a vSubnet."""
    with connect() as connection:
        body = {"node": find_node(connection, node).value.id, "ips": ip or [], "role": role.value}
        _print(connection.post(path_of("vsubnets", vsubnet, "members"), Member, body), as_json)


@app.command("set")
def change(
    vsubnet: Vsubnet,
    node: Node,
    ip: Ips = None,
    role: Annotated[Role | None, typer.Option(help="What it may do there.")] = None,
    as_json: AsJson = False,
) -> None:
    """Change a member's addresses or role; what is not named stays."""
    wanted = {"ips": ip or None, "role": role.value if role else None}
    body = {field: value for field, value in wanted.items() if value is not None}
    if not body:
        raise CommandError(
            Exit.BAD_INPUT, "nothing to change is named", "look at `cairn member set --help`"
        )
    with connect() as connection:
        path = _path(connection, vsubnet, node)
        known = connection.get(path, Member)
        _print(connection.patch(path, Member, body, known.etag), as_json)


@app.command()
def delete(
    vsubnet: Vsubnet,
    node: Node,
    revoke_now: Annotated[
        bool,
        typer.Option("--revoke-now", help="End the vSubnet's old secret at once."),
    ] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Detach a node from a vSubnet; it stays a node."""
    with connect() as connection:
        path = _path(connection, vsubnet, node)
        known = connection.get(path, Member)
        question = f"Take {known.value.node.name} out of {known.value.vsubnet.name}?"
        output.confirm(question, _lost(known.value), yes=yes)
        query = {"revoke_now": "true" if revoke_now else "false"}
        connection.delete(path, known.etag, query=query)
    if as_json:
        output.print_json({"deleted": known.whole})
        return
    names = (known.value.node.name, known.value.vsubnet.name)
    output.say(output.clean(f"{names[0]} is no member of {names[1]} any more."))


def _path(connection: Connection, vsubnet: str, node: str) -> str:
    """Return the path by IDs, so that names that change meanwhile do no harm."""
    found = connection.get(path_of("vsubnets", vsubnet), VSubnet).value
    return path_of("vsubnets", found.id, "members", find_node(connection, node).value.id)


def _lost(member: Member) -> list[str]:
    return [
        "its sessions with all other members end within a second",
        f"its addresses {', '.join(member.ips) or '(unmanaged)'} are kept back for a day",
    ]


def _order(member: Member) -> tuple[str, str]:
    return member.vsubnet.name, member.node.name


def _row(member: Member) -> tuple[output.Value, ...]:
    return (
        member.vsubnet.name or member.vsubnet.id,
        member.node.name,
        short(member.node.id),
        member.ips or "-",
        member.mac,
        member.role,
    )


def _print(reply: Reply[Member], as_json: bool) -> None:
    if as_json:
        output.print_json(reply.whole)
        return
    found = reply.value
    created = f"{local(found.created_at)}, {ago(found.created_at)}" if found.created_at else ""
    pairs = [
        ("addresses", found.ips or "unmanaged"),
        ("MAC", found.mac),
        ("role", found.role),
        ("node ID", found.node.id),
        ("since", created),
    ]
    title = f"{found.node.name} in {found.vsubnet.name} (VNI {found.vsubnet.vni})"
    output.facts(output.clean(title), pairs)
