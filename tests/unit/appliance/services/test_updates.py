"""Updates over three appliances and one store: machines that do what root would, in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import replace

import pytest
from cairn_appliance.domain.backup import Backup
from cairn_appliance.domain.cluster import Appliance
from cairn_appliance.domain.cluster_health import ClusterView
from cairn_appliance.domain.errors import (
    BackupFailed,
    Clash,
    NotFound,
    Unavailable,
    UpdateRefused,
    UpdateUnusable,
)
from cairn_appliance.domain.identity import SYSTEM, Actor
from cairn_appliance.domain.update import Action, Phase, Plan, Report, Standing, Step, Wish
from cairn_appliance.pki.update_file import Head, Manifest
from cairn_appliance.services.updates import Updates
from cairn_appliance.store import keys, records
from cairn_appliance.store.memory import MemoryStore
from cairn_appliance.store.port import Put

from tests.unit.appliance.backups import FakeKept
from tests.unit.appliance.domain.test_update import view

OLD, NEW = "0.1.0-1", "0.1.0-2"
NAMES = ("m1", "m2", "m3")


class FakeMachine:
    """A machine whose root does at once what it is asked for; `fails` makes it go back."""

    def __init__(self, *, of_image: bool = True) -> None:
        self.told: Standing | None = Standing("a", OLD, {"a": OLD}) if of_image else None
        self.lies_here = b""
        self.asked: list[Wish] = []
        self.fails = False
        self.believes = True
        self.keeps = False

    def standing(self) -> Standing | None:
        return self.told

    def bundle(self) -> Head | None:
        return head_of(self.lies_here) if self.lies_here else None

    async def keep(
        self, chunks: AsyncIterator[bytes], check: Callable[[], Awaitable[None]] | None = None
    ) -> Head:
        assert not self.keeps, "two write to one file"
        self.keeps = True
        try:
            octets = b"".join([each async for each in chunks])
        finally:
            self.keeps = False
        if check is not None:
            await check()
        if not self.believes:
            raise UpdateUnusable("not signed by the release key", "take another")
        self.lies_here = octets
        return head_of(octets)

    def open(self) -> FakeKept:
        if not self.lies_here:
            raise NotFound("no update lies here")
        return FakeKept(self.lies_here)

    def remove(self) -> None:
        self.lies_here = b""

    def ask(self, wish: Wish) -> None:
        assert self.told is not None
        self.asked.append(wish)
        begun = self.told.begun(wish.id, NEW, 1.0)
        if self.fails:
            self.told = begun.written().restarting(2.0).booted(
                "a", OLD, 3.0, is_trial=False, fell_back=True
            )  # fmt: skip
        else:
            written = begun.written() if wish.action is Action.INSTALL else begun
            self.told = written.booted(
                begun.other, begun.other_version or NEW, 3.0, is_trial=True, fell_back=False
            ).well(4.0)


def head_of(octets: bytes) -> Head:
    return Head(Manifest(1, octets.decode(), 1, "", 1, 1, [""]), f"digest of {octets.decode()}")


class Making:
    """Makes backups, or says why not."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.error: Exception | None = None

    async def create(self, by: Actor, reason: str = "") -> Backup:
        if self.error is not None:
            raise self.error
        self.reasons.append(reason)
        return Backup("b", "/b", "m1", 0.0, 1, 1, "k", by.name)


class Fleet:
    """Appliances that share a store; `leader` conducts."""

    def __init__(self, number: int = 3) -> None:
        self.store = MemoryStore()
        self.names = NAMES[:number]
        self.machines = {name: FakeMachine() for name in self.names}
        self.making = Making()
        self.leader = "m1"
        self.now = 1000.0
        self.cut = False  # between the appliances
        self.updates = {name: self.replica(name) for name in self.names}

    def replica(self, name: str) -> Updates:
        async def leads() -> bool:
            return self.leader == name

        return Updates(
            self.store, name, self.machines[name], self, self.making, self._fetch, leads,
            lambda: self.now,
        )  # fmt: skip

    async def view(self) -> ClusterView:
        return view(number=len(self.names), leader=int(self.leader[1:]))

    async def begin(self) -> None:
        for name in self.names:
            puts = [Put(keys.appliance(name), records.appliances.encode(Appliance(name, (name,))))]
            await self.store.commit([], puts)
        await self.rounds(1)

    async def rounds(self, count: int) -> None:
        for _ in range(count):
            for name in self.names:
                await self.updates[name].look()
            self.now += 2.0

    async def plan(self) -> Plan:
        plan = (await self.updates["m1"].state()).plan
        assert plan is not None
        return plan

    async def _fetch(self, places: Sequence[str]) -> AsyncGenerator[bytes, None]:
        if self.cut or not places:
            raise Unavailable("it did not come")
        yield self.machines[places[0]].lies_here


async def chunks(octets: bytes) -> AsyncGenerator[bytes, None]:
    yield octets[:3]
    yield octets[3:]


@pytest.fixture
async def fleet() -> Fleet:
    made = Fleet()
    await made.begin()
    return made


async def uploaded(fleet: Fleet, to: str = "m1") -> None:
    head = await fleet.updates[to].keep(chunks(NEW.encode()), SYSTEM)
    assert head.version == NEW


async def test_all_are_updated_after_a_backup_and_keep_no_file(fleet: Fleet) -> None:
    await uploaded(fleet)
    state = await fleet.updates["m2"].start(Action.INSTALL, SYSTEM)  # another one was asked
    assert state.plan is not None and state.plan.source == "m1"
    await fleet.rounds(12)
    plan = await fleet.plan()
    assert plan.phase is Phase.DONE and plan.done == ("m2", "m3", "m1")
    assert fleet.making.reasons == [f"before the update to {NEW}"]
    for machine in fleet.machines.values():
        assert [wish.action for wish in machine.asked] == [Action.INSTALL]
        assert machine.told is not None and machine.told.version == NEW
        assert not machine.lies_here
    events = (await fleet.store.list(keys.EVENTS)).items
    kinds = [records.events.decode(each).kind for each in events]
    assert kinds.count("appliance_updating") == kinds.count("appliance_updated") == 3
    assert kinds.count("update_started") == kinds.count("update_done") == 1


async def test_the_way_back_needs_no_file(fleet: Fleet) -> None:
    await uploaded(fleet)
    await fleet.updates["m1"].start(Action.INSTALL, SYSTEM)
    await fleet.rounds(12)
    state = await fleet.updates["m1"].start(Action.ROLLBACK, SYSTEM)
    assert state.plan is not None and state.plan.version == OLD
    await fleet.rounds(12)
    assert (await fleet.plan()).phase is Phase.DONE
    assert fleet.making.reasons[-1] == f"before the way back to {OLD}"
    with pytest.raises(UpdateRefused, match="no older system"):  # that would lead forward again
        await fleet.updates["m1"].start(Action.ROLLBACK, SYSTEM)
    assert {machine.told.version for machine in fleet.machines.values() if machine.told} == {OLD}


async def test_whoever_leads_next_goes_on(fleet: Fleet) -> None:
    """The process that conducted is another one in each round, and so is the leader."""
    await uploaded(fleet)
    await fleet.updates["m1"].start(Action.INSTALL, SYSTEM)
    for number in range(24):
        fleet.leader = NAMES[number % 3]
        fleet.updates = {name: fleet.replica(name) for name in NAMES}
        await fleet.rounds(1)
    assert (await fleet.plan()).phase is Phase.DONE
    assert all(len(machine.asked) == 1 for machine in fleet.machines.values())


async def test_it_stops_at_the_first_that_goes_back(fleet: Fleet) -> None:
    fleet.machines["m3"].fails = True
    await uploaded(fleet)
    await fleet.updates["m1"].start(Action.INSTALL, SYSTEM)
    await fleet.rounds(12)
    plan = await fleet.plan()
    assert plan.phase is Phase.STOPPED and "m3 went back" in plan.cause and plan.remedy
    assert not fleet.machines["m1"].asked
    assert fleet.machines["m1"].lies_here  # to be started again
    fleet.machines["m3"].fails = False
    await fleet.updates["m1"].start(Action.INSTALL, SYSTEM)
    await fleet.rounds(12)
    assert (await fleet.plan()).phase is Phase.DONE
    assert len(fleet.machines["m2"].asked) == 1


async def test_no_backup_no_update_unless_there_is_no_key(fleet: Fleet) -> None:
    await uploaded(fleet)
    fleet.making.error = BackupFailed("the disk is full", "make room")
    await fleet.updates["m1"].start(Action.INSTALL, SYSTEM)
    await fleet.rounds(3)
    plan = await fleet.plan()
    assert plan.phase is Phase.STOPPED and "the disk is full" in plan.cause
    assert plan.remedy == "make room"
    fleet.making.error = Clash("one is being made", code="backup_under_way")
    await fleet.updates["m1"].start(Action.INSTALL, SYSTEM)
    await fleet.rounds(3)
    assert (await fleet.plan()).phase is Phase.BACKUP
    fleet.making.error = Clash("no key", code="no_recovery_key")
    await fleet.rounds(12)
    assert (await fleet.plan()).phase is Phase.DONE


async def test_a_file_that_does_not_come_is_asked_for_again(fleet: Fleet) -> None:
    await uploaded(fleet)
    await fleet.updates["m1"].start(Action.INSTALL, SYSTEM)
    fleet.cut = True
    await fleet.rounds(6)
    assert (await fleet.plan()).current == "m2" and not fleet.machines["m2"].asked
    fleet.cut = False
    await fleet.rounds(12)
    assert (await fleet.plan()).phase is Phase.DONE


async def test_an_appliance_that_believes_another_key_stops_it(fleet: Fleet) -> None:
    fleet.machines["m2"].believes = False
    await uploaded(fleet)
    await fleet.updates["m1"].start(Action.INSTALL, SYSTEM)
    await fleet.rounds(6)
    plan = await fleet.plan()
    assert plan.phase is Phase.STOPPED and plan.cause == "m2: not signed by the release key"


async def test_what_is_refused_and_why(fleet: Fleet) -> None:
    with pytest.raises(UpdateRefused, match="no update lies"):
        await fleet.updates["m1"].start(Action.INSTALL, SYSTEM)
    with pytest.raises(UpdateRefused, match="no older system"):
        await fleet.updates["m1"].start(Action.ROLLBACK, SYSTEM)
    await uploaded(fleet)
    await fleet.updates["m1"].start(Action.INSTALL, SYSTEM)
    for action in Action:
        with pytest.raises(UpdateRefused, match="under way"):
            await fleet.updates["m2"].start(action, SYSTEM)
    with pytest.raises(UpdateRefused, match="under way"):
        await fleet.updates["m2"].keep(chunks(NEW.encode()), SYSTEM)


async def test_an_upload_that_ends_after_a_start_is_refused_and_nothing_is_mixed(
    fleet: Fleet,
) -> None:
    await uploaded(fleet)
    goes_on = asyncio.Event()

    async def slow() -> AsyncGenerator[bytes, None]:
        yield b"0.1.0-"
        await goes_on.wait()
        yield b"3"

    async with asyncio.TaskGroup() as tasks:
        uploads = [
            tasks.create_task(_refused(fleet.updates[name].keep(slow(), SYSTEM)))
            for name in ("m1", "m2")
        ]
        await asyncio.sleep(0)
        assert fleet.machines["m2"].keeps
        await fleet.updates["m1"].start(Action.INSTALL, SYSTEM)
        await fleet.rounds(4)
        assert (await fleet.plan()).current == "m2"  # it waits for the end of the upload
        goes_on.set()
    assert ["under way" in upload.result() for upload in uploads] == [True, True]
    await fleet.rounds(12)
    assert (await fleet.plan()).phase is Phase.DONE
    assert {machine.told.version for machine in fleet.machines.values() if machine.told} == {NEW}


async def _refused(keeping: Awaitable[Head]) -> str:
    with pytest.raises(UpdateRefused) as caught:
        await keeping
    return caught.value.cause


async def test_the_newest_file_is_started_wherever_it_lies(fleet: Fleet) -> None:
    """One of an update that stopped still lies where it was asked for."""
    await fleet.updates["m1"].keep(chunks(b"0.1.0-2"), SYSTEM)
    await fleet.updates["m2"].keep(chunks(b"0.1.0-10"), SYSTEM)
    await fleet.updates["m3"].keep(chunks(b"0.1.0-10"), SYSTEM)
    plan = (await fleet.updates["m1"].start(Action.INSTALL, SYSTEM)).plan
    assert plan is not None and (plan.version, plan.source) == ("0.1.0-10", "m2")


async def test_a_file_is_removed_once_all_run_it_and_not_before(fleet: Fleet) -> None:
    """Of an update that stopped one may lie where all is new; a newcomer may need one again."""
    fleet.machines["m3"].told = Standing("a", NEW, {"a": NEW})
    fleet.machines["m3"].lies_here = OLD.encode()
    await uploaded(fleet)
    await fleet.updates["m1"].start(Action.INSTALL, SYSTEM)
    await fleet.rounds(12)
    assert (await fleet.plan()).phase is Phase.DONE and not fleet.machines["m3"].asked
    assert not any(machine.lies_here for machine in fleet.machines.values())
    fleet.machines["m3"].told = Standing("a", OLD, {"a": OLD})
    await fleet.rounds(1)
    await uploaded(fleet)
    await fleet.rounds(3)
    await fleet.updates["m1"].start(Action.INSTALL, SYSTEM)
    await fleet.rounds(12)
    assert (await fleet.plan()).done == ("m3",)
    assert not any(machine.lies_here for machine in fleet.machines.values())


async def test_the_file_of_an_appliance_that_is_gone_is_not_started(fleet: Fleet) -> None:
    gone = Report("m9", Standing("a", OLD), bundle="digest", bundle_version=NEW)
    put = Put(keys.update("m9"), records.update_reports.encode(gone))
    await fleet.store.commit([], [put])
    with pytest.raises(UpdateRefused, match="no update lies"):
        await fleet.updates["m1"].start(Action.INSTALL, SYSTEM)


async def test_what_runs_from_a_clone_says_how_it_is_updated() -> None:
    fleet = Fleet()
    fleet.machines["m2"].told = None
    await fleet.begin()
    with pytest.raises(UpdateRefused, match="does not run from the image") as caught:
        await fleet.updates["m2"].keep(chunks(b"x"), SYSTEM)
    assert "docs/operate.md" in caught.value.remedy
    await uploaded(fleet)
    with pytest.raises(UpdateRefused, match="m2: does not run from the image"):
        await fleet.updates["m1"].start(Action.INSTALL, SYSTEM)


async def test_one_alone_goes_on_after_its_own_restart() -> None:
    fleet = Fleet(1)
    await fleet.begin()
    await uploaded(fleet)
    await fleet.updates["m1"].start(Action.INSTALL, SYSTEM)
    await fleet.rounds(2)
    assert len(fleet.machines["m1"].asked) == 0 or (await fleet.plan()).current == "m1"
    fleet.updates["m1"] = fleet.replica("m1")
    await fleet.rounds(6)
    assert (await fleet.plan()).phase is Phase.DONE and len(fleet.machines["m1"].asked) == 1


async def test_nothing_is_written_while_nothing_changes(fleet: Fleet) -> None:
    before = (await fleet.store.list("/cairn/")).revision
    await fleet.rounds(5)
    assert (await fleet.store.list("/cairn/")).revision == before
    told = fleet.machines["m1"].told
    assert told is not None
    fleet.machines["m1"].told = replace(told, step=Step.INSTALLING)
    await fleet.rounds(1)
    reports = (await fleet.updates["m2"].state()).reports
    assert reports["m1"].standing.step is Step.INSTALLING
