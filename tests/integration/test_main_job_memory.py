"""The memory of a node's programs put back to what it was: what a restored snapshot does.

tests/lab/memory.py does it to the running processes: there is no VM here that could be restored,
and the rest of the node (kernel, disk, clock) goes on, unless a test puts it back, too. The
timers are those of production: a session that is renewed every few seconds would heal by itself.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.integration.world import World
from tests.lab import Machine, NotInTimeError, Packet, Pair, Probes, read_pcap, until
from tests.lab.cairn import Node
from tests.lab.memory import Memory
from tests.proofs import record, record_seconds

pytestmark = [
    pytest.mark.root,
    pytest.mark.tun,
    pytest.mark.etcd,
    pytest.mark.timed,
    pytest.mark.timeout(300),  # an event is made once a minute
]

RUNS = 20
_REMEMBERED_S = 1.0  # what is sent within it, at most
INTERVAL_MS = 20.0  # between probes: a second of them are fewer packets than a peer keeps salts of


@dataclass(frozen=True, slots=True)
class Two:
    """Two nodes at two sites: one whose memory goes back, and one that talks with it."""

    world: World
    restored: Node
    witness: Node
    first: int  # sequence of the last event before

    def probes(self) -> Probes:
        """Start probes, both ways."""
        nodes = (self.restored, self.witness)
        addresses: dict[Machine, str] = {node.host: node.address(self.world.prod) for node in nodes}
        return Probes(addresses, directory=self.world.lab.directory, interval_ms=INTERVAL_MS)

    def shown(self) -> dict[str, Any]:
        """Return the restored node as the appliance has it."""
        shown: dict[str, Any] = self.world.appliance.cairn("node", "show", self.restored.name)
        return shown

    def register(self, number: int) -> None:
        """Let the node register on the connection that there is: it has one more address."""
        generation = self.shown()["generation"]
        self.restored.host.ip(f"addr add 198.51.100.{100 + number}/32 dev eth0")
        until("it registers", lambda: self.shown()["generation"] > generation, within_s=60)

    def alarm(self) -> dict[str, Any] | None:
        """Return the alarm about the restored node, if there is one."""
        found = self.world.appliance.cairn("status")["problems"]
        about = (e for e in found if e["name"] == "clone_seen" and self.restored.name in e["cause"])
        return next(about, None)

    def events(self, *kinds: str) -> list[dict[str, Any]]:
        """Return the events of these kinds since the test began, about the restored node."""
        events = newest_events(self.world, 300)
        return [
            e
            for e in events
            if e["kind"] in kinds
            and e["sequence"] > self.first
            and (e.get("node") or {}).get("name") == self.restored.name
        ]


@pytest.fixture
def two(world: World) -> Iterator[Two]:
    number = int(time.monotonic() * 10) % 100000
    first = newest_events(world, 1)[-1]["sequence"]
    nodes = []
    for name, site in ((f"restored-{number}", "cloud-b"), (f"witness-{number}", "cloud-a")):
        node = world.new_node(name, site)
        node.join(world.appliance.token(world.prod))
        nodes.append(node)
    nodes[0].wait_for_ping(nodes[1].address(world.prod), within_s=20)
    yield Two(world, nodes[0], nodes[1], first)
    for node in nodes:
        node.stop()
        world.appliance.host.run(["cairn", "node", "delete", node.name, "--yes"], check=False)


def test_b10_peers_notice_a_data_plane_put_back_by_some_packets_and_tell(two: Two) -> None:
    before = two.shown()
    probes = two.probes()
    time.sleep(1.0)
    begun = _put_back_by_some_packets(two, probes)
    at = time.monotonic()

    alarm = until("it is an alarm", two.alarm, within_s=30)
    told_s = time.monotonic() - at
    time.sleep(2.0)
    probes.stop()

    assert two.witness.name in alarm["cause"] and "seems to be two machines" in alarm["cause"]
    assert two.witness.agent is not None
    assert "peer is two machines" in two.witness.agent.text()
    (event,) = until("it is an event", lambda: two.events("clone_seen"), within_s=90)
    assert two.witness.name in event["details"]["reporters"].split(", ")  # others may have heard it
    assert_is_itself(two, before)
    assert_one_outage_each_way(probes.pairs(since=begun))
    assert record_seconds(
        "B10-rollback",
        probes.worst(since=begun).outage_s,
        at_most_s=5,
        what="the memory of a data plane put back by some packets: no frame of the pair for; "
        f"the alarm that names who says so stands {told_s:.1f} s after",
    ), list(map(str, probes.pairs()))


def _put_back_by_some_packets(two: Two, probes: Probes) -> float:
    """Return when it began: anew where this machine let so many pass that no peer remembers."""
    for _ in range(3):
        begun = probes.now()
        memory = Memory.of(data_plane(two.restored))
        time.sleep(0.3)
        memory.restore()
        if probes.now() - begun < _REMEMBERED_S:
            return begun
        time.sleep(10.0)  # until the pair hears each other again
    raise AssertionError("this machine is too slow to put a process back soon enough")


@pytest.mark.slow
def test_b10_a_data_plane_put_back_by_more_than_its_peers_remember_is_heard_again(
    two: Two,
) -> None:
    before = two.shown()
    probes = two.probes()
    memory = Memory.of(data_plane(two.restored))
    time.sleep(10.0)  # it is behind by some hundred packets then
    memory.restore()
    time.sleep(8.0)
    probes.stop()

    assert_is_itself(two, before)
    assert_one_outage_each_way(probes.pairs())
    lost = {pair.source: pair.lost for pair in probes.pairs()}
    assert record(
        "B10-far",
        what="the same, put back by 10 s: until the pair's frames arrive again; nothing proves a "
        f"clone then, and of its peer's frames {lost[two.witness.name]} are lost",
        bar="<= 5 s",
        value=round(probes.worst().outage_s, 3),
        unit="s",
        holds=probes.worst().outage_s <= 5,
    ), list(map(str, probes.pairs()))


@pytest.mark.slow
def test_b10_a_node_put_back_as_a_whole_goes_on_with_a_new_generation(
    two: Two, tmp_path: Path
) -> None:
    node = two.restored
    probes = two.probes()
    before = put_back_by_four_registrations(two, tmp_path)
    at = time.monotonic()

    until("it is noticed", lambda: two.events("node_restored"), within_s=60)
    noticed_s = time.monotonic() - at
    time.sleep(8.0)
    probes.stop()

    after = two.shown()
    assert after["generation"] > before["generation"]
    for name in ("id", "state", "machine", "members"):
        assert after[name] == before[name], name
    assert two.events("duplicate_node", "node_moved", "node_frozen") == []
    assert two.world.appliance.cairn("node", "list", "--state", "pending") == []
    assert node.status()["link"]["is_up"]
    assert record_seconds(
        "B10-node",
        probes.worst(since=at).outage_s,
        at_most_s=5,
        what="memory of agent and data plane and the disk put back by four registrations: no frame "
        f"of the pair for; noticed and gone on with {noticed_s:.1f} s after",
    ), list(map(str, probes.pairs()))


def put_back_by_four_registrations(two: Two, directory: Path) -> dict[str, Any]:
    """Put memory and disk of the node back; return what the appliance had of it just before.

    Where the agent holds another number of connections than at the snapshot, that is no state
    of one machine: then from another snapshot.
    """
    node = two.restored
    assert node.agent is not None
    for attempt in range(3):
        two.register(10 * attempt)  # the connection that it is sent on is kept
        disk = directory / str(attempt)
        shutil.copytree(node.state_dir, disk)
        memory = Memory.of(node.agent.pid, data_plane(node))
        for number in range(1, 5):
            two.register(10 * attempt + number)
        before = two.shown()
        shutil.copytree(disk, node.state_dir, dirs_exist_ok=True)
        with contextlib.suppress(NotInTimeError):
            memory.restore(within_s=5)
            return before
    pytest.fail("three times the agent's connections were others than at the snapshot")


@pytest.mark.slow
def test_kt_7_one_memory_that_goes_on_twenty_times_uses_no_nonce_twice(two: Two) -> None:
    """All that the runs send is looked at, for their peer hears none of it: it would end the
    session. What the nodes send over it differs from run to run, as that goes on."""
    node, site = two.restored, two.world.sites["cloud-a"]
    probes = two.probes()
    peer = (two.witness.host.v4, two.witness.host.v6)
    to_peer = f"udp dst port 8002 and (dst host {peer[0]} or dst host {peer[1]})"
    wire = node.host.capture("eth0", what=to_peer)
    for address in peer:
        family = "ip6" if ":" in address else "ip"
        site.drop(f"{family} daddr {address} udp dport 8002")
        site.drop(f"{family} saddr {address} udp dport 8002")
    memory = Memory.of(data_plane(node))
    for _ in range(RUNS):
        time.sleep(0.2)
        memory.restore()
    until("it seeks its peer", lambda: inits(list(read_pcap(wire.file))), within_s=30)
    memory, begun = Memory.of(data_plane(node)), []
    for _ in range(RUNS):
        time.sleep(1.2)
        begun.append(time.time())
        memory.restore()
    time.sleep(1.2)
    probes.stop()
    sent = wire.packets()
    site.heal()

    twice, equal = used_again(sent)
    assert twice >= 5 * RUNS, "counters were used again: only the salts tell the packets apart"
    keys = [
        {key for at, key in inits(sent) if start <= at < end}
        for start, end in pairwise([*begun, time.time()])
    ]
    assert all(keys), "each run sought its peer"
    assert len(set().union(*keys)) == sum(map(len, keys)), "no two by one ephemeral key"
    assert record(
        "KT-7",
        what=f"one memory of a data plane that goes on {RUNS} times under traffic, {twice} packets "
        f"with a counter that another run had used: those with the same nonce and other octets; "
        f"{RUNS} times from one in its handshake, no ephemeral key came twice",
        bar="0",
        value=equal,
        unit="packets",
        holds=equal == 0,
    )


def used_again(packets: list[Packet]) -> tuple[int, int]:
    """Return how many DATA and CONTROL packets have a counter that another one of their session
    has under another salt, and how many have the whole nonce and another content."""
    salts: dict[bytes, set[bytes]] = defaultdict(set)
    contents: dict[bytes, set[bytes]] = defaultdict(set)
    for octets in (packet.payload for packet in packets):
        if octets[:1] in (b"\x14", b"\x15"):
            salts[octets[1:4] + octets[10:16]].add(octets[4:10])
            contents[octets[1:16]].add(octets)
    twice, equal = (sum(len(one) - 1 for one in each.values()) for each in (salts, contents))
    return twice, equal


def inits(packets: list[Packet]) -> list[tuple[float, bytes]]:
    """Return when each INIT was sent, with its ephemeral key."""
    found = (packet for packet in packets if packet.payload[:1] == b"\x11")
    return [(each.at, each.payload[16:48]) for each in found]


def assert_is_itself(two: Two, before: dict[str, Any]) -> None:
    """The node is who it was, and nobody was turned away."""
    after = two.shown()
    for name in ("id", "generation", "state", "machine", "endpoints", "members"):
        assert after[name] == before[name], name
    assert two.events("duplicate_node", "node_moved", "node_restored", "node_frozen") == []
    assert two.world.appliance.cairn("node", "list", "--state", "pending") == []


def assert_one_outage_each_way(pairs: list[Pair]) -> None:
    """Frames were lost in one go, if at all, and none came twice."""
    for pair in pairs:
        assert (pair.duplicated, pair.reordered) == (0, 0), str(pair)
        assert pair.affected == pair.lost, str(pair)


def data_plane(node: Node) -> int:
    """Return the process."""
    assert node.dataplane is not None
    return node.dataplane.pid


def newest_events(world: World, limit: int) -> list[dict[str, Any]]:
    """Return the newest events, oldest of them first."""
    command = ["cairn", "event", "list", "--limit", str(limit), "--json"]
    return [json.loads(line) for line in world.appliance.host.run(command).stdout.splitlines()]
