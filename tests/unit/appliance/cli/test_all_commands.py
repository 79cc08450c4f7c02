"""What holds for every command: JSON for programs, and a question before something is lost."""

from __future__ import annotations

import io
from collections.abc import Iterator

import click
import pytest
import typer
from cairn_appliance.cli import output
from cairn_appliance.cli.app import app
from cairn_appliance.cli.progress import working

from tests.unit.appliance.cli.conftest import Shell

# What takes something away that nobody can bring back by the same command, by its words; with
# arguments that the parser takes, since the question comes first or after a look.
DESTRUCTIVE = {
    "api-token delete",
    "audit accept",
    "backup key",
    "ca issue",
    "ca retire",
    "ca rotate",
    "cluster finish-upgrade",
    "cluster leave",
    "cluster replace",
    "cluster update rollback",
    "cluster update start",
    "event-output delete",
    "gateway detach",
    "gateway segment delete",
    "gateway stop",
    "map-key rotate",
    "map-key use",
    "member delete",
    "node claim",
    "node delete",
    "node reject",
    "oidc clear",
    "session end",
    "token delete",
    "user delete",
    "user password",
    "user set",
    "vsubnet delete",
    "vsubnet rotate",
}


def commands() -> dict[str, click.Command]:
    return dict(_below(typer.main.get_command(app), ()))


def _below(command: object, path: tuple[str, ...]) -> Iterator[tuple[str, click.Command]]:
    below = getattr(command, "commands", None)
    if below is None:
        yield " ".join(path), command  # type: ignore[misc]
        return
    for name, each in below.items():
        yield from _below(each, (*path, name))


def options(command: click.Command) -> set[str]:
    return {option for each in command.params for option in each.opts}


def test_each_command_prints_json_for_programs() -> None:
    assert {name for name, each in commands().items() if "--json" not in options(each)} == set()


def test_each_that_takes_something_away_asks_first() -> None:
    assert {name for name, each in commands().items() if "--yes" in options(each)} == DESTRUCTIVE
    assert all(word not in " ".join(commands()) for word in ("purge", "destroy"))


@pytest.mark.parametrize(
    ("arguments", "lost"),
    [
        (["user", "set", "admin", "--disable"], "sessions of this user end"),
        (["user", "set", "admin", "--no-totp"], "recovery codes are void"),
        (["user", "password", "admin"], "opens nothing"),
        (["session", "end", "0" * 16], "log in again"),
        (["cluster", "leave", "m9"], "can't be used again"),
        (["backup", "key"], "keep that as well"),
    ],
)
def test_nothing_is_done_where_nobody_can_be_asked(
    logged_in: Shell, arguments: list[str], lost: str
) -> None:
    ended = logged_in(*arguments)

    assert ended.code == 2
    assert lost in ended.err
    assert "--yes" in ended.err
    assert ended.out == ""
    assert logged_in("user", "show", "admin").code == 0  # the session is as it was


def test_a_bar_is_drawn_for_a_person_and_for_nobody_else(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with working("making a backup"):
        pass
    assert capsys.readouterr() == ("", "")

    class Screen(io.StringIO):
        def isatty(self) -> bool:
            return True

    screen = Screen()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(output.sys, "stderr", screen)
    with working("fetching b1\x1b[2J", octets=1 << 20) as came:
        came(1 << 19)
    assert "fetching b1" in screen.getvalue()
    assert "\x1b[2Jb" not in screen.getvalue()
    assert "0.5/1.0 MiB" in screen.getvalue()
    assert capsys.readouterr().out == ""
