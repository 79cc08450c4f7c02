"""Two of three appliances are lost, and the one that is left had not followed to the end.

    one LAN:   m1   m2   m3   vm   peer   new   late   client

`m2` is cut off from the others. They go on: `new` joins, a token is used up, writes are
acknowledged. Then they are lost for good, and `m2` is recovered. Bars: trust.md A11, A12.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.integration.test_cluster import grown
from tests.integration.trio import Trio, cut_off, mend, places
from tests.lab import Probes, until
from tests.lab.cairn import Appliance, Node
from tests.proofs import record

pytestmark = [
    pytest.mark.root,
    pytest.mark.tun,
    pytest.mark.etcd,
    pytest.mark.slow,
    pytest.mark.timeout(600),
]

REFUSED = 4  # exit status of a join whose token lets nobody in


@dataclass
class World:
    trio: Trio
    peer: Node
    new: Node
    late: Node

    @property
    def survivor(self) -> Appliance:
        return self.trio.appliances["m2"]

    @property
    def members(self) -> list[Node]:
        return [self.trio.vm, self.peer, self.new]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with grown("recover") as trio:
        nodes = [Node(trio.vm.host.site.host(name)) for name in ("peer", "new", "late")]
        for node in nodes:
            node.start()
        yield World(trio, *nodes)


def test_what_the_majority_gave_out_without_the_survivor_is_not_lost(world: World) -> None:
    trio, survivor, m1 = world.trio, world.survivor, world.trio.appliances["m1"]
    trio.wait_until_whole()
    world.peer.join(m1.token(trio.network))
    world.peer.wait_for_ping(trio.vm.address(trio.network), within_s=20)
    spent, shared = m1.token(trio.network), m1.token(trio.network, uses=9)

    written = go_on_without(world, spent)
    owned = owners(m1)
    addresses = {node.host: node.address(trio.network) for node in world.members}
    probes = Probes(addresses, directory=trio.lab.directory)
    begun = probes.now()
    for name in ("m1", "m3"):
        trio.appliances.pop(name).kill()
    survivor.stop()
    done = recovered(survivor)
    mend(survivor)
    survivor.start()
    until(
        "all nodes hold the netmap of the recovered cluster",
        lambda: {incarnation_of(node) for node in world.members} == {done["incarnation"]},
        within_s=180,
    )
    probes.stop()
    pairs = probes.pairs(since=begun)
    lost, sent = sum(pair.lost for pair in pairs), sum(pair.sent for pair in pairs)

    survivor.login()
    again = owners(survivor)
    reused = sum(again.get(key) != owner for key, owner in owned.items())
    world.late.join(survivor.token(trio.network))  # it gets nothing that anybody has
    address = world.late.address(trio.network)
    world.late.wait_for_ping(addresses[world.new.host], within_s=20)
    reused += f"{trio.network.vni} {address}" in owned
    world.late.host.run(["cairn-agent", "leave", "--force", "--yes"])
    tries = [world.late.join(token, check=False).returncode for token in (spent, shared)]
    revived = sum(status != REFUSED for status in tries)
    states = {name: node["state"] for name, node in survivor.nodes().items()}
    listed = survivor.host.run(["cairn", "event", "list", "--limit", "1000", "--json"]).stdout
    kinds = {json.loads(line)["kind"] for line in listed.splitlines()}
    assert states["new"] == "approved"
    assert {"cluster_recovered", "restore_absorbed", "node_reasserted"} <= kinds
    assert record(
        "A11-lagging",
        what="one of three cut off, a node and "
        f"{written} writes at the others, which are lost, the one recovered: probes lost of {sent}",
        bar="0",
        value=lost,
        unit="probes",
        holds=lost == 0 and sent > 1000,
    ), [str(pair) for pair in pairs if pair.lost]
    assert record(
        "A11-owners",
        what=f"the same: of {len(owned)} addresses, with another owner or given out again",
        bar="0",
        value=reused,
        unit="addresses",
        holds=reused == 0 and len(owned) >= 6,
    ), (owned, again)
    assert record(
        "A11-token",
        what="the same: of a token used up and one with uses left, that still let a node in",
        bar="0",
        value=revived,
        unit="tokens",
        holds=revived == 0,
    )


def go_on_without(world: World, token: str) -> int:
    """Cut the survivor off, and do what it never hears of; return how much was written."""
    trio, survivor = world.trio, world.survivor
    others = [each for each in trio.appliances.values() if each is not survivor]
    cut_off(survivor, others, "both ways")
    until("the survivor has no quorum", lambda: not survivor.is_ready(), within_s=30)
    theirs = places(trio) - {survivor.host.v4}
    until("the agent follows another", lambda: trio.served_by() in theirs, within_s=60)
    until("the others have a quorum", others[0].is_ready, within_s=30)
    world.new.join(token)
    for node in (trio.vm, world.peer):
        world.new.wait_for_ping(node.address(trio.network), within_s=30)
    with trio.writing(first="m1") as writer:
        writer.wait_for(50, within_s=30)
        return len(writer.acknowledged())


def recovered(survivor: Appliance) -> dict[str, int]:
    command = ["cairn-appliance", "recover", "--data-dir", str(survivor.data_dir)]
    done = survivor.host.run([*command, "--others-are-lost", "--json"], within_s=90)
    shown: dict[str, int] = json.loads(done.stdout)
    return shown


def owners(appliance: Appliance) -> dict[str, str]:
    """Which node has which address, by VNI; one that two have is an error of the test's."""
    found: dict[str, str] = {}
    for member in appliance.cairn("member", "list"):
        for address in [*member["ips"], member["mac"]]:
            key = f"{member['vsubnet']['vni']} {address}"
            assert key not in found, f"two have {key}"
            found[key] = member["node"]["name"]
    return found


def incarnation_of(node: Node) -> int:
    """Of the netmap that it holds; 0: none."""
    file = node.state_dir / "netmap.jsonl"
    if not file.exists():
        return 0
    return int(json.loads(file.read_text().splitlines()[0])["incarnation"])
