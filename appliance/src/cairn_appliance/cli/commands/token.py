"""`cairn token`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from cairn_appliance.cli import output
from cairn_appliance.cli.connection import path_of
from cairn_appliance.cli.errors import CommandError, Exit
from cairn_appliance.cli.options import AsJson, Yes, connect, group, length_of_time
from cairn_appliance.cli.output import counted, local, until
from cairn_appliance.cli.replies import Token

app = group("Enrolment tokens: what a new node needs to join.")

_STATES = {"active": output.GOOD, "expired": output.DIM, "used_up": output.DIM}
Id = Annotated[str, typer.Argument(metavar="TOKEN", help="ID of the token, not its string.")]


@app.command("list")
def list_tokens(as_json: AsJson = False) -> None:
    """List all tokens, newest first."""
    with connect() as connection:
        replies = list(connection.pages(path_of("tokens"), Token))
    if as_json:
        output.print_json([reply.whole for reply in replies])
        return
    output.table(
        ("ID", "STATE", "VSUBNETS", "USED", "ENDS", "SITE", "APPROVAL"),
        (_row(reply.value) for reply in replies),
        fold=("VSUBNETS", "SITE"),
        empty="There is no token: cairn token create --vsubnet NAME",
    )


@app.command()
def show(token: Id, as_json: AsJson = False) -> None:
    """Show one token; its string can't be shown again."""
    with connect() as connection:
        reply = connection.get(path_of("tokens", _id(token)), Token)
    if as_json:
        output.print_json(reply.whole)
    else:
        _show(reply.value)


@app.command()
def create(
    vsubnet: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="The node becomes a member of it. Repeatable."),
    ] = None,
    uses: Annotated[int, typer.Option(metavar="N", help="How many nodes may join with it.")] = 1,
    life: Annotated[str, typer.Option(metavar="TIME", help="90s, 30m, 24h, 7d.")] = "24h",
    site: Annotated[str, typer.Option(metavar="NAME", help="Where its nodes are.")] = "",
    label: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="For its nodes. Repeatable.")
    ] = None,
    needs_approval: Annotated[
        bool, typer.Option("--needs-approval", help="An operator has to approve each node.")
    ] = False,
    source: Annotated[
        list[str] | None,
        typer.Option(
            "--from", metavar="CIDR", help="Only nodes from there may use it. Repeatable."
        ),
    ] = None,
    instance: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ID",
            help="Only the machine that says it has this instance ID may use it "
            "(cairn-agent doctor). Repeatable.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a token and print the string to join with; it is shown only now."""
    body: dict[str, object] = {
        "vsubnets": vsubnet or [],
        "max_uses": uses,
        "life_s": length_of_time(life).total_seconds(),
        "site": site,
        "labels": _labels(label or []),
        "needs_approval": needs_approval,
    }
    if source:  # an appliance of the version before doesn't know the words
        body["sources"] = source
    if instance:
        body["instances"] = instance
    with connect() as connection:
        reply = connection.post(path_of("tokens"), Token, body)
    if as_json:
        output.print_json(reply.whole)
    else:
        _show_new(reply.value)


@app.command()
def delete(token: Id, yes: Yes = False, as_json: AsJson = False) -> None:
    """Delete a token: nobody joins with it any more."""
    with connect() as connection:
        known = connection.get(path_of("tokens", _id(token)), Token)
        found = known.value
        if found.state == "active":
            left = counted(found.max_uses - found.uses, "node")
            lost = [f"{left} could still join with it, until {local(found.expires_at)}"]
            output.confirm(f"Delete the token {found.id}?", lost, yes=yes)
        connection.delete(path_of("tokens", found.id))
    if as_json:
        output.print_json({"deleted": known.whole})
    else:
        output.say(f"The token {found.id} is deleted. Nodes that joined with it stay.")


def _id(text: str) -> str:
    """Refuse the string itself: it is a secret and is no ID."""
    if text.startswith("cairn1."):
        raise CommandError(
            Exit.BAD_INPUT,
            "this is the string of a token, not its ID",
            "cairn token list shows the IDs",
        )
    return text


def _labels(texts: list[str]) -> dict[str, str]:
    labels = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise CommandError(
                Exit.BAD_INPUT, f"{text!r} is no label", "write it as --label KEY=VALUE"
            )
        labels[name] = value
    return labels


def _row(token: Token) -> tuple[output.Value, ...]:
    return (
        token.id,
        _state(token),
        [vsubnet.name or vsubnet.id for vsubnet in token.vsubnets] or "-",
        f"{token.uses} of {token.max_uses}",
        until(token.expires_at),
        token.site or "-",
        "needed" if token.needs_approval else "-",
    )


def _state(token: Token) -> Text:
    return Text(token.state.replace("_", " "), style=_STATES.get(token.state, ""))


def _show(token: Token) -> None:
    pairs: list[tuple[str, output.Value]] = [
        ("state", _state(token)),
        ("vSubnets", [vsubnet.name or vsubnet.id for vsubnet in token.vsubnets] or "none"),
        ("used", f"{token.uses} of {token.max_uses}"),
        ("ends", f"{local(token.expires_at)}, {until(token.expires_at)}"),
        ("site", token.site),
        ("labels", [f"{name}={value}" for name, value in token.labels.items()]),
        ("approval", "an operator has to approve each node" if token.needs_approval else ""),
        ("only from", token.sources),
        ("only for", token.instances),
        ("created", f"{local(token.created_at) if token.created_at else ''} by {token.created_by}"),
    ]
    output.facts(f"Token {output.clean(token.id)}", pairs)


def _show_new(token: Token) -> None:
    _show(token)
    output.say(
        "",
        Text("The string to join with; it is shown only now:", style="bold"),
        "",
        token.token,
        "",
        Text("On the machine that joins, as root:", style="bold"),
        "",
        f"cairn-agent join {token.token}",
    )
    if token.install:
        install = f"{token.install} {token.token}"
        output.say("", Text("Or, where no agent is installed yet:", style="bold"), "", install)
    if token.needs_approval:
        output.say("", "Then let it in: cairn node list --state pending")
