"""vSubnets, their secrets, members and their addresses."""

from __future__ import annotations

import asyncio
import random

import pytest
from cairn_appliance.domain.cluster import SHARED_IPS_FORMAT
from cairn_appliance.domain.errors import Changed, Clash, Invalid, NoAddressLeft, NotFound
from cairn_appliance.domain.identity import SYSTEM
from cairn_appliance.domain.member import MemberRole
from cairn_appliance.domain.vsubnet import Policy, Psks
from cairn_appliance.services.members import MemberChange, MemberOrder
from cairn_appliance.services.stored import read
from cairn_appliance.services.vsubnets import VSubnetChange, VSubnetOrder
from cairn_appliance.store import keys, records
from cairn_appliance.store.port import Put

from tests.unit.appliance.replica import Replica


async def epochs(replica: Replica, vsubnet: str) -> list[int]:
    stored = await read(replica.store, records.psks, keys.psks(vsubnet))
    assert stored is not None
    return [psk.epoch for psk in stored.value.epochs]


async def test_a_vsubnet_is_found_by_name_in_any_case_by_id_and_by_vni() -> None:
    replica = Replica()
    made = await replica.services.vsubnets.create(VSubnetOrder("Red"), SYSTEM)
    for reference in ("red", made.value.id, str(made.value.vni)):
        assert (await replica.services.vsubnets.get(reference)) == made
    for reference in ("blue", "0", "99999999", "", "/"):
        with pytest.raises(NotFound):
            await replica.services.vsubnets.get(reference)


async def test_names_are_unique_whatever_their_case_and_prefixes_may_overlap() -> None:
    replica = Replica()
    await replica.vsubnet("red", "10.7.0.0/24")
    await replica.vsubnet("blue", "10.7.0.0/24")
    with pytest.raises(Clash) as caught:
        await replica.vsubnet("RED")
    assert caught.value.code == "name_taken"


async def test_of_many_who_ask_for_one_name_at_once_exactly_one_gets_it() -> None:
    first = Replica()
    second = Replica(first.memory, "r2")
    outcomes = await asyncio.gather(
        *(replica.vsubnet("red") for replica in (first, second) for _ in range(10)),
        return_exceptions=True,
    )
    assert sum(isinstance(each, str) for each in outcomes) == 1
    assert all(isinstance(each, str | Clash) for each in outcomes)
    assert len(await first.services.vsubnets.list()) == 1


async def test_a_change_needs_the_revision_that_was_seen_and_renames_leave_the_old_name_free() -> (
    None
):
    replica = Replica()
    made = await replica.services.vsubnets.create(VSubnetOrder("red"), SYSTEM)
    change = VSubnetChange(name="blue", mtu=1300)
    changed = await replica.services.vsubnets.change("red", change, SYSTEM, expected=made.revision)
    assert (changed.value.name, changed.value.mtu) == ("blue", 1300)
    with pytest.raises(Changed):
        await replica.services.vsubnets.change("blue", change, SYSTEM, expected=made.revision)
    await replica.vsubnet("red")


async def test_prefixes_change_only_while_nobody_has_an_address_of_them() -> None:
    replica = Replica()
    red = await replica.vsubnet("red", "10.7.0.0/24")
    node = await replica.joined("n", red)
    change = VSubnetChange(prefixes=("10.8.0.0/24",))
    with pytest.raises(Clash) as caught:
        await replica.services.vsubnets.change("red", change, SYSTEM)
    assert caught.value.code == "has_members"
    await replica.services.members.delete("red", "n", SYSTEM)
    await replica.services.vsubnets.change("red", change, SYSTEM)
    member = await replica.services.members.create(MemberOrder("red", node.id), SYSTEM)
    assert member.value.ips == ("10.8.0.2",)


async def test_a_refused_change_of_prefixes_leaves_the_vsubnet_open() -> None:
    replica = Replica()
    await replica.vsubnet("red", "10.7.0.0/24")
    await replica.vsubnet("blue", "10.7.0.0/24")
    for change in (
        VSubnetChange(prefixes=("nonsense",)),
        VSubnetChange(prefixes=("10.8.0.0/24",), name="blue"),
    ):
        with pytest.raises((Invalid, Clash)):
            await replica.services.vsubnets.change("red", change, SYSTEM)
        assert not (await replica.services.vsubnets.get("red")).value.closed


async def test_a_vsubnet_with_members_is_not_deleted_and_an_empty_one_leaves_nothing() -> None:
    replica = Replica()
    red = await replica.vsubnet()
    await replica.joined("n", red)
    with pytest.raises(Clash):
        await replica.services.vsubnets.delete("red", SYSTEM)
    assert not (await replica.services.vsubnets.get("red")).value.closed
    await replica.services.members.delete("red", "n", SYSTEM)
    await replica.services.vsubnets.delete("red", SYSTEM)
    left = [item.key for item in (await replica.memory.list("")).items]
    assert not [key for key in left if red in key or "names/vsubnet" in key or "/vnis/" in key]


async def test_nobody_becomes_a_member_of_a_vsubnet_while_it_is_deleted() -> None:
    """Whatever the order of steps, there is never a member without its vSubnet."""
    for seed in range(150):
        replica = Replica()
        red = await replica.vsubnet()
        await replica.joined("n")
        replica.store.dice = random.Random(seed)
        await asyncio.gather(
            replica.services.vsubnets.delete("red", SYSTEM),
            replica.services.members.create(MemberOrder("red", "n"), SYSTEM),
            return_exceptions=True,
        )
        is_there = await replica.memory.get(keys.vsubnet(red)) is not None
        assert is_there == bool(await replica.services.members.list()), seed


async def test_the_secret_is_new_on_creation_rotated_on_removal_and_daily() -> None:
    replica = Replica()
    red = await replica.vsubnet()
    await replica.joined("a", red)
    await replica.joined("b", red)
    assert await epochs(replica, red) == [1]
    await replica.services.members.delete("red", "a", SYSTEM)
    assert await epochs(replica, red) == [2, 1]
    replica.clock.now += 600
    await replica.services.vsubnets.tidy()
    assert await epochs(replica, red) == [2]
    replica.clock.now += 86_400
    await replica.services.vsubnets.tidy()
    assert await epochs(replica, red) == [3, 2]


async def test_revoke_now_ends_the_old_secret_at_once() -> None:
    replica = Replica()
    red = await replica.vsubnet()
    await replica.joined("a", red)
    await replica.services.nodes.remove("a", SYSTEM, revoke_now=True)
    assert await epochs(replica, red) == [2]
    assert await replica.services.vsubnets.rotate_secret("red", SYSTEM) == 3
    assert await epochs(replica, red) == [3, 2]


async def test_a_secret_can_only_be_opened_in_its_own_place() -> None:
    replica = Replica()
    red, blue = await replica.vsubnet("red"), await replica.vsubnet("blue")
    stored = await read(replica.store, records.psks, keys.psks(red))
    assert stored is not None
    moved = Psks(blue, stored.value.epochs)
    open_psk = replica.services.vsubnets._epochs.open
    assert open_psk(red, 1, stored.value.epochs[0].sealed)
    with pytest.raises(Exception, match="sealed under another key"):
        open_psk(blue, 1, moved.epochs[0].sealed)


async def test_the_same_order_again_returns_the_member_and_another_one_is_refused() -> None:
    replica = Replica()
    await replica.vsubnet()
    await replica.joined("n")
    order = MemberOrder("red", "n", ips=("10.7.0.9",))
    first = await replica.services.members.create(order, SYSTEM)
    assert await replica.services.members.create(order, SYSTEM) == first
    with pytest.raises(Clash):
        await replica.services.members.create(
            MemberOrder("red", "n", role=MemberRole.GATEWAY), SYSTEM
        )


async def test_a_static_address_that_another_has_or_had_today_is_refused() -> None:
    replica = Replica()
    await replica.vsubnet()
    for name in ("a", "b"):
        await replica.joined(name)
    order = MemberOrder("red", "a", ips=("10.7.0.9",))
    await replica.services.members.create(order, SYSTEM)
    taken = MemberOrder("red", "b", ips=("10.7.0.9",))
    with pytest.raises(Clash) as caught:
        await replica.services.members.create(taken, SYSTEM)
    assert caught.value.code == "address_taken"
    await replica.services.members.delete("red", "a", SYSTEM)
    with pytest.raises(Clash):
        await replica.services.members.create(taken, SYSTEM)
    replica.clock.now += 86_400
    await replica.services.members.create(taken, SYSTEM)


async def test_changed_addresses_put_the_old_ones_in_quarantine() -> None:
    replica = Replica()
    await replica.vsubnet()
    await replica.joined("a")
    await replica.joined("b")
    await replica.services.members.create(MemberOrder("red", "a"), SYSTEM)
    change = MemberChange(ips=("10.7.0.50",), role=MemberRole.GATEWAY)
    member = (await replica.services.members.change("red", "a", change, SYSTEM)).value
    assert (member.ips, member.role) == (("10.7.0.50",), MemberRole.GATEWAY)
    for ip in ("10.7.0.2", "10.7.0.50"):
        with pytest.raises(Clash):
            await replica.services.members.create(MemberOrder("red", "b", ips=(ip,)), SYSTEM)


async def test_a_member_that_comes_back_gets_its_own_address_and_mac() -> None:
    replica = Replica()
    red = await replica.vsubnet()
    await replica.joined("a", red)
    await replica.joined("b", red)
    before = (await replica.services.members.get("red", "b")).value
    await replica.services.members.delete("red", "b", SYSTEM)
    after = (await replica.services.members.create(MemberOrder("red", "b"), SYSTEM)).value
    assert (after.ips, after.mac) == (before.ips, before.mac)


async def test_a_full_prefix_is_told_and_reserved_addresses_stay_free() -> None:
    replica = Replica()
    order = VSubnetOrder("tiny", ("10.9.0.0/29",), ("10.9.0.3-10.9.0.5",))
    await replica.services.vsubnets.create(order, SYSTEM)
    given = []
    for name in ("a", "b"):
        await replica.joined(name)
        member = await replica.services.members.create(MemberOrder("tiny", name), SYSTEM)
        given.append(member.value.ips)
    assert given == [("10.9.0.2",), ("10.9.0.6",)]
    await replica.joined("c")
    with pytest.raises(NoAddressLeft):
        await replica.services.members.create(MemberOrder("tiny", "c"), SYSTEM)
    static = MemberOrder("tiny", "c", ips=("10.9.0.4",))
    assert (await replica.services.members.create(static, SYSTEM)).value.ips == ("10.9.0.4",)


async def test_shared_addresses_are_given_to_nobody() -> None:
    replica = Replica()
    await replica.store.commit([], [Put(keys.CLUSTER_FORMAT, b"%d" % SHARED_IPS_FORMAT)])
    policy = Policy(shared_ips=("10.9.0.3", "10.9.0.2"))
    order = VSubnetOrder("tiny", ("10.9.0.0/29",), policy=policy)
    made = await replica.services.vsubnets.create(order, SYSTEM)
    assert made.value.policy.shared_ips == ("10.9.0.2", "10.9.0.3")
    await replica.joined("a")
    member = await replica.services.members.create(MemberOrder("tiny", "a"), SYSTEM)
    assert member.value.ips == ("10.9.0.4",)
    await replica.joined("b")
    with pytest.raises(Invalid, match="shared"):
        await replica.services.members.create(MemberOrder("tiny", "b", ips=("10.9.0.3",)), SYSTEM)


async def test_while_an_upgrade_is_under_way_there_are_no_shared_addresses() -> None:
    replica = Replica()
    await replica.vsubnet()
    await replica.store.commit([], [Put(keys.CLUSTER_FORMAT, b"2")])
    policy = Policy(shared_ips=("10.7.0.9",))
    with pytest.raises(Clash, match="shared address"):
        await replica.services.vsubnets.change("red", VSubnetChange(policy=policy), SYSTEM)
    unshared = VSubnetChange(policy=Policy(bum_pps=9))
    changed = await replica.services.vsubnets.change("red", unshared, SYSTEM)
    assert changed.value.policy.bum_pps == 9


async def test_an_unmanaged_vsubnet_gives_out_no_addresses_but_a_mac() -> None:
    replica = Replica()
    await replica.services.vsubnets.create(VSubnetOrder("raw"), SYSTEM)
    await replica.joined("n")
    member = (await replica.services.members.create(MemberOrder("raw", "n"), SYSTEM)).value
    assert (member.ips, len(member.mac)) == ((), 17)


async def test_a_change_that_cannot_be_recorded_does_not_happen() -> None:
    """Event and change are one transaction: a store that fails leaves neither."""
    replica = Replica()
    await replica.vsubnet()
    await replica.joined("n")
    before = await replica.memory.list("")
    replica.memory.fail()
    with pytest.raises(Exception, match="unavailable"):
        await replica.services.members.create(MemberOrder("red", "n"), SYSTEM)
    replica.memory.recover()
    assert (await replica.memory.list("")).items == before.items
    made = await replica.services.members.create(MemberOrder("red", "n"), SYSTEM)
    event = (await replica.services.events.latest(1))[0]
    assert (event.kind, event.sequence) == ("member_created", made.revision)
