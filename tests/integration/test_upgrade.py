"""A cluster of three and its agents are upgraded one by one, N-1 -> N, and go back to N-1.

    one LAN:   m1   m2   m3   a   b   late   client       probes between `a` and `b`

N is this checkout, N-1 a real build of the commit in tests/previous-build.txt. Two clients write
without a pause, with retry, and probes go each 10 ms both ways. The tests run in order on one
cluster. Bars: trust.md A13.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from cairn_appliance import __version__

from tests.integration.trio import Trio, Write, longest_stall, lost, writing
from tests.lab import Host, Lab, LabError, Machine, Pair, Probes, until
from tests.lab.cairn import (
    BIN,
    OPS_PORT,
    Appliance,
    Network,
    Node,
    install,
    loaded_digests,
    missing_programs,
    previous_programs,
)
from tests.proofs import record, record_seconds

pytestmark = [
    pytest.mark.slow,
    pytest.mark.root,
    pytest.mark.tun,
    pytest.mark.etcd,
    pytest.mark.timeout(900),
]

RETRY_S = 10.0
QUIET_S = 10.0  # longer than an agent waits for the next word of one of several appliances
RESTART_S = 1.0  # B2: the longest outage that a restart of the data plane may cost


@dataclass
class Rolling:
    """A cluster with agents, and what has been measured of it so far."""

    trio: Trio
    nodes: dict[str, Node]
    network: Network
    builds: dict[str, Path]
    recovery_key: str = ""
    steps: int = 0
    pairs: list[Pair] = field(default_factory=list)  # over the steps of appliances
    writes: list[Write] = field(default_factory=list)
    stall_s: float = 0.0
    outage_s: float = 0.0  # the longest, over restarts of agents and data planes
    met: list[str] = field(default_factory=list)  # which agent was served by which cluster

    def probes(self) -> Probes:
        addresses: dict[Machine, str] = {
            node.host: node.address(self.network) for node in self.nodes.values()
        }
        return Probes(addresses, directory=self.trio.lab.directory)

    def swap(self, name: str, build: str) -> None:
        """Stop an appliance as systemd does, put other programs in, start it."""
        appliance = self.trio.appliances[name]
        appliance.stop()
        install(appliance.host, self.builds[build])
        appliance.start()
        self.trio.wait_until_whole()

    def news_reach_all(self, via: str) -> None:
        """Change the vSubnet at one appliance; every agent has to load the same new document."""
        before = {name: self._loaded(node) for name, node in self.nodes.items()}
        self.steps += 1
        self.trio.appliances[via].cairn(
            "vsubnet", "set", self.network.name, "--bum-burst", str(400 + self.steps)
        )
        until(
            "all agents have loaded what is new",
            lambda: (
                self._agree()
                and all(self._loaded(node) != before[name] for name, node in self.nodes.items())
            ),
            within_s=15,
        )

    def appliances_agree(self) -> None:
        """Each appliance shows the same nodes, connected, and the same tokens."""

        def same() -> bool:
            views = [_view(each) for each in self.trio.appliances.values()]
            return all(view == views[0] for view in views) and all(views[0]["up"])

        until("all appliances show the same", same, within_s=15)

    def _agree(self) -> bool:
        loaded = [self._loaded(node) for node in self.nodes.values()]
        return all(each == loaded[0] for each in loaded)

    def _loaded(self, node: Node) -> str:
        return loaded_digests(node).get(self.network.vni, "")


def _view(appliance: Appliance) -> dict[str, Any]:
    nodes = appliance.nodes()
    return {
        "nodes": sorted(
            (name, node["state"], node["agent_version"]) for name, node in nodes.items()
        ),
        "up": [bool(node["link"] and node["link"]["connected"]) for node in nodes.values()],
    }


@pytest.fixture(scope="module")
def rolling() -> Iterator[Rolling]:
    """Three appliances and two agents of N-1."""
    if missing := missing_programs():
        pytest.fail(f"not built: {', '.join(missing)}; run make setup")
    try:
        builds = {"N-1": previous_programs(), "N": BIN}
    except LabError as error:
        pytest.skip(f"no N-1 to upgrade from: {error}")
    with Lab("upgrade") as lab:
        site = lab.site("dc", families="4", closed=False)

        def host(name: str) -> Host:
            made = site.host(name)
            install(made, builds["N-1"])
            return made

        first = Appliance(host("m1"))
        first.init()
        first.start()
        first.login()
        network = first.network("prod", "10.7.0.0/24")
        appliances = {"m1": first}
        for name in ("m2", "m3"):
            newcomer = Appliance(host(name))
            newcomer.join(str(first.cairn("cluster", "join-string")["join_string"]))
            newcomer.start()
            newcomer.password, newcomer.fingerprint = first.password, first.fingerprint
            newcomer.login()
            appliances[name] = newcomer
        nodes = {name: Node(host(name)) for name in ("a", "b")}
        for node in nodes.values():
            node.start()
            node.join(first.token(network))
        trio = Trio(lab, appliances, site.host("client"), nodes["a"], network, [])
        trio.wait_until_whole()
        nodes["a"].wait_for_ping(nodes["b"].address(network), within_s=20)
        yield Rolling(trio, nodes, network, builds)


def roll(rolling: Rolling, build: str) -> None:
    """Bring all appliances to a build, who leads last, under probes and writes."""
    trio = rolling.trio
    leader = trio.leader()
    order = [*(name for name in trio.appliances if name != leader), leader]
    probes = rolling.probes()
    session = trio.appliances["m1"].session()
    places = [f"{each.host.v4}:{OPS_PORT}" for each in trio.appliances.values()]
    with (
        writing(trio.client, places, session, retry_s=RETRY_S) as one,
        writing(trio.client, places[::-1], session, retry_s=RETRY_S) as other,
    ):
        one.wait_for(20)
        other.wait_for(20)
        begun = probes.now()
        for number, name in enumerate(order, 1):
            rolling.swap(name, build)
            rolling.news_reach_all(name)
            rolling.appliances_agree()
            _check_what_is_said(rolling, name, number)
            one.wait_for(20, within_s=20)
            other.wait_for(20, within_s=20)
        ended = probes.now()
        time.sleep(0.5)
        writes = [one.writes(), other.writes()]
    rolling.pairs += probes.pairs(since=begun, until=ended)
    rolling.writes += writes[0] + writes[1]
    rolling.stall_s = max(rolling.stall_s, *(longest_stall(each, since=begun) for each in writes))


def _check_what_is_said(rolling: Rolling, upgraded: str, done: int) -> None:
    """`cluster status` and `upgrade-check` of N say where the upgrade is."""
    appliance = rolling.trio.appliances[upgraded]
    shown = appliance.cairn("cluster", "status")
    causes = [each["cause"] for each in shown["problems"]]
    versions = {each["version"] for each in shown["appliances"]}
    assert len(versions) == (1 if done == 3 else 2), shown
    if appliance.host.env["PATH"].startswith(str(BIN)):
        assert any("run different versions" in cause for cause in causes) is (done != 3), causes
        asked = ["cairn", "cluster", "upgrade-check", "--json"]
        answer = appliance.host.run(asked, check=False)
        check = json.loads(answer.stdout)
        assert upgraded not in check["order"][: 3 - done], check
        if done != 3:
            assert check["ready"], check
            refused = appliance.host.run(["cairn", "cluster", "finish-upgrade", "-y"], check=False)
            assert refused.returncode == 4
            assert "not all appliances are upgraded" in refused.stderr
        else:  # their agents would be two behind after the next one
            assert answer.returncode == 4
            assert "older than all appliances: a, b" in check["findings"][0]["cause"]
            refused = appliance.host.run(["cairn", "map-key", "rotate", "--yes"], check=False)
            assert refused.returncode == 4, "N-1 could not be gone back to"
            assert "until the upgrade is finished" in refused.stderr


def renew_agent(rolling: Rolling, name: str, build: str) -> None:
    """Restart agent and data plane of a node with other programs; note the longest outage."""
    node, other = rolling.nodes[name], next(n for n in rolling.nodes if n != name)
    assert node.agent is not None
    assert node.dataplane is not None
    probes = rolling.probes()
    time.sleep(0.5)
    begun = probes.now()
    node.agent.stop()
    install(node.host, rolling.builds[build])
    node.start_agent()
    until("its link is up", lambda: node.answers() and node.status()["link"]["is_up"], within_s=20)
    agent_done = probes.now()
    node.dataplane.stop()
    node.start_dataplane()
    node.wait_for_ping(rolling.nodes[other].address(rolling.network), within_s=20)
    time.sleep(0.5)
    probes.stop()
    assert probes.lost(since=begun, until=agent_done) == 0, "an agent's restart costs nothing"
    rolling.outage_s = max(rolling.outage_s, probes.worst(since=begun).outage_s)


def meet(rolling: Rolling, agents: str, cluster: str) -> None:
    """News reach agents of one version by each appliance of a cluster of another (or the same).

    Their links hold: neither side misses a word that the other doesn't speak.
    """
    rolling.appliances_agree()
    links = {name: node.links() for name, node in rolling.nodes.items()}
    for via in rolling.trio.appliances:
        rolling.news_reach_all(via)
    time.sleep(QUIET_S)
    rolling.appliances_agree()
    assert {name: node.links() for name, node in rolling.nodes.items()} == links
    rolling.met.append(f"{agents} agents at {cluster}")


def join_late(rolling: Rolling, build: str) -> None:
    """A new node of a build joins and leaves again."""
    appliance = rolling.trio.appliances["m2"]
    late = Node(rolling.trio.lab.sites["dc"].host(f"late-{build.lower()}"))
    install(late.host, rolling.builds[build])
    late.start()
    late.join(appliance.token(rolling.network))
    late.wait_for_ping(rolling.nodes["a"].address(rolling.network), within_s=20)
    appliance.cairn("node", "delete", late.name, "--yes")
    late.stop()


def test_appliances_of_n_minus_1_become_n_under_agents_of_n_minus_1(rolling: Rolling) -> None:
    meet(rolling, "N-1", "N-1")
    roll(rolling, "N")
    meet(rolling, "N-1", "N")
    join_late(rolling, "N-1")


def test_agents_of_n_minus_1_become_n(rolling: Rolling) -> None:
    for name in rolling.nodes:
        renew_agent(rolling, name, "N")
    meet(rolling, "N", "N")


def test_appliances_go_back_to_n_minus_1_under_agents_of_n(rolling: Rolling) -> None:
    made = rolling.trio.appliances["m1"].cairn("backup", "key", "--yes")
    rolling.recovery_key = made["recovery_key"]  # N-1 may be older than backups
    roll(rolling, "N-1")
    meet(rolling, "N", "N-1")
    join_late(rolling, "N")


def test_agents_go_back_to_n_minus_1(rolling: Rolling) -> None:
    for name in rolling.nodes:
        renew_agent(rolling, name, "N-1")
    meet(rolling, "N-1", "N-1")


def test_the_first_of_n_makes_a_backup_before_and_it_restores(rolling: Rolling) -> None:
    trio = rolling.trio
    first = next(name for name in trio.appliances if name != trio.leader())
    rolling.swap(first, "N")
    appliance = trio.appliances[first]
    kind = f"before version {__version__} in place of "
    backups = appliance.cairn("backup", "list")
    (made,) = [each for each in backups if each["reason"].startswith(kind)]
    assert made["appliance"] == first
    assert Path(made["path"]).stat().st_size == made["octets"]

    install(trio.client, rolling.builds["N"])
    file, data_dir = trio.client.directory / "kept.backup", trio.client.directory / "restored"
    appliance.cairn("backup", "fetch", made["name"], "--output", str(file))
    assert file.read_bytes() == Path(made["path"]).read_bytes()
    command = ["cairn-appliance", "restore", str(file), "--data-dir", str(data_dir)]
    command += ["--others-are-lost", "--address", trio.client.v4, "--json"]
    restored = trio.client.run(command, stdin=rolling.recovery_key + "\n", within_s=90)
    assert json.loads(restored.stdout)["backup_revision"] == made["revision"]

    # One that lies on another appliance is fetched from there.
    other = trio.appliances[next(name for name in trio.appliances if name != first)]
    rolling.swap(other.host.name, "N")
    fetched = trio.client.directory / "fetched.backup"
    other.cairn("backup", "fetch", made["name"], "--output", str(fetched))
    assert fetched.read_bytes() == file.read_bytes()


def test_what_it_came_to(rolling: Rolling) -> None:
    sent, gone = sum(pair.sent for pair in rolling.pairs), sum(pair.lost for pair in rolling.pairs)
    acknowledged = [write for write in rolling.writes if write.id]
    failed = [write for write in rolling.writes if not write.id]
    repeated = sum(write.tries > 1 for write in rolling.writes)
    rate = len(failed) / len(rolling.writes) * 100
    forgotten = lost(rolling.trio, acknowledged)
    assert record(
        "A13",
        what=f"three appliances N-1 -> N -> N-1, one by one: probes of {sent} lost",
        bar="0 lost",
        value=gone,
        unit="probes",
        holds=gone == 0 and sent > 1000,
    ), [str(pair) for pair in rolling.pairs if pair.lost]
    assert record(
        "A13-errors",
        what=f"the same, {len(rolling.writes)} writes with retry ({repeated} repeated), slowest "
        f"pause {rolling.stall_s:.2f} s: failed",
        bar="<= 0.1 %",
        value=round(rate, 3),
        unit="%",
        holds=rate <= 0.1 and len(rolling.writes) >= 1000,
    ), failed[:5]
    assert record(
        "A13-lost",
        what=f"the same: acknowledged writes of {len(acknowledged)} lost",
        bar="0",
        value=forgotten,
        unit="writes",
        holds=forgotten == 0,
    )
    assert rolling.met == [
        "N-1 agents at N-1",
        "N-1 agents at N",
        "N agents at N",
        "N agents at N-1",
        "N-1 agents at N-1",
    ]
    assert record_seconds(
        "A13-agents",
        rolling.outage_s,
        at_most_s=RESTART_S,
        what=f"{'; '.join(dict.fromkeys(rolling.met))}: every change loaded by all; agents restart "
        "without loss, data planes with a longest outage of",
    )
