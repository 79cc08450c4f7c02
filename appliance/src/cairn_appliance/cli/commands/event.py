"""`cairn event`."""

from __future__ import annotations

import itertools
import random
import time
from enum import StrEnum
from typing import Annotated

import typer
from rich.text import Text

from cairn_appliance.cli import output
from cairn_appliance.cli.connection import Connection, Query, path_of
from cairn_appliance.cli.errors import CommandError, Exit
from cairn_appliance.cli.find import find_node
from cairn_appliance.cli.options import AsJson, connect, group, length_of_time
from cairn_appliance.cli.output import local, short
from cairn_appliance.cli.replies import Event, Reply, VSubnet

app = group("Events: what happened, who did it, to what.")

_SEVERITIES = {"info": "", "warning": output.WARN, "alarm": output.BAD}
_RECONNECT_MAX_S = 10.0


class Severity(StrEnum):
    """How much an event wants to be looked at."""

    INFO = "info"
    WARNING = "warning"
    ALARM = "alarm"


@app.command("list")
def list_events(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="The newest so many.")] = 50,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on with what happens, until Ctrl-C.")
    ] = False,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only of the last 30m, 24h, 7d.")
    ] = None,
    severity: Annotated[list[Severity] | None, typer.Option(help="Only those. Repeatable.")] = None,
    kind: Annotated[str | None, typer.Option(metavar="KIND", help="Only of this kind.")] = None,
    node: Annotated[str | None, typer.Option(metavar="NODE", help="Only about it.")] = None,
    vsubnet: Annotated[str | None, typer.Option(metavar="NAME", help="Only about it.")] = None,
    as_json: AsJson = False,
) -> None:
    """List events, oldest first; with --json one object a line."""
    with connect() as connection:
        query = _query(connection, since, severity or [], kind, node, vsubnet)
        pages = connection.pages(path_of("events"), Event, query)
        newest = list(itertools.islice(pages, limit))
        for reply in reversed(newest):
            _print(reply, as_json)
        if follow:
            _follow(connection, query, newest[0] if newest else None, as_json)
        elif not newest and not as_json:
            output.say("No such event.")


def _query(
    connection: Connection,
    since: str | None,
    severities: list[Severity],
    kind: str | None,
    node: str | None,
    vsubnet: str | None,
) -> Query:
    query: dict[str, str | int | list[str]] = {}
    if since is not None:
        query["since"] = (output.now() - length_of_time(since)).isoformat()
    if severities:
        query["severity"] = [severity.value for severity in severities]
    if kind is not None:
        query["kind"] = kind
    if node is not None:
        query["node"] = find_node(connection, node).value.id
    if vsubnet is not None:
        query["vsubnet"] = connection.get(path_of("vsubnets", vsubnet), VSubnet).value.id
    return query


def _follow(
    connection: Connection, query: Query, newest: Reply[Event] | None, as_json: bool
) -> None:
    """Print what happens; reconnect for ever after a loss, going on where it stopped."""
    last_id = f"{newest.value.sequence}/{newest.value.id}" if newest else "0/0"
    path = path_of("events", "stream")
    failures = 0
    while True:
        try:
            for event_id, reply in connection.stream(path, Event, query, last_id):
                last_id, failures = event_id, 0
                _print(reply, as_json)
        except CommandError as error:
            if error.exit_code is not Exit.UNREACHABLE:
                raise
            if not failures:
                output.console(to_stderr=True).print(
                    f"{error.cause}; trying again", style=output.WARN, soft_wrap=True
                )
        failures += 1
        time.sleep(min(2.0**failures / 2, _RECONNECT_MAX_S) * random.uniform(0.5, 1.0))


def _print(reply: Reply[Event], as_json: bool) -> None:
    if as_json:
        output.print_json_line(reply.whole)
        return
    event = reply.value
    line = Text.assemble(
        (local(event.at), output.DIM),
        "  ",
        (f"{event.severity:<7}", _SEVERITIES.get(event.severity, "")),
        "  ",
        output.clean(event.text),
        (f"  ({output.clean(_who(event))})", output.DIM),
    )
    output.say(line)


def _who(event: Event) -> str:
    """Return who did it and, where the sentence does not say so, to what."""
    is_itself = event.node is not None and event.by.name == event.node.id
    who = "by itself" if is_itself else f"by {event.by.kind} {event.by.name}"
    about = [
        f"{what} {named.name or short(named.id)}"
        for what, named in (("node", event.node), ("vSubnet", event.vsubnet))
        if named is not None and (named.name or named.id) not in event.text
    ]
    return ", ".join([*about, f"{who} from {event.by.address}" if event.by.address else who])
