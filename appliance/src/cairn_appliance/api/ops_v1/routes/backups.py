"""Backups: the recovery key, make one, list what was made, take one away."""

from __future__ import annotations

from fastapi import APIRouter

from cairn_appliance.api.kept import KeptResponse
from cairn_appliance.api.ops_v1.context import ActorDep, OpsDep
from cairn_appliance.api.ops_v1.idempotent import IdempotentRoute
from cairn_appliance.api.ops_v1.models import BackupKeyAsked, BackupKeyOut, BackupOut, moment
from cairn_appliance.domain.backup import Backup

router = APIRouter(prefix="/backups", tags=["backups"], route_class=IdempotentRoute)


@router.get("")
async def list_backups(ops: OpsDep) -> list[BackupOut]:
    """The backups that were made, newest first, and on which appliance each lies."""
    return [_out(each) for each in await ops.backups.list()]


@router.post("", status_code=201)
async def create_backup(ops: OpsDep, by: ActorDep) -> BackupOut:
    """Make a backup now, on the disk of the appliance that is asked."""
    return _out(await ops.backups.create(by))


@router.put("/key")
async def set_backup_key(asked: BackupKeyAsked, ops: OpsDep, by: ActorDep) -> BackupKeyOut:
    """Seal backups for another recovery key from now on; only its public half is told."""
    key = await ops.backups.use_key(asked.public_key, by)
    return BackupKeyOut(id=key.id, made_at=moment(key.made_at), made_by=key.made_by)


@router.get("/{backup}/file", status_code=200, response_class=KeptResponse)
async def fetch_backup(backup: str, ops: OpsDep, by: ActorDep) -> KeptResponse:
    """The file of a backup, sealed as it is; 409 `backup_elsewhere` where another one has it."""
    return KeptResponse(await ops.backups.fetch(backup, by))


def _out(backup: Backup) -> BackupOut:
    return BackupOut(
        name=backup.name,
        appliance=backup.appliance,
        path=backup.place,
        made_at=moment(backup.made_at),
        made_by=backup.made_by,
        revision=backup.revision,
        octets=backup.octets,
        key_id=backup.key_id,
        reason=backup.reason,
    )
