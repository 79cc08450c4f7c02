"""The operator's command against a real appliance: processes, etcd, TLS, as a user has it.

cairn ---- TCP 8443 ---- cairn-appliance ---- etcd
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from cairn_agent.protocol.token import decode_token

from tests.integration.canaries import files_of
from tests.ports import free_port

pytestmark = [pytest.mark.etcd, pytest.mark.timeout(180)]

BIN = Path(sys.executable).parent
STARTS_WITHIN_S = 30.0


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


@dataclass
class Site:
    """One appliance and the configuration of one operator."""

    home: Path
    ops_port: int
    pin: str
    password: str
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        """Where the operations API is."""
        return f"https://127.0.0.1:{self.ops_port}"

    @property
    def data(self) -> Path:
        """The appliance's data directory."""
        return self.home / "data"

    def cairn(self, *arguments: str, stdin: str = "", columns: int = 80) -> Ended:
        """Run the command as a process of its own."""
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "COLUMNS": str(columns),
            "TZ": "UTC",
        }
        done = subprocess.run(
            [BIN / "cairn", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            env=environment,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    def ok(self, *arguments: str, stdin: str = "", columns: int = 80) -> str:
        """Run a command that must succeed and return what it printed."""
        ended = self.cairn(*arguments, stdin=stdin, columns=columns)
        assert (ended.code, ended.err) == (0, "")
        return ended.out

    def login(self) -> None:
        """Log in as admin."""
        arguments = ["--fingerprint", self.pin, "--password-file", "-"]
        self.ok("login", self.url, *arguments, stdin=self.password + "\n")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Yield a running appliance with a data directory of its own, and end it."""
    home = tmp_path_factory.mktemp("operations")
    init = ["init", "--data-dir", str(home / "data"), "--address", "127.0.0.1", "--json"]
    made = subprocess.run(
        [BIN / "cairn-appliance", *init], capture_output=True, check=True, timeout=60
    )
    told = json.loads(made.stdout)
    ports = [free_port() for _ in range(5)]
    use_ports(home / "data" / "settings.toml", ports)
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(
            [BIN / "cairn-appliance", "run", "--data-dir", str(home / "data")], stderr=log
        )
    running = Site(home, ports[1], told["ca_pin"], told["admin_password"], process)
    try:
        wait_until_ready(running)
        running.login()
        yield running
    finally:
        running.process.send_signal(signal.SIGTERM)
        try:
            running.process.wait(20)
        except subprocess.TimeoutExpired:
            running.process.kill()
            running.process.wait(5)


def use_ports(settings: Path, ports: list[int]) -> None:
    names = ["agent_port", "ops_port", "etcd_client_port", "etcd_peer_port", "etcd_metrics_port"]
    text = settings.read_text()
    for name, port in zip(names, ports, strict=True):
        text = re.sub(rf"(?m)^{name} = \d+$", f"{name} = {port}", text)
    settings.write_text(text)


def wait_until_ready(site: Site) -> None:
    deadline = time.monotonic() + STARTS_WITHIN_S
    while time.monotonic() < deadline:
        assert site.process.poll() is None, (site.home / "log").read_text()
        try:
            if httpx.get(f"{site.url}/readyz", verify=False, timeout=3).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise AssertionError((site.home / "log").read_text())


def test_an_operator_walks_through_a_first_day(site: Site) -> None:
    status = site.ok("status")
    assert re.search(r"^store +healthy, answered in [0-9.]+ ms$", status, re.M)
    assert "admin (admin)" in status

    made = site.ok("vsubnet", "create", "office", "--prefix", "10.7.0.0/24")
    assert "VNI" in made
    listed = site.ok("vsubnet", "list").splitlines()
    assert listed[0].split() == ["NAME", "VNI", "PREFIXES", "MTU", "MEMBERS", "CREATED"]
    assert listed[1].split()[0:5:2] == ["office", "10.7.0.0/24", "0"]

    shown = site.ok("token", "create", "--vsubnet", "office", "--uses", "2", "--site", "cloud-a")
    string = next(line for line in shown.splitlines() if line.startswith("cairn1."))
    assert decode_token(string).pin == site.pin
    assert f"\ncairn-agent join {string}\n" in shown

    token_id = shown.split()[1]
    tokens = site.ok("token", "list")
    assert token_id in tokens
    assert "0 of 2" in tokens
    assert string not in tokens
    assert site.ok("token", "delete", token_id, "--yes").startswith(f"The token {token_id} is")

    changed = site.ok("vsubnet", "set", "office", "--mtu", "1380")
    assert "1380 octets" in changed
    events = site.ok("event", "list", columns=120)
    told = [re.split(" {2,}", line)[2] for line in events.splitlines()]
    # The day's first backup is made meanwhile, some seconds after the start.
    assert [text for text in told if not text.startswith("a backup was made")][-2:] == [
        f"token {token_id} was deleted",
        "vSubnet office was changed",
    ]
    assert site.ok("vsubnet", "delete", "office", "--yes") == "The vSubnet office is deleted.\n"


def test_a_second_person_is_let_in_by_cookie_and_a_program_by_token(site: Site) -> None:
    made = json.loads(site.ok("user", "create", "bob", "--role", "operator", "--json"))
    token = json.loads(site.ok("api-token", "create", "ci", "--scope", "viewer", "--json"))["token"]
    api = f"{site.url}/api/v1/"
    with httpx.Client(base_url=api, verify=False, timeout=15) as browser:
        asked = {"name": "bob", "password": made["password"]}
        login = browser.post("login", json=asked, headers={"X-Cairn-Console": "1"})
        cookie = login.headers["set-cookie"].lower()
        assert cookie.startswith("__host-cairn-session=")
        assert {"secure", "httponly", "samesite=strict", "path=/"} <= set(cookie.split("; "))
        new = {"old": made["password"], "new": "a password of my own"}
        assert browser.post("session/password", json=new).json()["code"] == "csrf"
        browser.headers["X-CSRF-Token"] = login.json()["csrf"]
        assert browser.get("status").json()["code"] == "password_change_needed"
        assert browser.post("session/password", json=new).status_code == 204
        assert browser.get("status").status_code == 200
        program = {"Authorization": f"Bearer {token}"}
        with httpx.Client(base_url=api, verify=False, headers=program, timeout=15) as other:
            assert other.get("status").status_code == 200
            refused = other.post("vsubnets", json={"name": "mine"})
            assert refused.json()["code"] == "role_too_low"
        assert "bob" in site.ok("session", "list")
        site.ok("user", "delete", "bob", "--yes")
        assert browser.get("status").status_code == 401
    told = json.loads(site.ok("event", "list", "--json", "--kind", "user_deleted").splitlines()[0])
    assert told["text"] == "user bob was deleted"


@pytest.mark.timed
def test_following_events_shows_a_change_within_a_second(site: Site) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(site.home), "COLUMNS": "120"}
    follow = [str(BIN / "cairn"), "event", "list", "--follow", "--limit", "1", "--json"]
    with subprocess.Popen(
        follow, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline()  # the newest so far: the list is there
        time.sleep(1)  # the stream is opened right after it
        site.ok("vsubnet", "create", "watched")
        ended_at = time.time()
        event = json.loads(process.stdout.readline())
        seen_at = time.time()
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130

    assert (event["kind"], event["vsubnet"]["name"]) == ("vsubnet_created", "watched")
    assert seen_at - ended_at < 1
    site.ok("vsubnet", "delete", "watched", "--yes")


@pytest.mark.parametrize(
    ("arguments", "code", "sentence", "remedy"),
    [
        (["vsubnet", "show", "nope"], 2, "there is no vSubnet 'nope'", "cairn vsubnet list"),
        (["vsubnet", "create", "x", "--prefix", "10.0.0.1/8"], 2, "host bits set", "10.7.0.0/24"),
        (["node", "show", "nope"], 2, "there is no node 'nope'", "cairn node list"),
        (["node", "approve", "nope"], 2, "there is no node 'nope'", "cairn node list"),
        (["member", "create", "a", "b"], 2, "there is no node 'b'", "cairn node list"),
        (["token", "show", "nope"], 2, "there is no token 'nope'", "cairn token list"),
        (["token", "create", "--life", "x"], 2, "'x' is no length of time", "24h"),
        (["token"], 0, "", ""),
        (["nonsense"], 2, "No such command 'nonsense'", "cairn --help"),
        (["login", "https://127.0.0.1:1"], 3, "can't be reached: Connection refused", "firewalls"),
        (["login", "ftp://x"], 2, "is not the address of an appliance", "https://HOST:8443"),
    ],
)
def test_bad_input_has_a_sentence_a_remedy_and_an_exit_code(
    site: Site, arguments: list[str], code: int, sentence: str, remedy: str
) -> None:
    ended = site.cairn(*arguments, columns=160)

    assert ended.code == code, ended.err
    assert sentence in ended.err
    assert remedy in ended.err
    if code:
        assert re.fullmatch(r"error: .+\n  what to do: .+\n", ended.err)


def test_a_foreign_pin_is_refused_before_the_password_is_sent(site: Site, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text(site.password)

    ended = site.cairn(
        "login", site.url, "--fingerprint", "0" * 64, "--password-file", str(password)
    )

    assert ended.code == 4
    assert f"shown: {site.pin}" in ended.err
    assert site.ok("status")  # the session that there was is untouched


def test_no_secret_is_in_the_log_the_session_file_apart_or_the_data(site: Site) -> None:
    string = json.loads(site.ok("token", "create", "--json"))["token"]
    session = json.loads((site.home / ".config/cairn/session.json").read_text())["token"]
    canaries = [site.password, decode_token(string).secret, session]

    files = {path: octets for path, octets in files_of(site.home) if "session.json" not in path}

    assert any("etcd" in path for path in files)
    found = [
        (path, canary)
        for path, octets in files.items()
        for canary in canaries
        if canary.encode() in octets
    ]
    assert found == []


def test_while_etcd_hangs_reads_fail_in_time_and_status_says_why(site: Site) -> None:
    children = Path(f"/proc/{site.process.pid}/task/{site.process.pid}/children").read_text()
    etcd = int(children.split()[0])
    assert "etcd" in Path(f"/proc/{etcd}/cmdline").read_text()
    site.ok("status")

    os.kill(etcd, signal.SIGSTOP)
    try:
        began = time.monotonic()
        listed = site.cairn("vsubnet", "list")
        took_s = time.monotonic() - began
        status = site.cairn("status", columns=160)
    finally:
        os.kill(etcd, signal.SIGCONT)

    assert (listed.code, took_s < 14) == (3, True), took_s
    assert "error: the store gives no answer in time" in listed.err
    assert status.code == 3
    assert "no answer within 2 s: vSubnets run on, changes wait" in status.out
    wait_until_ready(site)
    assert site.ok("status")


def test_a_session_outlives_a_restart_of_the_appliance(site: Site) -> None:
    site.process.send_signal(signal.SIGTERM)
    assert site.process.wait(30) == 0
    gone = site.cairn("status")
    with (site.home / "log").open("ab") as log:
        site.process = subprocess.Popen(
            [BIN / "cairn-appliance", "run", "--data-dir", str(site.data)], stderr=log
        )
    wait_until_ready(site)

    assert gone.code == 3
    assert "can't be reached: Connection refused" in gone.err
    assert site.ok("status")
    assert site.ok("logout").startswith("Logged out of https://127.0.0.1:")
    assert site.cairn("status").code == 4
    site.login()
