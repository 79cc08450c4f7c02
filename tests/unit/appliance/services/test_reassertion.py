"""After a restore into the past: what nodes hold comes back, and nobody gets anybody's address.

So it is after `recover` from a survivor that had not followed to the end.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import pytest
from cairn_agent.netmap.held import full_update, node_update
from cairn_agent.protocol.reassertion import ReassertedVSubnet, ReassertRequest
from cairn_appliance import recovering
from cairn_appliance.domain.backup import Head
from cairn_appliance.domain.errors import Clash, Invalid, NodeRemoved, Restoring, TokenRefused
from cairn_appliance.domain.identity import SYSTEM
from cairn_appliance.domain.member import Member
from cairn_appliance.domain.node import NodeState
from cairn_appliance.domain.restored import next_incarnation
from cairn_appliance.domain.vsubnet import Policy
from cairn_appliance.netmap.feed import Feed
from cairn_appliance.restoring import BUMP_REVISION, begin_again
from cairn_appliance.services.members import MemberChange, MemberOrder
from cairn_appliance.services.stored import read_all
from cairn_appliance.services.vsubnets import VSubnetChange
from cairn_appliance.store import keys, records
from cairn_appliance.store.memory import MemoryStore
from cairn_appliance.store.port import Item, Put, Reset, Unavailable

from tests.simulated_node import Follower, SimulatedNode
from tests.unit.appliance.replica import CLUSTER, MAP_KEY, FakeClock, Replica

Kept = tuple[dict[str, Item], int]
LATER = 10.0**12  # issued after any backup


@dataclass
class Held:
    """A node with what it holds."""

    node: SimulatedNode
    copy: Follower = field(init=False)

    def __post_init__(self) -> None:
        self.copy = self.node.copy(CLUSTER.id, MAP_KEY.public)

    def follow(self, replica: Replica) -> Held:
        """Take what the replica would stream."""
        netmaps = replica.services.netmaps
        current = self.copy.copy.current
        position = (current.incarnation, current.revision) if current else (0, 0)
        self.copy.take_all(list(Feed(netmaps, self.node.id, *position).pull()))
        return self

    def request(self) -> ReassertRequest:
        netmap = self.copy.copy.current
        assert netmap is not None
        assert netmap.node is not None
        return ReassertRequest(
            incarnation=netmap.incarnation,
            revision=netmap.revision,
            node=node_update(netmap.node),
            data_public_key=self.node.data_public_key,
            vsubnets={str(vni): held.revision for vni, held in netmap.vsubnets.items()},
        )

    def shown(self, vni: int) -> ReassertedVSubnet:
        netmap = self.copy.copy.current
        assert netmap is not None
        document = full_update(vni, netmap.vsubnets[vni])
        sent = msgspec.json.encode(ReassertedVSubnet(netmap.incarnation, document))
        return msgspec.json.decode(sent, type=ReassertedVSubnet)

    async def reassert(self, replica: Replica, *, issued_at: float = LATER) -> list[int]:
        reassertions = replica.services.reassertions
        wanted = await reassertions.take(self.node.id, "key", issued_at, self.request())
        for vni in wanted:
            await reassertions.take_vsubnet(self.node.id, issued_at, self.shown(vni))
        return wanted


async def load(replica: Replica) -> Replica:
    """Bring the netmaps up to the store."""
    listing = await replica.memory.list(keys.MAP)
    replica.services.netmaps.take([Reset(listing.revision, listing.items)])
    return replica


async def held(replica: Replica, *nodes: SimulatedNode) -> list[Held]:
    await load(replica)
    return [Held(node).follow(replica) for node in nodes]


async def begun() -> Replica:
    replica = Replica()
    await replica.memory.commit([], [Put(keys.CLUSTER_INFO, records.clusters.encode(CLUSTER))])
    return replica


def backup(replica: Replica) -> Kept:
    return dict(replica.memory._items), replica.memory._revision


async def restored(kept: Kept, *, clock: FakeClock | None = None, absorb_s: float = 0.4) -> Replica:
    """Return the replica of a cluster that was restored; its incarnation is the clock's."""
    store = MemoryStore()
    store._items, store._revision = dict(kept[0]), kept[1] + BUMP_REVISION
    head = Head(CLUSTER.id, 1, kept[1], time.time() - 60, "m1", "0.1.0")
    done = await begin_again(store, "r1", head, absorb_s)
    again = replace(CLUSTER, incarnation=done.incarnation)
    replica = Replica(store, clock=clock or FakeClock(time.time()), cluster=again)
    await replica.services.restoration.load()
    return await load(replica)


async def recovered(kept: Kept, *, absorb_s: float = 0.4) -> Replica:
    """Return the replica of a cluster that goes on from a survivor's data, as they are."""
    store = MemoryStore()
    store._items, store._revision = dict(kept[0]), kept[1]
    done = await recovering.begin_again(store, "r1", absorb_s)
    again = replace(CLUSTER, incarnation=done.incarnation)
    replica = Replica(store, clock=FakeClock(time.time()), cluster=again)
    await replica.services.restoration.load()
    return await load(replica)


async def absorbed(replica: Replica, *nodes: Held) -> Replica:
    """Let the nodes come while it listens, and return when it serves."""
    running = asyncio.create_task(replica.services.reassertions.run())
    try:
        for each in nodes:
            await each.reassert(replica)
        async with asyncio.timeout(5):
            await replica.services.restoration.opened()
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
    return await load(replica)


async def members(replica: Replica) -> dict[tuple[str, str], Member]:
    found = await read_all(replica.memory, records.members, keys.MEMBERS)
    return {(each.value.vsubnet, each.value.node): each.value for each in found}


async def owners(replica: Replica, vsubnet: str) -> dict[str, str]:
    """Who has which address now."""
    listing = await replica.memory.list(keys.addresses_of(vsubnet))
    claims = {keys.last_part(item.key): records.claims.decode(item) for item in listing.items}
    return {address: claim.node for address, claim in claims.items() if not claim.released_at}


async def test_until_nodes_were_heard_nobody_is_told_anything() -> None:
    before = await begun()
    red, blue = await before.vsubnet(), await before.vsubnet("blue")
    node = await before.joined("a", red)
    (one,) = await held(before, node)
    after = await restored(backup(before), absorb_s=60)
    reassertions = after.services.reassertions
    with pytest.raises(Restoring):
        await reassertions.check(node.id, LATER)
    with pytest.raises(Restoring):
        await after.services.members.attach(node.id, blue, SYSTEM)
    assert (await one.reassert(after)) == []  # nothing happened since


async def test_what_happened_after_the_backup_comes_back_from_the_nodes() -> None:
    before = await begun()
    red = await before.vsubnet("red", "10.7.0.0/24")
    old, gone = await before.joined("old", red), await before.joined("gone", red)
    token = await before.token(red, max_uses=3)
    kept = backup(before)

    new = SimulatedNode("new")
    await before.enrol(new, token)
    await before.register(new)
    blue = await before.vsubnet("blue", "10.8.0.0/24")
    blue_vni = (await before.services.vsubnets.get(blue)).value.vni
    await before.services.members.create(MemberOrder(blue, new.id), SYSTEM)
    await before.services.members.create(MemberOrder(blue, old.id), SYSTEM)
    await before.services.nodes.remove(gone.id, SYSTEM)
    change = VSubnetChange(mtu=1300, policy=Policy(ageing_s=60))
    await before.services.vsubnets.change(red, change, SYSTEM)
    await before.services.members.change(red, old.id, MemberChange(ips=("10.7.0.77",)), SYSTEM)
    nodes = await held(before, old, new)
    were = {each.node.id: each.copy.digests for each in nodes}

    after = await absorbed(await restored(kept), *nodes)

    for each in nodes:
        before_kinds = len(each.copy.kinds)
        each.follow(after)
        assert each.copy.kinds[before_kinds] == "reset"
        # The very same documents: a data plane has nothing to change.
        assert each.copy.digests == were[each.node.id]
        await after.register(each.node)
    made = await after.services.vsubnets.get(str(blue_vni))
    assert made.value.name == "blue"
    assert await owners(after, red) == await owners(before, red)
    assert (await owners(after, made.value.id)) == (await owners(before, blue))
    view = (await after.services.nodes.get(gone.id)).value.node
    assert view.state is NodeState.PENDING  # removed or only taken out: who knows
    with pytest.raises(TokenRefused):
        await after.enrol(SimulatedNode("late"), token)
    kinds = await after.kinds()
    assert kinds.count("restore_absorbed") == kinds.count("cluster_restored") == 1
    assert kinds.count("node_reasserted") == 1


async def test_addresses_given_out_after_the_backup_are_given_to_nobody_else() -> None:
    before = await begun()
    red = await before.vsubnet("red", "10.7.0.0/29")
    first = await before.joined("first", red)
    kept = backup(before)
    since = [await before.joined(f"n{number}", red) for number in range(2)]
    (one, *_) = await held(before, first, *since)

    after = await absorbed(await restored(kept), one)
    given = {m.node: m.ips for m in (await members(after)).values()}
    for node in since:  # their peer spoke for them
        assert node.id in given
        await after.register(node, control_key="its own")
        assert (await after.services.nodes.get(node.id)).value.node.control_key == "its own"
    newcomer = await after.joined("newcomer", red)
    addresses = [ip for m in (await members(after)).values() for ip in m.ips]
    assert len(addresses) == len(set(addresses)) == 4
    assert (red, newcomer.id) in await members(after)


async def test_where_nobody_came_no_address_is_given_out_for_a_day() -> None:
    before = await begun()
    red = await before.vsubnet("red", "10.7.0.0/24")
    await before.joined("away", red)
    clock = FakeClock(time.time())
    after = await absorbed(await restored(backup(before), clock=clock))
    vm = SimulatedNode("vm")
    await after.enrol(vm, await after.token(red))
    assert (red, vm.id) not in await members(after)
    with pytest.raises(Clash, match="gives out no address"):
        await after.services.members.attach(vm.id, red, SYSTEM)
    await after.services.members.attach(vm.id, red, SYSTEM, ("10.7.0.200",))
    assert (red, vm.id) in await members(after)
    green = await after.vsubnet("green", "10.9.0.0/24")  # nothing of it is from before
    other = SimulatedNode("other")
    await after.enrol(other, await after.token(green))
    assert (green, other.id) in await members(after)
    clock.now += 86_401
    third = SimulatedNode("third")
    await after.enrol(third, await after.token(red))
    assert (red, third.id) in await members(after)


async def test_who_comes_late_brings_what_is_free_and_takes_nothing() -> None:
    before = await begun()
    red = await before.vsubnet("red", "10.7.0.0/24")
    old = await before.joined("old", red)
    kept = backup(before)
    late, other = await before.joined("late", red), await before.joined("other", red)
    late_held, other_held = await held(before, late, other)
    addresses = {m.node: m.ips for m in (await members(before)).values()}

    after = await absorbed(await restored(kept))
    with pytest.raises(Restoring):
        await after.services.reassertions.check(late.id, LATER)
    # An operator gives away what `other` had, by hand.
    await after.services.members.change(red, old.id, MemberChange(ips=addresses[other.id]), SYSTEM)
    assert len(await late_held.reassert(after)) == 1
    await load(after)
    await after.services.reassertions.check(late.id, LATER)
    given = {m.node: m.ips for m in (await members(after)).values()}
    assert given == {old.id: addresses[other.id], late.id: addresses[late.id]}
    assert len(await other_held.reassert(after)) == 0  # the same document: taken over already
    assert (await after.kinds()).count("reassertion_conflict") == 1
    waiting = (await after.services.nodes.get(other.id)).value.node
    assert waiting.state is NodeState.PENDING


async def test_an_unknown_node_whose_certificate_is_older_than_the_backup_is_none() -> None:
    before = await begun()
    red = await before.vsubnet()
    kept = backup(before)
    node = await before.joined("a", red)
    (one,) = await held(before, node)
    after = await restored(kept)
    with pytest.raises(NodeRemoved):
        await one.reassert(after, issued_at=time.time() - 86_400)


async def test_what_the_cluster_did_not_sign_is_refused() -> None:
    before = await begun()
    red = await before.vsubnet()
    kept = backup(before)
    node, other = await before.joined("a", red), await before.joined("b", red)
    one, two = await held(before, node, other)
    after = await restored(kept)
    take = after.services.reassertions.take
    request, theirs = one.request(), two.request()
    with pytest.raises(Invalid):  # another's document
        await take(node.id, "key", LATER, msgspec.structs.replace(request, node=theirs.node))
    changed = bytes(request.node.document).replace(b'"a"', b'"x"')
    forged = msgspec.structs.replace(request.node, document=msgspec.Raw(changed))
    with pytest.raises(Invalid):
        await take(node.id, "key", LATER, msgspec.structs.replace(request, node=forged))
    (vni,) = await take(node.id, "key", LATER, request)
    shown = one.shown(vni)
    for wrong in (
        msgspec.structs.replace(shown.document, set=shown.document.set[:1]),
        msgspec.structs.replace(shown.document, revision=shown.document.revision + 1),
        msgspec.structs.replace(shown.document, signature="AAAA"),
    ):
        with pytest.raises(Invalid):
            await after.services.reassertions.take_vsubnet(
                node.id, LATER, ReassertedVSubnet(shown.incarnation, wrong)
            )
    with pytest.raises(Invalid):  # a node that is no member has no say
        await after.services.reassertions.take_vsubnet(SimulatedNode("c").id, LATER, shown)


async def test_the_newest_document_counts_whoever_comes_first() -> None:
    before = await begun()
    red = await before.vsubnet()
    kept = backup(before)
    node, removed = await before.joined("a", red), await before.joined("removed", red)
    (stale,) = await held(before, removed)  # kept by a machine that was cut off since
    await before.services.nodes.remove(removed.id, SYSTEM)
    (one,) = await held(before, node)
    after = await absorbed(await restored(kept), stale, one)
    assert set(await members(after)) == {(red, node.id)}
    view = await after.services.nodes.get(removed.id)
    assert view.value.node.state is NodeState.PENDING


async def test_the_same_backup_is_restored_twice() -> None:
    before = await begun()
    red = await before.vsubnet("red", "10.7.0.0/24")
    old = await before.joined("old", red)
    kept = backup(before)
    (one,) = await held(before, old)
    first = await absorbed(await restored(kept), one)
    one.follow(first)
    new = await first.joined("new", red)
    _, two = await held(first, old, new)
    one.follow(first)
    await asyncio.sleep(1.0)  # the incarnation is the clock's second
    second = await absorbed(await restored(kept), one, two)
    incarnations = [r.services.cluster.incarnation for r in (before, first, second)]
    assert incarnations == sorted(set(incarnations))
    assert set(await members(second)) == {(red, old.id), (red, new.id)}
    one.follow(second)


async def test_what_the_majority_did_without_the_survivor_comes_back_from_the_nodes() -> None:
    before = await begun()
    red = await before.vsubnet("red", "10.7.0.0/24")
    old = await before.joined("old", red)
    token, spent = await before.token(red, max_uses=3), await before.token(red)
    kept = backup(before)  # the survivor is cut off here

    new = SimulatedNode("new")
    await before.enrol(new, spent)
    await before.register(new)
    await before.services.members.change(red, old.id, MemberChange(ips=("10.7.0.77",)), SYSTEM)
    nodes = await held(before, old, new)
    were = await owners(before, red)

    after = await recovered(kept)
    with pytest.raises(Restoring):  # and not: removed, by which it would give up its netmap
        await after.services.reassertions.check(new.id, LATER)
    after = await absorbed(after, *nodes)

    given = {m.node: m.ips for m in (await members(after)).values()}
    assert given[old.id] == ("10.7.0.77",)
    assert new.id in given
    assert await owners(after, red) == were
    newcomer = await after.joined("newcomer", red)
    (address,) = {m.node: m.ips for m in (await members(after)).values()}[newcomer.id]
    assert address not in were
    for revived in (token, spent):
        with pytest.raises(TokenRefused):
            await after.enrol(SimulatedNode("late"), revived)
    for each in nodes:
        each.follow(after)
        await after.register(each.node)


async def test_a_recovery_that_is_interrupted_knows_afterwards_what_it_began_from() -> None:
    before = await begun()
    red = await before.vsubnet("red", "10.7.0.0/24")
    old = await before.joined("old", red)
    await before.token(red)
    kept = backup(before)
    new = await before.joined("new", red)
    nodes = await held(before, old, new)
    store = MemoryStore()
    store._items, store._revision = dict(kept[0]), kept[1]
    commit, done = store.commit, 0

    async def interrupted(*arguments: Any) -> int:
        nonlocal done
        done += 1
        if done > 2:
            raise Unavailable("power is cut")
        return await commit(*arguments)

    store.commit = interrupted  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        await recovering.begin_again(store, "r1")

    after = await absorbed(await recovered((store._items, store._revision)), *nodes)

    assert set(await members(after)) == {(red, old.id), (red, new.id)}
    restored = after.services.restoration.restored
    assert restored is not None
    assert (restored.base_incarnation, restored.base_revision) == (CLUSTER.incarnation, kept[1])


async def test_a_document_of_before_the_last_recovery_but_one_takes_nobody_out() -> None:
    """Revisions go on from the survivor's: one of an incarnation before may be higher."""
    before = await begun()
    red = await before.vsubnet("red", "10.7.0.0/24")
    old = await before.joined("old", red)
    kept = backup(before)
    for number in range(40):
        await before.services.vsubnets.change(red, VSubnetChange(mtu=1300 + number), SYSTEM)
    stale, one = await held(before, old, old)  # the same node: as a snapshot of it holds it

    first = await absorbed(await recovered(kept), one)
    one.follow(first)
    new = await first.joined("new", red)
    survivor = backup(first)
    netmap = stale.copy.copy.current
    assert netmap is not None
    assert netmap.revision > survivor[1]
    await asyncio.sleep(1.0)  # the incarnation is the clock's second
    second = await absorbed(await recovered(survivor), stale)
    assert set(await members(second)) == {(red, old.id), (red, new.id)}


def test_an_incarnation_is_above_all_that_there_were() -> None:
    assert next_incarnation(1, 1_800_000_000.9) == 1_800_000_000
    assert next_incarnation(1_800_000_000, 1_800_000_000.9) == 1_800_000_001
    assert next_incarnation(2_000_000_000, 1_800_000_000.0) == 2_000_000_001
