"""`cairn cluster`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import msgspec
import typer
from rich.text import Text

from cairn_appliance.cli import output
from cairn_appliance.cli.commands import update
from cairn_appliance.cli.connection import path_of
from cairn_appliance.cli.errors import CommandError, Exit
from cairn_appliance.cli.options import AsJson, Yes, connect, group, length_of_time
from cairn_appliance.cli.output import ago, local, until
from cairn_appliance.cli.progress import working
from cairn_appliance.cli.replies import (
    ClusterAppliance,
    ClusterProblem,
    ClusterShown,
    JoinString,
    Upgrade,
    UpgradeFinished,
)

app = group("The appliances of the cluster: how they are, who joins and leaves, their image.")
app.add_typer(update.app, name="update")

Appliance = Annotated[str, typer.Argument(metavar="APPLIANCE", help="Name, for example m2.")]


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show the appliances, and what is wrong with what to do; exit code 3 without a quorum."""
    with connect() as connection:
        reply = connection.get(path_of("cluster"), ClusterShown)
    if as_json:
        output.print_json(reply.whole)
    else:
        show(reply.value)
    if not reply.value.has_quorum:
        raise typer.Exit(Exit.UNREACHABLE)


@app.command("upgrade-check")
def upgrade_check(as_json: AsJson = False) -> None:
    """Say whether the next appliance may be stopped for its upgrade, and which one that is."""
    with connect() as connection:
        reply = connection.get(path_of("cluster"), ClusterShown)
    check = reply.value.upgrade
    if check is None:
        raise CommandError(
            Exit.REFUSED,
            "the appliance that was asked is too old to say",
            "sign in at one that is upgraded already, or go by `cairn cluster status`",
        )
    if as_json:
        output.print_json(msgspec.to_builtins(check))
    else:
        _show_check(reply.value, check)
    if not check.ready:
        raise typer.Exit(Exit.REFUSED)


@app.command("finish-upgrade")
def finish_upgrade(yes: Yes = False, as_json: AsJson = False) -> None:
    """Say that all appliances are upgraded and stay so: the new format may be written."""
    lost = ["the way back: the version before can't be installed any more"]
    output.confirm("Finish the upgrade?", lost, yes=yes)
    with connect() as connection:
        reply = connection.post(path_of("cluster", "finish-upgrade"), UpgradeFinished)
    if as_json:
        output.print_json(reply.whole)
    elif reply.value.format == reply.value.before:
        output.say(f"The store's format is {reply.value.format} as before: nothing to do.")
    else:
        output.say(f"The store's format is {reply.value.format}; the upgrade is finished.")


@app.command("join-string")
def join_string(
    life: Annotated[str, typer.Option(metavar="TIME", help="30m, 2h; 24h at most.")] = "1h",
    as_json: AsJson = False,
) -> None:
    """Make the string by which one new appliance joins; it is shown only now."""
    body = {"life_s": length_of_time(life).total_seconds()}
    with connect() as connection:
        reply = connection.post(path_of("cluster", "join-strings"), JoinString, body)
    if as_json:
        output.print_json(reply.whole)
    else:
        _show_string(reply.value)


@app.command()
def leave(appliance: Appliance, yes: Yes = False, as_json: AsJson = False) -> None:
    """Let a living appliance go: it ends by itself, and its agents go to the others."""
    lost = [f"the data directory of {appliance} can't be used again"]
    output.confirm(f"Take the appliance {appliance} out of the cluster?", lost, yes=yes)
    with connect() as connection, working(f"{appliance} leaves"):
        connection.delete(path_of("cluster", "appliances", appliance))
    if as_json:
        output.print_json({"left": appliance})
    else:
        output.say(f"{appliance} has left. Delete its data directory there.")


@app.command()
def replace(appliance: Appliance, yes: Yes = False, as_json: AsJson = False) -> None:
    """Remove an appliance that is lost for good, and make the string for its successor."""
    lost = [f"{appliance} can never come back; what takes its place joins as new"]
    output.confirm(f"Replace the appliance {appliance}?", lost, yes=yes)
    path = path_of("cluster", "appliances", appliance, "replace")
    with connect() as connection, working(f"{appliance} is taken out"):
        reply = connection.post(path, JoinString)
    if as_json:
        output.print_json(reply.whole)
    else:
        _show_string(reply.value)


def show(cluster: ClusterShown) -> None:
    """Print the cluster for people."""
    incarnation = f", incarnation {cluster.incarnation}" if cluster.incarnation else ""
    output.say(Text(f"Cluster {output.clean(cluster.id)}{incarnation}", "bold"))
    output.table(
        ("NAME", "ROLE", "ETCD", "APIS", "VERSION", "STORE", "BEHIND", "AT"),
        (_row(each) for each in cluster.appliances),
        fold=("AT",),
        empty="No appliance is known.",
    )
    show_problems(cluster.problems)
    if not cluster.problems:
        output.say(Text("All is well.", style=output.GOOD))


def show_problems(problems: Iterable[ClusterProblem]) -> None:
    """Print what is wrong, and what to do."""
    for problem in problems:
        style = output.BAD if problem.urgent else output.WARN
        name = f" [{output.clean(problem.name)}]" if problem.name else ""
        output.say(Text(output.clean(problem.cause) + name, style=style))
        output.say(f"  what to do: {output.clean(problem.remedy)}")


def _show_check(cluster: ClusterShown, check: Upgrade) -> None:
    known = {each.name: each for each in cluster.appliances}
    output.table(
        ("ORDER", "NAME", "VERSION", "PROTOCOL", "ROLE"),
        (
            (str(number), name, _version(known[name]), _protocol(known[name]), _role(known[name]))
            for number, name in enumerate(check.order, 1)
            if name in known
        ),
        fold=(),
        empty="No appliance is known.",
    )
    show_problems(check.findings)
    made = (
        f"was made {ago(check.last_backup_at)}" if check.last_backup_at else "is still to be made"
    )
    output.say(f"The newest backup {made}; the first appliance of a version makes one itself.")
    if check.ready:
        output.say(Text("The first of them may be stopped.", style=output.GOOD))
    else:
        output.say(Text("Stop none of them now.", style=output.BAD))


def _version(each: ClusterAppliance) -> str:
    return each.version or "-"


def _protocol(each: ClusterAppliance) -> str:
    return "-" if each.protocol is None else str(each.protocol)


def _role(each: ClusterAppliance) -> str:
    return "leads" if each.leads else "votes" if each.votes else "learns"


def _row(each: ClusterAppliance) -> tuple[output.Value, ...]:
    healthy = Text("healthy", style=output.GOOD) if each.healthy else Text("away", output.BAD)
    serving = f"since {ago(each.since)}" if each.serves else "away"
    return (
        each.name,
        _role(each),
        healthy,
        serving,
        _version(each),
        "-" if each.db_octets is None else f"{each.db_octets / (1 << 20):.1f} MiB",
        "-" if each.behind is None else str(each.behind),
        each.agents or each.peer_urls,
    )


def _show_string(made: JoinString) -> None:
    output.say(
        Text("The string to join with; it is shown only now:", style="bold"),
        "",
        made.join_string,
        "",
        f"It is for one appliance, {made.name}, until {local(made.expires_at)}, "
        f"{until(made.expires_at)}.",
        Text("On the new machine:", style="bold"),
        "",
        "cairn-appliance join --data-dir DIR --address HOST -    (it reads the string)",
        "cairn-appliance run --data-dir DIR",
    )
