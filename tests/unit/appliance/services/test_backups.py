"""Backups: made, listed, dropped, and what is told when one fails."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import msgspec
import pytest
from cairn_appliance.domain.backup import Backup, Contents, problems_of_backups, superfluous
from cairn_appliance.domain.cluster import Cluster
from cairn_appliance.domain.errors import BackupFailed, Clash, Invalid
from cairn_appliance.domain.event import Event
from cairn_appliance.domain.identity import SYSTEM, Actor, ActorKind
from cairn_appliance.pki.backup_file import BackupReader
from cairn_appliance.pki.recovery_key import RecoveryKey
from cairn_appliance.services import backups as backups_module
from cairn_appliance.services.backups import Backups, Source, health_of, wish_for_one
from cairn_appliance.services.events import Events, Journal
from cairn_appliance.settings import Settings
from cairn_appliance.store import keys
from cairn_appliance.store.memory import MemoryStore
from cairn_appliance.store.port import Full, Put
from cairn_appliance.store.snapshots import Snapshot

from tests.unit.agent.fakes.running import beside, until
from tests.unit.appliance.backups import SNAPSHOT, FakeShelf, FakeSnapshots
from tests.unit.appliance.replica import FakeClock

ADMIN = Actor(ActorKind.OPERATOR, "admin")
KEY = RecoveryKey.create()
KEK = bytes(range(32))
HOUR_S = 3600.0


class Made:
    """Backups on a store in memory."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.clock = FakeClock()
        self.shelf = FakeShelf()
        self.snapshots = FakeSnapshots(self.store)
        self.backups = Backups(
            self.store,
            self.snapshots,
            self.shelf,
            lambda: Cluster("0f7b5e0e-5b0e-4a53-9f6e-0d6b6c2a1d11", 3),
            Source("m2", lambda: KEK, lambda: 'addresses = ["192.0.2.1"]\n'),
            kept=3,
            clock=self.clock,
        )

    async def with_key(self) -> Made:
        await self.backups.use_key(base64.b64encode(KEY.public).decode(), ADMIN)
        return self

    async def problems(self, every_s: float = HOUR_S) -> list[str]:
        health = await health_of(self.store, every_s, self.clock())
        return [problem.cause for problem in problems_of_backups(health)]

    async def events(self) -> tuple[Event, ...]:
        return await Events(self.store).list()

    async def kinds(self) -> list[str]:
        return [event.kind for event in await self.events()]


async def test_a_backup_opens_with_the_recovery_key() -> None:
    made = await Made().with_key()
    await made.store.commit([], [Put(keys.LAST_NAME, b"4")])
    backup = await made.backups.create(ADMIN)
    assert (await made.backups.list()) == (backup,)
    reader = BackupReader(io.BytesIO(made.shelf.files[backup.name]), backup.name)
    assert (reader.head.incarnation, reader.head.appliance) == (3, "m2")
    assert reader.head.revision == backup.revision > 0
    octets = b"".join(reader.pieces(KEY))
    length = int.from_bytes(octets[:4])
    contents = msgspec.json.decode(octets[4 : 4 + length], type=Contents)
    assert base64.b64decode(contents.kek) == KEK
    assert contents.last_number == 4
    assert octets[4 + length :] == SNAPSHOT
    assert (await made.kinds()) == ["recovery_key_changed", "backup_made"]


async def test_without_a_key_none_is_made_and_it_is_said() -> None:
    made = Made()
    with pytest.raises(Clash, match="no recovery key"):
        await made.backups.create(ADMIN)
    assert (await made.problems()) == [
        "no backups are made: there is no recovery key to seal them for"
    ]
    assert (await made.problems(every_s=0)) == []


async def test_a_public_half_that_is_none_is_refused() -> None:
    made = Made()
    for wrong in ("", "x", base64.b64encode(bytes(32)).decode(), base64.b64encode(b"x").decode()):
        with pytest.raises(Invalid):
            await made.backups.use_key(wrong, ADMIN)


@pytest.mark.parametrize("what", ["disk", "etcd"])
async def test_a_failure_is_told_until_one_succeeds(what: str) -> None:
    made = await Made().with_key()
    await made.backups.create(ADMIN)
    made.clock.now += 2 * HOUR_S
    made.shelf.is_full, made.snapshots.is_broken = what == "disk", what == "etcd"
    with pytest.raises(BackupFailed):
        await made.backups.create(ADMIN)
    assert len(made.shelf.files) == 1
    (cause,) = await made.problems()
    assert cause.startswith("the last backup is 2 hours old: m2: ")
    assert "backup_failed" in await made.kinds()
    made.shelf.is_full = made.snapshots.is_broken = False
    await made.backups.create(ADMIN)
    assert (await made.problems()) == []


async def test_a_file_that_nobody_would_know_of_is_not_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = await Made().with_key()

    async def refuse(*_: object) -> int:
        raise Full("etcdserver: mvcc: database space exceeded")

    monkeypatch.setattr(made.store, "commit", refuse)
    with pytest.raises(BackupFailed):
        await made.backups.create(ADMIN)
    assert made.shelf.files == {}


async def test_only_so_many_are_kept() -> None:
    made = await Made().with_key()
    names = []
    for _ in range(5):
        names.append((await made.backups.create(ADMIN)).name)
        made.clock.now += HOUR_S
    assert sorted(made.shelf.files) == sorted(names[2:])
    assert [each.name for each in await made.backups.list()] == names[:1:-1]


async def test_one_that_is_late_is_a_problem_also_without_a_failure() -> None:
    made = await Made().with_key()
    assert (await made.problems()) == []
    made.clock.now += 3 * HOUR_S
    assert (await made.problems()) == ["there is no backup: none was made when it was due"]
    await made.backups.create(ADMIN)
    made.clock.now += 2 * HOUR_S
    assert (await made.problems()) == []
    made.clock.now += HOUR_S
    assert (await made.problems()) == [
        "the last backup is 3 hours old: none was made when it was due"
    ]


async def happens(made: Made) -> None:
    """An operator does something."""
    entry = Journal(made.clock).entry("vsubnet_created", "vSubnet red was created", ADMIN)
    await made.store.commit([], [entry])


async def test_by_the_clock_only_the_leader_makes_them_unless_it_does_not() -> None:
    made = await Made().with_key()

    async def made_within(leads: bool) -> int:
        await happens(made)

        async def says() -> bool:
            return leads

        before = len(await made.backups.list())
        making = asyncio.create_task(made.backups.keep_making(0.2, says))
        await asyncio.sleep(0.1)
        making.cancel()
        with suppress(asyncio.CancelledError):
            await making
        return len(await made.backups.list()) - before

    assert await made_within(True) == 1  # the clock stands: one and no more
    assert await made_within(True) == 0
    made.clock.now += 0.25
    assert await made_within(False) == 0
    assert await made_within(True) == 1
    made.clock.now += 0.35
    assert await made_within(False) == 1


async def leads() -> bool:
    return True


async def test_one_that_is_asked_for_waits_for_the_one_that_the_clock_has_begun() -> None:
    made = await Made().with_key()
    await happens(made)
    made.snapshots.goes_on.clear()
    async with beside(made.backups.keep_making(0.2, leads)):
        await until(lambda: made.snapshots.taken)
        asked = asyncio.create_task(made.backups.create(ADMIN))
        await asyncio.sleep(0.05)
        with pytest.raises(Clash, match="is being made") as refused:
            await made.backups.create(ADMIN)
        assert refused.value.code == "backup_under_way"
        assert not asked.done()
        made.snapshots.goes_on.set()
        by_admin = await asked
    assert by_admin.made_by == "admin"
    assert len(await made.backups.list()) == 2
    await made.backups.create(ADMIN)


async def test_one_by_the_clock_that_takes_long_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backups_module, "_CLOCKS_OWN_S", 0.05)
    made = await Made().with_key()
    await happens(made)
    made.snapshots.goes_on.clear()
    async with beside(made.backups.keep_making(0.2, leads)):
        await until(lambda: made.snapshots.taken)
        for _ in range(2):
            with pytest.raises(Clash, match="is being made"):
                await made.backups.create(ADMIN)
        made.snapshots.goes_on.set()
        await until(lambda: made.shelf.files)
    await made.backups.create(ADMIN)


async def by_the_clock(made: Made, seconds: float, *, leads: bool = True, every_s: float) -> None:
    """Look as often as it is looked, and make those that are due."""

    async def says() -> bool:
        return leads

    end = made.clock.now + seconds
    while made.clock.now < end:
        made.clock.now += every_s / 10
        if await made.backups._is_due(every_s, says):
            await made.backups.create(SYSTEM)


async def test_where_nothing_happened_none_is_made_and_none_is_late() -> None:
    made, every_s = await Made().with_key(), Settings(["a"]).backup_every_s
    await by_the_clock(made, every_s, every_s=every_s)
    (first,) = await made.backups.list()
    await by_the_clock(made, HOUR_S * 0.9, every_s=every_s)
    assert await made.backups.list() == (first,)
    assert await made.problems(every_s) == []
    await happens(made)
    await by_the_clock(made, every_s * 1.2, every_s=every_s)
    assert len(await made.backups.list()) == 2
    assert "backup_made" not in await made.kinds(), "they would push out all other events"
    await by_the_clock(made, HOUR_S * 1.2, every_s=every_s)
    assert len(await made.backups.list()) == 3, "what is no event comes along at times"


@pytest.mark.parametrize("leads", [True, False])
async def test_what_happened_is_in_a_backup_within_five_minutes(leads: bool) -> None:
    """Also where the leader makes none and another steps in (trust.md A11)."""
    made, every_s = await Made().with_key(), Settings(["a"]).backup_every_s
    await by_the_clock(made, 1.0, every_s=every_s, leads=leads)
    worst = 0.0
    for minute in range(60):
        await happens(made)
        at, before = made.clock.now, len(made.shelf.files)
        while len(made.shelf.files) == before:
            await by_the_clock(made, 1.0, every_s=every_s, leads=leads)
        worst = max(worst, made.clock.now - at)
        made.shelf.files.clear()
        made.clock.now += minute
    assert worst <= 300


def routine(at: float, name: str = "appliance", reason: str = "") -> Backup:
    return Backup(f"{at}", "/x", "m1", at, 1, 1, "k", name, reason)


def test_of_older_ones_fewer_are_kept() -> None:
    """A backup each three minutes for thirty days, and one by hand, each time thinned."""
    kept: list[Backup] = []
    at = 30 * 86_400.0
    for number in range(30 * 480):
        at += 180.0
        kept.insert(0, routine(at, *(("admin",) if number == 9000 else ())))
        gone = superfluous(kept, 72)
        kept = [each for each in kept if each not in gone]
        assert len(kept) <= 72
    ages = [(at - each.made_at) / 3600 for each in kept if each.made_by == "appliance"]
    assert ages[:12] == pytest.approx([number * 0.05 for number in range(12)])
    assert all(sum(hour <= age < hour + 1 for age in ages) == 1 for hour in range(2, 47))
    assert sum(age > 49 for age in ages) >= 9, "and one for each day before"
    assert [each.made_by for each in kept].count("admin") == 1


def test_what_was_asked_for_goes_only_as_the_oldest() -> None:
    own = [routine(1000.0 - number, "admin") for number in range(30)]
    own += [routine(900.0 - number, reason="before version 2") for number in range(30)]
    assert superfluous(own, 72) == []
    assert superfluous(own, 50) == own[50:]


async def test_a_failure_that_lasts_is_one_event() -> None:
    made, every_s = await Made().with_key(), Settings(["a"]).backup_every_s
    made.shelf.is_full = True
    for _ in range(5):
        with pytest.raises(BackupFailed):
            await made.backups.create(SYSTEM)
        made.clock.now += every_s
    assert (await made.kinds()).count("backup_failed") == 1
    (cause,) = await made.problems(every_s)
    assert "no space left" in cause


async def wished(made: Made) -> None:
    """A key was replaced, an hour's backup having been made just before."""
    await made.backups.create(ADMIN)
    made.clock.now += 1
    await made.store.commit([], [wish_for_one("the map key was replaced", made.clock())])


async def made_in_time(made: Made, *, leads: bool, every_s: float = HOUR_S) -> bool:
    """Say whether one is made now, looked at as often as one may like."""

    async def says() -> bool:
        return leads

    return await made.backups._is_due(every_s, says)


async def test_a_key_that_was_replaced_has_one_made_soon_by_who_leads() -> None:
    made = await Made().with_key()
    await wished(made)
    assert not await made_in_time(made, leads=True), "others may follow within seconds"
    made.clock.now += 11
    assert await made_in_time(made, leads=True)
    assert not await made_in_time(made, leads=False)
    made.clock.now += 120
    assert await made_in_time(made, leads=False)
    assert await made.problems() == []
    backup = await made.backups.create(SYSTEM)
    assert backup.reason == "after the map key was replaced"
    assert not await made_in_time(made, leads=True)


async def test_one_that_was_begun_before_the_key_was_replaced_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = await Made().with_key()
    take = made.snapshots.take

    @asynccontextmanager
    async def taken_before() -> AsyncIterator[Snapshot]:
        async with take() as snapshot:
            await made.store.commit([], [wish_for_one("the CA was replaced", made.clock())])
            yield snapshot

    monkeypatch.setattr(made.snapshots, "take", taken_before)
    assert (await made.backups.create(ADMIN)).reason == ""
    monkeypatch.undo()
    made.clock.now += 11
    assert await made_in_time(made, leads=True)
    assert (await made.backups.create(SYSTEM)).reason == "after the CA was replaced"
    assert await made.store.get(keys.BACKUP_WISH) is None


async def test_one_that_is_wanted_and_fails_is_tried_again_later() -> None:
    made = await Made().with_key()
    await wished(made)
    made.clock.now += 11
    made.shelf.is_full = True
    with pytest.raises(BackupFailed):
        await made.backups.create(SYSTEM)
    assert not await made_in_time(made, leads=True)
    made.clock.now += 121
    assert await made_in_time(made, leads=True)


async def test_one_that_is_wanted_and_not_there_is_said() -> None:
    made = await Made().with_key()
    await wished(made)
    said = ["no backup was made since the map key was replaced"]
    assert await made.problems() == []
    assert await made.problems(every_s=0) == said, "nobody makes one by itself"
    made.clock.now += 601
    assert await made.problems() == said
    await made.backups.create(ADMIN)
    assert await made.problems() == await made.problems(every_s=0) == []
