"""`cairn session`."""

from __future__ import annotations

from typing import Annotated

import typer

from cairn_appliance.cli import output
from cairn_appliance.cli.connection import path_of
from cairn_appliance.cli.options import AsJson, Yes, connect, group
from cairn_appliance.cli.output import ago, until
from cairn_appliance.cli.replies_access import OpenSession

app = group("Sessions that are open: your own; for an admin, everybody's.")


@app.command("list")
def list_sessions(as_json: AsJson = False) -> None:
    """List the open sessions, newest first."""
    with connect() as connection:
        replies = list(connection.pages(path_of("sessions"), OpenSession))
    if as_json:
        output.print_json([reply.whole for reply in replies])
        return
    output.table(
        ("ID", "USER", "FROM", "SEEN", "ENDS", "CLIENT"),
        (_row(reply.value) for reply in replies),
        fold=("CLIENT",),
        empty="No session is open.",
    )


@app.command()
def end(
    session: Annotated[str, typer.Argument(metavar="SESSION", help="ID of the session.")],
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """End a session: its next request is refused."""
    lost = ["whoever uses it has to log in again; what runs in it is refused"]
    output.confirm(f"End the session {session}?", lost, yes=yes)
    with connect() as connection:
        connection.delete(path_of("sessions", session))
    if as_json:
        output.print_json({"ended": session})
    else:
        output.say(f"The session {session} has ended.")


def _row(session: OpenSession) -> tuple[output.Value, ...]:
    user = f"{session.user} (this one)" if session.current else session.user
    seen, ends = ago(session.seen_at), until(session.ends_at)
    return (session.id, user, session.address or "-", seen, ends, session.client or "-")
