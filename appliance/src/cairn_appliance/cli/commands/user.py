"""`cairn user`."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated

import segno
import typer
from rich.text import Text

from cairn_appliance.cli import output, secret_input
from cairn_appliance.cli.connection import path_of
from cairn_appliance.cli.errors import CommandError, Exit
from cairn_appliance.cli.options import AsJson, Yes, connect, group
from cairn_appliance.cli.output import ago, local, until
from cairn_appliance.cli.replies import Reply
from cairn_appliance.cli.replies_access import RecoveryCodes, Totp, User, Who
from cairn_appliance.cli.secret_input import PROMPT, PasswordFile

app = group("Users: who may log in, and what they may.")


class RoleName(StrEnum):
    """What a user may do; each may all that the one before it may."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


Name = Annotated[str, typer.Argument(metavar="USER", help="Name of the user.")]
Role = Annotated[RoleName, typer.Option(help="viewer sees, operator runs, admin decides.")]


@app.command("list")
def list_users(as_json: AsJson = False) -> None:
    """List all users."""
    with connect() as connection:
        replies = list(connection.pages(path_of("users"), User))
    if as_json:
        output.print_json([reply.whole for reply in replies])
        return
    rows = (_row(reply.value) for reply in replies)
    output.table(
        ("NAME", "ROLE", "STATE", "CODE", "LAST LOGIN"), rows, fold=("STATE",), empty="No user."
    )


@app.command()
def show(user: Name, as_json: AsJson = False) -> None:
    """Show one user."""
    with connect() as connection:
        reply = connection.get(path_of("users", user), User)
    _print(reply, as_json)


@app.command()
def create(
    user: Name,
    role: Role = RoleName.VIEWER,
    password_file: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="With the password; - reads stdin. Drawn if left out."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a user; a password is drawn and shown, to be changed at the first login."""
    given = secret_input.new_password(password_file, user) if password_file else ""
    body = {"name": user, "role": role.value, "password": given}
    with connect() as connection:
        reply = connection.post(path_of("users"), User, body)
    _print(reply, as_json)


@app.command("set")
def change(
    user: Name,
    role: Annotated[RoleName | None, typer.Option(help="The role from now on.")] = None,
    disabled: Annotated[
        bool | None,
        typer.Option("--disable/--enable", help="Disabled, nobody logs in; sessions end."),
    ] = None,
    no_totp: Annotated[
        bool, typer.Option("--no-totp", help="Ask for no code any more: the device is lost.")
    ] = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Change a user; it counts at once, also for open sessions."""
    body: dict[str, object] = {}
    if role is not None:
        body["role"] = role.value
    if disabled is not None:
        body["disabled"] = disabled
    if no_totp:
        body["totp"] = False
    if not body:
        raise CommandError(Exit.BAD_INPUT, "nothing is to change", "look at cairn user set --help")
    lost = ["the sessions of this user end, and API tokens open nothing"] if disabled else []
    if no_totp:
        lost.append("the password alone opens the account; the recovery codes are void")
    if lost:
        output.confirm(f"Change the user {user}?", lost, yes=yes)
    _print(_patch(user, body), as_json)


@app.command()
def delete(user: Name, yes: Yes = False, as_json: AsJson = False) -> None:
    """Delete a user; sessions and API tokens open nothing from then on."""
    with connect() as connection:
        known = connection.get(path_of("users", user), User)
        lost = ["the sessions and the API tokens of this user, at once"]
        output.confirm(f"Delete the user {user}?", lost, yes=yes)
        connection.delete(path_of("users", user), known.etag)
    if as_json:
        output.print_json({"deleted": known.whole})
    else:
        output.say(f"The user {user} is deleted.")


@app.command()
def password(
    user: Annotated[
        str | None, typer.Argument(metavar="[USER]", help="Another user; your own if left out.")
    ] = None,
    password_file: Annotated[
        str,
        typer.Option(metavar="FILE", help="With the new password; - reads stdin."),
    ] = PROMPT,
    old_password_file: Annotated[
        str, typer.Option(metavar="FILE", help="With your own old password; - reads stdin.")
    ] = PROMPT,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Change your own password; of another user, draw one that has to be changed."""
    if user is not None:
        lost = ["the password of before opens nothing, and the sessions of this user end"]
        output.confirm(f"Set another password of the user {user}?", lost, yes=yes)
        given = "" if password_file == PROMPT else secret_input.new_password(password_file, user)
        _print(_patch(user, {"password": given}), as_json)
        return
    with connect() as connection:
        who = connection.get(path_of("session"), Who).value
        old = secret_input.password(old_password_file, f"Old password of {who.user}: ")
        new = secret_input.new_password(password_file, who.user)
        connection.post(path_of("session", "password"), type(None), {"old": old, "new": new})
    if as_json:
        output.print_json({"user": who.user})
    else:
        output.say(f"The password of {who.user} is changed; other sessions have ended.")


@app.command()
def totp(
    remove: Annotated[bool, typer.Option("--remove", help="Ask for no code any more.")] = False,
    password_file: PasswordFile = PROMPT,
    code_file: Annotated[
        str, typer.Option(metavar="FILE", help="With the first code; - reads stdin.")
    ] = PROMPT,
    as_json: AsJson = False,
) -> None:
    """Ask for a code of an app at each of your logins; --remove ends that."""
    if remove:
        _remove_totp(password_file, as_json)
        return
    with connect() as connection:
        offered = connection.post(path_of("session", "totp"), Totp).value
        if as_json:  # one object a line: a program reads the secret before it sends a code
            output.print_json_line({"secret": offered.secret, "uri": offered.uri})
        else:
            _show_secret(offered)
        first = secret_input.code(code_file, "The code that the app shows: ")
        path = path_of("session", "totp", "confirm")
        codes = connection.post(path, RecoveryCodes, {"code": first})
    if as_json:
        output.print_json_line(codes.whole)
        return
    output.say(
        "A code is asked for from now on. Keep these where the app is not: each opens once,",
        "and they are shown only now:",
        "",
        *codes.value.recovery_codes,
    )


def _remove_totp(password_file: str, as_json: bool) -> None:
    with connect() as connection:
        who = connection.get(path_of("session"), Who).value
        given = secret_input.password(password_file, f"Password of {who.user}: ")
        path = path_of("session", "totp", "remove")
        connection.post(path, type(None), {"password": given})
    if as_json:
        output.print_json({"user": who.user, "totp": False})
    else:
        output.say(f"No code is asked for any more when {who.user} logs in.")


def _show_secret(offered: Totp) -> None:
    code = segno.make(offered.uri, error="l")
    output.say(*_drawn(code.matrix_iter(border=2)))
    output.say(
        "Scan this with an authenticator app, or give it the secret by hand:",
        "",
        offered.secret,
        offered.uri,
        "",
    )


def _drawn(rows: Iterable[Iterable[int]]) -> list[str]:
    """Return a QR code as text, two modules a character; dark modules are left blank."""
    lines = [list(row) for row in rows]
    if len(lines) % 2:
        lines.append([0] * len(lines[0]))
    blocks = {(0, 0): "█", (0, 1): "▀", (1, 0): "▄", (1, 1): " "}
    return [
        "".join(blocks[bool(upper), bool(lower)] for upper, lower in zip(*pair, strict=True))
        for pair in zip(lines[::2], lines[1::2], strict=True)
    ]


def _patch(user: str, body: dict[str, object]) -> Reply[User]:
    with connect() as connection:
        known = connection.get(path_of("users", user), User)
        return connection.patch(path_of("users", user), User, body, known.etag)


def _print(reply: Reply[User], as_json: bool) -> None:
    if as_json:
        output.print_json(reply.whole)
        return
    user = reply.value
    pairs: list[tuple[str, output.Value]] = [
        ("role", user.role),
        ("state", _state(user)),
        ("login", "by the identity provider: it decides the role" if user.external else ""),
        ("code", "" if user.external else _asked_for(user)),
        ("created", local(user.created_at) if user.created_at else ""),
        ("last login", ago(user.last_login_at) or "never"),
    ]
    output.facts(f"User {output.clean(user.name)}", pairs)
    if user.password:
        output.say("", Text("The password; it is shown only now:", style="bold"), "", user.password)
        output.say("", f"To be changed at the next login: cairn login --user {user.name}")


def _asked_for(user: User) -> str:
    return "asked for at each login" if user.totp else "not asked for"


def _row(user: User) -> tuple[output.Value, ...]:
    code = "on" if user.totp else "-"
    return (user.name, user.role, _state(user), code, ago(user.last_login_at) or "never")


def _state(user: User) -> Text:
    if user.disabled:
        return Text("disabled", style=output.DIM)
    if user.locked_until:
        return Text(f"locked, opens {until(user.locked_until)}", style=output.BAD)
    if user.must_change_password:
        return Text("has to change the password", style=output.WARN)
    return Text("active, external" if user.external else "active", style=output.GOOD)
