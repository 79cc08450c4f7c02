"""Netmaps as the real agent's copy takes them: deltas, resume, resync, removal."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence

import pytest
from cairn_agent.protocol import netmap as wire
from cairn_appliance.domain.cluster import Appliance, Cluster
from cairn_appliance.domain.identity import SYSTEM
from cairn_appliance.domain.node import NodeState
from cairn_appliance.netmap import topic as topic_module
from cairn_appliance.netmap.feed import Feed
from cairn_appliance.netmap.netmaps import Netmaps
from cairn_appliance.pki.keyring import Keyring
from cairn_appliance.services.members import MemberOrder
from cairn_appliance.services.vsubnets import Epochs, VSubnetChange
from cairn_appliance.store import keys, records
from cairn_appliance.store.keys import MAP
from cairn_appliance.store.port import Delete, Events, Item, Progress, Put, Reset
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.simulated_node import Follower, SimulatedNode
from tests.unit.appliance.replica import AUTHORITY, CLUSTER, MAP_KEY, SEALER, Replica


class Mirror:
    """Netmaps fed from a replica's store whenever the test says so."""

    def __init__(self, replica: Replica, cluster: Cluster = CLUSTER) -> None:
        self.replica = replica
        self.netmaps = Netmaps(cluster, Epochs(SEALER).open, Keyring(SEALER, AUTHORITY, MAP_KEY))
        self._items: dict[str, Item] = {}

    async def reset(self) -> set[str]:
        """Take everything as after a resync."""
        listing = await self.replica.memory.list(MAP)
        self._items = {item.key: item for item in listing.items}
        return self.netmaps.take([Reset(listing.revision, listing.items)])

    async def take(self) -> set[str]:
        """Take what changed since the last time, revision by revision."""
        listing = await self.replica.memory.list(MAP)
        new = {item.key: item for item in listing.items}
        changed = [item for key, item in new.items() if self._items.get(key) != item]
        gone: list[Item | Delete] = [Delete(key) for key in self._items.keys() - new.keys()]
        self._items = new
        if not changed and not gone:
            return self.netmaps.take([Progress(listing.revision)])
        return self.netmaps.take([Events(listing.revision, (*gone, *changed))])

    def feed(self, node: SimulatedNode, after: int = 0, incarnation: int = 1) -> Feed:
        """Return a stream of a node."""
        return Feed(self.netmaps, node.id, incarnation, after)


def follower(node: SimulatedNode) -> Follower:
    return node.copy(CLUSTER.id, MAP_KEY.public)


async def world(*names: str) -> tuple[Replica, Mirror, list[SimulatedNode]]:
    """Return a vSubnet `red` with these members and netmaps of them."""
    replica = Replica()
    red = await replica.vsubnet("red")
    nodes = [await replica.joined(name, red) for name in names]
    mirror = Mirror(replica)
    await mirror.reset()
    return replica, mirror, nodes


async def vni(replica: Replica, name: str = "red") -> int:
    return (await replica.services.vsubnets.get(name)).value.vni


async def test_a_new_stream_begins_with_a_full_set_that_the_agent_accepts() -> None:
    replica, mirror, (a, _) = await world("a", "b")
    copy = follower(a)
    kinds = copy.take_all(list(mirror.feed(a).pull()))
    assert kinds == ["reset", "node", "full", "insync"]
    red = await vni(replica)
    assert copy.names(red) == ["a", "b"]
    assert copy.digests == mirror.netmaps.digests(a.id)
    assert copy.copy.current is not None
    held = {m.node_id: m for m in copy.copy.current.vsubnets[red].readable()}
    member = held[a.id]
    assert member.ips == ["10.7.0.2/24", "fd00:7::2/64"]
    assert member.endpoints == ["192.0.2.7:8002", "198.51.100.9:8002"]
    assert len(copy.copy.current.vsubnets[red].header.psks) == 1


async def test_every_member_gets_the_same_octets() -> None:
    replica, mirror, nodes = await world("a", "b")
    feeds = [mirror.feed(node) for node in nodes]
    full = [[line for line in feed.pull() if b'"vsubnet"' in line] for feed in feeds]
    await replica.register(nodes[0], endpoints=("192.0.2.99:8002",))
    await mirror.take()
    delta = [[line for line in feed.pull() if b'"vsubnet"' in line] for feed in feeds]
    assert full[0] == full[1]
    assert delta[0] == delta[1]
    assert delta[0][0] is delta[1][0]


async def test_a_change_of_one_member_is_a_delta_that_names_it_alone() -> None:
    replica, mirror, (a, b, _) = await world("a", "b", "c")
    copy, feed = follower(a), mirror.feed(a)
    copy.take_all(list(feed.pull()))
    await replica.register(b, endpoints=("192.0.2.99:8002",))
    concerned = await mirror.take()
    assert concerned == {a.id, b.id, (await replica.services.nodes.get("c")).value.node.id}
    lines = list(feed.pull())
    assert copy.take_all(lines) == ["delta", "insync"]
    update = wire.decode_line(lines[0])
    assert isinstance(update, wire.VSubnetUpdate)
    assert [member.name for member in update.set] == ["b"]
    assert copy.digests == mirror.netmaps.digests(a.id)


async def test_a_registration_that_changes_nothing_sends_nothing_but_the_heartbeat() -> None:
    replica, mirror, (a, b) = await world("a", "b")
    feed = mirror.feed(a)
    follower(a).take_all(list(feed.pull()))
    await replica.register(b)
    await mirror.take()
    assert [type(wire.decode_line(line)) for line in feed.pull()] == [wire.InSync]


async def test_a_registration_that_changes_nothing_wakes_no_peer() -> None:
    replica, mirror, (a, _) = await world("a", "b")
    await mirror.take()
    await replica.register(a)
    assert await mirror.take() == {a.id}


async def test_a_change_concerns_only_the_members_of_the_vsubnets_it_touches() -> None:
    replica, mirror, (a, _) = await world("a", "b")
    blue = await replica.vsubnet("blue")
    c = await replica.joined("c", blue)
    await mirror.take()
    await replica.register(c, endpoints=("192.0.2.50:8002",))
    assert await mirror.take() == {c.id}
    assert a.id not in await mirror.take()


async def test_a_removed_node_is_told_and_gone_from_its_peers_before_its_memberships_are() -> None:
    replica, mirror, (a, b) = await world("a", "b")
    red = await vni(replica)
    copy, feed, removed = follower(a), mirror.feed(a), mirror.feed(b)
    copy.take_all(list(feed.pull()))
    list(removed.pull())
    removing = asyncio.create_task(replica.services.nodes.remove("b", SYSTEM, reason="stolen"))
    while (await replica.services.nodes.get(b.id)).value.node.state is not NodeState.REMOVED:
        await asyncio.sleep(0)
    removing.cancel()
    await asyncio.gather(removing, return_exceptions=True)
    assert len(await replica.services.members.list()) == 2
    assert await mirror.take() == {a.id, b.id}
    assert [wire.decode_line(line) for line in removed.pull()] == [wire.Removed("stolen")]
    assert removed.is_finished
    copy.take_all(list(feed.pull()))
    assert copy.names(red) == ["a"]


async def test_with_a_removal_the_others_get_a_new_secret_and_accept_the_old_one_for_a_while() -> (
    None
):
    replica, mirror, (a, _) = await world("a", "b")
    copy, feed = follower(a), mirror.feed(a)
    copy.take_all(list(feed.pull()))
    await replica.services.nodes.remove("b", SYSTEM)
    await mirror.take()
    copy.take_all(list(feed.pull()))
    assert copy.copy.current is not None
    psks = copy.copy.current.vsubnets[await vni(replica)].header.psks
    assert [psk.epoch for psk in psks] == [2, 1]
    assert psks[0].key != psks[1].key


async def test_a_pending_node_has_a_document_without_vsubnets_until_it_is_approved() -> None:
    replica, mirror, (a,) = await world("a")
    node = SimulatedNode("p")
    await replica.enrol(node, await replica.token("red", needs_approval=True))
    await mirror.take()
    copy, feed = follower(node), mirror.feed(node)
    assert copy.take_all(list(feed.pull())) == ["reset", "node", "insync"]
    peer = follower(a)
    peer.take_all(list(mirror.feed(a).pull()))
    assert peer.names(await vni(replica)) == ["a"]
    await replica.services.nodes.approve("p", SYSTEM)
    await mirror.take()
    assert copy.take_all(list(feed.pull())) == ["node", "full", "insync"]
    assert copy.names(await vni(replica)) == ["a", "p"]


async def test_a_node_nobody_knows_is_told_to_go() -> None:
    _, mirror, _ = await world("a")
    feed = mirror.feed(SimulatedNode())
    assert isinstance(wire.decode_line(next(iter(feed.pull()))), wire.Removed)


async def test_a_stream_resumes_with_what_it_missed() -> None:
    replica, mirror, (a, b) = await world("a", "b")
    copy = follower(a)
    copy.take_all(list(mirror.feed(a).pull()))
    for host in range(3):
        await replica.register(b, endpoints=(f"192.0.2.{host + 1}:8002",))
        await mirror.take()
    kinds = copy.take_all(list(mirror.feed(a, copy.revision).pull()))
    assert kinds[0] == "node"
    assert set(kinds[1:-1]) <= {"delta", "full"}
    assert copy.digests == mirror.netmaps.digests(a.id)


async def test_a_stream_that_missed_nothing_resumes_without_any_vsubnet() -> None:
    _, mirror, (a, _) = await world("a", "b")
    copy = follower(a)
    copy.take_all(list(mirror.feed(a).pull()))
    assert copy.take_all(list(mirror.feed(a, copy.revision).pull())) == ["node", "insync"]


async def test_after_a_restart_of_the_appliance_nothing_is_sent_again() -> None:
    replica, mirror, (a, _) = await world("a", "b")
    copy = follower(a)
    copy.take_all(list(mirror.feed(a).pull()))
    await replica.token()  # moves the store's revision, not the netmap
    restarted = Mirror(replica)
    await restarted.reset()
    assert copy.take_all(list(restarted.feed(a, copy.revision).pull())) == ["node", "insync"]
    assert copy.digests == restarted.netmaps.digests(a.id) == mirror.netmaps.digests(a.id)


async def test_after_a_restart_one_who_is_behind_gets_the_whole_and_accepts_it() -> None:
    replica, mirror, (a, b) = await world("a", "b")
    copy = follower(a)
    copy.take_all(list(mirror.feed(a).pull()))
    await replica.register(b, endpoints=("192.0.2.99:8002",))
    restarted = Mirror(replica)
    await restarted.reset()
    kinds = copy.take_all(list(restarted.feed(a, copy.revision).pull()))
    assert kinds == ["node", "full", "insync"]
    assert copy.digests == restarted.netmaps.digests(a.id)


async def test_a_removal_during_a_restart_is_not_lost() -> None:
    replica, mirror, (a, _) = await world("a", "b")
    copy = follower(a)
    copy.take_all(list(mirror.feed(a).pull()))
    await replica.services.members.delete("red", "b", SYSTEM)
    restarted = Mirror(replica)
    await restarted.reset()
    copy.take_all(list(restarted.feed(a, copy.revision).pull()))
    assert copy.names(await vni(replica)) == ["a"]


async def test_one_whose_revision_is_out_of_the_history_gets_the_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(topic_module, "HISTORY_DELTAS", 1)
    _, mirror, (a, *others) = await world("a", "b", "c", "d")
    copy = follower(a)
    copy.take_all(list(mirror.feed(a).pull()))
    for node in others:
        await mirror.replica.register(node, endpoints=("192.0.2.99:8002",))
        await mirror.take()
    assert copy.take_all(list(mirror.feed(a, copy.revision).pull()))[1] == "full"
    assert copy.digests == mirror.netmaps.digests(a.id)


async def test_the_history_is_bounded_in_names_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topic_module, "HISTORY_NAMES", 20)
    replica, mirror, (_, b) = await world("a", "b")
    for host in range(50):
        await replica.register(b, endpoints=(f"192.0.2.{host + 1}:8002",))
        await mirror.take()
    (topic,) = mirror.netmaps._topics.values()
    assert topic._history_names == sum(len(delta.node_ids) for delta in topic._history) == 20


async def test_a_slow_reader_misses_nothing_and_costs_no_queue() -> None:
    """Fifty changes unread: what comes then is one line with all of them."""
    replica, mirror, (a, b) = await world("a", "b")
    copy, feed = follower(a), mirror.feed(a)
    copy.take_all(list(feed.pull()))
    for host in range(50):
        await replica.register(b, endpoints=(f"192.0.2.{host + 1}:8002",))
        await mirror.take()
    assert copy.take_all(list(feed.pull())) == ["delta", "insync"]
    assert copy.digests == mirror.netmaps.digests(a.id)


async def test_another_incarnation_is_answered_with_a_reset() -> None:
    replica, mirror, (a,) = await world("a")
    copy = follower(a)
    copy.take_all(list(mirror.feed(a).pull()))
    restored = Mirror(replica, Cluster(CLUSTER.id, 2, CLUSTER.appliances, 15.0))
    await restored.reset()
    kinds = copy.take_all(list(restored.feed(a, after=10**9, incarnation=1).pull()))
    assert kinds == ["reset", "node", "full", "insync"]


async def test_one_that_left_and_came_back_while_away_gets_the_whole() -> None:
    replica, mirror, (a, _) = await world("a", "b")
    copy, feed = follower(a), mirror.feed(a)
    copy.take_all(list(feed.pull()))
    await replica.services.members.delete("red", "a", SYSTEM)
    await mirror.take()
    assert "gone" in copy.take_all(list(feed.pull()))
    at = copy.revision
    await replica.services.members.create(MemberOrder("red", "a"), SYSTEM)
    await mirror.take()
    kinds = copy.take_all(list(mirror.feed(a, at).pull()))
    assert kinds == ["node", "full", "insync"]
    assert copy.digests == mirror.netmaps.digests(a.id)


async def test_a_changed_header_reaches_members_without_their_entries() -> None:
    replica, mirror, (a, _) = await world("a", "b")
    copy, feed = follower(a), mirror.feed(a)
    copy.take_all(list(feed.pull()))
    await replica.services.vsubnets.change("red", VSubnetChange(mtu=1300), SYSTEM)
    await mirror.take()
    lines = list(feed.pull())
    update = wire.decode_line(lines[0])
    assert isinstance(update, wire.VSubnetUpdate)
    assert (update.header.mtu, update.set, update.remove) == (1300, [], [])
    copy.take_all(lines)


async def test_a_delta_names_a_member_that_ended_as_it_began() -> None:
    """Another replica may have made a version in between; its reader comes here next."""
    replica, mirror, (a, b) = await world("a", "b")
    other = Mirror(replica)
    await other.reset()
    copy = follower(a)
    copy.take_all(list(other.feed(a).pull()))
    changes: list[Events] = []
    for endpoint in ("192.0.2.99:8002", "192.0.2.7:8002"):
        before = {item.key: item for item in (await replica.memory.list(MAP)).items}
        await replica.register(b, endpoints=(endpoint,))
        listing = await replica.memory.list(MAP)
        new = tuple(item for item in listing.items if before.get(item.key) != item)
        changes.append(Events(listing.revision, new))
        if len(changes) == 1:
            other.netmaps.take(changes)
            copy.take_all(list(other.feed(a, copy.revision).pull()))
    mirror.netmaps.take(changes)
    kinds = copy.take_all(list(mirror.feed(a, copy.revision).pull()))
    assert kinds == ["node", "delta", "insync"]
    assert copy.digests == mirror.netmaps.digests(a.id)


async def test_an_object_that_cannot_be_read_is_left_out_and_the_rest_served() -> None:
    _, mirror, (a, b) = await world("a", "b")
    copy, feed = follower(a), mirror.feed(a)
    copy.take_all(list(feed.pull()))
    key = f"{MAP}nodes/{b.id}"
    broken = Item(key, b'{"v":1,"id":', mirror.netmaps.revision + 1, 1)
    mirror.netmaps.take([Events(broken.revision, (broken,))])
    copy.take_all(list(feed.pull()))
    assert len(copy.digests) == 2


async def test_a_node_whose_object_cannot_be_read_is_sent_elsewhere_and_not_removed() -> None:
    """Told `removed`, it would give up its identity; another replica may be newer."""
    _, mirror, (a, _) = await world("a", "b")
    copy, feed = follower(a), mirror.feed(a)
    copy.take_all(list(feed.pull()))
    newer = Item(f"{MAP}nodes/{a.id}", b'{"v":2}', mirror.netmaps.revision + 1, 1)
    mirror.netmaps.take([Events(newer.revision, (newer,))])
    assert mirror.netmaps.removed_why(a.id) is None
    assert copy.take_all(list(feed.pull())) == ["goaway"]
    assert feed.is_finished
    gone = Events(newer.revision + 1, (Delete(newer.key),))
    mirror.netmaps.take([gone])
    assert copy.take_all(list(mirror.feed(a).pull())) == ["removed"]


async def test_a_secret_that_cannot_be_opened_stops_its_vsubnet_alone() -> None:
    replica, mirror, (a, _) = await world("a", "b")
    red = (await replica.services.vsubnets.get("red")).value
    blue = await replica.vsubnet("blue", "10.8.0.0/24")
    await replica.services.members.create(MemberOrder("blue", a.id), SYSTEM)
    await mirror.take()
    copy, feed = follower(a), mirror.feed(a)
    copy.take_all(list(feed.pull()))
    before = copy.digests
    key = f"{MAP}psks/{red.id}"
    (good,) = [item for item in (await replica.memory.list(MAP)).items if item.key == key]
    sealed = json.loads(good.value)
    sealed["epochs"][0]["sealed"] = "AAAA"
    damaged = Item(key, json.dumps(sealed).encode(), mirror.netmaps.revision + 1, good.created)
    mirror.netmaps.take([Events(damaged.revision, (damaged,))])
    copy.take_all(list(feed.pull()))
    assert copy.digests == before
    # A replica that starts with it serves the others, and makes no document without a secret.
    listing = await replica.memory.list(MAP)
    fresh = Mirror(replica)
    items = tuple(damaged if item.key == key else item for item in listing.items)
    fresh.netmaps.take([Reset(damaged.revision, items)])
    blue_vni = (await replica.services.vsubnets.get(blue)).value.vni
    assert set(fresh.netmaps.digests(a.id)) == {"node", str(blue_vni)}
    await replica.register(a, endpoints=("192.0.2.77:8002",))
    await fresh.take()


_ACTIONS = ["register", "leave", "join", "mtu", "remove", "rotate", "pull", "reconnect", "resync"]


@settings(max_examples=60)
@given(st.lists(st.sampled_from(_ACTIONS), min_size=1, max_size=40), st.integers(0, 2**32))
async def test_after_any_history_deltas_give_the_same_as_a_full_set(
    actions: Sequence[str], seed: int
) -> None:
    dice = random.Random(seed)
    replica, mirror, nodes = await world("a", "b", "c", "d")
    copies = {node.id: follower(node) for node in nodes[:2]}
    feeds = {node.id: mirror.feed(node) for node in nodes[:2]}
    for action in actions:
        await _act(action, dice, replica, nodes)
        if action == "resync":
            await mirror.reset()
        elif dice.random() < 0.7:
            await mirror.take()
        for node in nodes[:2]:
            if action == "reconnect":
                feeds[node.id] = mirror.feed(node, copies[node.id].revision)
            if action in ("pull", "reconnect"):
                copies[node.id].take_all(list(feeds[node.id].pull()))
    await mirror.take()
    for node in nodes[:2]:
        copies[node.id].take_all(list(feeds[node.id].pull()))
        fresh = follower(node)
        restarted = Mirror(replica)
        await restarted.reset()
        fresh.take_all(list(restarted.feed(node).pull()))
        assert copies[node.id].digests == fresh.digests == mirror.netmaps.digests(node.id)


async def _act(
    action: str, dice: random.Random, replica: Replica, nodes: list[SimulatedNode]
) -> None:
    node = dice.choice(nodes)
    services = replica.services
    alive = {view.value.node.id for view in await services.nodes.list()}
    if node.id not in alive:
        return
    members = {member.value.node for member in await services.members.list("red")}
    if action == "register":
        await replica.register(node, endpoints=(f"192.0.2.{dice.randrange(1, 5)}:8002",))
    elif action == "leave" and node.id in members:
        await services.members.delete("red", node.id, SYSTEM)
    elif action == "join":
        await services.members.create(MemberOrder("red", node.id), SYSTEM)
    elif action == "mtu":
        change = VSubnetChange(mtu=dice.randrange(1280, 1283))
        await services.vsubnets.change("red", change, SYSTEM)
    elif action == "rotate":
        await services.vsubnets.rotate_secret("red", SYSTEM)
    elif action == "remove" and node in nodes[2:]:
        await services.nodes.remove(node.id, SYSTEM)


async def test_each_replica_tells_the_same_appliances_at_the_same_revision() -> None:
    replica = Replica()
    await replica.vsubnet()
    node = await replica.joined("vm-1", "red")
    one, other = Mirror(replica), Mirror(replica)
    await one.reset()
    feed, copy = one.feed(node), follower(node)
    copy.take_all(list(feed.pull()))
    assert appliances_in(copy) == list(CLUSTER.appliances)

    for name in ("m2", "m1"):
        known = Appliance(name, (f"{name}:8002",))
        put = Put(keys.appliance(name), records.appliances.encode(known))
        await replica.store.commit([], [put])
        assert await one.take() == {node.id}
    copy.take_all(list(feed.pull()))
    assert appliances_in(copy) == ["m1:8002", "m2:8002"]

    await other.reset()
    copy.take_all(list(other.feed(node, after=copy.revision).pull()))
    assert appliances_in(copy) == ["m1:8002", "m2:8002"]
    assert one.netmaps.cluster == other.netmaps.cluster

    await replica.store.commit([], [Delete(keys.appliance("m2"))])
    assert await one.take() == {node.id}
    copy.take_all(list(feed.pull()))
    assert appliances_in(copy) == ["m1:8002"]


def appliances_in(copy: Follower) -> list[str]:
    assert copy.copy.current is not None
    assert copy.copy.current.node is not None
    return copy.copy.current.node.document.appliances
