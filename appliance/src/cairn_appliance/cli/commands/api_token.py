"""`cairn api-token`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.text import Text

from cairn_appliance.cli import output
from cairn_appliance.cli.commands.user import RoleName
from cairn_appliance.cli.connection import path_of
from cairn_appliance.cli.errors import CommandError, Exit
from cairn_appliance.cli.options import AsJson, Yes, connect, group, length_of_time
from cairn_appliance.cli.output import ago, until
from cairn_appliance.cli.replies_access import ApiToken

app = group("API tokens: what programs sign in with, in your name.")

FOR_EVER = "never"


@app.command("list")
def list_tokens(as_json: AsJson = False) -> None:
    """List your API tokens, newest first; for an admin, everybody's."""
    with connect() as connection:
        replies = list(connection.pages(path_of("api-tokens"), ApiToken))
    if as_json:
        output.print_json([reply.whole for reply in replies])
        return
    output.table(
        ("ID", "NAME", "USER", "SCOPE", "ENDS", "LAST USED"),
        (_row(reply.value) for reply in replies),
        fold=("NAME",),
        empty="There is no API token: cairn api-token create NAME",
    )


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Such as the program's.")],
    scope: Annotated[RoleName, typer.Option(help="What it may at most.")] = RoleName.VIEWER,
    life: Annotated[str, typer.Option(metavar="TIME", help="90d, 24h, or never: no end.")] = "90d",
    as_json: AsJson = False,
) -> None:
    """Make a token and print it; it is shown only now."""
    life_s = None if life == FOR_EVER else length_of_time(life).total_seconds()
    body = {"name": name, "scope": scope.value, "life_s": life_s}
    with connect() as connection:
        reply = connection.post(path_of("api-tokens"), ApiToken, body)
    if as_json:
        output.print_json(reply.whole)
        return
    token = reply.value
    ends = until(token.expires_at) if token.expires_at else "never"
    output.say(
        f"API token {output.clean(token.name)} ({token.scope}), ends {ends}.",
        Text("The token; it is shown only now:", style="bold"),
        "",
        token.token,
        "",
        "A program sends it as the header `Authorization: Bearer TOKEN`; `cairn`",
        "takes it from a file: CAIRN_TOKEN_FILE=FILE cairn status",
    )


@app.command()
def delete(
    token: Annotated[str, typer.Argument(metavar="ID", help="ID of the token, not its string.")],
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Delete a token: it opens nothing from then on."""
    if token.startswith("ct1_"):
        raise CommandError(
            Exit.BAD_INPUT,
            "this is the string of a token, not its ID",
            "cairn api-token list shows the IDs",
        )
    lost = ["what signs in with it is refused from then on"]
    output.confirm(f"Delete the API token {token}?", lost, yes=yes)
    with connect() as connection:
        connection.delete(path_of("api-tokens", token))
    if as_json:
        output.print_json({"deleted": token})
    else:
        output.say(f"The API token {token} is deleted.")


def _row(token: ApiToken) -> tuple[output.Value, ...]:
    ends = until(token.expires_at) if token.expires_at else "never"
    used = ago(token.last_used_at) or "never"
    return (token.id, token.name, token.user, token.scope, ends, used)
