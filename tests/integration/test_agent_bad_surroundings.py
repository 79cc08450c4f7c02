"""Where the agent can't work: a sentence, what to do, an exit code, nothing half-made."""

from __future__ import annotations

import base64
import os
import subprocess
from pathlib import Path

import pytest
from cairn_agent.identity import Identity, new_keys
from cairn_agent.protocol.token import Token, encode_token
from cairn_agent.state import StateDir

from tests.lab.machine import ROOT

AGENT = str(ROOT / ".venv" / "bin" / "cairn-agent")
TOKEN = encode_token(Token(["127.0.0.1:1"], "ab" * 32, "id", "secret-that-must-not-be-shown"))


def agent(
    directory: Path, *arguments: str, before: str = "", stdin: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run a command in namespaces of its own, after some preparation there."""
    command = f'{before} exec "$@"'
    directories = ["--state-dir", str(directory / "state"), "--runtime-dir", str(directory / "run")]
    return subprocess.run(
        ["unshare", "-m", "-n", "sh", "-c", command, "sh", AGENT, *directories, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "COLUMNS": "200"},
    )


def refusal(done: subprocess.CompletedProcess[str], exit_code: int) -> str:
    """Check the shape of an error and return it."""
    assert done.returncode == exit_code, done.stderr
    assert done.stderr.startswith("error: ")
    assert "\n  what to do: " in done.stderr
    assert "Traceback" not in done.stderr
    assert "secret-that-must-not-be-shown" not in done.stderr + done.stdout
    return done.stderr


def identity(**changes: str) -> Identity:
    """Return an identity of a cluster that can't be reached."""
    values = {"name": "vm", "state": "approved", "cluster_id": "c", "pin": "", "certificate": ""}
    key = base64.b64encode(bytes(32)).decode()
    return Identity(  # type: ignore[arg-type]
        keys=new_keys(), ca="", map_key=key, appliances=[], generation=1, **(values | changes)
    )


@pytest.mark.root
def test_run_without_the_capability_says_so(tmp_path: Path) -> None:
    done = agent(tmp_path, "run", before='set -- setpriv --bounding-set -net_admin "$@";')
    assert "as root" in refusal(done, 6)
    assert not (tmp_path / "state").exists()


@pytest.mark.root
def test_run_without_the_tun_device_says_so(tmp_path: Path) -> None:
    done = agent(tmp_path, "run", before="mount -t tmpfs none /dev/net;")
    assert "/dev/net/tun is missing" in refusal(done, 6)
    assert not (tmp_path / "state").exists()


@pytest.mark.root
@pytest.mark.tun
def test_run_with_a_damaged_identity_says_so_and_keeps_it(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")
    state.prepare()
    (state.path / "identity.json").write_text('{"keys": ')

    assert "identity.json is damaged" in refusal(agent(tmp_path, "run"), 5)

    assert (state.path / "identity.json").read_text() == '{"keys": '


@pytest.mark.root
def test_join_on_a_full_disk_uses_no_token_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    fill = f"mount -t tmpfs -o size=16k none {tmp_path}/state;"
    look = f"ls -A {tmp_path}/state >&2;"
    done = agent(tmp_path, "join", "-", before=fill, stdin=TOKEN)
    error = refusal(done, 5)
    assert "No space left" in error
    assert "free space" in error

    shown = agent(tmp_path, "join", "-", before=f'{fill} "$@" 2>/dev/null; {look} :;', stdin=TOKEN)
    assert "identity" not in shown.stderr


@pytest.mark.root
def test_join_where_no_appliance_answers_leaves_no_identity(tmp_path: Path) -> None:
    done = agent(tmp_path, "join", "-", stdin=TOKEN)
    assert "127.0.0.1:1 can't be reached" in refusal(done, 3)
    assert not (tmp_path / "state" / "identity.json").exists()


@pytest.mark.parametrize(
    ("token", "cause"),
    [
        ("", "a token starts with"),
        ("cairn1.", "damaged or cut short"),
        (TOKEN[:-5], "damaged or cut short"),
        (TOKEN + "!", "characters that no token has"),
        ("cairn2." + TOKEN[7:], "a token starts with"),
    ],
)
@pytest.mark.root
def test_a_broken_token_is_named(tmp_path: Path, token: str, cause: str) -> None:
    assert cause in refusal(agent(tmp_path, "join", "-", stdin=token), 2)
    assert not (tmp_path / "state").exists()


@pytest.mark.root
def test_join_twice_is_refused(tmp_path: Path) -> None:
    StateDir(tmp_path / "state").keep_identity(identity())
    assert "joined already" in refusal(agent(tmp_path, "join", "-", stdin=TOKEN), 4)


@pytest.mark.root
@pytest.mark.parametrize("command", ["status", "peers", "ping x -c 1"])
def test_commands_without_a_running_agent_say_how_to_start_it(tmp_path: Path, command: str) -> None:
    error = refusal(agent(tmp_path, *command.split()), 3)
    assert "the agent isn't running" in error
    assert "systemctl start cairn-agent" in error


@pytest.mark.root
def test_leaving_with_a_damaged_identity_needs_force(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")
    state.prepare()
    (state.path / "identity.json").write_text("x")

    refusal(agent(tmp_path, "leave", "--yes"), 5)
    assert agent(tmp_path, "leave", "--yes", "--force").returncode == 0

    assert not (state.path / "identity.json").exists()


@pytest.mark.root
@pytest.mark.parametrize(
    "variable", ["CAIRN_TEST_TIMERS={", 'CAIRN_TEST_TIMERS={"x":1}', "CAIRN_TEST_OFFLINE_TRUST_S=x"]
)
def test_a_test_setting_that_makes_no_sense_is_refused(tmp_path: Path, variable: str) -> None:
    name, _, value = variable.partition("=")
    done = agent(tmp_path, "status", before=f"export {name}='{value}';")
    assert name in refusal(done, 2)
