"""`cairn user`, `cairn session`, `cairn api-token`, and logins with a code."""

from __future__ import annotations

import base64
import io
import json
import sys
from pathlib import Path

import pytest
from cairn_appliance.domain import totp
from cairn_appliance.domain.access import Role

from tests.unit.appliance.cli.conftest import Live, Shell
from tests.unit.appliance.operations import PASSWORD

OTHER = "another long password"


def kept(tmp_path: Path, name: str, text: str) -> str:
    path = tmp_path / name
    path.write_text(text + "\n")
    return str(path)


def test_a_user_is_made_changed_and_deleted(live: Live, logged_in: Shell) -> None:
    made = logged_in.ok("user", "create", "bob", "--role", "operator")
    assert "The password; it is shown only now:" in made
    assert "has to change the password" in made

    listed = [line.split() for line in logged_in.ok("user", "list").splitlines()]
    rows = [["NAME", "ROLE"], ["admin", "admin"], ["bob", "operator"]]
    assert [line[:2] for line in listed] == rows
    assert "viewer" in logged_in.ok("user", "set", "bob", "--role", "viewer", "--disable", "--yes")
    assert json.loads(logged_in.ok("user", "show", "bob", "--json"))["disabled"] is True
    assert "active" not in logged_in.ok("user", "set", "bob", "--enable")
    nothing = logged_in("user", "set", "bob")
    assert (nothing.code, "nothing is to change" in nothing.err) == (2, True)
    unconfirmed = logged_in("user", "delete", "bob")
    assert (unconfirmed.code, "--yes" in unconfirmed.err) == (2, True)
    assert logged_in.ok("user", "delete", "bob", "--yes") == "The user bob is deleted.\n"
    gone = logged_in("user", "show", "bob")
    assert (gone.code, "there is no user 'bob'" in gone.err) == (2, True)


def test_the_last_admin_is_refused_in_a_sentence(logged_in: Shell) -> None:
    ended = logged_in("user", "delete", "admin", "--yes")

    assert ended.code == 4
    assert "admin is the last administrator" in ended.err
    assert "make another user admin first" in ended.err


def test_a_new_user_logs_in_and_changes_the_password(
    live: Live, logged_in: Shell, tmp_path: Path
) -> None:
    made = json.loads(logged_in.ok("user", "create", "bob", "--json"))
    first, second = kept(tmp_path, "first", made["password"]), kept(tmp_path, "second", OTHER)

    told = logged_in.ok("login", "--user", "bob", "--password-file", first)
    held = logged_in("status")
    changed = logged_in.ok(
        "user", "password", "--old-password-file", first, "--password-file", second
    )

    assert "The password has to be changed first: cairn user password" in told
    assert (held.code, "cairn user password" in held.err) == (4, True)
    assert "The password of bob is changed" in changed
    assert "bob (viewer)" in logged_in.ok("status")
    logged_in.ok("login", "--user", "bob", "--password-file", second)


def test_an_admin_resets_a_password(live: Live, logged_in: Shell) -> None:
    live.do(live.operations.add_user("bob", Role.VIEWER))

    told = json.loads(logged_in.ok("user", "password", "bob", "--yes", "--json"))

    assert told["must_change_password"] is True
    assert live.do(live.operations.login("bob", told["password"]))


def test_a_password_is_never_an_argument(logged_in: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    for arguments in (["user", "password", "--password", OTHER], ["login", "--password", OTHER]):
        assert logged_in(*arguments).code == 2
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    ended = logged_in("user", "password")
    assert (ended.code, "--password-file" in ended.err) == (2, True)


def test_a_code_is_set_up_asked_for_and_taken_away(
    live: Live, logged_in: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []

    class App(io.StringIO):
        """Reads the secret from what was printed, as a person's app does."""

        def isatty(self) -> bool:
            return True

        def readline(self, size: int | None = -1, /) -> str:
            printed = sys.stdout.getvalue()  # type: ignore[attr-defined]
            shown.append(printed)
            lines = printed.splitlines()
            secret = next(line for line in lines if line.isalnum() and len(line) == 32)
            step = int(live.operations.clock() // totp.STEP_S)
            return totp.code_at(base64.b32decode(secret), step) + "\n"

    stdout = io.StringIO()
    monkeypatch.setattr(sys, "stdin", App())
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", stdout)
        assert logged_in("user", "totp").code == 0
    printed = stdout.getvalue()
    assert "otpauth://totp/Cairn:admin?secret=" in printed
    assert "█" in shown[0] and len({len(line) for line in printed.splitlines()[:20]}) == 1
    codes = [line for line in printed.splitlines()[-11:] if line.count("-") == 2]
    assert len(codes) == 10

    password = kept(tmp_path, "password", PASSWORD)
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    without = logged_in("login", "--password-file", password)
    recovery = kept(tmp_path, "code", codes[0])
    logged_in.ok("login", "--password-file", password, "--code-file", recovery)
    again = logged_in("login", "--password-file", password, "--code-file", recovery)
    assert (without.code, "--code-file" in without.err) == (2, True)
    assert (again.code, "the code is wrong, or was used before" in again.err) == (4, True)
    assert "No code is asked for" in logged_in.ok(
        "user", "totp", "--remove", "--password-file", password
    )
    logged_in.ok("login", "--password-file", password)


def test_sessions_are_listed_and_ended(live: Live, logged_in: Shell, tmp_path: Path) -> None:
    logged_in.ok("login", "--password-file", kept(tmp_path, "password", PASSWORD))
    listed = logged_in.ok("session", "list")
    assert "admin (this one)" in listed
    assert "cairn/" in listed
    rows = json.loads(logged_in.ok("session", "list", "--json"))
    other = next(row["id"] for row in rows if not row["current"])

    assert logged_in.ok("session", "end", other, "--yes") == f"The session {other} has ended.\n"
    assert len(json.loads(logged_in.ok("session", "list", "--json"))) == 1


def test_an_api_token_is_made_used_and_deleted(live: Live, logged_in: Shell) -> None:
    told = logged_in.ok("api-token", "create", "ci", "--scope", "operator", "--life", "7d")
    token = next(line for line in told.splitlines() if line.startswith("ct1_"))
    assert "API token ci (operator), ends in 7 d" in told
    never = json.loads(logged_in.ok("api-token", "create", "old", "--life", "never", "--json"))
    assert never["expires_at"] is None

    listed = logged_in.ok("api-token", "list")
    assert token not in listed
    string = logged_in("api-token", "delete", token, "--yes")
    assert (string.code, token in string.err) == (2, False)
    token_id = next(line.split()[0] for line in listed.splitlines() if " ci " in line)
    assert "is deleted" in logged_in.ok("api-token", "delete", token_id, "--yes")


def _token_file(live: Live, path: Path, scope: Role = Role.VIEWER) -> str:
    path.touch(0o600)
    path.write_text(live.do(live.operations.api_token(scope)) + "\n")
    return str(path)


def test_a_script_signs_in_with_a_token_from_a_file_and_needs_no_login(
    live: Live, cairn: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = _token_file(live, tmp_path / "token")
    monkeypatch.setenv("CAIRN_URL", live.url)
    monkeypatch.setenv("CAIRN_FINGERPRINT", live.fingerprint)

    assert json.loads(cairn.ok("--token-file", file, "vsubnet", "list", "--json")) == []
    refused = cairn("--token-file", file, "vsubnet", "create", "lab")
    assert (refused.code, "role" in refused.err) == (4, True)
    assert cairn("vsubnet", "list").code == 4  # the option is of one command line only
    monkeypatch.setenv("CAIRN_TOKEN_FILE", file)
    assert "Cluster" in cairn.ok("status")
    monkeypatch.setenv("CAIRN_FINGERPRINT", "0" * 64)
    other = cairn("status")
    assert (other.code, "another fingerprint" in other.err) == (4, True)
    monkeypatch.delenv("CAIRN_FINGERPRINT")
    unknown = cairn("status")
    assert (unknown.code, "the token was not sent" in unknown.err) == (4, True)


def test_a_token_goes_before_the_session_of_a_login(
    live: Live, logged_in: Shell, tmp_path: Path
) -> None:
    file = _token_file(live, tmp_path / "token")
    assert logged_in("--token-file", file, "vsubnet", "create", "lab").code == 4
    assert logged_in("vsubnet", "create", "lab").code == 0


@pytest.mark.parametrize(
    ("text", "mode", "code", "word"),
    [
        ("ct1_abc", 0o644, 5, "read by others"),
        ("cs1_abc", 0o600, 2, "no API token"),
        ("\u00e9", 0o600, 2, "no API token"),
        (None, 0, 5, "can't be read"),
    ],
)
def test_a_token_file_that_is_none_is_named(
    cairn: Shell, tmp_path: Path, text: str | None, mode: int, code: int, word: str
) -> None:
    path = tmp_path / "token"
    if text is not None:
        path.write_text(text)
        path.chmod(mode)
    ended = cairn("--token-file", str(path), "status")
    assert (ended.code, word in ended.err) == (code, True), ended.err
