"""`cairn backup`."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Annotated, BinaryIO

import typer
from rich.text import Text

from cairn_appliance.cli import output
from cairn_appliance.cli.connection import Connection, path_of
from cairn_appliance.cli.errors import ApiProblem, CommandError, Exit
from cairn_appliance.cli.options import AsJson, Yes, connect, group
from cairn_appliance.cli.output import ago
from cairn_appliance.cli.progress import Advance, working
from cairn_appliance.cli.replies import BackupKeyShown, BackupShown, ClusterShown
from cairn_appliance.pki.recovery_key import RecoveryKey

app = group("Backups: make one, list them, choose the key that opens them.")


@app.command()
def create(as_json: AsJson = False) -> None:
    """Make a backup on the disk of the appliance that is asked."""
    with connect() as connection, working("making a backup"):
        reply = connection.post(path_of("backups"), BackupShown, wait_s=_WAIT_S)
    if as_json:
        output.print_json(reply.whole)
        return
    made = reply.value
    output.say(f"{made.path} on {made.appliance}: {_size(made)}, revision {made.revision}")
    output.say(f"It opens with the recovery key {made.key_id}. Copy it to where no appliance is.")


@app.command("list")
def list_backups(as_json: AsJson = False) -> None:
    """List the backups that were made, newest first."""
    with connect() as connection:
        reply = connection.get(path_of("backups"), list[BackupShown])
    if as_json:
        output.print_json(reply.whole)
        return
    output.table(
        ("MADE", "BY", "ON", "SIZE", "REVISION", "KEY", "FILE", "WHY"),
        (_row(each) for each in reply.value),
        fold=("FILE", "WHY"),
        empty="No backup was made yet: cairn backup create",
    )


@app.command()
def key(yes: Yes = False, as_json: AsJson = False) -> None:
    """Make a new recovery key for the backups from now on; it is shown only now.

    It is made here: the appliances get the half that can only seal.
    """
    lost = ["backups of before open with the key of before: keep that as well"]
    output.confirm("Seal backups for a new recovery key?", lost, yes=yes)
    made = RecoveryKey.create()
    body = {"public_key": base64.b64encode(made.public).decode()}
    with connect() as connection:
        reply = connection.put(path_of("backups", "key"), BackupKeyShown, body)
    if as_json:
        output.print_json({"id": reply.value.id, "recovery_key": made.text})
        return
    output.say(
        Text("The recovery key; it is shown only now:", style="bold"),
        "",
        made.text,
        "",
        "Print it and keep it where no appliance is. Without it no backup opens.",
    )


@app.command()
def fetch(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="As in `cairn backup list`; or: latest.")
    ],
    output_file: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="A file that is not there yet.")
    ],
    as_json: AsJson = False,
) -> None:
    """Copy a backup to this machine, sealed as it is, from whichever appliance has it."""
    with connect() as connection:
        backup = _named(connection, name)
        with working(f"fetching {backup.name}", octets=backup.octets) as came:
            octets = _fetched(connection, backup, output_file, came)
    if octets != backup.octets:
        raise CommandError(
            Exit.LOCAL_STATE,
            f"{output_file} has {octets} octets, the backup had {backup.octets} when it was made",
            "it is no good: take another one, and look at the disk of the appliance that has it",
        )
    if as_json:
        output.print_json({"name": backup.name, "file": str(output_file), "octets": octets})
    else:
        output.say(f"{output_file}: {backup.name}, {_size(backup)}")
        output.say(f"It opens with the recovery key {backup.key_id}.")


def _named(connection: Connection, name: str) -> BackupShown:
    made = connection.get(path_of("backups"), list[BackupShown]).value
    found = made[:1] if name == "latest" else [each for each in made if each.name == name]
    if not found:
        raise CommandError(
            Exit.REFUSED, f"there is no backup {name}", "`cairn backup list` shows them"
        )
    return found[0]


def _fetched(connection: Connection, backup: BackupShown, file: Path, came: Advance) -> int:
    """Fetch a backup and return its octets; there is no file unless all of it came."""
    draft = file.with_name(f".{file.name}.new")
    try:
        if file.exists():
            raise CommandError(Exit.BAD_INPUT, f"{file} is there already", "choose another name")
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
            try:
                _download(connection, backup, out, came)
                out.flush()
                os.fsync(out.fileno())
                octets = out.tell()
                draft.rename(file)
            except BaseException:
                draft.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise CommandError(
            Exit.LOCAL_STATE,
            f"{file} can't be written: {error.strerror}",
            "free some space, correct the permissions, or choose another place",
        ) from error
    return octets


def _download(connection: Connection, backup: BackupShown, out: BinaryIO, came: Advance) -> None:
    """Ask the appliance of the session, and where it says so the one that has it."""
    path = path_of("backups", backup.name, "file")
    try:
        connection.download(path, out, came)
    except ApiProblem as problem:
        if problem.code != "backup_elsewhere":
            raise
    else:
        return
    failed = CommandError(
        Exit.UNREACHABLE,
        f"the backup lies on {backup.appliance}, and nobody says where that is",
        f"copy {backup.path} from its disk",
    )
    for place in _operations_of(connection, backup.appliance):
        out.seek(0)
        out.truncate()
        try:
            with connect(at=place) as other:
                other.download(path, out, came)
        except CommandError as error:
            failed = error  # it may have several addresses, of which not all are for here
        else:
            return
    raise failed


def _operations_of(connection: Connection, appliance: str) -> list[str]:
    """Return host:port of the operations API of an appliance."""
    known = connection.get(path_of("cluster"), ClusterShown).value.appliances
    return [place for each in known if each.name == appliance for place in each.operations]


_WAIT_S = 600.0  # a large store on a slow disk


def _row(each: BackupShown) -> tuple[output.Value, ...]:
    made = ago(each.made_at), each.made_by, each.appliance
    return (*made, _size(each), str(each.revision), each.key_id, each.path, each.reason)


def _size(backup: BackupShown) -> str:
    return f"{backup.octets / (1 << 20):.1f} MiB"
