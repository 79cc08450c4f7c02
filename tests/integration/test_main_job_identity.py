"""Copies, restored snapshots and moves of a node: who is who (trust.md B11, control-plane.md).

Machines are namespaces, each with a machine ID of its own; a copy is a machine that starts
with the state directory of another one. Its cable is plugged when its programs run, so that
the time of N Python interpreters on this machine's cores doesn't count as that of N VMs.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.integration.world import FAST_TIMERS, World
from tests.lab import Probes, Site, until
from tests.lab.cairn import Node
from tests.proofs import record, record_seconds

pytestmark = [pytest.mark.root, pytest.mark.tun, pytest.mark.etcd]

CLONES = int(os.environ.get("CAIRN_CLONES", "10"))  # `make clones` has 50


@dataclass
class Place:
    """A site of copies, and what the appliance has told since it was made."""

    world: World
    site: Site
    first: int  # sequence of the last event before

    def copy(self, state: Path, name: str) -> Node:
        """Add a machine with a copy of a state directory; its programs don't run yet."""
        node = Node(self.site.host(name), timers=FAST_TIMERS)
        shutil.copytree(state, node.state_dir)
        return node

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        """Return the events of these kinds since then, oldest first."""
        events = self.world.appliance.events(500)
        return [e for e in events if e["kind"] in kinds and e["sequence"] > self.first]

    def pending(self) -> list[dict[str, Any]]:
        """Return the nodes that wait."""
        return list(self.world.appliance.cairn("node", "list", "--state", "pending"))

    def node(self, reference: str) -> dict[str, Any]:
        """Return a node as the appliance shows it."""
        shown: dict[str, Any] = self.world.appliance.cairn("node", "show", reference)
        return shown

    def clear(self) -> None:
        """End every machine here and forget what was a copy."""
        for host in self.site.hosts:
            if host in self.world.lab.machines:
                self.world.lab.machines.remove(host)
                host.close()
        for node in self.pending():
            self.world.appliance.cairn("node", "reject", node["id"], "--yes")


@pytest.fixture(scope="module")
def clones_site(world: World) -> Site:
    return world.lab.site("clones")


@pytest.fixture
def place(world: World, clones_site: Site) -> Iterator[Place]:
    world.settle()
    place = Place(world, clones_site, world.appliance.events(1)[0]["sequence"])
    yield place
    place.clear()


@pytest.fixture
def victim(world: World) -> Iterator[Node]:
    """A node at cloud-b to move, to restore and to copy."""
    name = f"moving-{int(time.monotonic() * 10) % 100000}"
    node = world.new_node(name, "cloud-b", timers=FAST_TIMERS)
    node.join(world.appliance.token(world.prod))
    node.wait_for_ping(world.address("a1"), within_s=20)
    yield node
    node.stop()
    world.appliance.host.run(["cairn", "node", "delete", name, "--yes"], check=False)


@pytest.mark.timeout(120 + 10 * CLONES)
def test_b11_copies_beside_the_living_original_wait_as_nodes_of_their_own(
    world: World, place: Place
) -> None:
    a1 = world.node("a1")
    before = place.node("a1")
    copies = [place.copy(a1.state_dir, f"clone{n}") for n in range(CLONES)]
    for copy in copies:
        copy.host.ip("link set eth0 down", "addr flush dev eth0 scope global")
    for copy in copies:
        copy.start()
    for copy in copies:
        assert copy.agent is not None
        copy.agent.wait_for_log("data plane is there", within_s=30 + 5 * CLONES)
        assert not copy.has_tap(world.prod), "another machine than before takes no part by itself"
    wan = place.site.router.capture("wan", what="udp port 8002")
    probes = world.probes(["a1", "b1"])
    begun = probes.now()
    plugged_at = time.time()
    for number, copy in enumerate(copies, 100):
        place.site.give_addresses(copy.host, number)
    plugging_s = time.time() - plugged_at

    until("all of them wait", lambda: len(place.pending()) == CLONES, within_s=60)
    time.sleep(2.0)
    probes.stop()
    wan.stop()

    enrolled = [_seconds(event) for event in place.events("copy_enrolled")]
    took_s = max(enrolled) - plugged_at - plugging_s
    outage_s = probes.worst(since=begun).outage_s
    alarms = len(place.events("duplicate_node"))
    takeovers = len(place.events("node_moved", "node_restored"))
    assert len({node["id"] for node in place.pending()}) == CLONES
    assert all(node["copy_of"]["name"] == "a1" for node in place.pending())
    after = place.node("a1")
    for name in ("id", "generation", "machine", "endpoints", "members", "state"):
        assert after[name] == before[name], "the original is untouched"
    assert wan.packets() == [], "a copy sends nothing to other nodes"
    assert record(
        "B11" if CLONES < 50 else "B11-50",
        what=f"{CLONES} copies of a living node within {plugging_s:.1f} s: the original's longest "
        f"outage {outage_s:.3f} s, takeovers {takeovers}, alarms {alarms}; the last waits after",
        bar="plugged in <= 2 s; <= 5 s; outage <= 1 s, <= 5 takeovers, 1 alarm",
        value=round(max(0.0, took_s), 2),
        unit="s",
        holds=plugging_s <= 2 and took_s <= 5 and outage_s <= 1 and takeovers <= 5 and alarms == 1,
    ), [str(pair) for pair in probes.pairs(since=begun) if pair.lost]


def test_approved_a_copy_is_a_new_node_and_claimed_it_is_the_node(
    world: World, place: Place
) -> None:
    a1 = world.node("a1")
    before = place.node("a1")
    address = world.address("a1")
    new, claimant = (place.copy(a1.state_dir, name) for name in ("new", "claimant"))
    for copy in (new, claimant):
        copy.start()
    until("both wait", lambda: len(place.pending()) == 2, within_s=60)
    status = until("it says so", lambda: _waiting(new), within_s=10)
    assert (status["copy_of"], status["vsubnets"]) == ("a1", [])

    # "Make it a new node": addresses of its own, beside the original.
    world.appliance.cairn("node", "approve", "new")
    assert new.address(world.prod, within_s=20) != address
    new.wait_for_ping(address, within_s=20)

    # "This one is a1": name, address and membership are the claimant's, with its own keys.
    world.appliance.cairn("node", "claim", "claimant", "--yes")
    assert claimant.address(world.prod, within_s=20) == address
    world.node("b1").wait_for_ping(address, within_s=20)
    claimed = place.node("a1")
    assert claimed["id"] == before["id"]
    assert claimed["members"] == before["members"]
    until("what was a1 waits as its copy", lambda: _waiting(a1), within_s=20)
    until("and takes no part", lambda: not a1.has_tap(world.prod), within_s=5)
    assert claimant.pings(world.address("b1"), count=5) == 5

    # And back, so that the world is as it was.
    claimant.stop()
    world.appliance.cairn("node", "claim", a1.status()["node_id"], "--yes")
    until("a1 is a1", lambda: a1.status()["node_id"] == before["id"], within_s=20)
    world.settle()
    world.appliance.cairn("node", "delete", "new", "--yes")


@pytest.mark.slow
def test_a_machine_that_moved_goes_on_and_its_original_is_the_copy_then(
    world: World, place: Place, victim: Node
) -> None:
    address = victim.address(world.prod)
    victim.host.cut()  # a power failure: its link looks open at the appliance for a while
    victim.host.reset()
    moved = place.copy(victim.state_dir, "moved")
    moved.start()
    begun = time.monotonic()
    until("it has its address", lambda: moved.has_tap(world.prod), within_s=60)
    assert moved.address(world.prod) == address
    world.node("a1").wait_for_ping(address, within_s=20)
    took_s = time.monotonic() - begun
    assert [e["node"]["name"] for e in place.events("node_moved")] == [victim.name]
    assert not place.events("duplicate_node")

    # The cold copy that was the original is on again: it came second.
    a1 = world.node("a1")
    probes = Probes(
        {moved.host: address, a1.host: world.address("a1")}, directory=world.lab.directory
    )
    victim.host.uncut()
    victim.start()
    until("it waits", lambda: _waiting(victim), within_s=30)
    time.sleep(1.0)
    probes.stop()
    outage_s = probes.worst().outage_s
    assert moved.pings(world.address("a1"), count=5) == 5
    (alarm,) = place.events("duplicate_node")
    assert alarm["details"]["first_address"] in (moved.host.v4, moved.host.v6)
    assert alarm["details"]["second_address"] in (victim.host.v4, victim.host.v6)
    assert record(
        "MOVED",
        what="power failure, and the disk starts in another machine at once: from there to a ping; "
        f"when its original is back it loses {outage_s:.3f} s, and the original waits as a copy",
        bar="<= 60 s; it loses <= 1 s",
        value=round(took_s, 1),
        unit="s",
        holds=took_s <= 60 and outage_s <= 1,
    ), [str(pair) for pair in probes.pairs()]


def test_a_restored_snapshot_goes_on_with_new_sessions(
    world: World, place: Place, victim: Node, tmp_path: Path
) -> None:
    snapshot = tmp_path / "snapshot"
    shutil.copytree(victim.state_dir, snapshot)
    agent = victim.agent
    assert agent is not None
    for _ in range(3):  # each start is a registration
        links = victim.links()
        agent.kill()
        until("it is registered", lambda n=links: victim.links() > n, within_s=30)
    victim.stop()
    shutil.rmtree(victim.state_dir)
    shutil.copytree(snapshot, victim.state_dir)
    before = place.node(victim.name)["generation"]
    victim.start()
    begun = time.monotonic()
    until("it was noticed", lambda: place.events("node_restored"), within_s=40)
    victim.wait_for_ping(world.address("a1"), within_s=20)
    took_s = time.monotonic() - begun
    after = place.node(victim.name)
    assert after["generation"] > before
    assert not place.events("duplicate_node", "node_moved")
    assert record_seconds(
        "RESTORED",
        took_s,
        at_most_s=30,
        what="a node put back to a snapshot is noticed and goes on with a new generation",
    )


def test_a_token_for_one_machine_lets_no_other_one_in(world: World) -> None:
    """Each says of itself what `doctor` shows there: here its cloud's ID, from cloud-init."""
    meant, other = (world.new_node(name, "cloud-b") for name in ("meant", "other"))
    try:
        own, foreign = (_given_instance_id(node) for node in (meant, other))
        token = world.appliance.token(world.prod, instance=own)
        refused = other.join(token, check=False)
        told = " ".join(refused.stderr.split())
        assert refused.returncode == 4, told
        assert f"for other machines than this one, whose instance ID is '{foreign}'" in told
        assert "what to do: join the machine that the token is for" in told and own not in told
        newest = world.appliance.cairn("token", "list")[0]
        assert (newest["instances"], newest["uses"]) == ([own], 0)
        event = next(
            e for e in reversed(world.appliance.events(20)) if e["kind"] == "token_refused"
        )
        assert event["details"]["code"] == "token_for_other_instance" and foreign in event["text"]
        meant.join(token)
        meant.wait_for_ping(world.address("a1"), within_s=20)
    finally:
        for node in (meant, other):
            node.stop()
        world.appliance.host.run(["cairn", "node", "delete", "meant", "--yes"], check=False)


def test_a_new_secret_of_the_vsubnet_under_traffic_loses_nothing(world: World) -> None:
    world.settle()
    before = world.appliance.cairn("vsubnet", "rotate", world.prod.name)["epoch"]
    probes = world.probes()
    begun = probes.now()
    for _ in range(3):
        time.sleep(1.0)
        epoch = world.appliance.cairn("vsubnet", "rotate", world.prod.name)["epoch"]
    time.sleep(4.0)  # a rekey of every pair by the newest
    revoked = world.appliance.cairn("vsubnet", "rotate", world.prod.name, "--revoke-now", "--yes")[
        "epoch"
    ]
    time.sleep(4.0)
    probes.stop()
    assert (epoch, revoked) == (before + 3, before + 4)
    lost = probes.lost(since=begun)
    assert record(
        "A14-psk",
        what="a vSubnet's secret renewed four times under traffic, the last with the old one ended "
        "at once: probes lost",
        bar="0 lost",
        value=lost,
        unit="probes",
        holds=lost == 0,
    ), [str(pair) for pair in probes.pairs(since=begun) if pair.lost]


def _given_instance_id(node: Node) -> str:
    """Name a machine as a cloud does, and return what `cairn-agent doctor` makes of it."""
    given = f"i-0{node.host.name}"
    script = f"mkdir -p /run/cloud-init && echo {given} >/run/cloud-init/.instance-id"
    node.host.run(["sh", "-c", script])
    shown = node.host.run(["cairn-agent", "doctor", "--json"], check=False, within_s=20).stdout
    found = {each["name"]: each["found"] for each in json.loads(shown)}
    assert found["instance ID"] == given
    return given


def _seconds(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["at"]).timestamp()


def _waiting(node: Node) -> dict[str, Any] | None:
    if not node.answers():
        return None
    status = node.status()
    return status if status["state"] == "pending" and status["link"]["is_up"] else None
