"""`cairn backup`."""

from __future__ import annotations

import base64

from rich.text import Text

from cairn_appliance.cli import output
from cairn_appliance.cli.connection import path_of
from cairn_appliance.cli.options import AsJson, Yes, connect, group
from cairn_appliance.cli.output import ago
from cairn_appliance.cli.replies import BackupKeyShown, BackupShown
from cairn_appliance.pki.recovery_key import RecoveryKey

app = group("Backups: make one, list them, choose the key that opens them.")


@app.command()
def create(as_json: AsJson = False) -> None:
    """Make a backup on the disk of the appliance that is asked."""
    with connect() as connection:
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


_WAIT_S = 600.0  # a large store on a slow disk


def _row(each: BackupShown) -> tuple[output.Value, ...]:
    made = ago(each.made_at), each.made_by, each.appliance
    return (*made, _size(each), str(each.revision), each.key_id, each.path, each.reason)


def _size(backup: BackupShown) -> str:
    return f"{backup.octets / (1 << 20):.1f} MiB"
