"""Real appliances and nodes in lab machines: the installed programs, as a person runs them."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from tests.lab.errors import CommandError, LabError, NotInTimeError
from tests.lab.machine import ROOT, Machine
from tests.lab.program import Program, kill_tree
from tests.lab.topology import Host
from tests.lab.wait import until

BIN = ROOT / "build" / "bin"
PREVIOUS = ROOT / "tools" / "previous-build"
OPS_PORT = 8443
# Runs a command as a user who may read files wherever the checkout lies, and nothing else.
AS_NOBODY = [
    "setpriv",
    "--reuid=65534",
    "--regid=65534",
    "--clear-groups",
    "--inh-caps=+dac_read_search",
    "--ambient-caps=+dac_read_search",
]
_HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Network:
    """A vSubnet as the appliance shows it."""

    name: str
    vni: int
    prefixes: tuple[str, ...]

    @property
    def tap(self) -> str:
        """The interface of its members."""
        return f"cairn{self.vni}"


class Appliance:
    """`cairn-appliance` with its embedded etcd on one host, and `cairn` on the same host."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.data_dir = host.directory / "data"
        self.password = ""
        self.fingerprint = ""
        self._program: Program | None = None
        host.env["CAIRN_CONFIG_DIR"] = str(host.directory / "config")

    @property
    def url(self) -> str:
        """The operations API as others reach it."""
        return f"https://{self.host.v4}:{OPS_PORT}"

    def init(self, *arguments: str) -> dict[str, Any]:
        """Make the cluster; return what `init --json` printed."""
        addresses = ["--address", self.host.v4] + (["--address", self.host.v6] * bool(self.host.v6))
        command = ["cairn-appliance", "init", "--data-dir", str(self.data_dir), "--json"]
        made: dict[str, Any] = json.loads(self.host.run([*command, *addresses, *arguments]).stdout)
        self.password, self.fingerprint = made["admin_password"], made["ca_pin"]
        return made

    def join(self, string: str, *arguments: str, check: bool = True) -> CompletedProcess[str]:
        """Join a cluster; the string goes by standard input so that it is in no argv."""
        command = ["cairn-appliance", "join", "--data-dir", str(self.data_dir), "--json"]
        addresses = ["--address", self.host.v4]
        return self.host.run(
            [*command, *addresses, *arguments, "-"], stdin=string + "\n", check=check, within_s=90
        )

    def set(self, **settings: object) -> None:
        """Replace values in its settings.toml; they count from its next start on."""
        path = self.data_dir / "settings.toml"
        text = path.read_text()
        for name, value in settings.items():
            text, count = re.subn(rf"(?m)^{name} = .*$", f"{name} = {json.dumps(value)}", text)
            assert count == 1, name
        path.write_text(text)

    def session(self) -> str:
        """Return the token of the session that `login` opened; it is good at each appliance."""
        file = self.host.directory / "config" / "session.json"
        return str(json.loads(file.read_text())["token"])

    def is_ready(self) -> bool:
        """Say whether it answers that it is ready, as a load balancer would ask."""
        return self.asked("/readyz")[0] == 200

    def asked(self, path: str, *, within_s: float = 5.0) -> tuple[int, str]:
        """Return status and body of a GET of the operations API from the host itself."""
        url = f"https://127.0.0.1:{OPS_PORT}{path}"
        command = ["curl", "-sk", "-m", str(within_s), "-w", "\\n%{http_code}", url]
        body, _, status = self.host.run(command, check=False).stdout.rpartition("\n")
        return int(status or 0), body

    def begin(self, *, prefix: Sequence[str] = ()) -> None:
        """Start the appliance without waiting; `prefix` is put before its command line."""
        command = [*prefix, "cairn-appliance", "run", "--data-dir", str(self.data_dir)]
        self._program = self.host.start(command, name="cairn-appliance")

    @property
    def log(self) -> str:
        """What it has logged since its last start."""
        return self._program.text() if self._program else ""

    @property
    def pid(self) -> int:
        """The appliance's process; its etcd is the child."""
        assert self._program is not None
        return self._program.pid

    @property
    def ended(self) -> int | None:
        """Its exit status; None while it runs."""
        return self._program.status if self._program else None

    def start(self, *, within_s: float = 30.0) -> None:
        """Start the appliance and wait until both its ports listen."""
        self.begin()
        program = self._program
        assert program is not None

        def listening() -> bool:
            if not program.running:
                raise LabError(f"the appliance ended: {program.status}\n{program.tail()}")
            return all(self.host.listens("tcp", port) for port in (8002, OPS_PORT))

        try:
            until("the appliance listens on 8002 and 8443", listening, within_s=within_s)
        except NotInTimeError as error:
            raise NotInTimeError(f"{error}; its log ends:\n{program.tail()}") from None

    def login(self) -> None:
        """Open a session for the operator's command, once it is ready."""
        until("it is ready", self.is_ready, within_s=30)
        command = ["cairn", "login", f"https://127.0.0.1:{OPS_PORT}", "--user", "admin"]
        command += ["--password-file", "-", "--fingerprint", self.fingerprint]
        self.host.run(command, stdin=self.password + "\n")

    @property
    def running(self) -> bool:
        """Say whether the appliance runs."""
        return self._program is not None and self._program.running

    def stop(self) -> None:
        """End the appliance politely, its etcd with it."""
        if self._program is not None:
            self._program.stop(within_s=15)

    def kill(self) -> None:
        """Kill the appliance and its etcd outright, as a power failure does."""
        assert self._program is not None
        kill_tree(self._program.pid)
        self._program.wait(within_s=30)
        until("its etcd has ended", lambda: not self._has_etcd(), within_s=30)

    def _has_etcd(self) -> bool:
        return "etcd" in self.host.run(["ps", "ax", "-o", "comm"]).stdout

    def cairn(self, *arguments: str) -> Any:
        """Run `cairn ... --json` and return what it printed."""
        done = self.host.run(["cairn", *arguments, "--json"])
        return json.loads(done.stdout) if done.stdout.strip() else None

    def voters(self) -> int:
        """Return how many of the cluster's appliances are healthy and vote; 0 without an answer."""
        try:
            shown = self.cairn("cluster", "status")["appliances"]
        except CommandError as error:
            if error.status != 3:  # unreachable in time
                raise
            return 0
        return sum(1 for each in shown if each["healthy"] and each["votes"])

    def network(self, name: str, *prefixes: str, **options: object) -> Network:
        """Create a vSubnet."""
        arguments = [word for prefix in prefixes for word in ("--prefix", prefix)]
        for key, value in options.items():
            arguments += [f"--{key.replace('_', '-')}", str(value)]
        made = self.cairn("vsubnet", "create", name, *arguments)
        return Network(made["name"], made["vni"], tuple(made["prefixes"]))

    def attach(self, network: Network, node: str, *, role: str = "host") -> None:
        """Make a node a member of a vSubnet."""
        self.cairn("member", "create", network.name, node, "--role", role)

    def remove_network(self, network: Network) -> None:
        """Detach all members of a vSubnet, and delete it."""
        for member in self.cairn("member", "list", "--vsubnet", network.name):
            self.cairn("member", "delete", network.name, member["node"]["id"], "--yes")
        self.cairn("vsubnet", "delete", network.name, "--yes")

    def token(self, *networks: Network, uses: int = 1, **options: object) -> str:
        """Make an enrolment token and return the string."""
        arguments = [word for network in networks for word in ("--vsubnet", network.name)]
        for key, value in options.items():
            arguments += [f"--{key.replace('_', '-')}", str(value)]
        return str(self.cairn("token", "create", "--uses", str(uses), *arguments)["token"])

    def events(self, limit: int = 1000) -> list[dict[str, Any]]:
        """Return the newest events, oldest of them first."""
        command = ["cairn", "event", "list", "--limit", str(limit), "--json"]
        return [json.loads(line) for line in self.host.run(command).stdout.splitlines()]

    def nodes(self) -> dict[str, dict[str, Any]]:
        """Return the nodes by name."""
        return {node["name"]: node for node in self.cairn("node", "list")}


class Node:
    """A host with the data plane and the agent, both restarted as systemd would."""

    def __init__(
        self,
        host: Host,
        *,
        timers: dict[str, int] | None = None,
        offline_trust_s: int | None = None,
    ) -> None:
        self.host = host
        self.state_dir = host.directory / "state"
        host.env["CAIRN_STATE_DIR"] = str(self.state_dir)
        if timers is not None:
            host.env["CAIRN_TEST_TIMERS"] = json.dumps(timers)
        if offline_trust_s is not None:
            host.env["CAIRN_TEST_OFFLINE_TRUST_S"] = str(offline_trust_s)
        self.dataplane: Program | None = None
        self.agent: Program | None = None

    @property
    def name(self) -> str:
        """The host's name, which is the node's too."""
        return self.host.name

    def start(self, *, agent_prefix: Sequence[str] = ()) -> None:
        """Start both programs; `agent_prefix` is put before the agent's command line."""
        self.start_dataplane()
        self.start_agent(prefix=agent_prefix)

    def start_dataplane(self) -> None:
        """Start the data plane under a supervisor."""
        self.host.run(["mkdir", "-p", "/run/cairn"])
        command = ["cairn-dataplane", "--socket", "/run/cairn/dataplane.sock"]
        self.dataplane = self.host.start(command, name="cairn-dataplane", restart=True)

    def start_agent(self, *, prefix: Sequence[str] = ()) -> None:
        """Start the agent under a supervisor."""
        command = [*prefix, "cairn-agent", "run"]
        self.agent = self.host.start(command, name="cairn-agent", restart=True)

    def join(self, token: str, *arguments: str, check: bool = True) -> CompletedProcess[str]:
        """Join with a token, given by standard input so that it is in no argv."""
        return self.host.run(
            ["cairn-agent", "join", "-", *arguments], stdin=token + "\n", check=check, within_s=60
        )

    def status(self) -> dict[str, Any]:
        """Return `cairn-agent status --json`."""
        status: dict[str, Any] = json.loads(
            self.host.run(["cairn-agent", "status", "--json"]).stdout
        )
        return status

    def answers(self) -> bool:
        """Say whether the agent runs and answers its commands."""
        return self.host.run(["cairn-agent", "status", "--json"], check=False).returncode == 0

    def links(self) -> int:
        """Return how often the agent's link came up, by its log: cheaper than its status."""
        return self.agent.text().count("link is up") if self.agent is not None else 0

    def address(self, network: Network, family: int = 4, *, within_s: float = 10.0) -> str:
        """Wait for the address that the node has in a vSubnet and return it (no prefix length)."""

        def found() -> str | None:
            for address in self._addresses(network):
                usable = address["scope"] == "global" and not address.get("tentative")
                if usable and address["family"] == ("inet" if family == 4 else "inet6"):
                    return str(address["local"])
            return None

        what = f"{self.name} has an IPv{family} address in {network.name}"
        return until(what, found, within_s=within_s)

    def mac(self, network: Network) -> str:
        """Return the node's MAC address in a vSubnet."""
        links = json.loads(self.host.run(["ip", "-j", "link", "show", network.tap]).stdout)
        return str(links[0]["address"])

    def has_tap(self, network: Network) -> bool:
        """Say whether the interface of the vSubnet exists."""
        return network.tap in self.host.run(["ls", "/sys/class/net"]).stdout.split()

    def wait_for_tap(self, network: Network, *, within_s: float = 10.0) -> None:
        """Wait until the interface of the vSubnet exists and carries frames."""

        def carries() -> bool:
            shown = self.host.run(["ip", "-j", "link", "show", network.tap], check=False).stdout
            return "LOWER_UP" in shown

        until(f"{self.name} has {network.tap}", carries, within_s=within_s)

    def pings(self, address: str, *, count: int = 1, wait_s: float = 1.0, size: int = 56) -> int:
        """Return how many of `count` pings (100 ms apart) were answered."""
        return pings(self.host, address, count=count, wait_s=wait_s, size=size)

    def wait_for_ping(self, address: str, *, within_s: float) -> float:
        """Ping until the first answer; return how long that took."""
        begun = time.monotonic()
        until(
            f"{self.name} pings {address}",
            lambda: self.pings(address, wait_s=0.2) > 0,
            within_s=within_s,
        )
        return time.monotonic() - begun

    def send_frames(
        self, network: Network, *frames: bytes, count: int = 1, interval_ms: float = 0
    ) -> None:
        """Send raw Ethernet frames from the node's interface."""
        send_frames(self.host, network.tap, frames, count=count, interval_ms=interval_ms)

    def stop(self) -> None:
        """Stop agent and data plane politely; both stay off."""
        for program in (self.agent, self.dataplane):
            if program is not None:
                program.stop(number=signal.SIGTERM)

    def _addresses(self, network: Network) -> list[dict[str, Any]]:
        shown = self.host.run(["ip", "-j", "addr", "show", "dev", network.tap], check=False)
        if shown.returncode != 0:
            return []
        return [info for link in json.loads(shown.stdout) for info in link.get("addr_info", [])]


def pings(
    machine: Machine, address: str, *, count: int = 1, wait_s: float = 1.0, size: int = 56
) -> int:
    """Return how many of `count` pings (100 ms apart) were answered, `wait_s` after the last."""
    arguments = [address, str(count), "0.1", str(wait_s), str(size)]
    command = machine.python(_HERE / "ping.py", *arguments)
    return int(machine.run(command, within_s=30 + count + wait_s).stdout)


def send_frames(
    machine: Machine,
    interface: str,
    frames: Iterable[bytes],
    *,
    count: int = 1,
    interval_ms: float = 0,
) -> None:
    """Send raw Ethernet frames out of an interface of any machine."""
    command = machine.python(_HERE / "frames.py", interface, str(count), str(interval_ms))
    machine.run(command, stdin="".join(frame.hex() + "\n" for frame in frames))


def ethernet(destination: str, source: str, ethertype: int, payload: bytes) -> bytes:
    """Return an Ethernet frame, padded to 60 octets."""
    header = bytes.fromhex(destination.replace(":", "") + source.replace(":", ""))
    return (header + ethertype.to_bytes(2, "big") + payload).ljust(60, b"\0")


def missing_programs() -> list[str]:
    """Return which of the programs have not been built or installed."""
    names = ("cairn-dataplane", "cairn-agent", "cairn-appliance", "cairn")
    return [name for name in names if not (BIN / name).exists()]


def previous_programs() -> Path:
    """Return the directory of the programs of the version before, built where it isn't yet.

    Raises LabError with the remedy where this checkout can't build it.
    """
    built = subprocess.run(
        [str(PREVIOUS)], capture_output=True, text=True, check=False, timeout=1200
    )
    if built.returncode != 0:
        raise LabError(built.stderr.strip() or built.stdout.strip())
    return Path(built.stdout.splitlines()[-1])


def install(host: Host, programs: Path) -> None:
    """Let a host use these programs from its next start of each on: a package that is swapped."""
    host.env["PATH"] = f"{programs}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    host.env["CAIRN_ETCD"] = str(ROOT / "build" / "tools" / "etcd" / "etcd")


def measure_rate(source: Node, destination: Node, address: str, *, seconds: float = 2.0) -> float:
    """Return what one TCP stream carries, in Mbit/s."""
    script = _HERE / "rate.py"
    receiver = destination.host.start(
        destination.host.python(script, "receive", address, "5201"), name="rate"
    )
    receiver.wait_for_log("ready", within_s=5)
    source.host.run(source.host.python(script, "send", address, "5201", str(seconds)))
    receiver.wait(within_s=15)
    octets, took = receiver.text().splitlines()[-1].split()
    return int(octets) * 8 / float(took) / 1e6


def loaded_digests(node: Node) -> dict[int, str]:
    """Return the digest of each vSubnet's document as the node has it on disk."""
    lines = (node.state_dir / "netmap.jsonl").read_text().splitlines()
    messages = [json.loads(line) for line in lines]
    return {each["vni"]: each["digest"] for each in messages if each["type"] == "vsubnet"}
