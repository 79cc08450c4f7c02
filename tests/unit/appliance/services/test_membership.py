"""Who may join with which string, and which changes would cost the quorum."""

from __future__ import annotations

import asyncio
import dataclasses

import msgspec
import pytest
from cairn_appliance.domain import joining as join_strings
from cairn_appliance.domain.cluster import Appliance, Cluster
from cairn_appliance.domain.errors import (
    Clash,
    Invalid,
    JoinRefused,
    NotFound,
    QuorumAtRisk,
    Unavailable,
)
from cairn_appliance.domain.identity import SYSTEM
from cairn_appliance.domain.joining import Handover
from cairn_appliance.domain.update import Report, Standing
from cairn_appliance.pki.errors import SealBroken
from cairn_appliance.pki.sealing import exchange_sealer
from cairn_appliance.services import membership as module
from cairn_appliance.services.membership import Candidate, Membership
from cairn_appliance.store import keys, records
from cairn_appliance.store.memory import MemoryStore
from cairn_appliance.store.port import Put

from tests.unit.appliance.etcd import CLUSTER_KEYS, FakeEtcd
from tests.unit.appliance.replica import FakeClock

NONCE = bytes(range(16))
URL = "https://192.0.2.9:2380"
CLUSTER = Cluster("0f7b5e0e-5b0e-4a53-9f6e-0d6b6c2a1d11", heartbeat_s=7.0)


class World:
    def __init__(self, *addresses: str) -> None:
        self.store, self.etcd, self.clock = MemoryStore(), FakeEtcd(*addresses), FakeClock()
        self.membership = Membership(
            self.store,
            self.etcd,
            lambda: CLUSTER,
            lambda: "a" * 64,
            lambda: CLUSTER_KEYS,
            self.clock,
        )

    async def announce(self, *names: str) -> None:
        for name in names:
            known = Appliance(name, (f"{name}:8002",), (f"{name}:8443",))
            put = Put(keys.appliance(name), records.appliances.encode(known))
            await self.store.commit([], [put])

    async def string(self) -> join_strings.JoinString:
        await self.announce("m1")
        return join_strings.decode((await self.membership.issue(SYSTEM)).text)

    async def admit(self, join: join_strings.JoinString, url: str = URL) -> Handover:
        sealed = await self.membership.admit(Candidate(join.id, join.secret, NONCE, url))
        opened = exchange_sealer(join.secret, NONCE).open(join.id, sealed)
        return msgspec.json.decode(opened, type=Handover)

    async def names(self) -> list[tuple[str, bool]]:
        return [(each.name, each.is_learner) for each in await self.etcd.members()]


@pytest.fixture
def world() -> World:
    return World()


async def test_a_newcomer_gets_a_name_the_keys_and_exactly_the_members_of_now(
    world: World,
) -> None:
    join = await world.string()

    handed = await world.admit(join)

    assert join.operations == ("m1:8443",)
    assert handed.name == "m2"
    assert handed.initial_cluster == f"m1=https://192.0.2.1:2380,m2={URL}"
    assert handed.endpoints == ("192.0.2.1:2379",)
    assert (handed.heartbeat_s, handed.keys) == (7.0, CLUSTER_KEYS)
    assert await world.names() == [("m1", False), ("", True)]


async def test_what_is_handed_over_opens_with_this_secret_and_this_nonce_only(
    world: World,
) -> None:
    join = await world.string()
    sealed = await world.membership.admit(Candidate(join.id, join.secret, NONCE, URL))

    assert CLUSTER_KEYS.kek not in sealed
    for secret, nonce in ((join.secret, bytes(16)), (join.secret[::-1], NONCE)):
        with pytest.raises(SealBroken):
            exchange_sealer(secret, nonce).open(join.id, sealed)


async def test_the_secret_is_kept_as_a_hash(world: World) -> None:
    join = await world.string()
    kept = b"".join(item.value for item in (await world.store.list(keys.ROOT)).items)
    assert join.secret.encode() not in kept


async def test_a_broken_off_join_can_be_repeated_from_the_same_place_only(world: World) -> None:
    join = await world.string()
    await world.admit(join)
    world.etcd.starts("m2")  # its data are lost now: that member can never be again

    again = await world.admit(join)

    assert again.name == "m2"
    assert await world.names() == [("m1", False), ("", True)]
    with pytest.raises(JoinRefused, match="another appliance"):
        await world.admit(join, "https://192.0.2.66:2380")


async def test_a_string_ends_with_its_time_and_with_its_use(world: World) -> None:
    join = await world.string()
    wrong = dataclasses.replace(join, secret=join.secret[::-1])
    with pytest.raises(JoinRefused, match="not known"):
        await world.admit(wrong)
    with pytest.raises(JoinRefused, match="not known"):
        await world.admit(dataclasses.replace(join, id="../cluster/info"))
    world.clock.now += module.LIFE_S + 1
    with pytest.raises(JoinRefused, match="expired"):
        await world.admit(join)

    fresh = await world.string()
    await world.admit(fresh)
    await world.membership.joined("m3")
    with pytest.raises(JoinRefused, match="used up"):
        await world.admit(fresh)


async def test_no_name_is_given_out_twice(world: World) -> None:
    names = [(await world.membership.issue(SYSTEM)).joining.name for _ in range(3)]
    assert names == ["m2", "m3", "m4"]


async def test_one_joins_at_a_time(world: World) -> None:
    first, second = await world.string(), await world.string()
    await world.admit(first)
    with pytest.raises(Clash, match="another appliance is joining"):
        await world.admit(second, "https://192.0.2.10:2380")

    world.clock.now += module.LIFE_S + 1  # the first was given up
    third = await world.string()
    assert (await world.admit(third, "https://192.0.2.10:2380")).name == "m4"


async def test_etcd_may_want_a_moment_between_changes(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_AGAIN_S", 0.001)
    join = await world.string()
    world.etcd.refusals = 3
    assert (await world.admit(join)).name == "m2"

    monkeypatch.setattr(module, "_CHANGE_WITHIN_S", 0.01)
    world.etcd.refusals = 10**6
    with pytest.raises(Unavailable, match="unhealthy cluster"):
        await world.admit(join)


@pytest.mark.parametrize(
    "url",
    ["http://192.0.2.9:2380", "https://192.0.2.9", "https://name:2380", "https://0.0.0.0:1", "x"],
)
async def test_an_address_that_is_none_is_refused(world: World, url: str) -> None:
    with pytest.raises(Invalid):
        await world.admit(await world.string(), url)


async def test_a_cluster_on_loopback_says_what_to_set_before_it_can_grow() -> None:
    world = World("127.0.0.1")
    with pytest.raises(Clash, match="loopback") as refused:
        await world.admit(await world.string())
    assert "cluster_address" in refused.value.remedy


async def test_a_member_is_not_admitted_again(world: World) -> None:
    with pytest.raises(Clash, match="already"):
        await world.admit(await world.string(), "https://192.0.2.1:2380")


async def test_one_leaves_where_the_others_can_do_without_it() -> None:
    world = World("192.0.2.1", "192.0.2.2", "192.0.2.3")
    await world.announce("m1", "m2", "m3")

    await world.membership.leave("m1", SYSTEM)

    assert world.etcd.leader != 1
    assert await world.names() == [("m2", False), ("m3", False)]
    known = [keys.last_part(each.key) for each in (await world.store.list(keys.APPLIANCES)).items]
    assert known == ["m2", "m3"]
    world.etcd.silent = {"m3"}
    with pytest.raises(QuorumAtRisk):
        await world.membership.leave("m2", SYSTEM)


async def test_nothing_is_known_any_more_of_the_machine_of_one_that_left() -> None:
    world = World("192.0.2.1", "192.0.2.2", "192.0.2.3")
    for name in ("m1", "m2"):
        report = records.update_reports.encode(Report(name, Standing("a", "0.1.0-1")))
        await world.store.commit([], [Put(keys.update(name), report)])
    await world.membership.leave("m1", SYSTEM)
    assert [each.key for each in (await world.store.list(keys.UPDATES)).items] == [
        keys.update("m2")
    ]


async def test_who_leads_hands_the_lead_to_the_living_one_that_is_least_behind() -> None:
    world = World("192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4")
    world.etcd.silent.add("m2")
    world.etcd.behind["m3"] = 7
    await world.membership.hand_over_lead("m4")  # it doesn't lead
    assert world.etcd.leader == 1
    await world.membership.hand_over_lead("m1")
    assert world.etcd.leader == 4


async def test_a_lead_that_nobody_can_take_is_no_error(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.membership.hand_over_lead("m1")
    assert world.etcd.leader == 1
    monkeypatch.setattr(module, "_LEAD_WITHIN_S", 0.05)
    monkeypatch.setattr(world.etcd, "members", asyncio.Event().wait)
    async with asyncio.timeout(10):
        await world.membership.hand_over_lead("m1")


async def test_the_last_one_does_not_leave(world: World) -> None:
    with pytest.raises(QuorumAtRisk):
        await world.membership.leave("m1", SYSTEM)
    with pytest.raises(NotFound, match="m7"):
        await world.membership.leave("m7", SYSTEM)


async def test_only_a_dead_one_is_replaced_and_only_by_a_quorum() -> None:
    world = World("192.0.2.1", "192.0.2.2", "192.0.2.3")
    await world.announce("m1", "m2", "m3")
    await world.store.commit([], [Put(keys.LAST_NAME, b"3")])
    with pytest.raises(Clash, match="m3 is alive"):
        await world.membership.replace("m3", SYSTEM)

    world.etcd.silent = {"m2", "m3"}
    with pytest.raises(QuorumAtRisk):
        await world.membership.replace("m3", SYSTEM)

    world.etcd.silent = {"m3"}
    issued = await world.membership.replace("m3", SYSTEM)
    assert issued.joining.name == "m4"
    assert await world.names() == [("m1", False), ("m2", False)]


async def test_tidying_forgets_who_is_no_member_and_strings_that_ended(world: World) -> None:
    await world.announce("m1", "m5")
    await world.membership.issue(SYSTEM)
    world.clock.now += module.LIFE_S + 1

    await world.membership.tidy()

    assert [i.key for i in (await world.store.list(keys.APPLIANCES)).items] == [
        keys.appliance("m1")
    ]
    assert (await world.store.list(keys.JOININGS)).items == ()
