"""`cairn audit`."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from cairn_appliance.cli import output
from cairn_appliance.cli.connection import path_of
from cairn_appliance.cli.errors import CommandError, Exit
from cairn_appliance.cli.options import AsJson, Yes, connect, group, length_of_time
from cairn_appliance.cli.output import local
from cairn_appliance.cli.progress import working
from cairn_appliance.cli.replies import AuditChain, Audited, AuditVerified
from cairn_appliance.domain.audit import Broken, ChainReport, examine_file
from cairn_appliance.pki.audit_key import reading_seal
from cairn_appliance.pki.errors import PkiError

app = group("Audit: who asked for what, what became of it, and whether the record is whole.")

_OUTCOMES = {"done": output.GOOD, "refused": output.WARN, "failed": output.BAD}
Actor = Annotated[str | None, typer.Option(metavar="USER", help="Only what this one asked for.")]
Part = Annotated[str | None, typer.Option(metavar="PART", help="Only where it has this in it.")]


class Format(StrEnum):
    """How an export is written."""

    JSONL = "jsonl"
    CSV = "csv"


@app.command("list")
def list_audit(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="The newest so many.")] = 50,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only of the last 30m, 24h, 7d.")
    ] = None,
    actor: Actor = None,
    action: Part = None,
    target: Part = None,
    as_json: AsJson = False,
) -> None:
    """List what was asked for, oldest first; with --json one object a line."""
    given = {"actor": actor, "action": action, "target": target}
    query: dict[str, str | int | list[str]] = {name: text for name, text in given.items() if text}
    if since is not None:
        query["since"] = (output.now() - length_of_time(since)).isoformat()
    with connect() as connection:
        pages = connection.pages(path_of("audit"), Audited, query)
        newest = list(itertools.islice(pages, limit))
    for reply in reversed(newest):
        if as_json:
            output.print_json_line(reply.whole)
        else:
            output.say(_line(reply.value))
    if not newest and not as_json:
        output.say("Nothing is recorded.")


@app.command()
def show(
    request: Annotated[
        str, typer.Argument(metavar="REQUEST", help="ID of the request, as `list` shows it.")
    ],
    as_json: AsJson = False,
) -> None:
    """Show everything that is recorded of one request."""
    with connect() as connection:
        found = list(connection.pages(path_of("audit"), Audited, {"request": request}))
    if not found or not request:
        raise CommandError(
            Exit.BAD_INPUT, f"nothing is recorded of {request!r}", "`cairn audit list`"
        )
    if as_json:
        output.print_json([reply.whole for reply in found])
        return
    for reply in found:
        each = reply.value
        who = f"{each.actor.kind} {each.actor.name or '?'} {each.actor.role}".strip()
        output.facts(
            f"{each.action} {each.target}",
            (
                ("when", local(each.at)),
                ("who", f"{who} from {each.actor.address}"),
                ("outcome", f"{each.outcome} {each.status or ''}".strip()),
                ("details", [f"{name}: {text}" for name, text in each.details.items()]),
                ("request", each.request_id),
                ("record", f"{each.appliance} {each.index}, SHA-256 {each.hash}"),
            ),
        )


@app.command()
def verify(
    file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="An export, instead of the appliances.")
    ] = None,
    key: Annotated[
        str | None,
        typer.Option(
            metavar="KEY", help="The audit key, as verified before; else the appliance is asked."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Look whether the audit is as it was written: on the appliances, or in a file."""
    if file is None:
        with connect() as connection, working("looking at all chains"):
            reply = connection.get(path_of("audit", "verify"), AuditVerified)
        found = reply.value
        chains, known = found.chains, f"{found.cluster}/{found.key}"
        as_of = local(found.at)
    else:
        known = key if key is not None else _asked_key()
        with working(f"looking at {file}"):
            at_ms, reports = _examined(file, known)
        chains = [_chain(report) for report in reports]
        as_of = local(output.of_ms(at_ms))
    if as_json:
        told = [{name: getattr(c, name) for name in c.__struct_fields__} for c in chains]
        output.print_json({"ok": all(c.ok for c in chains), "key": known, "chains": told})
    else:
        _print_chains(chains, as_of, known)
    broken = [chain for chain in chains if not chain.ok]
    if broken:
        raise CommandError(
            Exit.LOCAL_STATE,
            "the audit is not as it was written",
            "docs/operate/alarms.md, audit_broken; keep an export as evidence first",
            lines=tuple(f"{each.appliance}: {each.problem}" for each in broken),
        )


@app.command()
def export(
    output_file: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="A file that is not there yet.")
    ],
    form: Annotated[
        Format, typer.Option("--format", help="jsonl can be verified, csv can be read.")
    ] = Format.JSONL,
    as_json: AsJson = False,
) -> None:
    """Write all records that the appliances have into a file."""
    draft = output_file.with_name(f".{output_file.name}.new")
    try:
        if output_file.exists():
            raise CommandError(Exit.BAD_INPUT, f"{output_file} is there already", "name another")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            exporting = working("exporting the audit")
            with os.fdopen(descriptor, "wb") as out, connect() as connection, exporting as came:
                path = f"{path_of('audit', 'export')}?format={form.value}"
                connection.download(path, out, came)
                out.flush()
                os.fsync(out.fileno())
            draft.rename(output_file)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise CommandError(
            Exit.LOCAL_STATE,
            f"{output_file} can't be written: {error.strerror}",
            "free some space, correct the permissions, or choose another place",
        ) from error
    octets = output_file.stat().st_size
    if as_json:
        output.print_json({"file": str(output_file), "format": form.value, "octets": octets})
        return
    output.say(f"{output_file}: {octets} octets")
    if form is Format.JSONL:
        output.say("Verify it anywhere: cairn audit verify --file FILE --key KEY")


@app.command()
def accept(yes: Yes = False, as_json: AsJson = False) -> None:
    """Put what was tampered with aside, and begin those chains anew."""
    with connect() as connection:
        found = connection.get(path_of("audit", "verify"), AuditVerified).value
        broken = [f"{each.appliance}: {each.problem}" for each in found.chains if not each.ok]
        if not broken:
            if as_json:
                output.print_json({"accepted": []})
            else:
                output.say("The audit is whole: there is nothing to accept.")
            return
        lost = [*broken, "their records move to audit/ in the data directory of the appliance"]
        output.confirm("Begin these chains anew?", lost, yes=yes)
        reply = connection.post(path_of("audit", "accept"), AuditVerified)
    if as_json:
        output.print_json(reply.whole)
    else:
        output.say("The chains begin anew; the record says that you accepted this.")


def _asked_key() -> str:
    with connect() as connection:
        found = connection.get(path_of("audit", "verify"), AuditVerified).value
    return f"{found.cluster}/{found.key}"


def _examined(file: Path, key: str) -> tuple[int, tuple[ChainReport, ...]]:
    cluster, _, public = key.partition("/")
    try:
        seal = reading_seal(cluster, public)
    except PkiError as error:
        raise CommandError(
            Exit.BAD_INPUT, "that is no audit key", "`cairn audit verify` shows it: CLUSTER/KEY"
        ) from error
    try:
        end, reports = examine_file(file.read_bytes().split(b"\n")[:-1], seal)
    except OSError as error:
        raise CommandError(
            Exit.BAD_INPUT, f"{file} can't be read: {error.strerror}", "name another file"
        ) from error
    except Broken as error:
        raise CommandError(
            Exit.LOCAL_STATE,
            f"{file} is not as it was exported: {error}",
            "take another copy; check that it is of this cluster and whole",
        ) from error
    return end.at_ms, reports


def _chain(report: ChainReport) -> AuditChain:
    return AuditChain(
        appliance=report.appliance,
        records=report.records,
        checkpoints=report.checkpoints,
        first=report.first,
        index=report.index,
        ok=not report.problem,
        problem=report.problem,
    )


def _print_chains(chains: Iterable[AuditChain], as_of: str, key: str) -> None:
    output.table(
        ("CHAIN", "RECORDS", "FROM", "TO", "CHECKPOINTS", "IS"),
        (
            (
                each.appliance,
                str(each.records),
                str(each.first),
                str(each.index),
                str(each.checkpoints),
                Text("whole", style=output.GOOD) if each.ok else Text("BROKEN", style=output.BAD),
            )
            for each in chains
        ),
        fold=(),
        empty="Nothing is recorded yet.",
    )
    output.say(f"as of      {as_of}", f"audit key  {key}")


def _line(each: Audited) -> Text:
    who = each.actor.name or each.actor.kind or each.appliance
    told = "; ".join(f"{name}={text}" for name, text in each.details.items())
    return Text.assemble(
        (local(each.at), output.DIM),
        "  ",
        (f"{each.outcome or each.kind:<7}", _OUTCOMES.get(each.outcome, "")),
        "  ",
        output.clean(f"{who}  {each.action.partition(' ')[0]} {each.target}".rstrip()),
        (output.clean(f"  {told}" if told else ""), output.DIM),
        (output.clean(f"  {each.request_id}"), output.DIM),
    )
