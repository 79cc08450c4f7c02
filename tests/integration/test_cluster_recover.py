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

from tests.integration.brought_back import Before, incarnations, prove_tokens
from tests.integration.test_cluster import grown
from tests.integration.trio import Trio, cut_off, mend, places
from tests.lab import until
from tests.lab.cairn import Appliance, Node

pytestmark = [
    pytest.mark.root,
    pytest.mark.tun,
    pytest.mark.etcd,
    pytest.mark.slow,
    pytest.mark.timeout(600),
]


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
    before = Before(trio.lab, m1, trio.network, world.members)
    for name in ("m1", "m3"):
        trio.appliances.pop(name).kill()
    survivor.stop()
    done = recovered(survivor)
    mend(survivor)
    survivor.start()
    until(
        "all nodes hold the netmap of the recovered cluster",
        lambda: incarnations(world.members) == {done["incarnation"]},
        within_s=180,
    )
    before.probes.stop()

    survivor.login()
    before.prove_packets(
        "A11-lagging",
        what=f"one of three cut off, a node and {written} writes at the others, which are lost, "
        "the one recovered",
    )
    before.prove_owners("A11-owners", survivor, world.late, at_least=6)
    tokens = "of a token used up and one with uses left"
    prove_tokens("A11-token", world.late, [spent, shared], what=tokens)
    assert survivor.nodes()["new"]["state"] == "approved"
    kinds = {event["kind"] for event in survivor.events()}
    assert {"cluster_recovered", "restore_absorbed", "node_reasserted"} <= kinds


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
