"""`cairn login`, `cairn logout`."""

from __future__ import annotations

import getpass
import re
import sys
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from cairn_appliance.cli import output
from cairn_appliance.cli.connection import (
    Connection,
    base_url,
    fetch_cas,
    fingerprint_of,
    path_of,
)
from cairn_appliance.cli.errors import ApiProblem, CommandError, Exit
from cairn_appliance.cli.options import AsJson
from cairn_appliance.cli.replies import Login
from cairn_appliance.cli.session import Session, load, save

_SHA256 = re.compile(r"[0-9a-f]{64}")
_PASSWORD_MAX_OCTETS = 4096


def login(
    url: Annotated[
        str | None,
        typer.Argument(metavar="[URL]", help="https://HOST:8443; the last one if left out."),
    ] = None,
    user: Annotated[str | None, typer.Option(help="User name; admin if left out.")] = None,
    password_file: Annotated[
        str, typer.Option(metavar="FILE", help="File with the password; - reads stdin.")
    ] = "prompt",
    fingerprint: Annotated[
        str | None,
        typer.Option(
            metavar="SHA256", help="Of the cluster's CA, as `cairn-appliance init` printed it."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Log in to an appliance."""
    known = load()
    if url is None and known is None:
        raise CommandError(Exit.BAD_INPUT, "no appliance is named", "cairn login https://HOST:8443")
    address = base_url(url) if url else (known.url if known else "")
    ca = _trusted_ca(address, known, fingerprint)
    name = user or (known.user if known and known.url == address else "admin")
    opened = Session(address, name, ca, fingerprint_of(ca))
    with Connection(opened) as connection:
        body = {"name": name, "password": _password(password_file, name, address)}
        reply = connection.post(path_of("login"), Login, body)
        ca = connection.ca()  # another one where it was replaced since the last login
    opened = msgspec.structs.replace(
        opened, token=reply.value.token, ca=ca, fingerprint=fingerprint_of(ca)
    )
    save(opened)
    _tell(address, opened.fingerprint, reply.value, as_json)


def logout(as_json: AsJson = False) -> None:
    """Log out; the appliance stays remembered."""
    session = load()
    if session is None or not session.token:
        raise CommandError(Exit.REFUSED, "you are not logged in", "cairn login")
    save(msgspec.structs.replace(session, token=""))
    _end(session)
    if as_json:
        output.print_json({"url": session.url, "user": session.user})
    else:
        output.say(f"Logged out of {session.url}.")


def _end(session: Session) -> None:
    try:
        with Connection(session) as connection:
            connection.post(path_of("logout"), type(None))
    except ApiProblem as problem:
        if problem.status != 401:  # it has ended by itself: that is what was asked for
            raise


def _tell(address: str, fingerprint: str, opened: Login, as_json: bool) -> None:
    if as_json:
        told = {"url": address, "user": opened.user, "role": opened.role}
        ends = opened.ends_at.isoformat()
        output.print_json({**told, "fingerprint": fingerprint, "ends_at": ends})
        return
    output.say(f"Logged in to {address} as {opened.user} ({opened.role}).")


def _trusted_ca(address: str, known: Session | None, fingerprint: str | None) -> str:
    """Return the CA to believe: pinned, remembered, or accepted by the person."""
    if fingerprint is None and known is not None and known.url == address:
        return known.ca
    pin = _pin(fingerprint) if fingerprint is not None else None
    cas = {fingerprint_of(pem): pem for pem in fetch_cas(address)}
    shown = next(iter(cas))
    if pin is None:
        _accept(address, shown)
    elif pin not in cas:
        raise CommandError(
            Exit.REFUSED,
            f"the CA of {address} has another fingerprint than the one given",
            "compare with what `cairn-appliance init` printed, or `cairn ca status` since; if the "
            "given one is right, someone is in between: don't log in",
            lines=(f"given: {pin}", f"shown: {shown}"),
        )
    return cas[pin or shown]


def _accept(address: str, shown: str) -> None:
    lines = (
        f"{address} is not known here yet. Its cluster's CA has this SHA-256 fingerprint:",
        f"  {shown}",
        "Compare it with the one that `cairn-appliance init` printed.",
    )
    for line in lines:
        print(line, file=sys.stderr)
    if not output.ask("Is it the same? [y/N] ", unattended=f"add --fingerprint {shown}"):
        raise CommandError(Exit.REFUSED, "the appliance is not trusted: nothing was sent to it")


def _pin(text: str) -> str:
    pin = text.lower().removeprefix("sha256:").replace(":", "").strip()
    if not _SHA256.fullmatch(pin):
        raise CommandError(
            Exit.BAD_INPUT,
            "the fingerprint is no SHA-256",
            "give the 64 hexadecimal digits that `cairn-appliance init` printed",
        )
    return pin


def _password(source: str, user: str, address: str) -> str:
    if source == "-":
        return sys.stdin.readline(_PASSWORD_MAX_OCTETS).rstrip("\r\n")
    if source != "prompt":
        return _password_of_file(Path(source))
    if not sys.stdin.isatty():
        raise CommandError(
            Exit.BAD_INPUT,
            "there is no terminal to ask for the password on",
            "add --password-file FILE, or --password-file - and send it to stdin",
        )
    return getpass.getpass(f"Password of {user} at {address}: ")


def _password_of_file(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            return file.readline(_PASSWORD_MAX_OCTETS).rstrip("\r\n")
    except OSError as error:
        raise CommandError(
            Exit.LOCAL_STATE, f"{path} can't be read: {error.strerror}", "name a readable file"
        ) from error
    except UnicodeDecodeError as error:
        raise CommandError(
            Exit.BAD_INPUT, f"{path} is no text", "put the password into its first line"
        ) from error
