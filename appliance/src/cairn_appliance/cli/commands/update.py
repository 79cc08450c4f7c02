"""`cairn cluster update`: the image of all appliances, one after the other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from cairn_appliance.cli import output
from cairn_appliance.cli.connection import path_of
from cairn_appliance.cli.errors import CommandError, Exit
from cairn_appliance.cli.options import AsJson, Yes, connect, group
from cairn_appliance.cli.output import ago
from cairn_appliance.cli.progress import working
from cairn_appliance.cli.replies import Machine, UpdateFile, UpdateShown

app = group("Updates of the appliances' image: one after the other, and the way back.")

_UPLOADED_WITHIN_S = 3600.0


@app.command()
def upload(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="cairn-appliance_VERSION.update")],
    as_json: AsJson = False,
) -> None:
    """Bring the file of an update to the appliance of the session, which checks it."""
    try:
        with file.open("rb") as source, connect() as connection:
            octets = file.stat().st_size
            with working(f"uploading {file.name}", octets=octets) as went:
                reply = connection.upload(
                    path_of("cluster", "update", "file"),
                    UpdateFile,
                    source,
                    octets,
                    went,
                    wait_s=_UPLOADED_WITHIN_S,
                )
    except OSError as error:
        raise CommandError(
            Exit.BAD_INPUT, f"{file} can't be read: {error.strerror}", "give the file of an update"
        ) from error
    if as_json:
        output.print_json(reply.whole)
    else:
        output.say(f"{reply.value.version} is there and signed: `cairn cluster update start`.")


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show the update that is under way or was last, and each machine; code 4 if it stopped."""
    with connect() as connection:
        reply = connection.get(path_of("cluster", "update"), UpdateShown)
    if as_json:
        output.print_json(reply.whole)
    else:
        _show(reply.value)
    if reply.value.phase == "stopped":
        raise typer.Exit(Exit.REFUSED)


@app.command()
def start(yes: Yes = False, as_json: AsJson = False) -> None:
    """Update all appliances, one after the other; a backup is made first."""
    lost = ["what the other slots have: the way back is then to the versions of now"]
    with connect() as connection:
        version = connection.get(path_of("cluster", "update"), UpdateShown).value.uploaded
    if not version:
        raise CommandError(
            Exit.REFUSED, "no update lies on any appliance", "`cairn cluster update upload FILE`"
        )
    output.confirm(f"Update all appliances to {version}?", lost, yes=yes)
    _begin("start", {"version": version}, as_json=as_json)


@app.command()
def rollback(yes: Yes = False, as_json: AsJson = False) -> None:
    """Take all that were updated back to what their other slots have, one after the other."""
    lost = ["what only the version of now can do"]
    output.confirm("Go back to the versions of before?", lost, yes=yes)
    _begin("rollback", None, as_json=as_json)


def _begin(what: str, body: dict[str, str] | None, *, as_json: bool) -> None:
    with connect() as connection:
        reply = connection.post(path_of("cluster", "update", what), UpdateShown, body)
    if as_json:
        output.print_json(reply.whole)
    else:
        output.say("It has begun: `cairn cluster update status --watch`.")


def _show(update: UpdateShown) -> None:
    if update.phase:
        what = "The way back" if update.action == "rollback" else "Update"
        phase = _PHASES.get(update.phase, update.phase)
        text = f"{what} to {update.version}, started by {update.started_by}: {phase}"
        style = output.BAD if update.phase == "stopped" else "bold"
        output.say(
            Text(output.clean(text + (f" {update.current}" if update.current else "")), style)
        )
        if update.cause:
            output.say(Text(output.clean(update.cause), output.BAD))
            output.say(f"  what to do: {output.clean(update.remedy)}")
    else:
        output.say("There was no update yet.")
    output.table(
        ("NAME", "VERSION", "SLOT", "OTHER SLOT", "STATE", "SINCE", "UPLOADED"),
        (_row(each) for each in update.appliances),
        fold=(),
        empty="No appliance runs from the image.",
    )
    for each in update.appliances:
        if each.cause:
            output.say(Text(output.clean(f"{each.name}: {each.cause}"), output.WARN))
            output.say(f"  what to do: {output.clean(each.remedy)}")


_PHASES = {
    "backup": "a backup is made first",
    "choosing": "waits until all are well",
    "updating": "under way at",
    "done": "done",
    "stopped": "stopped",
}
_STATES = {
    "none": "-",
    "installing": "is written",
    "restarting": "starts again",
    "on_trial": "on trial",
    "confirmed": "confirmed",
    "rolled_back": "rolled back",
    "failed": "not made",
}


def _row(each: Machine) -> tuple[output.Value, ...]:
    state = _STATES.get(each.state, each.state)
    if each.wanted and each.state != "none":
        state += f" ({each.wanted})"
    bad = each.state in ("rolled_back", "failed")
    return (
        each.name,
        each.version,
        each.slot.upper(),
        each.other_version or "-",
        Text(output.clean(state), output.BAD if bad else ""),
        ago(each.at) if each.at else "-",
        each.uploaded or "-",
    )
