"""The store's upkeep: by whom, when, in which order, and when it stops."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from cairn_appliance.domain.alarm import Alarm, Sign
from cairn_appliance.domain.cluster import (
    Digest,
    EtcdAlarm,
    EtcdMember,
    EtcdState,
    Replica,
    odd_ones,
)
from cairn_appliance.services import upkeep as upkeep_module
from cairn_appliance.services.upkeep import NotLeading, Upkeep
from cairn_appliance.store import keys, records
from cairn_appliance.store.memory import MemoryStore
from cairn_appliance.store.port import Listing, Put, Unavailable

MIB = 1 << 20
QUOTA = 2048 * MIB
FULL = ("memberID:2 alarm:NOSPACE ",)


class FakeEtcd:
    """Three members, m2 leads; each has a database of so many octets, so many in use."""

    def __init__(self, octets: int = MIB, used: int = MIB) -> None:
        self.list = tuple(
            EtcdMember(n, f"m{n}", (), (f"https://192.0.2.{n}:1",)) for n in (1, 2, 3)
        )
        self.state_of: dict[int, EtcdState | None] = {
            n: EtcdState("3.6.0", 2, 9, 9, octets, used, (), QUOTA) for n in (1, 2, 3)
        }
        self.armed: list[EtcdAlarm] = []
        self.done: list[str] = []
        self.lead_lost_after = 99
        self.late: set[str] = set()
        self.silences = 0  # how often who leads doesn't answer in time
        self.digests: dict[int, Digest | None] = dict.fromkeys((1, 2, 3), Digest(7, 5))

    def fill(self) -> None:
        self.armed = [EtcdAlarm(2, "NOSPACE")]
        for n, state in self.state_of.items():
            if state is not None:
                self.state_of[n] = replace(state, errors=FULL)

    async def members(self) -> tuple[EtcdMember, ...]:
        return self.list

    async def state(self, member: EtcdMember) -> EtcdState | None:
        state = self.state_of[member.id]
        if member.name in self.late:
            await asyncio.sleep(0.05)
        if state is not None and len(self.done) >= self.lead_lost_after:
            return replace(state, leader=1)
        return state

    async def states(self, members: tuple[EtcdMember, ...]) -> dict[int, EtcdState | None]:
        return {each.id: self.state_of[each.id] for each in members}

    async def alarms(self) -> tuple[EtcdAlarm, ...]:
        return tuple(self.armed)

    async def compact(self, leader: EtcdMember) -> None:
        self.done.append(f"compact at {leader.name}")

    async def defragment(self, member: EtcdMember) -> None:
        self.done.append(member.name)
        state = self.state_of[member.id]
        assert state is not None
        self.state_of[member.id] = replace(state, db_octets=state.db_used_octets)

    async def disarm(self, alarm: EtcdAlarm) -> None:
        self.done.append(f"disarm {alarm.member}")

    async def revision(self) -> int:
        return 9

    async def digest(self, member: EtcdMember, revision: int) -> Digest | None:
        return self.digests.get(member.id)

    async def hand_over(self, leader: EtcdMember, to: EtcdMember) -> None:
        if self.silences:
            self.silences -= 1
            raise Unavailable("no answer within 1.5 s")
        self.done.append(f"lead from {leader.name} to {to.name}")

    async def fence(self, member: EtcdMember) -> None:
        self.done.append(f"fence {member.name}")


class Silent(MemoryStore):
    """A store that gives no answer in time: its disks are slow."""

    async def list(self, *_: object, **__: object) -> Listing:
        raise Unavailable("no answer within 9.5 s")


def upkeep_of(
    etcd: FakeEtcd, name: str = "m2", *, store: MemoryStore | None = None, is_slow: bool = False
) -> Upkeep:
    return Upkeep(store or MemoryStore(), etcd, name, etcd.fence, lambda: is_slow)


async def done_by(name: str, etcd: FakeEtcd) -> list[str]:
    await upkeep_of(etcd, name).look()
    return etcd.done


@pytest.mark.parametrize("name", ["m1", "m3", "m9"])
async def test_only_the_replica_beside_the_leader_does_it(name: str) -> None:
    etcd = FakeEtcd(1000 * MIB, 100 * MIB)
    etcd.fill()
    assert await done_by(name, etcd) == []


async def test_what_is_not_worth_a_pause_stays() -> None:
    assert await done_by("m2", FakeEtcd(100 * MIB, 10 * MIB)) == []
    assert await done_by("m2", FakeEtcd(1000 * MIB, 800 * MIB)) == []


async def test_one_member_at_a_time_the_leader_last() -> None:
    etcd = FakeEtcd(1000 * MIB, 100 * MIB)
    upkeep = upkeep_of(etcd)
    for expected in (["m1"], ["m1", "m3"], ["m1", "m3", "m2"], ["m1", "m3", "m2"]):
        await upkeep.look()
        assert etcd.done == expected


async def test_while_another_is_away_nobody_is_kept_from_answering() -> None:
    etcd = FakeEtcd(1000 * MIB, 100 * MIB)
    etcd.state_of[3] = None
    assert await done_by("m2", etcd) == []


async def test_a_crowded_store_gives_up_its_history_now_and_then() -> None:
    etcd = FakeEtcd(1800 * MIB, 1700 * MIB)
    upkeep = upkeep_of(etcd)
    await upkeep.look()
    assert etcd.done == ["compact at m2", "m1", "m3", "m2"]
    await upkeep.look()
    assert len(etcd.done) == 4, "it brought too little: not again for a while"


async def test_a_full_store_lets_changes_in_again() -> None:
    etcd, store = FakeEtcd(QUOTA, 100 * MIB), MemoryStore()
    etcd.fill()
    await upkeep_of(etcd, store=store).look()
    assert etcd.done == ["compact at m2", "m1", "m3", "m2", "disarm 2"]
    (event,) = (await store.list(keys.EVENTS)).items
    assert b"store_freed" in event.value


async def test_a_store_full_of_what_is_in_use_stays_closed() -> None:
    etcd = FakeEtcd(QUOTA, 1900 * MIB)
    etcd.fill()
    assert await done_by("m2", etcd) == ["compact at m2", "m1", "m3", "m2"]


async def test_who_loses_the_lead_in_the_middle_stops_there() -> None:
    etcd = FakeEtcd(QUOTA, 100 * MIB)
    etcd.fill()
    etcd.lead_lost_after = 2
    with pytest.raises(NotLeading):
        await done_by("m2", etcd)
    assert etcd.done == ["compact at m2", "m1"]


@pytest.mark.parametrize(
    ("digests", "odd"),
    [
        ([Digest(7, 5), Digest(7, 5), Digest(7, 5)], set()),
        ([Digest(7, 5), Digest(7, 5), Digest(8, 5)], {3}),
        ([Digest(7, 5), Digest(7, 5), Digest(8, 6)], set()),
        ([Digest(7, 5), Digest(7, 5), None], set()),
        ([Digest(7, 5), Digest(8, 5), None], set()),
        ([Digest(6, 5), Digest(7, 5), Digest(8, 5)], set()),
        ([None, None, None], set()),
    ],
)
def test_only_who_differs_from_a_majority_is_odd(
    digests: list[Digest | None], odd: set[int]
) -> None:
    assert odd_ones(dict(enumerate(digests, 1)), 3) == odd


async def test_a_damaged_follower_is_taken_out() -> None:
    etcd = FakeEtcd()
    etcd.digests[3] = Digest(8, 5)
    assert await done_by("m2", etcd) == ["fence m3"]


async def test_a_damaged_leader_lets_another_lead_that_is_not() -> None:
    etcd = FakeEtcd()
    etcd.digests[2] = Digest(8, 5)
    (done,) = await done_by("m2", etcd)
    assert done in ("lead from m2 to m1", "lead from m2 to m3")


async def test_a_leader_with_a_slow_disk_lets_one_lead_whose_is_not() -> None:
    etcd, store = FakeEtcd(), MemoryStore()
    slow = Replica("m1", "0.1.0", 0.0, (Sign(Alarm.SLOW_DISK, "its disk is slow"),))
    await store.commit([], [Put(keys.replica("m1"), records.replicas.encode(slow))])
    upkeep = upkeep_of(etcd, store=store, is_slow=True)
    await upkeep.look()
    await upkeep.look()
    assert etcd.done == ["lead from m2 to m3"], "and not again at once"


async def test_a_lead_that_could_not_be_handed_over_is_soon_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upkeep_module, "TRIED_AGAIN_S", 0.0)
    etcd = FakeEtcd()
    etcd.silences = 1
    upkeep = upkeep_of(etcd, is_slow=True)
    with pytest.raises(Unavailable):
        await upkeep.look()
    await upkeep.look()
    assert len(etcd.done) == 1


async def test_a_slow_leader_lets_another_lead_before_anything_else_and_without_the_store() -> None:
    etcd, store = FakeEtcd(2000 * MIB, 10 * MIB), Silent()
    etcd.state_of[3] = None  # away
    await upkeep_of(etcd, store=store, is_slow=True).look()
    assert etcd.done[0] == "lead from m2 to m1"


@pytest.mark.parametrize(("late", "heir"), [("m1", "m3"), ("m3", "m1")])
async def test_the_one_that_answers_first_leads_next(late: str, heir: str) -> None:
    etcd = FakeEtcd()
    etcd.late = {late}
    await upkeep_of(etcd, is_slow=True).look()
    assert etcd.done == [f"lead from m2 to {heir}"]
