"""`cairn login` believes one CA only, and keeps the session to itself."""

from __future__ import annotations

import io
import json
import stat
import sys
from pathlib import Path

import httpx
import pytest
from cairn_appliance.cli import connection
from cairn_appliance.cli.session import session_path

from tests.unit.appliance.cli.conftest import Live, Shell
from tests.unit.appliance.operations import PASSWORD, operations


@pytest.fixture
def password(tmp_path: Path) -> str:
    """Return a file with the right password."""
    path = tmp_path / "password"
    path.write_text(PASSWORD + "\n")
    return str(path)


def test_a_login_with_the_right_fingerprint_is_remembered(
    live: Live, cairn: Shell, password: str
) -> None:
    pin = ":".join(live.fingerprint[i : i + 2] for i in range(0, 64, 2)).upper()
    told = cairn.ok("login", live.url, "--fingerprint", pin, "--password-file", password)

    assert told == f"Logged in to {live.url} as admin (admin).\n"
    assert "Cluster" in cairn.ok("status")
    path = session_path()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert PASSWORD not in path.read_text()


def test_a_foreign_fingerprint_ends_before_the_password_is_sent(
    live: Live, cairn: Shell, password: str
) -> None:
    pin = operations().authority.pin
    ended = cairn("login", live.url, "--fingerprint", pin, "--password-file", password)

    assert ended.code == 4
    assert "another fingerprint than the one given" in ended.err
    assert f"given: {pin}" in ended.err
    assert f"shown: {live.fingerprint}" in ended.err
    assert not session_path().exists()
    events = live.do(live.operations.services.events.latest())
    assert [event.kind for event in events] == []


@pytest.mark.parametrize("is_soon_ready", [True, False])
def test_an_appliance_that_is_not_ready_yet_is_asked_again_and_said_to_be_so(
    live: Live, cairn: Shell, password: str, monkeypatch: pytest.MonkeyPatch, is_soon_ready: bool
) -> None:
    problem = {"code": "no_quorum", "detail": "it waits for its quorum", "remedy": "try again"}
    whole, asked = httpx.Client.get, 0

    def get(client: httpx.Client, path: str) -> httpx.Response:
        nonlocal asked
        asked += 1
        is_ready = is_soon_ready and asked > 2
        return whole(client, path) if is_ready else httpx.Response(503, json=problem)

    monkeypatch.setattr(httpx.Client, "get", get)
    monkeypatch.setattr(connection, "_WAIT_MAX_S", 0.1)
    monkeypatch.setattr(connection, "_REPEAT_WITHIN_S", 1.0)
    pin = live.fingerprint
    ended = cairn("login", live.url, "--fingerprint", pin, "--password-file", password)

    if is_soon_ready:
        assert ended.code == 0, ended.err
    else:
        assert ended.code != 0
        assert "it waits for its quorum" in ended.err


def test_without_a_fingerprint_the_person_is_shown_it_and_asked(
    live: Live, cairn: Shell, password: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal("n\n"))
    refused = cairn("login", live.url, "--password-file", password)
    monkeypatch.setattr(sys, "stdin", Terminal("yes\n"))
    accepted = cairn("login", live.url, "--password-file", password)

    assert refused.code == 4
    assert live.fingerprint in refused.err
    assert "nothing was sent to it" in refused.err
    assert accepted.code == 0
    assert live.fingerprint in accepted.err


def test_without_a_terminal_nobody_is_asked(live: Live, cairn: Shell, password: str) -> None:
    ended = cairn("login", live.url, "--password-file", password)

    assert ended.code == 2
    assert f"add --fingerprint {live.fingerprint}" in ended.err


def test_the_next_login_needs_no_url(live: Live, logged_in: Shell, password: str) -> None:
    logged_in.ok("logout")
    assert logged_in("status").code == 4

    told = logged_in.ok("login", "--password-file", password, "--json")

    assert json.loads(told)["url"] == live.url
    assert logged_in("status").code == 0


def test_a_password_may_come_from_stdin(
    live: Live, cairn: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(PASSWORD + "\n"))

    cairn.ok("login", live.url, "--fingerprint", live.fingerprint, "--password-file", "-")


def test_a_wrong_password_says_what_to_do(live: Live, cairn: Shell, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("wrong")
    arguments = ["--fingerprint", live.fingerprint, "--password-file", str(wrong)]

    ended = [cairn("login", live.url, *arguments) for _ in range(6)]

    assert [each.code for each in ended] == [4] * 6
    assert "error: the name or the password is wrong" in ended[0].err
    assert "error: the account is locked" in ended[5].err
    assert "what to do: try again in 15 minutes" in ended[5].err


def test_another_appliance_at_the_same_address_is_not_believed(
    live: Live, logged_in: Shell, password: str
) -> None:
    path = session_path()
    session = json.loads(path.read_text())
    session["ca"] = operations().authority.certificate.decode()
    path.write_text(json.dumps(session))

    for arguments in (["status"], ["login", "--password-file", password]):
        ended = logged_in(*arguments)
        assert ended.code == 4
        assert "is not from the cluster's CA" in ended.err


def test_a_name_that_the_certificate_does_not_have_is_said(
    live: Live, cairn: Shell, password: str
) -> None:
    url = f"https://localhost:{live.port}"
    ended = cairn("login", url, "--fingerprint", live.fingerprint, "--password-file", password)

    assert ended.code == 4
    assert "the appliance's certificate is not for localhost" in ended.err


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        pytest.param(b"{", "is no session of this version of cairn", id="cut short"),
        pytest.param(b"\xff\x00", "is no session of this version of cairn", id="no text"),
        pytest.param(b'{"url": 7}', "is no session of this version of cairn", id="other types"),
    ],
)
def test_a_broken_session_file_is_said_and_not_repaired(
    cairn: Shell, content: bytes, sentence: str
) -> None:
    path = session_path()
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    path.chmod(0o600)

    ended = cairn("status")

    assert (ended.code, sentence in ended.err, "rm " in ended.err) == (5, True, True)
    assert path.read_bytes() == content


def test_a_session_that_others_can_read_is_refused(live: Live, logged_in: Shell) -> None:
    session_path().chmod(0o644)

    ended = logged_in("status")

    assert ended.code == 5
    assert "can be read by others" in ended.err


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["login", "http://192.0.2.1"], 2, "is not the address of an appliance"),
        (["login", "https://192.0.2.1/path"], 2, "is not the address of an appliance"),
        (["login", "https://[::1"], 2, "is not the address of an appliance"),
        (["login"], 2, "no appliance is named"),
        (["login", "127.0.0.1:1", "--fingerprint", "beef"], 2, "the fingerprint is no SHA-256"),
        (["login", "127.0.0.1:1"], 3, "can't be reached: Connection refused"),
        (["login", "no-such-host.invalid"], 3, "can't be reached"),
        (["status"], 4, "you are not logged in"),
        (["logout"], 4, "you are not logged in"),
    ],
)
def test_bad_input_is_a_sentence_and_an_exit_code(
    cairn: Shell, arguments: list[str], code: int, sentence: str
) -> None:
    ended = cairn(*arguments)

    assert (ended.code, ended.out) == (code, "")
    assert sentence in ended.err
    assert ended.err.startswith("error: ")
    assert "\n  what to do: " in ended.err


def test_a_password_file_that_is_not_there_is_said(live: Live, cairn: Shell) -> None:
    ended = cairn(
        "login", live.url, "--fingerprint", live.fingerprint, "--password-file", "/no/such/file"
    )

    assert ended.code == 5
    assert "/no/such/file can't be read: No such file or directory" in ended.err
