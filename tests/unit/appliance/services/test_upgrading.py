"""The backup before a version that is new to the cluster."""

from __future__ import annotations

import pytest
from cairn_appliance.domain.backup import Backup
from cairn_appliance.domain.cluster import Appliance
from cairn_appliance.domain.errors import UpgradeStopped
from cairn_appliance.services.upgrading import back_up_first
from cairn_appliance.store import keys, records
from cairn_appliance.store.port import Put, Unavailable

from tests.unit.appliance.services.test_backups import HOUR_S, Made


async def announced(made: Made, *versions: str) -> Made:
    for number, version in enumerate(versions, 1):
        appliance = Appliance(f"m{number}", (), version=version)
        put = Put(keys.appliance(appliance.name), records.appliances.encode(appliance))
        await made.store.commit([], [put])
    return made


async def begun(made: Made, version: str, *, may_lack: bool = False) -> Backup | None:
    return await back_up_first(made.store, made.backups, version, made.clock(), may_lack=may_lack)


@pytest.mark.parametrize(
    ("known", "version", "reason"),
    [
        pytest.param((), "0.2.0", "", id="a new cluster"),
        pytest.param(("0.2.0", "0.2.0"), "0.2.0", "", id="a restart"),
        pytest.param(("0.1.0", "0.2.0"), "0.2.0", "", id="the second of the version"),
        pytest.param(
            ("0.1.0", "0.1.0"), "0.2.0", "before version 0.2.0 in place of 0.1.0", id="first"
        ),
        pytest.param(
            ("0.2.0", "0.2.0"), "0.1.0", "before version 0.1.0 in place of 0.2.0", id="back"
        ),
        pytest.param(("",), "0.2.0", "before version 0.2.0 in place of unknown", id="from old"),
    ],
)
async def test_the_first_of_a_version_makes_one(
    known: tuple[str, ...], version: str, reason: str
) -> None:
    made = await announced(await Made().with_key(), *known)
    backup = await begun(made, version)
    assert (backup.reason if backup else "") == reason
    assert len(made.shelf.files) == bool(reason)
    if reason:
        (event,) = (e for e in await made.events() if e.kind == "backup_made")
        assert event.text.startswith(f"a backup was made on m2, {reason}: ")


async def test_one_that_ends_and_begins_again_makes_no_more() -> None:
    made = await announced(await Made().with_key(), "0.1.0")
    assert await begun(made, "0.2.0")
    made.clock.now += HOUR_S / 2
    assert await begun(made, "0.2.0") is None
    made.clock.now += HOUR_S
    assert await begun(made, "0.2.0")


async def test_without_room_it_does_not_begin_unless_that_is_allowed() -> None:
    made = await announced(await Made().with_key(), "0.1.0")
    made.shelf.is_full = True
    with pytest.raises(UpgradeStopped, match="without a backup of before: can't write it") as no:
        await begun(made, "0.2.0")
    assert "free space" in no.value.remedy
    assert "--without-backup" in no.value.remedy
    assert await begun(made, "0.2.0", may_lack=True) is None


async def test_a_store_that_gives_no_answer_is_waited_for() -> None:
    made = await announced(await Made().with_key(), "0.1.0")
    made.snapshots.is_broken = True
    with pytest.raises(Unavailable):
        await begun(made, "0.2.0")


async def test_without_a_recovery_key_it_begins() -> None:
    """The alarm of that stands already, and nothing could open a backup."""
    made = await announced(Made(), "0.1.0")
    assert await begun(made, "0.2.0") is None
