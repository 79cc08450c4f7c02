"""`cairn-appliance rebuild`: an appliance with damaged data takes them from the others.

Its member of etcd is removed and comes back under its name as a new one without a vote, which
it gets when it has caught up. The old data are kept aside. It may be repeated.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from cairn_appliance.cluster import bootstrap
from cairn_appliance.cluster.bootstrap import Local
from cairn_appliance.cluster.errors import EnvironmentLacks
from cairn_appliance.cluster.etcd_binary import find_etcd
from cairn_appliance.cluster.etcd_process import EtcdProcess, can_listen, client_tls, listened
from cairn_appliance.cluster.files import cannot
from cairn_appliance.cluster.members import EtcdMembers
from cairn_appliance.domain.cluster import EtcdMember
from cairn_appliance.domain.errors import QuorumAtRisk, Refused, Unavailable
from cairn_appliance.pki.authority import utc_now
from cairn_appliance.services.membership import initial_cluster, view_of
from cairn_appliance.store import port
from cairn_appliance.store.etcd import EtcdStore

T = TypeVar("T")

_CHANGED_WITHIN_S = 30.0  # etcd refuses a change for about 5 s after the last one
_AGAIN_S = 1.0
_SYNCED_WITHIN_S = 120.0


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What the one who rebuilt the appliance is told."""

    cluster_id: str
    name: str
    kept: str  # directory with etcd's data as they were before; empty: there were none


async def rebuild(data_dir: Path) -> Rebuilt:
    """Take the data from the other appliances; raise CairnError. It must not be running."""
    local = bootstrap.load(data_dir)
    _check_is_stopped(local)
    others = local.others()
    if not others:
        raise Refused(
            "there is no other appliance to take the data from",
            "restore a backup: `cairn-appliance restore FILE --data-dir DIR --others-are-lost "
            "--set-aside`",
            code="no_others",
        )
    bootstrap.renew_etcd_certificates(local, utc_now())
    binary = find_etcd()
    store = EtcdStore(others, client_tls(local))
    etcd = EtcdMembers(store.endpoints)
    try:
        await _remove_old(local, store, etcd)
        kept = _put_aside(local)
        members = await _changed(lambda: etcd.add_learner(local.settings.peer_url))
    except port.StoreError as error:
        raise Unavailable(
            f"the other appliances give no answer: {error}",
            f"start them, and let TCP 2379 and 2380 pass ({', '.join(others)}); then repeat this",
        ) from error
    finally:
        await etcd.close()
        await store.close()
    url = local.settings.peer_url
    local = bootstrap.begin_anew(local, initial_cluster(members, local.member, url))
    process = EtcdProcess(local, binary)
    try:
        await process.start(timeout_s=_SYNCED_WITHIN_S)
    finally:
        await process.stop()
    return Rebuilt(local.cluster_id, local.member, kept)


def _check_is_stopped(local: Local) -> None:
    settings = local.settings
    if any(can_listen(host, getattr(settings, name)) for host, name in listened(settings)):
        raise EnvironmentLacks(
            "a port of its etcd is in use: the appliance seems to run", "stop it first"
        )


async def _remove_old(local: Local, store: EtcdStore, etcd: EtcdMembers) -> None:
    """Remove the own member, unless that is done; raise QuorumAtRisk."""
    members = await etcd.members(certain=True)
    own = [each for each in members if _is_own(each, local)]
    if not own:
        return
    if not (await view_of(store, etcd)).survives_without(own[0].name or own[0].peer_urls[0]):
        raise QuorumAtRisk("without this appliance the others have no quorum")
    for member in own:
        await _changed(lambda found=member: etcd.remove(found.id))  # type: ignore[misc]


def _is_own(member: EtcdMember, local: Local) -> bool:
    return member.name == local.member or local.settings.peer_url in member.peer_urls


def _put_aside(local: Local) -> str:
    """Move etcd's data out of the way; nothing is deleted."""
    if not local.etcd_dir.exists() or not any(local.etcd_dir.iterdir()):
        return ""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    kept = local.data_dir / f"etcd.before-rebuild-{stamp}"
    try:
        local.etcd_dir.rename(kept)
    except OSError as error:
        raise cannot("write", kept, error) from error
    return str(kept)


async def _changed(change: Callable[[], Awaitable[T]]) -> T:
    """Change the membership, again while etcd wants to see the last change settled first."""
    loop = asyncio.get_running_loop()
    end = loop.time() + _CHANGED_WITHIN_S
    while True:
        try:
            return await change()
        except port.Unavailable:
            if loop.time() + _AGAIN_S >= end:
                raise
        await asyncio.sleep(_AGAIN_S * random.uniform(0.5, 1.0))
