"""Whatever is wrong: a sentence with the remedy, the documented exit code, no half-made
state, no traceback.

Exit codes: 2 bad usage or input; 3 nobody answers in time; 4 refused; 5 local state can't be
used; 6 the environment lacks something.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.integration.world import World
from tests.lab import Host, until
from tests.lab.cairn import AS_NOBODY, Network, Node
from tests.lab.wall_clock import set_clock, wrong_clock

pytestmark = [pytest.mark.root, pytest.mark.tun, pytest.mark.etcd]

BAD_INPUT, UNREACHABLE, REFUSED, STATE, ENVIRONMENT = 2, 3, 4, 5, 6


@pytest.fixture(scope="module")
def newcomer(world: World) -> Node:
    """A host with programs that run, and that has not joined."""
    node = world.new_node("newcomer", "cloud-b")
    until("its agent answers", node.answers, within_s=30)
    return node


@pytest.fixture(scope="module")
def idle(world: World) -> Host:
    """A host on which nothing runs."""
    return world.sites["office"].host("idle")


@pytest.fixture(scope="module")
def initialised(idle: Host) -> Path:
    """The data directory of an appliance that has never run."""
    data = idle.directory / "data"
    idle.run(_init(data))
    return data


@pytest.fixture
def network(world: World) -> Iterator[Network]:
    """A vSubnet that no node has joined."""
    made = world.appliance.network("unused", "10.66.0.0/24")
    yield made
    world.appliance.remove_network(made)


def _fields(token: str) -> dict[str, object]:
    """Return what is written in a token."""
    encoded = token.removeprefix("cairn1.")
    octets = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    found: dict[str, object] = json.loads(octets[:-4])
    return found


def _uses(world: World, token: str) -> int:
    """Return how often the appliance has counted a use of the token."""
    return int(world.appliance.cairn("token", "show", str(_fields(token)["id"]))["uses"])


def _edited(token: str, **fields: object) -> str:
    """Return the token with other fields and a right check sum, as a forger would make it."""
    body = json.dumps({**_fields(token), **fields}, separators=(",", ":")).encode()
    octets = body + hashlib.sha256(body).digest()[:4]
    return "cairn1." + base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("hello", id="something else"),
        pytest.param("cairn1.", id="nothing behind the prefix"),
        pytest.param("cairn1.AAAA", id="too short"),
        pytest.param("cairn1.ä@$%", id="characters that no token has"),
        pytest.param("cairn2.eyJhIjoxfQ", id="another version"),
        pytest.param("cairn1." + "A" * 100_000, id="far too long"),
    ],
)
def test_what_is_no_token_is_refused_before_anything_is_done(newcomer: Node, text: str) -> None:
    _expect(newcomer.join(text, check=False), BAD_INPUT, says="token")
    _assert_nothing_was_made(newcomer)


def test_a_token_cut_short_or_with_a_typo_says_so(
    world: World, newcomer: Node, network: Network
) -> None:
    token = world.appliance.token(network)
    middle = len(token) // 2
    typo = token[:middle] + ("A" if token[middle] != "A" else "B") + token[middle + 1 :]
    for text in (token[:-7], token[:middle], typo):
        _expect(newcomer.join(text, check=False), BAD_INPUT, says="damaged|cut short|characters")
    _assert_nothing_was_made(newcomer)


def test_an_expired_token_is_refused(world: World, newcomer: Node, network: Network) -> None:
    token = world.appliance.token(network, life="1s")
    time.sleep(1.2)
    _expect(newcomer.join(token, check=False), REFUSED, says="expired|ended")
    _assert_nothing_was_made(newcomer)


def test_a_used_up_token_is_refused(world: World, newcomer: Node, network: Network) -> None:
    token = world.appliance.token(network, uses=1)
    first = world.new_node("first", "cloud-a")
    first.join(token)
    try:
        _expect(newcomer.join(token, check=False), REFUSED, says="used up|used")
        _assert_nothing_was_made(newcomer)
    finally:
        first.stop()
        world.appliance.cairn("node", "delete", "first", "--yes")


def test_a_token_with_a_wrong_secret_is_refused(
    world: World, newcomer: Node, network: Network
) -> None:
    token = _edited(world.appliance.token(network), secret="x" * 43)
    _expect(newcomer.join(token, check=False), REFUSED)
    _assert_nothing_was_made(newcomer)


def test_a_foreign_pin_is_noticed_before_the_secret_is_sent(
    world: World, newcomer: Node, network: Network
) -> None:
    token = world.appliance.token(network)
    done = newcomer.join(_edited(token, pin="0" * 64), check=False)

    _expect(done, REFUSED, says="pin|certificate")
    _assert_nothing_was_made(newcomer)
    assert _uses(world, token) == 0


def test_an_appliance_that_does_not_answer_is_named(
    world: World, newcomer: Node, network: Network
) -> None:
    token = _edited(world.appliance.token(network), appliances=["198.18.3.222:8002"])
    done = newcomer.join(token, check=False)
    _expect(done, UNREACHABLE, says=r"198\.18\.3\.222")
    _assert_nothing_was_made(newcomer)


def test_joining_twice_is_refused_and_changes_nothing(world: World) -> None:
    a1 = world.node("a1")
    before = (a1.state_dir / "identity.json").read_bytes()
    _expect(a1.join(world.appliance.token(world.prod), check=False), REFUSED, says="joined already")
    assert (a1.state_dir / "identity.json").read_bytes() == before


def test_without_root_the_programs_say_what_they_need(newcomer: Node, world: World) -> None:
    token = world.appliance.token(world.prod)
    for command in (
        ["cairn-agent", "run"],
        ["cairn-agent", "join", token],
        ["cairn-agent", "status"],
        ["cairn-dataplane", "--socket", "/run/cairn/other.sock"],
    ):
        done = newcomer.host.run([*AS_NOBODY, *command], check=False, within_s=20)
        _expect(done, ENVIRONMENT, says="root|permitted|Permission denied|user")
    _assert_nothing_was_made(newcomer)


def test_without_dev_net_tun_the_agent_says_so(idle: Host) -> None:
    hide = 'mount -t tmpfs none /dev/net && exec "$@"'
    run = ["unshare", "-m", "sh", "-c", hide, "sh", "cairn-agent", "run"]
    _expect(idle.run(run, check=False, within_s=20), ENVIRONMENT, says="/dev/net/tun")
    doctor = ["unshare", "-m", "sh", "-c", hide, "sh", "cairn-agent", "doctor"]
    done = idle.run(doctor, check=False, within_s=20)
    assert done.returncode == ENVIRONMENT, done
    assert "/dev/net/tun" in done.stdout + done.stderr


def test_udp_8002_in_use_is_told_and_heals_when_it_is_free(world: World) -> None:
    node = Node(world.sites["cloud-b"].host("crowded"))
    holder = node.host.start(["python3", "-c", _HOLD_UDP_8002], name="holder")
    holder.wait_for_log("held", within_s=5)
    node.start()
    node.join(world.appliance.token(world.prod))

    def told() -> bool:
        error = node.status()["dataplane"]["error"]
        return "8002" in error and "use" in error

    until("the agent says that the port is in use", told, within_s=15)
    holder.stop()
    node.wait_for_ping(world.address("a1"), within_s=30)
    node.stop()
    world.appliance.cairn("node", "delete", "crowded", "--yes")


@pytest.mark.parametrize("port", [8002, 8443])
def test_an_appliance_whose_port_is_in_use_says_which(
    idle: Host, initialised: Path, port: int
) -> None:
    holder = idle.start(["python3", "-c", _HOLD_TCP, str(port)], name=f"holder-{port}")
    holder.wait_for_log("held", within_s=5)
    try:
        run = ["cairn-appliance", "run", "--data-dir", str(initialised)]
        _expect(idle.run(run, check=False, within_s=60), ENVIRONMENT, says=str(port))
        assert "etcd" not in idle.run(["ps", "ax", "-o", "comm"]).stdout
    finally:
        holder.stop()


@pytest.mark.parametrize("years", [-50, 50])
def test_a_wrong_clock_is_named_as_the_reason(
    world: World, idle: Host, network: Network, years: int
) -> None:
    idle.env["CAIRN_STATE_DIR"] = str(idle.directory / "state-clock")
    clock = idle.directory / "clock"
    set_clock(clock, years * 365 * 86_400)
    command = [*wrong_clock(clock), "cairn-agent", "join", "-"]
    token = world.appliance.token(network)
    done = idle.run(command, stdin=token, check=False, within_s=60)
    _expect(done, ENVIRONMENT, says="clock")
    assert not list((idle.directory / "state-clock").glob("identity*"))
    assert world.appliance.host.run(["true"]).returncode == 0


def test_a_damaged_identity_is_named_and_kept(world: World) -> None:
    a2 = world.node("a2")
    identity = a2.state_dir / "identity.json"
    whole = identity.read_bytes()
    assert a2.agent is not None
    a2.agent.stop()
    try:
        for damaged in (b"", whole[: len(whole) // 2]):
            identity.write_bytes(damaged)
            done = a2.host.run(["cairn-agent", "run"], check=False, within_s=20)
            _expect(done, STATE, says="identity")
            assert identity.read_bytes() == damaged, "it is for a person to decide"
        assert a2.pings(world.address("a1"), count=3) == 3, "the data plane goes on"
    finally:
        identity.write_bytes(whole)
        a2.start_agent()
    until("it is connected", lambda: a2.answers() and a2.status()["link"]["is_up"], within_s=30)


@pytest.mark.parametrize("damage", ["half", "flipped", "signature"])
def test_a_damaged_netmap_is_set_aside_and_fetched_anew(world: World, damage: str) -> None:
    a2 = world.node("a2")
    netmap = a2.state_dir / "netmap.jsonl"
    assert a2.agent is not None
    a2.agent.stop()
    netmap.write_bytes(_damaged(netmap.read_bytes(), damage))
    a2.start_agent()
    until("it is connected", lambda: a2.answers() and a2.status()["link"]["is_up"], within_s=30)
    until("it has its peers", lambda: len(a2.status()["peers"]) >= 2, within_s=20)
    a2.wait_for_ping(world.address("b1"), within_s=20)
    assert "Traceback" not in a2.agent.text()


def test_a_full_disk_stops_a_join_before_the_token_is_used(
    world: World, idle: Host, network: Network
) -> None:
    token = world.appliance.token(network)
    small = idle.directory / "small"
    small.mkdir(exist_ok=True)
    script = (
        f"mount -t tmpfs -o size=16k none {small} && "
        f"{{ dd if=/dev/zero of={small}/filler bs=4k status=none || true; }} 2>/dev/null; "
        f"cairn-agent --state-dir {small} join -; code=$?; "
        f"ls -A {small} | grep -v filler; exit $code"
    )
    done = idle.run(["unshare", "-m", "sh", "-c", script], stdin=token, check=False, within_s=60)
    _expect(done, STATE, says="space|full")
    assert not re.search("identity|tmp|new", done.stdout), done.stdout
    assert _uses(world, token) == 0


def test_a_full_disk_leaves_no_half_made_appliance(idle: Host) -> None:
    small = idle.directory / "small-appliance"
    small.mkdir(exist_ok=True)
    init = " ".join(_init(small / "data"))
    script = (
        f"mount -t tmpfs -o size=24k none {small} && {init}; code=$?; ls -A {small}; exit $code"
    )
    done = idle.run(["unshare", "-m", "sh", "-c", script], check=False, within_s=60)
    _expect(done, STATE, says="space|full")
    assert not done.stdout.strip(), "nothing is left there"


def test_an_appliance_with_a_damaged_file_names_it(idle: Host, initialised: Path) -> None:
    data = initialised
    run = ["cairn-appliance", "run", "--data-dir", str(data)]
    for name, octets in (
        ("kek", b"short"),
        ("settings.toml", b"addresses = [\n"),
        ("member.json", b"{"),
    ):
        whole = (data / name).read_bytes()
        (data / name).write_bytes(octets)
        done = idle.run(run, check=False, within_s=60)
        assert done.returncode in (BAD_INPUT, STATE), done
        _expect(done, done.returncode, says=re.escape(name))
        (data / name).write_bytes(whole)


def test_init_into_a_directory_in_use_changes_nothing(idle: Host, initialised: Path) -> None:
    data = initialised
    before = {file: file.read_bytes() for file in data.rglob("*") if file.is_file()}
    _expect(idle.run(_init(data), check=False), STATE, says="in use")
    assert {file: file.read_bytes() for file in data.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize(
    "command",
    [
        ["cairn-agent", "fly"],
        ["cairn-agent", "join"],
        ["cairn-appliance", "init"],
        ["cairn-appliance", "run", "--data-dir", "/nonexistent/cairn"],
        ["cairn-dataplane", "--nonsense"],
        ["cairn", "vsubnet", "create"],
    ],
    ids=" ".join,
)
def test_wrong_usage_is_told_in_a_sentence(idle: Host, command: list[str]) -> None:
    done = idle.run(command, check=False, within_s=20)
    assert done.returncode in (BAD_INPUT, STATE), done
    assert done.stderr.strip()
    assert "Traceback" not in done.stdout + done.stderr


_HOLD_UDP_8002 = """
import socket, time
held = []
for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
    s = socket.socket(family, socket.SOCK_DGRAM)
    if family == socket.AF_INET6:
        s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    s.bind((address, 8002))
    held.append(s)
print("held", flush=True)
time.sleep(1000)
"""
_HOLD_TCP = """
import socket, sys, time
s = socket.create_server(("", int(sys.argv[1])))
print("held", flush=True)
time.sleep(1000)
"""


# A wrong wall clock leaves the monotonic clocks alone.
def _init(data: Path) -> list[str]:
    return ["cairn-appliance", "init", "--data-dir", str(data), "--address", "198.18.3.99"]


def _expect(done: CompletedProcess[str], status: int, *, says: str = "") -> None:
    """Check exit code, cause and remedy, and that nothing looks like a crash."""
    assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stdout + done.stderr
    assert re.search(r"^error: .{10,}", done.stderr, re.MULTILINE), done.stderr
    assert re.search(r"^  what to do: .{5,}", done.stderr, re.MULTILINE), done.stderr
    assert re.search(says, done.stderr), done.stderr


def _assert_nothing_was_made(node: Node) -> None:
    assert not list(node.state_dir.glob("identity*"))
    assert not list(node.state_dir.glob("netmap*"))
    links = node.host.run(["ls", "/sys/class/net"]).stdout.split()
    assert sorted(links) == ["eth0", "lo"]
    assert node.status()["state"] == "none"


def _damaged(octets: bytes, how: str) -> bytes:
    if how == "half":
        return octets[: len(octets) // 2]
    if how == "flipped":
        return octets.replace(b'"10.7.0.', b'"10.9.0.')
    return re.sub(rb'"signature":"....', b'"signature":"AAAA', octets)
