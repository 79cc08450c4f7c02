"""`cairn event-output`: who outside is told of events."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec
import typer
from rich.text import Text

from cairn_appliance.cli import output
from cairn_appliance.cli.commands.event import Severity
from cairn_appliance.cli.connection import Connection, path_of
from cairn_appliance.cli.errors import CommandError, Exit
from cairn_appliance.cli.options import AsJson, Yes, connect, group
from cairn_appliance.cli.output import ago
from cairn_appliance.cli.replies import Outputs, OutputShown, OutputTests, Reply

app = group("Who outside is told of events: syslog servers and webhooks.")

Id = Annotated[str, typer.Argument(metavar="ID", help="Of the receiver: event-output list.")]
_PORTS = {"udp": 514, "tcp": 514, "tls": 6514}
_TEST_WAIT_S = 25.0


@app.command("list")
def list_outputs(as_json: AsJson = False) -> None:
    """List the receivers, and whether they take events."""
    with connect() as connection:
        reply = _get(connection)
    if as_json:
        output.print_json(reply.whole)
        return
    output.table(
        ("ID", "RECEIVER", "FROM", "LAST OK", "STATE"),
        (_row(each) for each in reply.value.all),
        fold=("RECEIVER", "STATE"),
        empty="Nobody is told: cairn event-output add syslog+tls://HOST",
    )


@app.command()
def add(
    receiver: Annotated[
        str,
        typer.Argument(metavar="URL", help="syslog+udp://, syslog+tcp://, syslog+tls://, https://"),
    ],
    min_severity: Annotated[Severity, typer.Option(help="Tell events from it on.")] = Severity.INFO,
    ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The CA of its certificate, PEM.")
    ] = None,
    secret_file: Annotated[
        str, typer.Option(metavar="FILE", help="What a webhook is signed with; - reads it.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Tell one more receiver, from now on."""
    fields: dict[str, Any] = {"min_severity": min_severity.value}
    if ca is not None:
        fields["ca"] = _read(str(ca))
    with connect() as connection:
        current = _get(connection)
        body = _body(current.value)
        if receiver.startswith("syslog+"):
            body["syslog"].append({**_syslog(receiver), **fields})
        else:
            secret = _read(secret_file).strip() if secret_file else ""
            body["webhooks"].append({"url": receiver, "secret": secret, **fields})
        made = connection.put(path_of(*_PATH), Outputs, body, etag=current.etag)
    before = {each.id for each in current.value.all}
    fresh = [each for each in made.value.all if each.id not in before]
    if as_json:
        output.print_json([msgspec.to_builtins(each) for each in fresh])
        return
    for each in fresh:
        output.say(f"{each.place} is told of events from now on; its ID is {each.id}.")
        output.say(f"Try it: cairn event-output test {each.id}")


@app.command()
def delete(receiver: Id, yes: Yes = False, as_json: AsJson = False) -> None:
    """Tell a receiver no more; what waits for it is not sent."""
    with connect() as connection:
        current = _get(connection)
        found = [each for each in current.value.all if each.id == receiver]
        if not found:
            raise CommandError(
                Exit.BAD_INPUT, f"there is no receiver {receiver!r}", "cairn event-output list"
            )
        waits = "events that it has not taken yet" if found[0].failing_since else ""
        lost = [f"{found[0].place} gets no event any more", *([waits] if waits else [])]
        output.confirm(f"Delete the receiver {receiver}?", lost, yes=yes)
        body = _body(current.value, without=receiver)
        connection.put(path_of(*_PATH), Outputs, body, etag=current.etag)
    if as_json:
        output.print_json({"deleted": receiver})
    else:
        output.say(f"{found[0].place} is told no more.")


@app.command()
def test(
    receiver: Annotated[str, typer.Argument(metavar="[ID]", help="One; all if left out.")] = "",
    as_json: AsJson = False,
) -> None:
    """Send a test now, from the appliance that is asked; exit code 3 where one did not take it."""
    with connect() as connection:
        path = path_of(*_PATH, "test")
        reply = connection.post(path, OutputTests, {"id": receiver}, wait_s=_TEST_WAIT_S)
    if as_json:
        output.print_json(reply.whole)
    else:
        for each in reply.value.results:
            style = output.GOOD if each.ok else output.BAD
            told = "took it" if each.ok else output.clean(each.error)
            output.say(Text.assemble(f"{each.id}  ", (told, style)))
    if not all(each.ok for each in reply.value.results):
        raise typer.Exit(Exit.UNREACHABLE)


_PATH = ("settings", "events")


def _get(connection: Connection) -> Reply[Outputs]:
    return connection.get(path_of(*_PATH), Outputs)


def _body(outputs: Outputs, *, without: str = "") -> dict[str, list[dict[str, Any]]]:
    """Return what sets the same receivers again; a webhook keeps the secret it has."""
    return {
        "syslog": [
            {
                "id": each.id,
                "host": each.host,
                "port": each.port,
                "protocol": each.protocol,
                "min_severity": each.min_severity,
                "ca": each.ca,
            }
            for each in outputs.syslog
            if each.id != without
        ],
        "webhooks": [
            {"id": each.id, "url": each.url, "min_severity": each.min_severity, "ca": each.ca}
            for each in outputs.webhooks
            if each.id != without
        ],
    }


def _syslog(url: str) -> dict[str, Any]:
    scheme, _, _ = url.partition("://")
    protocol = scheme.removeprefix("syslog+")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if protocol not in _PORTS or not host or parts.path not in ("", "/"):
        raise CommandError(
            Exit.BAD_INPUT,
            f"{url!r} is no syslog server",
            "write syslog+udp://HOST:PORT, syslog+tcp://HOST:PORT or syslog+tls://HOST:PORT",
        )
    return {"host": host, "port": port or _PORTS[protocol], "protocol": protocol}


def _read(path: str) -> str:
    try:
        return sys.stdin.read() if path == "-" else Path(path).read_text("utf-8")
    except (OSError, UnicodeError) as error:
        raise CommandError(
            Exit.BAD_INPUT, f"{path} can't be read: {error}", "give a text file"
        ) from error


def _row(each: OutputShown) -> tuple[output.Value, ...]:
    if each.failing_since:
        state = Text(f"fails since {ago(each.failing_since)}: {each.last_error}", output.BAD)
    else:
        state = Text("works" if each.last_ok_at else "nothing sent yet", output.GOOD)
    return each.id, each.place, each.min_severity, ago(each.last_ok_at) or "-", state
