"""The format of the store: which version's objects may lie in it (docs/adr/0009).

A version reads its own format and all before it. It writes what the level in the store allows,
so that while an upgrade is under way, and until somebody says that it is finished, the version
before can go on writing the same objects, and can be gone back to.
"""

from __future__ import annotations

from dataclasses import dataclass

from cairn_appliance.domain.cluster import FORMAT
from cairn_appliance.domain.errors import Clash, VersionTooOld
from cairn_appliance.domain.identity import Actor
from cairn_appliance.services.commit import unchanged, until_committed
from cairn_appliance.services.events import Journal
from cairn_appliance.services.stored import read_all
from cairn_appliance.store import keys, records
from cairn_appliance.store.port import Compare, Item, Put, Store


@dataclass(frozen=True, slots=True)
class Raised:
    """The level before and after."""

    before: int
    now: int


async def level_of(store: Store) -> int:
    """Return the newest format that may be written."""
    return _level(await store.get(keys.CLUSTER_FORMAT))


async def check_readable(store: Store, readable: int = FORMAT) -> None:
    """Raise VersionTooOld where the store may hold what this version can't read."""
    level = await level_of(store)
    if level > readable:
        raise VersionTooOld(
            f"the cluster's store is of format {level}, this version reads up to {readable}"
        )


async def check_writable(store: Store, needed: int, what: str) -> None:
    """Raise Clash where `what` would write a format that may not be written yet."""
    if await level_of(store) < needed:
        raise Clash(
            f"{what} waits until the upgrade is finished: the version before could not follow",
            "upgrade all appliances, then run `cairn cluster finish-upgrade`",
            code="upgrade_unfinished",
        )


async def raise_level(store: Store, journal: Journal, by: Actor, wanted: int = FORMAT) -> Raised:
    """Let the newest format be written from now on; there is no way back after that.

    Raises Clash where an appliance could not read it, also one that is away: it comes back
    with the version that it has.
    """
    return await until_committed(lambda: _raise(store, journal, by, wanted))


async def _raise(store: Store, journal: Journal, by: Actor, wanted: int) -> Raised:
    item = await store.get(keys.CLUSTER_FORMAT)
    known = await read_all(store, records.appliances, keys.APPLIANCES)
    old = [each.value for each in known if each.value.format < wanted]
    if old:
        names = ", ".join(f"{each.name} ({each.version or 'unknown version'})" for each in old)
        raise Clash(
            f"not all appliances are upgraded: {names}",
            "upgrade them first, or take those that are gone for good out with "
            "`cairn cluster replace`",
            code="upgrade_unfinished",
        )
    before = _level(item)
    if before >= wanted:
        return Raised(before, before)
    text = f"the upgrade is finished: the store's format is {wanted}, before {before}"
    writes = [
        Put(keys.CLUSTER_FORMAT, str(wanted).encode()),
        journal.entry("format_raised", text, by),
    ]
    # Nobody may have come back with an older version meanwhile.
    compares = [Compare(keys.appliance(each.value.name), each.revision) for each in known]
    await store.commit([unchanged(keys.CLUSTER_FORMAT, item), *compares], writes)
    return Raised(before, wanted)


def _level(item: Item | None) -> int:
    return int(item.value) if item else 1
