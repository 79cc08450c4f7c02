"""`cairn-appliance`: the command line, and how it ends."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
import traceback
from collections.abc import Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import msgspec
import typer
import uvloop
from cairn_agent.hardening import harden
from typer.exceptions import TyperException

from cairn_appliance import __version__
from cairn_appliance.cli.commands.cluster import show as show_cluster
from cairn_appliance.cli.progress import working
from cairn_appliance.cli.replies import ClusterShown
from cairn_appliance.domain.access import check_password
from cairn_appliance.domain.errors import CairnError, Invalid, NotFound, Refused
from cairn_appliance.domain.errors import Unavailable as NotAvailable
from cairn_appliance.domain.joining import decode as decode_join_string
from cairn_appliance.domain.restored import ABSORB_S
from cairn_appliance.initialising import (
    Initialised,
    addresses_of,
    cluster_address_of,
    initialise,
)
from cairn_appliance.joining import join
from cairn_appliance.pki.errors import PkiError
from cairn_appliance.pki.recovery_key import RecoveryKey
from cairn_appliance.rebuilding import rebuild
from cairn_appliance.recovering import look, recover
from cairn_appliance.resetting import reset_password
from cairn_appliance.restoring import Asked, restore
from cairn_appliance.services.passwords import hash_password
from cairn_appliance.services.vsubnets import VSubnetOrder
from cairn_appliance.serving import collect_seldom, map_large_buffers, use_all_files
from cairn_appliance.settings import Settings, SettingsError
from cairn_appliance.settings import check as check_settings
from cairn_appliance.store.port import StoreError, Unavailable

T = TypeVar("T")

_BUG, _BAD_INPUT, _UNREACHABLE, _REFUSED = 1, 2, 3, 4
_INTERRUPTED = 130
_STRING_MAX = 4096  # characters

app = typer.Typer(
    help="Run a Cairn appliance: the mapping service of a cluster, with its own etcd.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

ClusterAddress = Annotated[
    str,
    typer.Option(
        help="IP of this machine at which the other appliances reach its etcd; "
        "the first --address that it has unless given."
    ),
]
DataDir = Annotated[Path, typer.Option("--data-dir", help="Directory of all its state.")]


@app.command("init")
def init_command(
    data_dir: DataDir,
    address: Annotated[
        list[str],
        typer.Option("--address", help="HOST[:PORT] at which agents reach it; repeatable."),
    ],
    vsubnet: Annotated[str, typer.Option(help="Make a first vSubnet, and a token for it.")] = "",
    prefix: Annotated[
        list[str] | None, typer.Option(help="A prefix of that vSubnet; repeatable.")
    ] = None,
    cluster_address: ClusterAddress = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make a new cluster: its CA, its etcd data, its admin."""
    _log_to_stderr(logging.WARNING)
    settings = _settings(address, cluster_address)
    if bool(vsubnet) != bool(prefix):
        raise Invalid("--vsubnet and --prefix go together", "give both or none")
    first = VSubnetOrder(vsubnet, tuple(prefix or ())) if vsubnet else None
    made = _in_loop(initialise(data_dir, settings, first))
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(made)).decode())
    else:
        typer.echo(_told(made, data_dir))


@app.command("join")
def join_command(
    data_dir: DataDir,
    address: Annotated[
        list[str],
        typer.Option("--address", help="HOST[:PORT] at which agents reach it; repeatable."),
    ],
    string: Annotated[
        str, typer.Argument(metavar="STRING", help="The join string; - reads standard input.")
    ] = "-",
    cluster_address: ClusterAddress = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Join a cluster with the string of `cairn cluster join-string`."""
    _log_to_stderr(logging.WARNING)
    text = sys.stdin.readline(_STRING_MAX) if string == "-" else string
    settings = _settings(address, cluster_address)
    asked = decode_join_string(text)
    with working("joining the cluster"):
        joined = _in_loop(join(data_dir, settings, asked))
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(joined)).decode())
        return
    typer.echo(f"cluster      {joined.cluster_id}\nname         {joined.name}")
    typer.echo(f"next         cairn-appliance run --data-dir {data_dir}")


@app.command("run")
def run_command(
    data_dir: DataDir,
    without_backup: Annotated[
        bool,
        typer.Option(
            "--without-backup", help="Begin a new version also where no backup can be made first."
        ),
    ] = False,
) -> None:
    """Run the appliance until it is told to stop (SIGTERM)."""
    _log_to_stderr(logging.INFO)
    # The API takes a second to import; the other commands start without it.
    from cairn_appliance.running import run

    use_all_files()
    map_large_buffers()
    collect_seldom()
    _in_loop(run(data_dir, without_backup=without_backup))


@app.command("status")
def status_command(
    data_dir: DataDir,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show the cluster as etcd has it, also where there is no quorum to log in with."""
    from cairn_appliance.api.ops_v1.routes.cluster import cluster_out  # slow, as above

    _log_to_stderr(logging.WARNING)
    cluster_id, view = _in_loop(look(data_dir))
    shown = cluster_out(cluster_id, 0, view, {}).model_dump_json()
    if as_json:
        typer.echo(shown)
    else:
        show_cluster(msgspec.json.decode(shown, type=ClusterShown))
    if not view.has_quorum:
        raise typer.Exit(_UNREACHABLE)


@app.command("recover")
def recover_command(
    data_dir: DataDir,
    others_are_lost: Annotated[
        bool,
        typer.Option(
            "--others-are-lost",
            help="Say that the other appliances never come back with the data they have.",
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make a cluster of one from a survivor, after too many of the others were lost."""
    _log_to_stderr(logging.WARNING)
    if not others_are_lost:
        raise Invalid(
            "this makes a cluster of this appliance alone",
            "see that the others are off for good, then add --others-are-lost",
        )
    with working("making a cluster of this appliance alone"):
        recovered = _in_loop(recover(data_dir))
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(recovered)).decode())
        return
    typer.echo(f"cluster      {recovered.cluster_id}, incarnation {recovered.incarnation}")
    typer.echo(f"appliance    {recovered.name}, alone")
    typer.echo(f"copy         {recovered.kept}  (etcd as it was before)")
    typer.echo(f"next         cairn-appliance run --data-dir {data_dir}")
    typer.echo("then         cairn login; cairn cluster status; cairn event list (what it learned)")
    typer.echo("             cairn cluster join-string, for each appliance that is to join")


@app.command("restore")
def restore_command(
    data_dir: DataDir,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The backup.")],
    recovery_key: Annotated[
        str,
        typer.Option(
            "--recovery-key", metavar="FILE", help="File with its recovery key; - asks for it."
        ),
    ] = "-",
    address: Annotated[
        list[str] | None,
        typer.Option(
            "--address",
            help="HOST[:PORT] at which agents reach it; repeatable. Those of the appliance that "
            "made the backup unless given: agents look there first.",
        ),
    ] = None,
    cluster_address: ClusterAddress = "",
    others_are_lost: Annotated[
        bool,
        typer.Option(
            "--others-are-lost",
            help="Say that no appliance of before comes back with the data it has.",
        ),
    ] = False,
    set_aside: Annotated[
        bool,
        typer.Option("--set-aside", help="Move away what is in the data directory already."),
    ] = False,
    absorb_within: Annotated[
        float,
        typer.Option(
            "--absorb-within",
            min=1,
            max=3600,
            help="Seconds that it listens to agents before it says anything itself.",
        ),
    ] = ABSORB_S,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Make a cluster of one from a backup, where no appliance is left, or what they have is bad."""
    _log_to_stderr(logging.WARNING)
    if not others_are_lost:
        raise Invalid(
            "this makes a cluster of this appliance alone, as it was when the backup was made",
            "see that the others are off for good, then add --others-are-lost",
        )
    asked = Asked(
        file=file,
        key=_recovery_key(recovery_key),
        addresses=tuple(addresses_of(address or [])),
        cluster_address=cluster_address,
        set_aside=set_aside,
        absorb_s=absorb_within,
    )
    with working(f"restoring {file}"):
        made = _in_loop(restore(data_dir, asked))
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(made)).decode())
        return
    at = datetime.fromtimestamp(made.backup_made_at, UTC).isoformat(timespec="seconds")
    typer.echo(f"cluster      {made.cluster_id}, incarnation {made.incarnation}")
    typer.echo(f"as of        {at}, revision {made.backup_revision}")
    typer.echo(f"appliance    {made.name}, alone; operations at {made.ops_url}")
    if made.kept:
        typer.echo(f"moved to     {made.kept}  (what was there before)")
    typer.echo(f"next         cairn-appliance run --data-dir {data_dir}")
    typer.echo("then         cairn login; cairn cluster status; cairn event list (what it learned)")
    typer.echo("             cairn cluster join-string, for each appliance that is to join")


@app.command("rebuild")
def rebuild_command(
    data_dir: DataDir,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Take the data of this appliance, which are damaged, anew from the others."""
    _log_to_stderr(logging.WARNING)
    with working("taking the data anew from the others"):
        rebuilt = _in_loop(rebuild(data_dir))
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(rebuilt)).decode())
        return
    typer.echo(f"appliance    {rebuilt.name} of cluster {rebuilt.cluster_id}")
    typer.echo(f"old data     {rebuilt.kept or 'none'}")
    typer.echo(f"next         cairn-appliance run --data-dir {data_dir}")


@app.command("reset-password")
def reset_password_command(
    data_dir: DataDir,
    user: Annotated[
        str, typer.Argument(metavar="[USER]", help="Whose; without it the only admin's.")
    ] = "",
    password_file: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="File with the new password in its first line; - reads stdin. One is drawn and "
            "shown once unless given.",
        ),
    ] = "",
    remove_totp: Annotated[
        bool,
        typer.Option(
            "--remove-totp", help="Ask for no code beside it any more: device and codes are lost."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Give a user another password where no admin can: the appliance must be running."""
    _log_to_stderr(logging.WARNING)
    password = _password(password_file) if password_file else ""
    done = _in_loop(reset_password(data_dir, user, password, remove_totp=remove_totp))
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(done)).decode())
        return
    typer.echo(f"user         {done.user}, {done.role}{', disabled' if done.disabled else ''}")
    if done.password:
        typer.echo(f"password     {done.password}  (shown this once)")
    typer.echo("sessions     all of this user's have ended")
    if done.needs_code:
        typer.echo("code         is asked for as before (--remove-totp if it is lost)")
    typer.echo(f"next         cairn login --user {done.user}; a new password is asked for then")
    if done.disabled:
        typer.echo(f"but          an admin has to enable it: cairn user set {done.user} --enable")


@app.command("hash-password")
def hash_password_command(
    password_file: Annotated[
        str,
        typer.Option(
            metavar="FILE", help="File with the password in its first line; - reads stdin."
        ),
    ] = "-",
) -> None:
    """Print the hash of a password, for the seed of an appliance that isn't there yet."""
    if password_file == "-" and sys.stdin.isatty():
        password = typer.prompt("Password of admin", hide_input=True, confirmation_prompt=True)
    else:
        password = _password(password_file)
    typer.echo(hash_password(check_password(password)))


@app.command("version")
def version_command() -> None:
    """Print the version."""
    typer.echo(__version__)


def main() -> NoReturn:
    """Run the command line and exit."""
    harden()
    sys.exit(outcome())


def outcome(arguments: list[str] | None = None) -> int:
    """Run a command line and return its exit code; errors are on stderr by then."""
    command = typer.main.get_command(app)
    try:
        result = command.main(arguments, prog_name="cairn-appliance", standalone_mode=False)
    except TyperException as error:
        return _ended(_BAD_INPUT, error.format_message(), "see `cairn-appliance --help`")
    except (KeyboardInterrupt, typer.Abort):
        return _INTERRUPTED
    except BaseExceptionGroup as group:
        return _of_error(_first(group))
    except Exception as error:  # noqa: BLE001 - a person gets a sentence, not a traceback
        return _of_error(error)
    return result if isinstance(result, int) else 0


def _of_error(error: BaseException) -> int:
    match error:
        case CairnError():
            return _ended(_exit_code(error), error.cause, error.remedy)
        case Unavailable():
            cause, remedy = f"the store can't be used: {error}", "look into etcd.log"
            return _ended(_UNREACHABLE, cause, remedy)
        case StoreError():
            cause, remedy = f"the store's content can't be used: {error}", "restore a backup"
            return _ended(5, cause, remedy)
    last = traceback.extract_tb(error.__traceback__)[-1:]
    place = f" at {Path(last[0].filename).name}:{last[0].lineno}" if last else ""
    cause = f"a bug: {type(error).__name__}: {error}{place}"
    return _ended(_BUG, cause, "report this with the log")


def _exit_code(error: CairnError) -> int:
    own: int | None = getattr(error, "exit_code", None)
    if own is not None:
        return own
    if isinstance(error, SettingsError | Invalid):
        return _BAD_INPUT
    if isinstance(error, NotAvailable):
        return _UNREACHABLE
    return _REFUSED if isinstance(error, Refused | NotFound) else _BUG


def _ended(code: int, cause: str, remedy: str) -> int:
    typer.echo(f"error: {cause}\n  what to do: {remedy}", err=True)
    return code


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the first error of a group: the others are its consequences."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def _in_loop(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)


def _recovery_key(place: str) -> RecoveryKey:
    """Return the key from a file, or as it is typed in: it is in no argv."""
    try:
        if place != "-":
            return RecoveryKey.parse(Path(place).read_text("utf-8"))
        if sys.stdin.isatty():
            return RecoveryKey.parse(typer.prompt("Recovery key", hide_input=True))
        return RecoveryKey.parse(sys.stdin.read(_STRING_MAX))
    except OSError as error:
        raise Invalid(f"{place} can't be read: {error.strerror}", "name another file") from error
    except (PkiError, UnicodeDecodeError) as error:
        raise Invalid(str(error), "type in the key as it was shown", code="invalid_key") from error


def _password(place: str) -> str:
    """Return the first line of a file or of stdin: it is in no argv."""
    try:
        if place == "-":
            text = sys.stdin.readline(_STRING_MAX)
        else:
            with Path(place).open(encoding="utf-8") as file:
                text = file.readline(_STRING_MAX)
    except OSError as error:
        raise Invalid(f"{place} can't be read: {error.strerror}", "name another file") from error
    except UnicodeDecodeError as error:
        raise Invalid(f"{place} is no text", "put the password into its first line") from error
    password = text.rstrip("\r\n")
    if not password:
        raise Invalid("the password is empty: nothing was changed")
    return password


def _settings(addresses: list[str], cluster_address: str) -> Settings:
    settings = Settings(addresses=addresses_of(addresses))
    check_settings(settings)
    own = cluster_address_of(settings.addresses, cluster_address)
    settings = msgspec.structs.replace(settings, cluster_address=own)
    check_settings(settings)
    return settings


def _told(made: Initialised, data_dir: Path) -> str:
    lines = [
        f"cluster      {made.cluster_id}",
        f"data         {data_dir}",
        f"agents       {', '.join(made.appliances)}",
        f"operations   {made.ops_url}",
        f"fingerprint  {made.ca_pin}  (SHA-256 of the cluster's CA)",
        f"user         {made.admin_user}",
        f"password     {made.admin_password}  (shown this once)",
        f"recovery key {made.recovery_key}",
        "             (shown this once: it opens the backups; keep it where no appliance is)",
    ]
    if made.token:
        lines.append(f"token        {made.token}  (shown this once)")
    lines.append(f"next         cairn-appliance run --data-dir {data_dir}")
    return "\n".join(lines)


class _LineFormatter(logging.Formatter):
    """One line for each record, whatever is in it; times in UTC."""

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _log_to_stderr(level: int) -> None:
    handler = logging.StreamHandler()
    form = "%(asctime)s level=%(levelname)s part=%(name)s %(message)s"
    handler.setFormatter(_LineFormatter(form, "%Y-%m-%dT%H:%M:%SZ"))
    logging.basicConfig(level=level, handlers=[handler])
    for chatty in ("uvicorn.error", "httpx"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


if __name__ == "__main__":
    main()
