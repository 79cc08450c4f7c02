"""Presence: which nodes have a stream open, and what they have loaded.

Kept in memory by the replica that holds the stream. The other replicas are told in batches
under the replica's lease: a change costs at most one write of its batch per interval, a
heartbeat none, and a replica that dies takes its presence with it.
"""

from __future__ import annotations

import asyncio
import logging
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, replace

from cairn_appliance.domain.node import Presence
from cairn_appliance.services.clock import Clock, wall_clock
from cairn_appliance.services.news import What
from cairn_appliance.store import keys
from cairn_appliance.store.codec import Codec
from cairn_appliance.store.port import (
    MAX_TRANSACTION_OCTETS,
    Delete,
    Events,
    Item,
    Lease,
    LeaseLost,
    Progress,
    Put,
    Reset,
    Store,
    StoreError,
)
from cairn_appliance.store.records import quarantine

log = logging.getLogger(__name__)

INTERVAL_S = 5.0
LEASE_S = 20
_BATCHES = 64
_BATCH_OCTETS = MAX_TRANSACTION_OCTETS // 2
_GONE_KEPT_S = 86_400.0
_CLOSE_S = 1.0  # the end of the process does not wait for a store that hangs


@dataclass(frozen=True, slots=True)
class _Batch:
    presences: tuple[Presence, ...]


_batches = Codec(_Batch)


class PresenceBoard:
    """What this replica sees, and what the others have written."""

    def __init__(
        self,
        store: Store,
        replica: str,
        clock: Clock = wall_clock,
        changed: Callable[[What, Iterable[str]], None] = lambda _what, _ids: None,
    ) -> None:
        self._store = store
        self._changed = changed
        self._replica = replica
        self._clock = clock
        self._mine: dict[str, Presence] = {}
        self._in_batch: defaultdict[str, set[str]] = defaultdict(set)  # the nodes of `_mine`
        self._streams: dict[str, int] = {}
        self._others: dict[str, tuple[Presence, ...]] = {}  # by key of the batch
        self._others_of: dict[str, dict[str, Presence]] = {}  # by node, by key of the batch
        self._dirty: set[str] = set()

    def of(self, node: str) -> Presence | None:
        """Return the newest that any replica knows of the node's link."""
        known = [self._mine[node]] if node in self._mine else []
        known += self._others_of.get(node, {}).values()
        return max(known, key=lambda each: (each.connected, each.last_seen), default=None)

    def is_connected(self, node: str) -> bool:
        """True while a stream of the node is open at any replica."""
        presence = self.of(node)
        return presence is not None and presence.connected

    def elsewhere(self, node: str) -> set[str]:
        """Return the other replicas that have a stream of the node, by what they last wrote."""
        theirs = self._others_of.get(node, {}).values()
        return {each.replica for each in theirs if each.connected}

    def connected(self, node: str) -> None:
        """A stream of the node was opened here."""
        self._streams[node] = self._streams.get(node, 0) + 1
        self._set(node, connected=True)

    def disconnected(self, node: str) -> None:
        """A stream of the node ended; there may be a newer one."""
        left = self._streams.get(node, 1) - 1
        if left > 0:
            self._streams[node] = left
            return
        self._streams.pop(node, None)
        self._set(node, connected=False)

    def loaded(
        self,
        node: str,
        revision: int,
        digests: dict[str, str],
        refused: str,
        *,
        trust: str = "",
        issuer: str = "",
    ) -> None:
        """The node acknowledged what its data plane has loaded, or said why it has not.

        With it comes whom it trusts, and who signed its certificate.
        """
        said = {"trust": trust, "issuer": issuer}
        if refused:
            self._set(node, refused=refused, **said)
        else:
            self._set(node, loaded_revision=revision, digests=digests, refused="", **said)

    def seen(self, node: str) -> None:
        """The node sent a request; not worth a write of its own."""
        if node in self._mine:
            self._mine[node] = replace(self._mine[node], last_seen=self._clock())

    async def share(self) -> None:
        """Write what changed, and read what the others write, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._write_batches(), name="write presence")
            tasks.create_task(self._read_others(), name="read presence")

    def _set(self, node: str, **changes: object) -> None:
        now = self._clock()
        old = self._mine.get(node) or Presence(node, self._replica, False, now, now)
        new = replace(old, last_seen=now, **changes)  # type: ignore[arg-type]
        if new.connected != old.connected:
            new = replace(new, since=now)
            self._changed("nodes", [node])
            self._changed("topology", [node])
        self._mine[node] = new
        batch = _batch_of(node)
        self._in_batch[batch].add(node)
        self._dirty.add(batch)

    async def _write_batches(self) -> None:
        lease: Lease | None = None
        try:
            while True:
                await asyncio.sleep(INTERVAL_S)
                try:
                    if lease is None or lease.is_lost:
                        lease = await self._store.lease(LEASE_S)
                        self._dirty.update(
                            batch for batch, nodes in self._in_batch.items() if nodes
                        )
                    await self._write_dirty(lease.id)
                except LeaseLost:
                    lease = None
                except StoreError as error:
                    log.warning("presence could not be written reason=%s", error)
        finally:
            if lease is not None:
                await _close(lease)

    async def _write_dirty(self, lease: int) -> None:
        self._forget_gone()
        while self._dirty:
            batch = min(self._dirty)
            value = _encoded(tuple(self._mine[node] for node in sorted(self._in_batch[batch])))
            self._dirty.discard(batch)  # first: what changes during the write is written next
            try:
                put = Put(keys.presence(self._replica, batch), value, lease)
                await self._store.commit([], [put])
            except BaseException:
                self._dirty.add(batch)
                raise

    def _forget_gone(self) -> None:
        before = self._clock() - _GONE_KEPT_S
        gone = [n for n, p in self._mine.items() if not p.connected and p.last_seen < before]
        for node in gone:
            del self._mine[node]
            self._in_batch[_batch_of(node)].discard(node)

    async def _read_others(self) -> None:
        own = keys.presence_of(self._replica)
        async with aclosing(self._store.follow(keys.PRESENCE)) as changes:
            async for change in changes:
                match change:
                    case Reset(items=items):
                        self._others.clear()
                        self._others_of.clear()
                        for item in items:
                            self._take(item, own)
                    case Events(puts_and_deletes=writes):
                        for write in writes:
                            if isinstance(write, Delete):
                                self._forget_batch(write.key)
                            else:
                                self._take(write, own)
                    case Progress():
                        pass

    def _take(self, item: Item, own: str) -> None:
        if item.key.startswith(own):
            return
        for batch in _batches.decode_all([item], quarantine):
            before = {each.node: each.connected for each in self._others.get(item.key, ())}
            self._forget_batch(item.key)
            self._others[item.key] = batch.presences
            now = {each.node: each.connected for each in batch.presences}
            if turned := [node for node, _ in before.items() ^ now.items()]:
                self._changed("nodes", turned)
                self._changed("topology", turned)
            for presence in batch.presences:
                self._others_of.setdefault(presence.node, {})[item.key] = presence

    def _forget_batch(self, key: str) -> None:
        for presence in self._others.pop(key, ()):
            of_node = self._others_of[presence.node]
            del of_node[key]
            if not of_node:
                del self._others_of[presence.node]


def _encoded(presences: tuple[Presence, ...]) -> bytes:
    """Return the batch; where it is too large, without what the nodes have loaded."""
    value = _batches.encode(_Batch(presences))
    if len(value) <= _BATCH_OCTETS:
        return value
    return _batches.encode(_Batch(tuple(replace(p, digests={}) for p in presences)))


def _batch_of(node: str) -> str:
    return f"{zlib.crc32(node.encode()) % _BATCHES:02d}"


async def _close(lease: Lease) -> None:
    try:
        async with asyncio.timeout(_CLOSE_S):
            await lease.close()
    except (StoreError, TimeoutError) as error:
        log.info("lease was not closed, it will expire reason=%s", error)
