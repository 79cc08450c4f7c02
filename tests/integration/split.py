"""Three appliances, two gateways on one LAN, a member; and what a schedule of faults does to them.

    one LAN:   m1   m2   m3   vm   g1   g2          (the underlay)
                                   |eth1|
                                  [floor]

A schedule is drawn from its seed alone. Its faults name gateways by what they are when it begins.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.integration.crossings import Crossings, crossing
from tests.integration.test_dataplane import Control
from tests.integration.trio import Trio, grown_trio
from tests.lab import Host, Lab, until
from tests.lab.cairn import Appliance, Node
from tests.lab.lan import Lan
from tests.lab.program import children_of

GATEWAYS: Final = ("g1", "g2")
ROLES: Final = ("forwarder", "standby")
# What is cut: the gateways from each other, one from the appliances, the other.
LINKS: Final = ("each other", *ROLES)
COMBINATIONS: Final = tuple(
    links for count in (1, 2, 3) for links in itertools.combinations(LINKS, count)
)
WAYS: Final = ("both ways", "both ways", "nothing in", "nothing out")
KINDS: Final = (
    "cut",
    "agent paused",
    "data plane paused",
    "agent killed",
    "data plane killed",
    "appliance paused",
    "etcd paused",
    "appliance killed",
    "LAN cable out",
    "underlay cable out",
    "switch-over",
)
BEGIN_S, LASTS_S = (0.0, 1.5), (0.3, 4.0)
_BACK_S = 60.0


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a schedule; times are from the schedule's beginning."""

    kind: str
    what: tuple[str, ...]
    way: str
    begins_s: float
    lasts_s: float

    def __str__(self) -> str:
        words = " ".join(word for word in (self.kind, "+".join(self.what), self.way) if word)
        return f"{words} {self.begins_s:.1f}-{self.begins_s + self.lasts_s:.1f} s"

    @property
    def slot(self) -> str:
        """What can have one fault only at a time."""
        thing = {
            "agent killed": "agent",
            "agent paused": "agent",
            "data plane killed": "data plane",
            "data plane paused": "data plane",
        }.get(self.kind)
        if thing:
            return f"{thing} {self.what[0]}"
        if self.what and self.what[0] in ("leader", "follower"):
            return self.what[0]
        return " ".join((self.kind, *(self.what if "cable" in self.kind else ())))


def draw(dice: random.Random) -> list[Fault]:
    """Return the faults of one schedule: one to four, over each other."""
    faults: list[Fault] = []
    for _ in range(dice.choice((1, 2, 2, 3, 3, 4))):
        kind = dice.choice((*KINDS, "cut", "cut"))
        of_gateway = dice.choice((*ROLES, "forwarder", "forwarder"))
        what: tuple[str, ...] = (of_gateway,)
        way = ""
        if kind == "cut":
            what, way = dice.choice(COMBINATIONS), dice.choice(WAYS)
        elif "appliance" in kind or "etcd" in kind:
            what = (dice.choice(("leader", "follower")),)
        elif kind == "switch-over":
            what = ("standby",)
        fault = Fault(kind, what, way, dice.uniform(*BEGIN_S), dice.uniform(*LASTS_S))
        if all(fault.slot != other.slot for other in faults):
            faults.append(fault)
    return faults


@dataclass
class Split:
    """The machines, and what is seen of the frames that cross."""

    trio: Trio
    lan: Lan
    gateways: dict[str, Node]
    seen: Crossings
    segment: str  # ID
    session: str

    def wait_until_calm(self) -> str:
        """Wait until one forwards, the other stands by and the cluster serves; return the one."""

        def calm() -> str:
            for appliance in self.trio.appliances.values():
                _begin(appliance)  # it may have ended by itself
            if not all(each.is_ready() for each in self.trio.appliances.values()):
                return ""
            shown, forwarder = self.shown(), self.seen.forwarder()
            able = [each["node"]["name"] for each in shown.get("gateways", []) if each["able"]]
            if shown.get("held_down") and able:
                self.switch_over(able[0])
            return forwarder if sorted(able) == sorted(GATEWAYS) else ""

        return until("one forwards, the other could", calm, within_s=_BACK_S)

    def shown(self) -> dict[str, Any]:
        """Return the segment as an appliance has it; {} where none answers."""
        return self._ask("GET", self._path())

    def other(self, name: str) -> str:
        """Return the other gateway."""
        return next(each for each in GATEWAYS if each != name)

    def switch_over(self, name: str) -> None:
        """Ask for it; a cluster or a gateway that can't is no matter."""
        self._ask("POST", self._path("/switch-over"), json.dumps({"to": name}))

    def prefer(self, preference: str) -> None:
        """Set what a gateway does that reaches no appliance."""
        words = ("gateway", "segment", "set", "floor", "--prefer", preference)
        self.trio.appliances["m1"].cairn(*words)

    def play(self, faults: list[Fault], forwarder: str) -> None:
        """Let the faults happen and end, each at its time."""
        names = {"forwarder": forwarder, "standby": self.other(forwarder)}
        names["each other"] = "each other"
        names["leader"] = leader = self.leader()
        names["follower"] = next(name for name in self.trio.appliances if name != leader)
        due: list[tuple[float, int, Callable[[], None]]] = []
        begun = time.monotonic()
        for number, fault in enumerate(faults):
            targets = tuple(names[word] for word in fault.what)
            strike, heal = self._made(fault, targets)
            due.append((begun + fault.begins_s, 2 * number, strike))
            due.append((begun + fault.begins_s + fault.lasts_s, 2 * number + 1, heal))
        with contextlib.ExitStack() as unhealed:
            for _, _, heal in due[1::2]:
                unhealed.callback(heal)
            for at, _, act in sorted(due, key=lambda each: each[:2]):
                time.sleep(max(0.0, at - time.monotonic()))
                act()
            unhealed.pop_all()

    def _made(
        self, fault: Fault, targets: tuple[str, ...]
    ) -> tuple[Callable[[], None], Callable[[], None]]:
        """Return what begins the fault and what ends it."""
        (name, *_) = targets
        node, appliance = self.gateways.get(name), self.trio.appliances.get(name)
        match fault.kind:
            case "cut":
                return lambda: self._cut(targets, fault.way), self._mend
            case "switch-over":
                return lambda: self.switch_over(name), _nothing
            case "agent paused" | "data plane paused" | "appliance paused" | "etcd paused":
                stopped: list[int] = []
                return lambda: _stop(self._pids(fault.kind, name), stopped), lambda: _go_on(stopped)
        if appliance is not None:
            return lambda: _kill(appliance), lambda: _begin(appliance)
        assert node is not None and node.agent is not None and node.dataplane is not None
        match fault.kind:
            case "agent killed":
                return node.agent.kill, _nothing
            case "data plane killed":
                return node.dataplane.kill, _nothing
            case "LAN cable out":
                return (
                    lambda: self.lan.pull(node.host, "eth1"),
                    lambda: self.lan.put_back(node.host, "eth1"),
                )
        return node.host.cut, node.host.uncut

    def _pids(self, kind: str, name: str) -> list[int]:
        if name in self.gateways:
            node = self.gateways[name]
            program = node.agent if kind == "agent paused" else node.dataplane
            assert program is not None
            return [program.pid]
        appliance = self.trio.appliances[name]
        etcd = children_of(appliance.pid) if appliance.running else []
        return etcd if kind == "etcd paused" else [appliance.pid, *etcd]

    def _cut(self, links: tuple[str, ...], way: str) -> None:
        """Drop what goes between gateways, or between a gateway and the appliances."""
        hosts = {name: node.host for name, node in self.gateways.items()}
        peers: dict[str, list[str]] = {name: [] for name in GATEWAYS}
        for link in links:
            if link == "each other":
                peers["g1"].append(hosts["g2"].v4)
                self._cut_lan(way)
            else:
                peers[link] += [each.host.v4 for each in self.trio.appliances.values()]
        for name, addresses in peers.items():
            if addresses:
                theirs = ", ".join(addresses)
                into = f"ip saddr {{ {theirs} }} drop;" if way != "nothing out" else ""
                out = f"ip daddr {{ {theirs} }} drop;" if way != "nothing in" else ""
                hosts[name].nft(
                    "table inet cut {\n"
                    f" chain in {{ type filter hook input priority 0; {into} }}\n"
                    f" chain out {{ type filter hook output priority 0; {out} }}\n"
                    "}\n"
                )

    def _cut_lan(self, way: str) -> None:
        one, other = (self.lan.port(self.gateways[name].host, "eth1") for name in GATEWAYS)
        rules = {
            "nothing out": f'iifname "{one}" oifname "{other}" drop;',
            "nothing in": f'iifname "{other}" oifname "{one}" drop;',
        }
        chosen = rules.get(way) or " ".join(rules.values())
        self.lan.switch.nft(
            "table bridge cut {\n"
            f" chain between {{ type filter hook forward priority 0; {chosen} }}\n"
            "}\n"
        )

    def _mend(self) -> None:
        gone = "table {0} cut\ndelete table {0} cut\n"  # also where there is none
        self.lan.switch.nft(gone.format("bridge"))
        for node in self.gateways.values():
            node.host.nft(gone.format("inet"))

    def leader(self) -> str:
        """Return the appliance whose etcd leads."""
        shown = self._ask("GET", "cluster").get("appliances", [])
        return next((str(each["name"]) for each in shown if each["leads"]), "m1")

    def _path(self, action: str = "") -> str:
        return f"segments/{self.segment}{action}"

    def _ask(self, method: str, path: str, body: str = "") -> dict[str, Any]:
        """Ask the first appliance that answers; {} where none does."""
        for appliance in self.trio.appliances.values():
            url = f"{appliance.url}/api/v1/{path}"
            command = ["curl", "-sk", "-m", "2", "-X", method, "-H", "@-", url]
            command += ["-H", "Content-Type: application/json", "-d", body] * bool(body)
            header = f"Authorization: Bearer {self.session}\n"
            answer = self.trio.client.run(command, stdin=header, check=False).stdout
            with contextlib.suppress(ValueError):
                found: dict[str, Any] = json.loads(answer)
                return found
        return {}

    def steal(self, standby: str, seconds: float) -> None:
        """Open a standby's gate by hand, which nobody granted."""
        forwarder = self.other(standby)
        vni = self.trio.network.vni
        with _control(self.gateways[forwarder].host) as control:
            (vsubnet,) = control.ask("stats")["vsubnets"]
        until_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + int(seconds * 1e9)
        with _control(self.gateways[standby].host) as control:
            answer = control.ask(
                "gate", vni=vni, term=vsubnet["gate"]["term"], forward_until_ns=until_ns
            )
        assert answer["ok"], answer


@contextmanager
def built() -> Iterator[Split]:
    """Build it all; takes half a minute."""
    with Lab("split") as lab:
        trio = grown_trio(lab)
        first = trio.appliances["m1"]
        lan = Lan(lab, "floor")
        gateways = {name: Node(_host(trio, name)) for name in GATEWAYS}
        for node in gateways.values():
            lan.plug(node.host, "eth1")
            node.start()
            node.join(first.token())
        made = first.cairn("gateway", "segment", "create", "floor", "--vsubnet", "prod")
        for name in gateways:
            first.cairn("gateway", "attach", "floor", name, "--port", "eth1")
        hosts = {name: node.host for name, node in gateways.items()}
        tap = trio.network.tap
        trio.vm.wait_for_tap(trio.network)
        with crossing(lan, trio.vm.host, tap, hosts, "eth1") as seen:
            yield Split(trio, lan, gateways, seen, str(made["id"]), first.session())


def _host(trio: Trio, name: str) -> Host:
    return trio.vm.host.site.host(name)


@contextmanager
def _control(host: Host) -> Iterator[Control]:
    opened = Control(Path(f"/proc/{host.pid}/root/run/cairn/dataplane.sock"))
    try:
        yield opened
    finally:
        opened.close()


def _kill(appliance: Appliance) -> None:
    if appliance.running:
        appliance.kill()


def _begin(appliance: Appliance) -> None:
    if not appliance.running:
        appliance.begin()


def _stop(pids: list[int], stopped: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            stopped.append(pid)


def _go_on(stopped: list[int]) -> None:
    """Let them go on, and what started them: nsenter stops with its child."""
    for pid in stopped:
        with contextlib.suppress(ProcessLookupError, FileNotFoundError):  # replaced meanwhile
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
            for each in (pid, parent):
                os.kill(each, signal.SIGCONT)


def _nothing() -> None:
    pass
