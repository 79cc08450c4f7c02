"""What is done on an appliance itself, on its own data: look at the cluster, recover it.

`recover` makes a cluster of one from what a single survivor has, where too many of the others
are lost for good. Whatever was acknowledged and had reached the survivor stays. Whether
everything had, it can't know: the others may have gone on without it. So it is another
incarnation (incarnating.py), as after a restore of a backup. The others' data must never come
back.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cairn_appliance import incarnating
from cairn_appliance.cluster import bootstrap
from cairn_appliance.cluster.audit_files import AuditFiles
from cairn_appliance.cluster.bootstrap import Local
from cairn_appliance.cluster.etcd_binary import find_etcd
from cairn_appliance.cluster.etcd_process import EtcdProcess, client_tls
from cairn_appliance.cluster.files import cannot
from cairn_appliance.cluster.members import EtcdMembers
from cairn_appliance.domain.cluster_health import ClusterView
from cairn_appliance.domain.errors import Refused, Unavailable
from cairn_appliance.domain.event import Severity
from cairn_appliance.domain.identity import SYSTEM
from cairn_appliance.domain.restored import ABSORB_S, Restored
from cairn_appliance.incarnating import Base
from cairn_appliance.pki.authority import utc_now
from cairn_appliance.services.events import Journal
from cairn_appliance.services.membership import view_of
from cairn_appliance.store import keys, records
from cairn_appliance.store.codec import Broken
from cairn_appliance.store.etcd import EtcdStore
from cairn_appliance.store.port import Item, Put, Store, StoreError

log = logging.getLogger(__name__)

_ALONE = "--force-new-cluster=true"


@dataclass(frozen=True, slots=True)
class Recovered:
    """What the one who recovered the cluster is told."""

    cluster_id: str
    name: str
    incarnation: int
    kept: str  # directory with a copy of etcd's data as they were before


async def look(data_dir: Path) -> tuple[str, ClusterView]:
    """Return the cluster's ID and how its members are, as far as any of them answers."""
    local = bootstrap.load(data_dir)
    store = EtcdStore(local.endpoints, client_tls(local))
    etcd = EtcdMembers(store.endpoints)
    try:
        return local.cluster_id, await view_of(
            store, etcd, local.settings.backup_every_s, time.time()
        )
    except StoreError as error:
        raise Unavailable(
            f"no etcd answers at {', '.join(local.endpoints)}: {error}",
            "start the appliance here and the others (`cairn-appliance run`)",
        ) from error
    finally:
        await etcd.close()
        await store.close()


async def recover(data_dir: Path) -> Recovered:
    """Make a cluster of one from this appliance's data; raise CairnError.

    It may be repeated if it is interrupted. The appliance must not be running.
    """
    local = bootstrap.load(data_dir)
    await check_others_are_lost(local)
    bootstrap.renew_etcd_certificates(local, utc_now())
    binary = find_etcd()
    kept = _copy(local)
    for options in ((_ALONE,), ()):  # the second start proves that it stands by itself
        etcd = EtcdProcess(local, binary)
        await etcd.start(*options)
        if options:
            await etcd.stop()
    try:
        store = EtcdStore([local.etcd_endpoint], client_tls(local))
        try:
            restored = await begin_again(store, local.member)
        finally:
            await store.close()
    finally:
        await etcd.stop()
    local.keep_others(())
    AuditFiles(local.data_dir).forget_marks()  # what was lost with the others is known to be
    return Recovered(local.cluster_id, local.member, restored.incarnation, str(kept))


async def check_others_are_lost(local: Local) -> None:
    """Raise Refused while the others have a quorum: two clusters would come of it."""
    others = local.others()
    if not others:
        return
    store = EtcdStore(others, client_tls(local))
    try:
        await store.get(keys.CLUSTER_INFO)
    except StoreError:
        return
    finally:
        await store.close()
    raise Refused(
        f"the others have a quorum ({', '.join(others)}): there is nothing to recover",
        "run this appliance; if it can't, `cairn cluster replace` it there",
        code="quorum_exists",
    )


def _copy(local: Local) -> Path:
    """Keep etcd's data as they are, whatever comes of the recovery."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    kept = local.data_dir / f"etcd.before-recover-{stamp}"
    try:
        shutil.copytree(local.etcd_dir, kept)
    except (OSError, shutil.Error) as error:
        shutil.rmtree(kept, ignore_errors=True)
        if isinstance(error, shutil.Error):
            error = OSError(str(error))
        raise cannot("write", kept, error) from error
    return kept


async def begin_again(store: Store, member: str, absorb_s: float = ABSORB_S) -> Restored:
    """Begin another incarnation from what the survivor has; raise Refused."""
    base = await _base(store, member, absorb_s)

    def tell(restored: Restored) -> Put:
        return Journal().entry(
            "cluster_recovered",
            f"the cluster was recovered from {member} alone: incarnation {restored.incarnation}; "
            "enrolment tokens, join strings, sessions and API tokens of before are void",
            SYSTEM,
            severity=Severity.ALARM,
            appliance=member,
            revision=str(restored.base_revision),
        )

    return await incarnating.begin_again(store, member, base, tell)


async def _base(store: Store, member: str, absorb_s: float) -> Base:
    """Return how far the survivor had followed.

    The store's own revision says too much: leases have ended since, in nobody's cluster.
    """
    items = (await store.list(keys.ROOT)).items
    cluster = next((item for item in items if item.key == keys.CLUSTER_INFO), None)
    if cluster is None:
        raise Refused(
            "the data have no cluster",
            "restore a backup: `cairn-appliance restore FILE --data-dir DIR --others-are-lost "
            "--set-aside`",
            code="no_cluster",
        )
    return Base(
        how=f"recovered from {member} alone",
        incarnation=records.clusters.decode(cluster).incarnation,
        revision=max(item.revision for item in items),
        made_at=min(_last_event_at(items), time.time()),
        absorb_s=absorb_s,
    )


def _last_event_at(items: Sequence[Item]) -> float:
    """Return when the event was that was written last; clocks may have been wrong before."""
    events = [item for item in items if item.key.startswith(keys.EVENTS)]
    for item in sorted(events, key=lambda each: each.revision, reverse=True):
        try:
            return records.events.decode(item).at
        except Broken as broken:
            log.info("an event can't be read reason=%s", broken)
    return 0.0
