"""The last admin has lost password and device: let in again on a running appliance."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import httpx
import pytest
from cairn_agent.control.tls import server_context
from cairn_appliance.domain import totp

from tests.integration.appliance.running import RunningAppliance

pytestmark = pytest.mark.etcd

PASSWORD = "correct horse battery"


@pytest.fixture(scope="module")
def appliance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningAppliance]:
    made = RunningAppliance(tmp_path_factory.mktemp("reset"))
    made.start()
    try:
        yield made
    finally:
        if made.process is not None and made.process.poll() is None:
            made.process.kill()
            made.process.wait()


def reset(
    appliance: RunningAppliance, *arguments: str, given: str = ""
) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "cairn_appliance.main", "reset-password", *arguments]
    line += ["--data-dir", str(appliance.data_dir)]
    return subprocess.run(
        line, capture_output=True, text=True, timeout=60, input=given, check=False
    )


def client(appliance: RunningAppliance, token: str = "") -> httpx.Client:
    return httpx.Client(
        base_url=f"https://127.0.0.1:{appliance.settings.ops_port}/api/v1/",
        verify=server_context(appliance.ca),
        trust_env=False,
        headers={"Authorization": f"Bearer {token}"} if token else {},
    )


def test_who_lost_password_and_device_gets_in_again_and_it_is_recorded(
    appliance: RunningAppliance,
) -> None:
    with client(appliance) as console:
        login = {"name": "admin", "password": appliance.made.admin_password}
        token = console.post("login", json=login).raise_for_status().json()["token"]
        console.headers["Authorization"] = f"Bearer {token}"
        secret = console.post("session/totp").raise_for_status().json()["secret"]
        key = base64.b32decode(secret + "=" * (-len(secret) % 8))
        code = totp.code_at(key, int(time.time()) // 30)
        console.post("session/totp/confirm", json={"code": code}).raise_for_status()

        kept = json.loads(reset(appliance, "--json").stdout)
        assert (kept["user"], kept["role"], kept["needs_code"]) == ("admin", "admin", True)
        done = reset(appliance, "admin", "--remove-totp", "--json")
        assert done.returncode == 0, done.stderr
        told = json.loads(done.stdout)
        assert (told["needs_code"], told["disabled"]) == (False, False)
        assert console.get("session").json()["code"] == "session_ended"

        del console.headers["Authorization"]
        assert console.post("login", json=login).json()["code"] == "wrong_login"
        login["password"] = told["password"]
        token = console.post("login", json=login).raise_for_status().json()["token"]
        console.headers["Authorization"] = f"Bearer {token}"
        assert console.get("session").json()["must_change_password"] is True
        assert console.get("nodes").json()["code"] == "password_change_needed"
        change = {"old": told["password"], "new": PASSWORD}
        console.post("session/password", json=change).raise_for_status()
        login["password"] = PASSWORD
        del console.headers["Authorization"]
        token = console.post("login", json=login).raise_for_status().json()["token"]
        console.headers["Authorization"] = f"Bearer {token}"

        events = console.get("events").json()["items"]
        told_of = [each for each in events if each["kind"] == "password_reset"]
        assert [each["severity"] for each in told_of] == ["warning"] * 2
        assert "totp_removed" in {each["kind"] for each in events}
        assert console.get("audit/verify").json()["ok"] is True
        rows = console.get("audit", params={"action": "cairn-appliance"}).json()["items"]
        assert [(each["target"], each["outcome"]) for each in rows if each["kind"] == "asked"] == [
            ("/users/admin", "done")
        ] * 2
        assert rows[0]["actor"]["name"].startswith("root on ")
    text = appliance.log.read_text()
    assert "audit is not as it was" not in text
    assert told["password"] not in text + done.stderr


def test_a_password_from_standard_input_and_what_is_refused(appliance: RunningAppliance) -> None:
    given = reset(appliance, "admin", "--password-file", "-", given="another horse battery\n")
    assert given.returncode == 0, given.stderr
    assert "another horse" not in given.stdout
    with client(appliance) as console:
        login = {"name": "admin", "password": "another horse battery"}
        assert console.post("login", json=login).status_code == 200
    for arguments, text, code in (
        (["nobody"], "there is no user 'nobody'", 4),
        (["--password-file", "-"], "the password is empty", 2),
    ):
        refused = reset(appliance, *arguments)
        assert (refused.returncode, text in refused.stderr) == (code, True), refused.stderr
        assert "Traceback" not in refused.stderr


def test_without_an_etcd_it_says_what_to_start(appliance: RunningAppliance) -> None:
    appliance.end(signal.SIGTERM)
    refused = reset(appliance)
    assert refused.returncode == 3, refused.stderr
    assert "start the appliance here" in refused.stderr
