"""Begins another incarnation of a cluster, from data that may lack what happened last.

That is a backup (restoring.py), or what the one appliance has that is left (recovering.py): it
can't know whether the others, now lost, went on without it. Enrolment tokens, join strings,
sessions and API tokens of before are void, since they may have been used up or ended in the
time that is lost, and the other appliances are gone. What the cluster gave out in that time
is learned from the nodes (services/absorption.py) before anything is given out again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cairn_appliance.domain.errors import Refused
from cairn_appliance.domain.restored import Restored, next_incarnation
from cairn_appliance.services.formats import check_readable
from cairn_appliance.store import keys, records
from cairn_appliance.store.codec import Broken
from cairn_appliance.store.port import Compare, Delete, Item, Put, Store

_AT_ONCE = 100
# What must not come back: see the module. Enrolment tokens stay to be seen, expired.
_VOID = (
    keys.JOININGS,
    keys.FENCED,
    keys.SESSIONS,
    keys.API_TOKENS,
    keys.LOGIN_FAILURES,
    keys.OIDC_USED,
    keys.IDEMPOTENCY,
    keys.PRESENCE,
    keys.REPLICAS,
    keys.APPLIANCES,
    keys.BACKUPS,
    keys.BACKUP_FAILURE,
    keys.UPDATE,
    keys.UPDATES,
)


@dataclass(frozen=True, slots=True)
class Base:
    """The data that a cluster begins again from."""

    how: str  # it came to them, as in "the cluster was ..."
    incarnation: int
    revision: int
    made_at: float  # seconds since 1970: nothing later is in them
    absorb_s: float


async def begin_again(
    store: Store,
    member: str,
    base: Base,
    tell: Callable[[Restored], Put],
    more: Sequence[Put] = (),
) -> Restored:
    """Begin the incarnation on the appliance `member`; raise Refused. It may be repeated.

    What is to be learned is written down first: a second try knows then what the data were
    before the first one. Voiding comes before the incarnation, without which no node listens.
    """
    await check_readable(store)
    item = await store.get(keys.CLUSTER_INFO)
    if item is None:
        raise Refused("the backup has no cluster", "take another one", code="no_cluster")
    cluster = records.clusters.decode(item)
    now = time.time()
    restored = await _note(store, member, base, next_incarnation(cluster.incarnation, now), now)
    await _expire_tokens(store, now)
    for prefix in _VOID:
        await _void(store, prefix, member)
    cluster = replace(cluster, incarnation=restored.incarnation)
    put = Put(item.key, records.clusters.encode(cluster))
    writes = [put, tell(restored), *more]
    await store.commit([Compare(item.key, item.revision)], writes)
    return restored


async def _note(store: Store, member: str, base: Base, incarnation: int, now: float) -> Restored:
    """Write down what is to be learned from the nodes, and return it."""
    restored = Restored(
        incarnation=incarnation,
        base_incarnation=base.incarnation,
        base_revision=base.revision,
        made_at=base.made_at,
        restored_at=now,
        appliance=member,
        absorb_s=base.absorb_s,
        how=base.how,
    )
    item = await store.get(keys.RESTORED)
    before = records.restored.decode(item) if item else None
    if before is not None and not before.is_absorbed:  # nothing was served since, nor learned
        restored = replace(
            restored,
            base_incarnation=before.base_incarnation,
            base_revision=before.base_revision,
            made_at=before.made_at,
        )
    compare = Compare(keys.RESTORED, item.revision if item else 0)
    await store.commit([compare], [Put(keys.RESTORED, records.restored.encode(restored))])
    return restored


async def _expire_tokens(store: Store, now: float) -> None:
    """Let enrolment tokens be over since they were made, whatever the clock says later."""
    for items in _batches((await store.list(keys.TOKENS)).items):
        await store.commit([], [_expired(item, now) for item in items])


def _expired(item: Item, now: float) -> Put | Delete:
    try:
        token = records.tokens.decode(item)
    except Broken:
        return Delete(item.key)
    token = replace(token, expires_at=min(token.created_at, now))
    return Put(item.key, records.tokens.encode(token))


async def _void(store: Store, prefix: str, member: str) -> None:
    """Delete what is there, but for what the appliance that goes on has of its own."""
    items = [each for each in (await store.list(prefix)).items if not _is_own(each, prefix, member)]
    for batch in _batches(items):
        await store.commit([], [Delete(item.key) for item in batch])


def _is_own(item: Item, prefix: str, member: str) -> bool:
    if prefix == keys.BACKUPS:
        try:
            return records.backups.decode(item).appliance == member
        except Broken:
            return False
    return prefix in (keys.APPLIANCES, keys.UPDATES) and keys.last_part(item.key) == member


def _batches(items: Sequence[Item]) -> list[Sequence[Item]]:
    return [items[start : start + _AT_ONCE] for start in range(0, len(items), _AT_ONCE)]
