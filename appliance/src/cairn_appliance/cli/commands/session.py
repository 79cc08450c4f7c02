"""`cairn login`, `cairn logout`."""

from __future__ import annotations

import re
import sys
from typing import Annotated

import msgspec
import typer

from cairn_appliance.cli import output, secret_input
from cairn_appliance.cli.connection import (
    Connection,
    base_url,
    fetch_cas,
    fingerprint_of,
    path_of,
)
from cairn_appliance.cli.errors import ApiProblem, CommandError, Exit
from cairn_appliance.cli.options import AsJson
from cairn_appliance.cli.replies import Reply
from cairn_appliance.cli.replies_access import Login
from cairn_appliance.cli.secret_input import PROMPT, PasswordFile
from cairn_appliance.cli.session import Session, load, save

_SHA256 = re.compile(r"[0-9a-f]{64}")


def login(
    url: Annotated[
        str | None,
        typer.Argument(metavar="[URL]", help="https://HOST:8443; the last one if left out."),
    ] = None,
    user: Annotated[str | None, typer.Option(help="User name; admin if left out.")] = None,
    password_file: PasswordFile = PROMPT,
    code_file: Annotated[
        str,
        typer.Option(metavar="FILE", help="File with the code, if one is needed; - reads stdin."),
    ] = PROMPT,
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
        password = secret_input.password(password_file, f"Password of {name} at {address}: ")
        reply = _log_in(connection, {"name": name, "password": password}, code_file)
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


def _log_in(connection: Connection, body: dict[str, str], code_file: str) -> Reply[Login]:
    """Log in, with a code where the account needs one."""
    try:
        return connection.post(path_of("login"), Login, body)
    except ApiProblem as problem:
        if problem.code != "totp_required":
            raise
    code = secret_input.code(code_file, "Code of your app, or a recovery code: ")
    return connection.post(path_of("login"), Login, {**body, "code": code})


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
    if opened.must_change_password:
        output.say("The password has to be changed first: cairn user password")


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
