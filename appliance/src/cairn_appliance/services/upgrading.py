"""What comes before a version that the cluster has not seen yet writes anything: a backup."""

from __future__ import annotations

import logging

from cairn_appliance.domain.backup import Backup
from cairn_appliance.domain.errors import BackupFailed, UpgradeStopped
from cairn_appliance.domain.identity import SYSTEM
from cairn_appliance.services.backups import Backups
from cairn_appliance.services.stored import read, read_all
from cairn_appliance.store import keys, records
from cairn_appliance.store.port import Store, StoreError

log = logging.getLogger(__name__)

_ENOUGH_FOR_S = 3600.0  # an appliance that ends again and again makes no heap of backups


async def back_up_first(
    store: Store, backups: Backups, version: str, now: float, *, may_lack: bool = False
) -> Backup | None:
    """Make a backup where `version` is new to the cluster; None where none was needed.

    Whichever appliance is the first of a version does it, on the way back as well. Raises
    UpgradeStopped where it can't be made, unless it `may_lack`; and StoreError while the store
    gives no answer, which is nothing that the upgrade has to do with.
    """
    announced = await read_all(store, records.appliances, keys.APPLIANCES)
    before = sorted({each.value.version or "unknown" for each in announced})
    if not before or version in before:
        return None
    reason = f"before version {version} in place of {', '.join(before)}"
    made = [each for each in await backups.list() if each.reason == reason]
    if made and now - made[0].made_at < _ENOUGH_FOR_S:
        return None
    if await read(store, records.backup_keys, keys.BACKUP_KEY) is None:
        log.warning("no backup %s: there is no recovery key to seal it for", reason)
        return None  # that is an alarm of its own, which whoever upgrades has seen
    log.info("a backup is made %s", reason)
    try:
        return await backups.create(SYSTEM, reason)
    except BackupFailed as error:
        if isinstance(error.__cause__, StoreError):
            raise error.__cause__ from None
        if may_lack:
            log.warning("no backup %s, as the operator allows: %s", reason, error.cause)
            return None
        raise UpgradeStopped(
            f"version {version} does not begin without a backup of before: {error.cause}",
            f"{error.remedy}, then start it again; the version before goes on meanwhile where "
            "it is installed again. Without a backup: run `cairn-appliance run "
            "--without-backup` once, by hand",
        ) from error
