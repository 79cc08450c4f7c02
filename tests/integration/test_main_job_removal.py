"""A removed node is cut off at every member within a second, data and control (KT-6)."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from datetime import datetime

import pytest

from tests.integration.world import FAST_TIMERS, World
from tests.lab import Machine, Probes, until
from tests.lab.cairn import Node, loaded_digests
from tests.proofs import record_seconds

pytestmark = [pytest.mark.root, pytest.mark.tun, pytest.mark.etcd]

OFFLINE_TRUST_S = 12


@pytest.fixture
def victim(world: World) -> Iterator[Node]:
    """A node at cloud-b that is about to be removed."""
    name = f"victim-{int(time.monotonic() * 10) % 100000}"
    node = world.new_node(name, "cloud-b", timers=FAST_TIMERS)
    node.join(world.appliance.token(world.prod))
    yield node
    node.stop()
    world.appliance.host.run(["cairn", "node", "delete", name, "--yes"], check=False)


@pytest.mark.timed
def test_a_removed_node_is_cut_off_at_every_member_within_a_second(
    world: World, victim: Node
) -> None:
    probes = _blast(world, victim)
    time.sleep(1.5)
    asked = probes.now()
    world.appliance.cairn("node", "delete", victim.name, "--yes")
    removed = _removed_at(world, victim)
    time.sleep(2.0)
    probes.stop()

    last = {
        name: probes.last_received(victim.host, node.host) for name, node in world.nodes.items()
    }
    slowest = max(at - removed for at in last.values())
    assert asked < removed < max(last.values()) + 2, "one clock"
    before = [p for p in probes.pairs(until=asked) if p.source == victim.name]
    assert all(pair.sent > 50 and pair.lost == 0 for pair in before), "it did get through before"
    assert record_seconds(
        "KT-6",
        slowest,
        at_most_s=1,
        what="removed while blasting: last packet at any member after the removal was written",
    ), last
    _assert_members_are_unharmed(world, probes)


@pytest.mark.timed
def test_a_removed_node_is_told_so_and_gets_nothing_more_from_an_appliance(
    world: World, victim: Node
) -> None:
    victim.address(world.prod)
    identity = (victim.state_dir / "identity.json").read_text()
    monitor = victim.host.start(["ip", "-ts", "monitor", "link"], name="monitor")
    time.sleep(0.3)  # it says nothing when it is ready
    world.appliance.cairn("node", "delete", victim.name, "--yes")
    removed = _removed_at(world, victim)

    until("its interface is gone", lambda: not victim.has_tap(world.prod), within_s=5)
    until("the node knows", lambda: victim.status()["state"] == "barred", within_s=5)
    monitor.stop()
    took = _deleted_at(monitor.text(), world.prod.tap) - removed
    until(
        "a member has forgotten it",
        lambda: victim.name not in {p["name"] for p in world.node("a1").status()["peers"]},
        within_s=5,
    )

    # A thief with the identity: same keys and certificate, an agent that does not know yet.
    assert victim.agent is not None
    victim.agent.stop()
    (victim.state_dir / "identity.json").write_text(identity)
    victim.start_agent()
    until(
        "it is refused again",
        lambda: victim.answers() and victim.status()["state"] == "barred",
        within_s=15,
    )
    assert record_seconds(
        "REMOVAL",
        took,
        at_most_s=1,
        what="a removed node that is connected is told: its interface is gone; it is refused after",
    )


@pytest.mark.timed
def test_a_peer_that_is_cut_off_from_the_service_drops_it_at_the_offline_trust_limit(
    world: World, victim: Node
) -> None:
    loner = world.new_node("loner", "cloud-a", timers=FAST_TIMERS, offline_trust_s=OFFLINE_TRUST_S)
    try:
        loner.join(world.appliance.token(world.prod))
        addresses: dict[Machine, str] = {
            victim.host: victim.address(world.prod),
            loner.host: loner.address(world.prod),
        }
        loner.wait_for_ping(addresses[victim.host], within_s=20)
        probes = Probes(addresses, directory=world.lab.directory)
        told = probes.now()
        _tell_something(
            world, loner, victim
        )  # an appliance alone speaks every 15 s, if nothing happens
        # The loner loses every appliance; the victim is removed, and goes on blasting with
        # the netmap it has: its own agent is stopped, so that nothing tells it.
        _cut_off_from_appliance(world, loner)
        cut = probes.now()
        assert victim.agent is not None
        victim.agent.stop()
        world.appliance.cairn("node", "delete", victim.name, "--yes")
        time.sleep(OFFLINE_TRUST_S + 5)
        probes.stop()

        last = probes.last_received(victim.host, loner.host)
        assert last - told > OFFLINE_TRUST_S - 2, "until then the vSubnet outlives the cluster"
        assert record_seconds(
            "KT-6-offline",
            last - cut,
            at_most_s=OFFLINE_TRUST_S + 2,
            what="a peer cut off from the service drops a removed node at the offline-trust limit",
        )
    finally:
        world.sites["cloud-a"].heal()
    until(
        "the loner is back by itself",
        lambda: loner.status()["link"]["is_up"] and loner.has_tap(world.prod),
        within_s=60,
    )
    loner.wait_for_ping(world.address("a1"), within_s=20)
    loner.stop()
    world.appliance.cairn("node", "delete", "loner", "--yes")


def _blast(world: World, victim: Node) -> Probes:
    addresses: dict[Machine, str] = {
        node.host: world.address(name) for name, node in world.nodes.items()
    }
    addresses[victim.host] = victim.address(world.prod)
    for name in world.nodes:
        victim.wait_for_ping(world.address(name), within_s=20)
    return Probes(addresses, directory=world.lab.directory)


def _deleted_at(monitored: str, interface: str) -> float:
    """Return when `ip -ts monitor link` saw the interface go, in the probes' clock."""
    found = re.search(rf"\[(\S+)\] ?Deleted \d+: {interface}", monitored)
    assert found, monitored
    return datetime.fromisoformat(found[1]).timestamp() - (time.time() - time.monotonic())


def _removed_at(world: World, node: Node) -> float:
    """Return when the removal was written, in the probes' clock."""
    event = world.appliance.cairn("event", "list", "--kind", "node_removed", "--limit", "1")
    assert event["node"]["name"] == node.name
    happened = datetime.fromisoformat(event["at"]).timestamp()
    return happened - (time.time() - time.monotonic())


def _assert_members_are_unharmed(world: World, probes: Probes) -> None:
    members = {node.name for node in world.nodes.values()}
    pairs = [p for p in probes.pairs() if p.source in members and p.destination in members]
    assert sum(pair.lost for pair in pairs) == 0, json.dumps([str(p) for p in pairs if p.lost])


def _tell_something(world: World, *nodes: Node) -> None:
    """Let the appliance have something to tell some nodes, and wait until they have heard it."""

    def known() -> list[str]:
        return [loaded_digests(node)[world.prod.vni] for node in nodes]

    before = known()
    world.appliance.cairn("vsubnet", "rotate", world.prod.name)
    until("they have heard", lambda: not set(before) & set(known()), within_s=20)


def _cut_off_from_appliance(world: World, node: Node) -> None:
    site, appliance = world.sites["cloud-a"], world.appliance.host
    for family, source, target in (
        ("ip", node.host.v4, appliance.v4),
        ("ip6", node.host.v6, appliance.v6),
    ):
        # Both ways: on a connection that is open the appliance would still be heard.
        site.drop(f"{family} saddr {source} {family} daddr {target}")
        site.drop(f"{family} saddr {target} {family} daddr {source}")
