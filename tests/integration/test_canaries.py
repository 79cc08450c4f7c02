"""Every kind of secret is made, and looked for in whatever people, programs and files can show.

    one LAN:   appliance   a (of red)   b (of blue)   g (a gateway of red)

Beside them things that are no secret and must be found: what looks is to be able to find.
"""

from __future__ import annotations

import base64
import gzip
import itertools
import json
import secrets
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cairn_agent.protocol.token import decode_token
from cairn_appliance.domain import totp
from cairn_appliance.domain.joining import decode as decode_join_string
from cairn_appliance.image.support import collected
from cairn_appliance.pki.backup_file import BackupReader
from cairn_appliance.pki.recovery_key import RecoveryKey

from tests.integration.canaries import Canary, Place, files_of, found
from tests.lab import Lab, until
from tests.lab.cairn import OPS_PORT, Appliance, Node, missing_programs
from tests.lab.machine import ROOT
from tests.lab.program import children_of
from tests.proofs import record

pytestmark = [pytest.mark.root, pytest.mark.tun, pytest.mark.etcd, pytest.mark.timeout(600)]

API = "/api/v1"
LAB = ROOT / "tests" / "lab"
WEBHOOK_PORT, SYSLOG_PORT = 8088, 5140
OPENLY = "openly-5b1c0f77e2d9"  # the name of a user: anybody may see it
BEFORE = "before: "  # of a key that was replaced
TYPED = "typed into the wrong field 7c2f"  # a password where the name goes
# What an appliance keeps in files of its own, by path in its data directory.
OWN_FILES = {
    "kek": "KEK",
    "pki/api-key.pem": "api-key.pem",
    "pki/etcd-server-key.pem": "etcd-server-key.pem",
    "pki/etcd-peer-key.pem": "etcd-peer-key.pem",
    "pki/etcd-client-key.pem": "etcd-client-key.pem",
}
NOT_THERE = (
    f"{API}/oidc/login",
    f"{API}/preflights/",
)  # its provider gives no answer; none is made
SLOWLY_S = 300  # nothing here has a bound of its own
STREAMS = ("/events/stream", "/stream")


@dataclass
class Scene:
    """The programs, the secrets that were made, and the places that were looked through."""

    lab: Lab
    appliance: Appliance
    nodes: dict[str, Node]
    sessions: dict[str, str] = field(default_factory=dict)  # by what may be seen by it
    canaries: dict[str, Canary] = field(default_factory=dict)
    places: list[Place] = field(default_factory=list)
    ids: dict[str, str] = field(default_factory=dict)  # for paths, by the name of the parameter

    def text(self, name: str, text: str) -> None:
        """Look for a text from now on."""
        self.canaries[name] = Canary.of_text(name, text)

    def octets(self, name: str, octets: bytes) -> None:
        """Look for octets from now on."""
        self.canaries[name] = Canary.of_octets(name, octets)

    def pem(self, name: str, pem: str) -> None:
        """Look for a private key from now on."""
        self.canaries[name] = Canary.of_pem(name, pem)

    def see(self, name: str, octets: bytes | str, *meant: str) -> None:
        """Look through this, too."""
        content = octets.encode() if isinstance(octets, str) else octets
        self.places.append(Place(name, content, frozenset(meant)))

    def ask(self, *asked: dict[str, Any]) -> list[tuple[int, bytes, bytes]]:
        """Send requests to the operations API; return status, headers and body of each."""
        host = self.appliance.host
        command = host.python(LAB / "ask.py", str(OPS_PORT))
        told = json.loads(host.run(command, stdin=json.dumps(asked), within_s=SLOWLY_S).stdout)
        return [(t["status"], t["headers"].encode(), base64.b64decode(t["body"])) for t in told]

    def make(
        self, path: str, *meant: str, method: str = "POST", who: str = "admin", **body: Any
    ) -> Any:
        """Make something; what comes back is a place where just `meant` may be."""
        headers = {"Content-Type": "application/json", "If-Match": "*"}
        if who:
            headers["Authorization"] = f"Bearer {self.sessions[who]}"
        if method == "POST" and path in ("/tokens", "/api-tokens"):
            headers["Idempotency-Key"] = secrets.token_hex(16)  # the answer is kept, sealed
        request = {"method": method, "path": API + path, "headers": headers}
        ((status, head, content),) = self.ask(request | {"body": json.dumps(body)})
        assert status < 300, (path, status, content)
        self.see(f"answer to {method} {path}", head + b"\n" + content, *meant)
        return json.loads(content) if content else None

    def log_in(self, name: str, password: str) -> None:
        """Open a session of a user; its token may be in that answer only."""
        session = f"session of {name}"
        made = self.make("/login", session, who="", name=name, password=password)
        self.sessions[name] = made["token"]
        self.text(session, made["token"].removeprefix("cs1_"))


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    """Everything is made, then looked through."""
    if missing := missing_programs():
        pytest.fail(f"not built: {', '.join(missing)}; run make setup")
    with Lab("canaries") as lab:
        lan = lab.site("lan")
        hosts = {name: lan.host(name) for name in ("a", "b", "g")}
        appliance = Appliance(lan.host("appliance", number=10))
        for host in (appliance.host, *hosts.values()):
            host.env["CAIRN_AGENT_LOG"] = "debug"
            host.env["CAIRN_TEST_OPENLY"] = OPENLY
        made = Scene(lab, appliance, {name: Node(host) for name, host in hosts.items()})
        begin(made)
        make_all(made)
        provoke(made)
        look_through(made)
        yield made


def begin(scene: Scene) -> None:
    """Start the cluster, its first session, and who listens to its events."""
    appliance = scene.appliance
    made = appliance.init()
    scene.text("admin's password", made["admin_password"])
    scene.text("recovery key", made["recovery_key"])
    scene.text("recovery key, packed", made["recovery_key"].replace("-", ""))
    scene.octets("recovery key's octets", RecoveryKey.parse(made["recovery_key"])._secret)
    scene.ids["recovery_key"] = made["recovery_key"]
    appliance.start()
    appliance.login()
    scene.sessions["admin"] = appliance.session()
    scene.text("session of admin", appliance.session().removeprefix("cs1_"))
    headers = appliance.host.directory / "headers"
    headers.write_text(f"Authorization: Bearer {scene.sessions['admin']}\n")
    for path in STREAMS:
        url = f"https://127.0.0.1:{OPS_PORT}{API}{path}"
        command = ["curl", "-skN", "-H", f"@{headers}", url]
        appliance.host.start(command, name=f"curl{path.replace('/', '-')}")
    ports = [str(WEBHOOK_PORT), str(SYSLOG_PORT)]
    receiver = appliance.host.start(
        appliance.host.python(LAB / "receiver.py", *ports), name="receiver"
    )
    receiver.wait_for_log("ready", within_s=SLOWLY_S)


def make_all(scene: Scene) -> None:
    """Make every kind of secret that there is."""
    make_outside(scene)
    make_people(scene)
    make_nodes(scene)
    open_sealed(scene, BEFORE)
    make_keys(scene)
    open_sealed(scene)
    now = {each.needles for name, each in scene.canaries.items() if not name.startswith(BEFORE)}
    for name, each in list(scene.canaries.items()):
        if name.startswith(BEFORE) and each.needles in now:  # was not replaced
            del scene.canaries[name]


def open_sealed(scene: Scene, prefix: str = "") -> None:
    """Look for all that lies sealed in the store from now on, also when it is replaced."""
    program = [sys.executable, "-m", "tests.integration.opened_secrets"]
    command = ["env", "-C", str(ROOT), *program, str(scene.appliance.data_dir)]
    told = scene.appliance.host.run(command, within_s=SLOWLY_S)
    for name, kind, value in json.loads(told.stdout):
        if kind == "pem":
            scene.pem(prefix + name, value)
        elif kind == "octets":
            scene.octets(prefix + name, base64.b64decode(value))
        else:
            scene.text(prefix + name, value)


def make_outside(scene: Scene) -> None:
    """Make the secrets that are shared with others: receivers, an identity provider."""
    drawn = {name: secrets.token_urlsafe(24) for name in ("webhook", "path", "oidc")}
    scene.text("webhook's secret", drawn["webhook"])
    scene.text("webhook's path", drawn["path"])
    scene.text("OIDC client's secret", drawn["oidc"])
    url = f"http://127.0.0.1:{WEBHOOK_PORT}/{drawn['path']}"
    scene.make(
        "/settings/events",
        "webhook's path",
        method="PUT",
        webhooks=[{"url": url, "secret": drawn["webhook"]}],
        syslog=[{"host": "127.0.0.1", "port": SYSLOG_PORT, "protocol": "udp"}],
    )
    scene.make("/settings/events/test")
    scene.make(
        "/settings/oidc",
        method="PUT",
        issuer="https://127.0.0.1:9/realms/office",
        client_id="cairn",
        client_secret=drawn["oidc"],
        default_role="viewer",
    )
    scene.make("/settings/oidc/test")


def make_people(scene: Scene) -> None:
    """Make users of each role: with drawn, given and changed passwords, codes and API tokens."""
    drawn = scene.make("/users", "drawn password", name="oscar", role="operator")["password"]
    scene.text("drawn password", drawn)
    for name, role in ((OPENLY, "viewer"), ("carol", "admin")):
        password = secrets.token_urlsafe(18)
        scene.text(f"password of a {role}", password)
        scene.make("/users", name=name, role=role, password=password, must_change_password=False)
        scene.log_in(name, password)
    scene.sessions["viewer"] = scene.sessions[OPENLY]
    own = secrets.token_urlsafe(18)
    scene.text("own password", own)
    scene.log_in("oscar", drawn)
    scene.make("/session/password", who="oscar", old=drawn, new=own)
    offered = scene.make("/session/totp", "TOTP secret of oscar", who="oscar", password=own)
    secret = base64.b32decode(offered["secret"])
    scene.octets("TOTP secret of oscar", secret)
    code = totp.code_at(secret, int(time.time() // totp.STEP_S))
    names = [f"recovery code {number}" for number in range(totp.RECOVERY_CODES)]
    confirmed = scene.make("/session/totp/confirm", *names, who="oscar", code=code)
    for name, recovery in zip(names, confirmed["recovery_codes"], strict=True):
        scene.text(name, recovery)
    for scope in ("viewer", "admin"):
        name = f"API token for {scope}"
        token = scene.make("/api-tokens", name, name=f"ci-{scope}", scope=scope)["token"]
        scene.text(name, token.removeprefix("ct1_"))
        scene.sessions[name] = token


def make_nodes(scene: Scene) -> None:
    """Make vSubnets with members and a gateway, by tokens that are used up and one that isn't."""
    for name, prefix in (("red", "10.7.0.0/24"), ("blue", "10.8.0.0/24")):
        scene.ids[name] = scene.make("/vsubnets", name=name, prefixes=[prefix])["id"]
    token(scene, "unused token", vsubnets=["red"], max_uses=20)
    for name, vsubnets in (("a", ["red"]), ("b", ["blue"]), ("g", [])):
        node = scene.nodes[name]
        node.start()
        node.join(token(scene, f"token of {name}", vsubnets=vsubnets))
        until(f"{name} answers", node.answers, within_s=SLOWLY_S)
        identity = json.loads((node.state_dir / "identity.json").read_text())
        scene.ids[name] = identity["keys"]["node_id"]
        scene.pem(f"control key of {name}", identity["keys"]["control_key"])
        data_key = base64.b64decode(identity["keys"]["data_key"])
        scene.octets(f"data key of {name}", data_key)
    scene.ids["segment"] = scene.make("/segments", name="hall", vsubnet="red")["id"]
    scene.make("/segments/hall/gateways", node="g", port="eth9")
    scene.make("/vsubnets/red/rotate")


def token(scene: Scene, name: str, **order: Any) -> str:
    """Make an enrolment token: its string, and the secret in it."""
    made = scene.make("/tokens", name, f"secret of {name}", **order)
    scene.text(name, made["token"])
    scene.text(f"secret of {name}", decode_token(made["token"]).secret)
    scene.ids |= {"token": made["id"], name: made["token"]}
    return str(made["token"])


def make_keys(scene: Scene) -> None:
    """Make the keys of the cluster anew, a join string, and a backup of it all."""
    names = ("join string", "secret of join string")
    joining = scene.make("/cluster/join-strings", *names)["join_string"]
    scene.ids["join string"] = joining
    scene.text("join string", joining)
    scene.text("secret of join string", decode_join_string(joining).secret)
    scene.make("/trust/ca/rotate")
    scene.make("/trust/map-key/rotate")
    for name in OWN_FILES.values():
        if name.endswith(".pem"):
            scene.pem(name, (scene.appliance.data_dir / "pki" / name).read_text())
    scene.ids["backup"] = scene.make("/backups")["name"]


def provoke(scene: Scene) -> None:
    """Do what is refused, with secrets in it: what is said of it must not have them."""
    scene.text("a password typed as the name", TYPED)
    scene.text("an unknown session", TYPED.replace(" ", "-"))
    asked = [*wrong_logins(), *wrong_bodies(scene)]
    for request, (status, head, content) in zip(asked, scene.ask(*asked), strict=True):
        assert 400 <= status < 500, (request["path"], status, content)
        scene.see(f"refusal of {request['method']} {request['path']}", head + b"\n" + content)
    paste(scene)
    command = ["cairn-agent", "join", "-"]
    refused = scene.appliance.host.run(
        command, stdin=f"cairn1.{TYPED}\n", check=False, within_s=SLOWLY_S
    )
    scene.see("refusal of a token", refused.stdout + refused.stderr)


def wrong_logins() -> Iterator[dict[str, Any]]:
    """Yield logins with a password in each field, and requests with sessions that are none."""
    for body in (
        {"name": TYPED, "password": "wrong wrong wrong"},
        {"name": OPENLY, "password": TYPED},
        {"name": ["x"], "password": TYPED},
    ):
        headers = {"Content-Type": "application/json"}
        body_text = json.dumps(body)
        yield {"method": "POST", "path": f"{API}/login", "headers": headers, "body": body_text}
    for session in (f"cs1_{TYPED.replace(' ', '-')}", TYPED):
        headers = {"Authorization": f"Bearer {session}"}
        yield {"method": "GET", "path": f"{API}/status", "headers": headers}


def wrong_bodies(scene: Scene) -> Iterator[dict[str, Any]]:
    """Yield what no operation takes, to each that takes a body, by who may and who may not."""
    wrong = {"name": 7, "password": [TYPED], "secret": {"a": TYPED}, "code": TYPED}
    bodies = (json.dumps(wrong), f'{{"password": "{TYPED}", ')
    for path, methods in description(scene)["paths"].items():
        for method, operation in methods.items():
            if "requestBody" not in operation or path.endswith("/update/file"):
                continue
            for who, body in itertools.product(("admin", "viewer"), bodies):
                yield {
                    "method": method.upper(),
                    "path": filled(scene, path),
                    "headers": {
                        "Content-Type": "application/json",
                        "Authorization": f"Bearer {scene.sessions[who]}",
                    },
                    "body": body,
                }


def paste(scene: Scene) -> None:
    """Put secrets where a name belongs: only who did that may see them again."""
    token, session = scene.ids["unused token"], scene.sessions["carol"]
    headers = {"Authorization": f"Bearer {scene.sessions['admin']}", "If-Match": "*"}
    asked = [
        {"method": method, "path": f"{API}/{path}", "headers": headers}
        for method, path in (
            ("DELETE", f"tokens/{token}"),
            ("GET", f"tokens/{token}"),
            ("GET", f"search?q={session}"),
            ("DELETE", f"sessions/{session}"),
            ("POST", f"nodes/{session}/approve"),
            ("GET", f"vsubnets/{token}/table"),
        )
    ]
    for request, (status, _, _) in zip(asked, scene.ask(*asked), strict=True):
        assert status < 500, (request["path"], status)


def description(scene: Scene) -> dict[str, Any]:
    """Return the operations API's own description."""
    ((_, _, content),) = scene.ask({"method": "GET", "path": f"{API}/openapi.json"})
    described: dict[str, Any] = json.loads(content)
    return described


def filled(scene: Scene, path: str) -> str:
    """Return a path with things that there are in the places of its parameters."""
    there = {
        "vsubnet": "red",
        "node": "a",
        "user": "oscar",
        "mac": "02:00:00:00:00:07",
        "task": "t9",
        "session": "0" * 16,
        "api_token": "0" * 16,
        "appliance": "m1",
        "a": "a",
        "b": "b",
    }
    return path.format_map({**scene.ids, **there})


def look_through(scene: Scene) -> None:
    """Gather all places, after what was done has had time to arrive there."""
    for name, wanted in (("a", "PSK 2 of red"), ("b", "PSK 1 of blue"), ("g", "probe key of red")):
        file = scene.nodes[name].state_dir / "netmap.jsonl"
        until(
            f"{name} has the {wanted}",
            lambda file=file, wanted=wanted: scene.canaries[wanted].is_in(file.read_bytes()),
            within_s=SLOWLY_S,
        )
    until(
        "the last event has come",
        lambda: b"backup" in (scene.appliance.host.directory / "receiver.log").read_bytes(),
        within_s=SLOWLY_S,
    )
    for part in (look_at_answers, look_at_nodes, look_at_processes, hand_over, look_at_appliance):
        part(scene)


def look_at_answers(scene: Scene) -> None:
    """Everything that can be read, by whoever may read anything."""
    described = description(scene)["paths"]
    queries = {"/search": "?q=red", "/audit": "?limit=200", "/events": "?limit=200"}
    paths = ["/metrics", "/healthz", "/readyz", f"{API}/openapi.json", f"{API}/docs", "/"]
    paths += [
        filled(scene, path) + queries.get(path.removeprefix(API), "")
        for path, methods in described.items()
        if "get" in methods and not path.endswith(STREAMS)
    ]
    callers = ("admin", "oscar", "viewer", "API token for viewer", "API token for admin", "")
    for who in callers:
        headers = {"Authorization": f"Bearer {scene.sessions[who]}"} if who else {}
        asked = [{"method": "GET", "path": path, "headers": headers} for path in paths]
        for path, (status, head, content) in zip(paths, scene.ask(*asked), strict=True):
            if who == "admin":  # what is looked through is what there is
                assert status == 200 or path.startswith(NOT_THERE), (path, status, content)
            meant = ["webhook's path"] if path.endswith("/settings/events") else []
            body = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
            scene.see(f"GET {path} of {who or 'nobody'}", head + b"\n" + body, *meant)
    host = scene.appliance.host
    for command in (["user", "list"], ["token", "list"], ["status"], ["event", "output", "list"]):
        told = host.run(["cairn", *command], check=False, within_s=SLOWLY_S)
        meant = ["webhook's path"] if command[0] == "event" else []
        scene.see(f"cairn {' '.join(command)}", told.stdout + told.stderr, *meant)


def hand_over(scene: Scene) -> None:
    """What a new appliance is given for its join string: all keys, sealed by its secret."""
    string = decode_join_string(scene.ids["join string"])
    body = {
        "id": string.id,
        "secret": string.secret,
        "nonce": base64.b64encode(secrets.token_bytes(16)).decode(),
        "peer_url": f"https://{scene.nodes['b'].host.v4}:2380",
    }
    assert scene.make("/cluster/join", who="", **body)["sealed"]


def look_at_appliance(scene: Scene) -> None:
    """All files of the appliance, what it logs, and what it tells others."""
    appliance = scene.appliance
    for log in appliance.host.directory.glob("*.log"):
        scene.see(f"log {log.name}", log.read_bytes())
    hashes = [name for name in scene.canaries if "hash of " in name]
    for path, octets in files_of(appliance.data_dir):
        own = OWN_FILES.get(path, "")
        meant = [own, BEFORE + own]
        if path.startswith("etcd/"):  # what is in the store is sealed, or a hash, or no secret
            meant = [*hashes, "webhook's path"]
        scene.see(f"data {path}", octets, *meant)
    for name, octets in collected():
        scene.see(f"support bundle {name}", octets)


def look_at_processes(scene: Scene) -> None:
    """How all processes were started."""
    pids = {"appliance": scene.appliance.pid}
    for name, node in scene.nodes.items():
        assert node.agent is not None
        assert node.dataplane is not None
        pids |= {f"agent of {name}": node.agent.pid, f"data plane of {name}": node.dataplane.pid}
    pids |= {f"child {pid} of {n}": pid for n, p in list(pids.items()) for pid in children_of(p)}
    for name, pid in pids.items():
        for part in ("cmdline", "environ"):
            scene.see(f"{part} of {name}", Path(f"/proc/{pid}/{part}").read_bytes())


def look_at_nodes(scene: Scene) -> None:
    """All files of the nodes, what they log and what they tell."""
    of_vsubnet = {
        vsubnet: [n for n in scene.canaries if "PSK " in n and n.endswith(f" {vsubnet}")]
        for vsubnet in ("red", "blue")
    }
    known = {
        "a": of_vsubnet["red"],
        "b": of_vsubnet["blue"],
        "g": [*of_vsubnet["red"], "probe key of red", BEFORE + "probe key of red"],
    }
    for name, node in scene.nodes.items():
        own = {
            "identity.json": [f"control key of {name}", f"data key of {name}"],
            "netmap.jsonl": known[name],
        }
        for path, octets in files_of(node.state_dir):
            scene.see(f"state {path} of {name}", octets, *own.get(path, []))
        for log in node.host.directory.glob("*.log"):
            scene.see(f"log {log.name} of {name}", log.read_bytes())
        scene.see(f"netmap for {name}", netmap_of(scene, node), *known[name])
        for command in (["status"], ["status", "--json"], ["peers"], ["metrics"], ["doctor"]):
            told = node.host.run(["cairn-agent", *command], check=False, within_s=SLOWLY_S)
            scene.see(f"cairn-agent {' '.join(command)} of {name}", told.stdout + told.stderr)


def netmap_of(scene: Scene, node: Node) -> str:
    """Return what the agent API streams to a node in its first seconds."""
    identity = json.loads((node.state_dir / "identity.json").read_text())
    pair = node.host.directory / "pair.pem"
    pair.write_text(identity["certificate"] + identity["keys"]["control_key"])
    url = f"https://{scene.appliance.host.v4}:8002/agent/v1/netmap?incarnation=0&after=0"
    return node.host.run(
        ["curl", "-skN", "-m", "3", "--cert", str(pair), url], check=False, within_s=SLOWLY_S
    ).stdout


def test_no_secret_is_where_it_does_not_belong(scene: Scene) -> None:
    leaks = sorted(set(found(scene.places, scene.canaries.values())))

    assert record(
        "CANARIES",
        what=f"{len(scene.canaries)} secrets looked for in {len(scene.places)} places",
        bar="0 findings",
        value=len(leaks),
        unit="findings",
        holds=not leaks,
    ), "\n".join(f"{place}: {secret}" for place, secret in leaks)


def test_each_kind_of_secret_was_made(scene: Scene) -> None:
    kinds = (
        *("admin's password", "drawn password", "own password", "session of oscar", "KEK"),
        *("recovery key", "recovery code 9", "TOTP secret of oscar", "unused token"),
        *("API token for admin", "secret of join string", "OIDC client's secret"),
        *("webhook's secret", "PSK 1 of red", "PSK 2 of red", "PSK 1 of blue"),
        *("probe key of red", "issuing CA's key", "map key"),
        *("audit's signing key", "etcd's CA key", "api-key.pem", "control key of a"),
        *("data key of g", "hash of oscar's password", "hash of session 0"),
    )
    assert set(kinds) - scene.canaries.keys() == set()
    # How far the replacement of a key was when it was looked at is another matter.
    for replaced in ("CA's key", "map key"):
        assert len([name for name in scene.canaries if name.endswith(replaced)]) > 1


@pytest.mark.parametrize(
    ("kind", "shown"),
    [
        ("GET /api/v1/users of admin", OPENLY),
        ("GET /api/v1/events", OPENLY),
        ("GET /api/v1/audit/export", OPENLY),
        ("GET /metrics of viewer", "cairn_"),
        ("log cairn-appliance.log", OPENLY),
        ("log curl-events-stream.log", OPENLY),
        ("log curl-stream.log", "event"),
        ("log receiver.log", OPENLY),
        ("log receiver.log", "syslog <"),
        ("log cairn-agent.log of a", "link is up"),
        ("environ of agent of a", "CAIRN_AGENT_LOG=debug"),
        ("data etcd/", OPENLY),
        ("data etcd.log", "etcd"),
        ("data backups/", "cairn-backup-1"),
        ("cmdline of appliance", "--data-dir"),
        ("cmdline of child", "--client-cert-auth"),
        ("environ of appliance", OPENLY),
        ("environ of agent of a", OPENLY),
        ("cairn-agent status --json of a", "red"),
        ("cairn-agent doctor of a", "ok"),
        ("state identity.json of a", "certificate"),
        ("support bundle readyz.txt", ""),
        ("refusal of POST /api/v1/users", "invalid"),
    ],
)
def test_what_is_no_secret_is_found_in_each_kind_of_place(
    scene: Scene, kind: str, shown: str
) -> None:
    there = [place for place in scene.places if place.name.startswith(kind)]
    assert any(shown.encode() in place.octets for place in there), [each.name for each in there]


@pytest.mark.parametrize(
    ("kind", "secret"),
    [
        ("answer to POST /tokens", "secret of unused token"),
        ("answer to POST /session/totp", "TOTP secret of oscar"),
        ("data kek", "KEK"),
        ("data etcd/", "hash of oscar's password"),
        ("state netmap.jsonl of a", "PSK 2 of red"),
        ("netmap for a", "PSK 2 of red"),
        ("netmap for g", "probe key of red"),
        ("state netmap.jsonl of g", "probe key of red"),
        ("state identity.json of b", "data key of b"),
    ],
)
def test_a_secret_is_found_where_it_does_belong(scene: Scene, kind: str, secret: str) -> None:
    """Were it not for what is meant, each of these would be a finding."""
    bare = [Place(p.name, p.octets) for p in scene.places if p.name.startswith(kind)]
    assert list(found(bare, [scene.canaries[secret]]))


def test_the_backup_has_it_all_but_sealed(scene: Scene) -> None:
    """What opens with the recovery key is the store: so the search of the file was no empty one."""
    key = RecoveryKey.parse(scene.ids["recovery_key"])
    (file,) = (scene.appliance.data_dir / "backups").glob(f"*{scene.ids['backup']}*")
    with file.open("rb") as sealed:
        content = b"".join(BackupReader(sealed, file.name).pieces(key))
    assert OPENLY.encode() in content
    assert not Canary.of_text("it", OPENLY).is_in(file.read_bytes())
