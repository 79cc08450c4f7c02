"""`cairn oidc`: the identity provider that people may log in by, in the console."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from cairn_appliance.cli import output, secret_input
from cairn_appliance.cli.connection import Connection, path_of
from cairn_appliance.cli.errors import CommandError, Exit
from cairn_appliance.cli.options import AsJson, Yes, connect, group
from cairn_appliance.cli.replies import Reply
from cairn_appliance.cli.replies_access import OidcSettings, OidcTest

app = group("The identity provider (OpenID Connect) that people log in to the console by.")

_PATH = ("settings", "oidc")
_TEST_WAIT_S = 15.0
_NOBODY = "none"


@app.command()
def show(as_json: AsJson = False) -> None:
    """Show the provider, and who may come in with which role; its secret is never told."""
    with connect() as connection:
        reply = _get(connection)
    _print(reply, as_json)


@app.command("set")
def set_provider(
    issuer: Annotated[str, typer.Option(metavar="URL", help="As the provider calls itself.")] = "",
    client_id: Annotated[str, typer.Option(metavar="ID", help="Of this cluster there.")] = "",
    secret_file: Annotated[
        str, typer.Option(metavar="FILE", help="The client's secret; - reads stdin.")
    ] = "",
    public: Annotated[bool, typer.Option("--public", help="The client has no secret.")] = False,
    name: Annotated[str, typer.Option(metavar="NAME", help="As the button calls it.")] = "",
    role: Annotated[
        list[str] | None,
        typer.Option(metavar="GROUP=ROLE", help="Who is in it has the role; again for more."),
    ] = None,
    default_role: Annotated[
        str, typer.Option(metavar="ROLE", help=f"Of who is in none; {_NOBODY}: may not log in.")
    ] = "",
    role_claim: Annotated[str, typer.Option(metavar="CLAIM", help="Where groups are.")] = "",
    user_claim: Annotated[str, typer.Option(metavar="CLAIM", help="Where the name is.")] = "",
    scope: Annotated[
        list[str] | None, typer.Option(metavar="SCOPE", help="To ask for; again for more.")
    ] = None,
    allow_domain: Annotated[
        list[str] | None, typer.Option(metavar="DOMAIN", help="Only mail addresses of it.")
    ] = None,
    allow_group: Annotated[
        list[str] | None, typer.Option(metavar="GROUP", help="Only who is in it.")
    ] = None,
    ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The CA of its certificate, PEM.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Set the provider, or change some of it: what is not named stays as it is.

    A list that is named (--role, --scope, --allow-domain, --allow-group) replaces the whole list;
    an empty one ("") empties it.
    """
    changes: dict[str, Any] = {
        "issuer": issuer or None,
        "client_id": client_id or None,
        "name": name or None,
        "role_claim": role_claim or None,
        "user_claim": user_claim or None,
        "scopes": _listed(scope),
        "allowed_domains": _listed(allow_domain),
        "allowed_groups": _listed(allow_group),
        "roles": None if role is None else _roles(role),
        "ca": None if ca is None else _read(ca),
        "client_secret": _secret(secret_file, public=public),
    }
    with connect() as connection:
        known = _get(connection)
        body = {**_kept(known.value), **{k: v for k, v in changes.items() if v is not None}}
        if default_role:
            body["default_role"] = None if default_role == _NOBODY else default_role
        if not body["issuer"] or not body["client_id"]:
            raise CommandError(
                Exit.BAD_INPUT,
                "no identity provider is set yet",
                "name it: cairn oidc set --issuer URL --client-id ID --secret-file FILE "
                "--role GROUP=admin",
            )
        made = connection.put(path_of(*_PATH), OidcSettings, body, etag=known.etag)
    _print(made, as_json)
    if not as_json:
        output.say("", "Try it: cairn oidc test")


@app.command()
def clear(yes: Yes = False, as_json: AsJson = False) -> None:
    """Forget the provider: nobody logs in by way of it any more."""
    with connect() as connection:
        known = _get(connection)
        if not known.value.issuer:
            raise CommandError(Exit.BAD_INPUT, "no identity provider is set", "cairn oidc set")
        lost = [
            f"users of {known.value.issuer} can't log in any more; they stay in `cairn user list`, "
            "and their sessions and API tokens go on until they end",
            "the client's secret and who has which role are forgotten",
        ]
        output.confirm("Forget the identity provider?", lost, yes=yes)
        connection.delete(path_of(*_PATH), etag=known.etag)
    if as_json:
        output.print_json({"cleared": known.value.issuer})
    else:
        output.say(f"Nobody logs in by way of {output.clean(known.value.issuer)} any more.")


@app.command()
def test(as_json: AsJson = False) -> None:
    """Ask the provider from the appliance what a login asks; exit code 3 where it fails."""
    with connect() as connection:
        reply = connection.post(path_of(*_PATH, "test"), OidcTest, wait_s=_TEST_WAIT_S)
    tested = reply.value
    if as_json:
        output.print_json(reply.whole)
    elif tested.ok:
        output.say(f"The identity provider answers, with {output.counted(tested.keys, 'key')}.")
    if tested.ok:
        return
    if as_json:
        raise typer.Exit(Exit.UNREACHABLE)
    raise CommandError(Exit.UNREACHABLE, tested.error, tested.remedy)


def _get(connection: Connection) -> Reply[OidcSettings]:
    return connection.get(path_of(*_PATH), OidcSettings)


def _kept(known: OidcSettings) -> dict[str, Any]:
    """Return what sets the same again; the secret stays where it is."""
    fields = msgspec.to_builtins(known)
    return {name: fields[name] for name in fields if name not in ("has_secret", "redirect_uri")}


def _roles(given: list[str]) -> dict[str, str]:
    rules = {}
    for each in filter(None, given):
        value, _, role = each.rpartition("=")
        if not value or role not in ("viewer", "operator", "admin"):
            raise CommandError(
                Exit.BAD_INPUT,
                f"{each!r} gives nobody a role",
                "write GROUP=viewer, GROUP=operator or GROUP=admin",
            )
        rules[value] = role
    return rules


def _listed(given: list[str] | None) -> list[str] | None:
    return None if given is None else [each for each in given if each]


def _secret(source: str, *, public: bool) -> str | None:
    """Return the client's secret; None: it stays."""
    if public and source:
        raise CommandError(
            Exit.BAD_INPUT, "a public client has no secret", "leave --public or --secret-file out"
        )
    if public:
        return ""
    if not source:
        return None
    secret = secret_input.password(source, "")
    if not secret:
        raise CommandError(Exit.BAD_INPUT, "the secret is empty", "--public: the client has none")
    return secret


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeError) as error:
        raise CommandError(
            Exit.BAD_INPUT, f"{path} can't be read: {error}", "give a certificate in PEM"
        ) from error


def _print(reply: Reply[OidcSettings], as_json: bool) -> None:
    if as_json:
        output.print_json(reply.whole)
        return
    known = reply.value
    if not known.issuer:
        output.say(
            "No identity provider is set: people log in with name and password.",
            f"To be registered there: {known.redirect_uri}",
            "Then: cairn oidc set --issuer URL --client-id ID --secret-file FILE",
        )
        return
    roles = [f"{output.clean(value)} is {role}" for value, role in known.roles.items()]
    pairs: list[tuple[str, output.Value]] = [
        ("issuer", known.issuer),
        ("client", known.client_id),
        ("secret", "set" if known.has_secret else "none: a public client"),
        ("redirect to", known.redirect_uri),
        ("scopes", ", ".join(("openid", "profile", "email", *known.scopes))),
        ("name from", known.user_claim),
        ("role from", known.role_claim),
        ("roles", roles),
        ("others", known.default_role or "may not log in"),
        ("only domains", ", ".join(known.allowed_domains)),
        ("only groups", ", ".join(known.allowed_groups)),
        ("certificate", "of the CA that was given" if known.ca else "as the system believes"),
    ]
    output.facts(f"Log in by {output.clean(known.name)}", pairs)
