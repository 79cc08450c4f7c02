"""Backups: made when asked for and by the clock, listed, and the oldest dropped.

By the clock one appliance makes them where something has happened: the one whose etcd leads.
Where it fails, the others step in once a backup is late, each in its turn; two at the same time
would be no harm. What happens is an event, each in the transaction of the change.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import builtins
import datetime
import logging
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

import msgspec

from cairn_appliance import __version__
from cairn_appliance.domain.backup import (
    Backup,
    BackupCheck,
    BackupFailure,
    BackupHealth,
    BackupKey,
    BackupWish,
    Contents,
    Head,
    superfluous,
)
from cairn_appliance.domain.cluster import Cluster
from cairn_appliance.domain.errors import BackupFailed, CairnError, Clash, Invalid, NotFound
from cairn_appliance.domain.event import Severity
from cairn_appliance.domain.identity import SYSTEM, Actor
from cairn_appliance.pki.errors import PkiError
from cairn_appliance.pki.recovery_key import key_id, share_with
from cairn_appliance.services.clock import Clock, wall_clock
from cairn_appliance.services.commit import unchanged
from cairn_appliance.services.events import Journal
from cairn_appliance.services.stored import read, read_all
from cairn_appliance.store import keys, records
from cairn_appliance.store.port import (
    Compare,
    Conflict,
    Delete,
    Full,
    Item,
    Put,
    Store,
    StoreError,
)
from cairn_appliance.store.snapshots import Snapshot

log = logging.getLogger(__name__)

_LOOKED_AT_EVERY_S = 20.0
_LATE_AFTER = 1.5  # times the interval: then others than the leader step in
_AT_LEAST_EVERY_S = 3600.0  # what is no event (a new address of a node) comes with it by then
_FAILED_AGAIN_S = 60.0  # at the soonest
_WISH_SETTLES_S = 10.0  # several keys are often replaced one after the other: one backup
_WISH_LATE_S = 120.0  # then others than the leader step in
_CLOCKS_OWN_S = 60.0  # for so long whoever asks for one waits for the one that the clock has begun
_LENGTH_OCTETS = 4


class Snapshots(Protocol):
    """Takes snapshots of the store (store/snapshots.py)."""

    def take(self) -> AbstractAsyncContextManager[Snapshot]:
        """Yield one."""


class Kept(Protocol):
    """A backup that is being read."""

    octets: int

    def chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield what is in it."""

    def close(self) -> None:
        """Close it; whoever was given it does."""


class Shelf(Protocol):
    """Where this appliance keeps its backups (cluster/backup_shelf.py)."""

    def place(self, name: str) -> str:
        """Return the path of a backup."""

    async def keep(
        self, name: str, recipient: bytes, head: Head, content: AsyncIterator[bytes]
    ) -> int:
        """Write a backup and return its octets; raise CairnError."""

    def open(self, name: str) -> Kept:
        """Return a backup to be read; raise CairnError."""

    def remove(self, name: str) -> None:
        """Remove a backup; raise CairnError."""


@dataclass(frozen=True, slots=True)
class Source:
    """What a backup is made of beside the store."""

    appliance: str
    kek: Callable[[], bytes]
    settings: Callable[[], str]  # settings.toml


class Backups:
    """All there is to do with backups on one appliance."""

    def __init__(
        self,
        store: Store,
        snapshots: Snapshots,
        shelf: Shelf,
        cluster: Callable[[], Cluster],
        source: Source,
        *,
        kept: int = 72,
        clock: Clock = wall_clock,
    ) -> None:
        self._store = store
        self._snapshots = snapshots
        self._shelf = shelf
        self._cluster = cluster
        self._source = source
        self._kept = kept
        self._clock = clock
        self._journal = Journal(clock)
        self._turn = asyncio.Lock()
        self._is_asked_for = False

    async def list(self) -> tuple[Backup, ...]:
        """Return the backups that were made, newest first."""
        found = [each.value for each in await read_all(self._store, records.backups, keys.BACKUPS)]
        return tuple(sorted(found, key=lambda each: (-each.made_at, each.name)))

    async def use_key(self, public: str, by: Actor) -> BackupKey:
        """Seal for this key from now on; raise Invalid.

        What was sealed for another stays sealed for that.
        """
        octets = _checked_public(public)
        key = BackupKey(key_id(octets), public, self._clock(), by.name)
        text = f"backups are sealed for the recovery key {key.id} from now on"
        entry = self._journal.entry(
            "recovery_key_changed", text, by, severity=Severity.WARNING, key=key.id
        )
        put = Put(keys.BACKUP_KEY, records.backup_keys.encode(key))
        await self._store.commit([], [put, entry])
        return key

    async def create(self, by: Actor, reason: str = "") -> Backup:
        """Make a backup on this appliance's disk; raise Clash, BackupFailed.

        A failure is an event, and a problem of the cluster until one succeeds. One that the clock
        has begun is waited for; two that are asked for at the same time are one too many.
        """
        if self._is_asked_for:
            raise _under_way()
        self._is_asked_for = True
        try:
            async with asyncio.timeout(_CLOCKS_OWN_S):
                await self._turn.acquire()
        except TimeoutError as error:
            raise _under_way() from error
        else:
            try:
                return await self._create(by, reason)
            finally:
                self._turn.release()
        finally:
            self._is_asked_for = False

    async def _create(self, by: Actor, reason: str) -> Backup:
        key = await read(self._store, records.backup_keys, keys.BACKUP_KEY)
        if key is None:
            raise Clash(
                "there is no recovery key to seal a backup for",
                "make one with `cairn backup key` and keep it where no appliance is",
                code="no_recovery_key",
            )
        try:
            backup = await self._make(key.value, by, reason)
        except (StoreError, CairnError) as error:
            failure = await self._tell_failed(error, by)
            raise BackupFailed(failure.cause, failure.remedy) from error
        await self._drop_superfluous()
        return backup

    async def fetch(self, name: str, by: Actor) -> Kept:
        """Return one that lies here, as it is, and note who took it; raise NotFound, Clash."""
        backup = next((each for each in await self.list() if each.name == name), None)
        if backup is None:
            raise NotFound(f"there is no backup {name}", "`cairn backup list` shows them")
        if backup.appliance != self._source.appliance:
            raise Clash(
                f"the backup lies on {backup.appliance}, not on {self._source.appliance}",
                f"ask {backup.appliance} for it, or copy {backup.place} there",
                code="backup_elsewhere",
            )
        kept = await asyncio.to_thread(self._shelf.open, name)
        try:
            text = f"the backup {name} was fetched: {kept.octets} octets"
            entry = self._journal.entry("backup_fetched", text, by, appliance=backup.appliance)
            await self._store.commit([], [entry])
        except BaseException:
            kept.close()
            raise
        return kept

    async def keep_making(self, every_s: float, leads: Callable[[], Awaitable[bool]]) -> None:
        """Make backups by the clock until cancelled; `leads`: it is this appliance's turn."""
        while True:
            await asyncio.sleep(min(_LOOKED_AT_EVERY_S, every_s / 10) * random.uniform(0.5, 1.0))
            try:
                if await self._is_due(every_s, leads) and not self._turn.locked():
                    async with self._turn:
                        await self._create(SYSTEM, "")
            except (StoreError, CairnError) as error:
                log.warning("no backup was made reason=%s", error)

    async def _is_due(self, every_s: float, leads: Callable[[], Awaitable[bool]]) -> bool:
        health = await health_of(self._store, every_s, self._clock())
        if health.key is None:
            return False
        if await self._is_wished(health, leads):
            return True
        age_s = health.now - health.complete_at
        if health.failure is not None:  # tried again sooner than a backup is due, but not always
            again_s = max(every_s / 6, _FAILED_AGAIN_S)
            age_s = min(age_s, every_s + health.now - health.failure.at - again_s)
        if age_s < every_s or not (await leads() or age_s >= _LATE_AFTER * every_s):
            return False
        return await self._has_news(health)

    async def _has_news(self, health: BackupHealth) -> bool:
        """Return whether something happened since the last backup; note it where nothing did."""
        last = health.last
        if last is None or health.failure or health.now - last.made_at >= _AT_LEAST_EVERY_S:
            return True
        if await self._store.newest(keys.EVENTS) > last.revision:
            return True
        check = records.backup_checks.encode(BackupCheck(health.now, last.name))
        await self._store.commit([], [Put(keys.BACKUP_CHECK, check)])
        return False

    async def _is_wished(self, health: BackupHealth, leads: Callable[[], Awaitable[bool]]) -> bool:
        wish, failure = health.wish, health.failure
        if wish is None or (failure is not None and health.now - failure.at < _WISH_LATE_S):
            return False
        age_s = health.now - wish.at
        return age_s >= _WISH_LATE_S or (age_s >= _WISH_SETTLES_S and await leads())

    async def _make(self, key: BackupKey, by: Actor, reason: str) -> Backup:
        cluster, now = self._cluster(), self._clock()
        wish = await self._store.get(keys.BACKUP_WISH)  # before the snapshot: it has that change
        if wish is not None and not reason:
            reason = f"after {records.backup_wishes.decode(wish).reason}"
        contents = await self._contents()
        async with self._snapshots.take() as snapshot:
            head = Head(
                cluster_id=cluster.id,
                incarnation=cluster.incarnation,
                revision=snapshot.revision,
                made_at=now,
                appliance=self._source.appliance,
                version=__version__,
            )
            name = _name(head)
            octets = await self._shelf.keep(
                name, base64.b64decode(key.public), head, _content(contents, snapshot)
            )
        backup = Backup(
            name=name,
            place=self._shelf.place(name),
            appliance=self._source.appliance,
            made_at=now,
            revision=head.revision,
            octets=octets,
            key_id=key.id,
            made_by=by.name,
            reason=reason,
        )
        put = Put(keys.backup(name), records.backups.encode(backup))
        writes: builtins.list[Put | Delete] = [put, Delete(keys.BACKUP_FAILURE)]
        if not backup.is_routine:  # hundreds a day would push out the events that tell something
            writes.append(self._made_entry(backup, by))
        try:
            await self._note(writes, wish)
        except Full:
            await asyncio.to_thread(self._shelf.remove, name)  # nobody would know of it
            raise
        log.info("backup made file=%s octets=%d revision=%d", name, octets, head.revision)
        return backup

    def _made_entry(self, backup: Backup, by: Actor) -> Put:
        why = f", {backup.reason}" if backup.reason else ""
        text = f"a backup was made on {backup.appliance}{why}: {backup.octets} octets"
        return self._journal.entry(
            "backup_made",
            text,
            by,
            appliance=backup.appliance,
            file=backup.place,
            key=backup.key_id,
        )

    async def _note(self, writes: builtins.list[Put | Delete], wish: Item | None) -> None:
        """Write down what was made; a wish that came meanwhile stays."""
        try:
            fulfilled = [Delete(keys.BACKUP_WISH)]
            await self._store.commit([unchanged(keys.BACKUP_WISH, wish)], [*writes, *fulfilled])
        except Conflict:
            await self._store.commit([], writes)

    async def _contents(self) -> Contents:
        number = await self._store.get(keys.LAST_NAME)
        appliances = await read_all(self._store, records.appliances, keys.APPLIANCES)
        names = (each.value.name[1:] for each in appliances)
        numbers = [int(name) for name in names if name.isdecimal()]
        return Contents(
            kek=base64.b64encode(self._source.kek()).decode(),
            settings=self._source.settings(),
            last_number=max([int(number.value) if number else 1, *numbers]),
        )

    async def _tell_failed(self, error: Exception, by: Actor) -> BackupFailure:
        cause = error.cause if isinstance(error, CairnError) else f"the store: {error}"
        remedy = error.remedy if isinstance(error, CairnError) else "see `cairn cluster status`"
        failure = BackupFailure(self._clock(), self._source.appliance, cause, remedy)
        log.error("no backup was made reason=%s", cause)
        entry = self._journal.entry(
            "backup_failed",
            f"no backup could be made on {failure.appliance}: {cause}",
            by,
            severity=Severity.ALARM,
            appliance=failure.appliance,
            remedy=remedy,
        )
        put = Put(keys.BACKUP_FAILURE, records.backup_failures.encode(failure))
        try:
            before = await read(self._store, records.backup_failures, keys.BACKUP_FAILURE)
            is_known = before is not None and before.value.cause == cause
            await self._store.commit([], [put] if is_known else [put, entry])
        except StoreError as unwritten:
            log.warning("the failure could not be written as an event reason=%s", unwritten)
        return failure

    async def _drop_superfluous(self) -> None:
        """Remove those of this appliance that are not to be kept; what can't be is logged."""
        own = [each for each in await self.list() if each.appliance == self._source.appliance]
        for backup in superfluous(own, self._kept):
            try:
                await asyncio.to_thread(self._shelf.remove, backup.name)
                await self._store.commit([], [Delete(keys.backup(backup.name))])
            except (StoreError, CairnError) as error:
                log.warning("an old backup was not removed name=%s reason=%s", backup.name, error)


async def health_of(store: Store, every_s: float, now: float) -> BackupHealth:
    """Return how it stands with backups."""
    key = await read(store, records.backup_keys, keys.BACKUP_KEY)
    failure = await read(store, records.backup_failures, keys.BACKUP_FAILURE)
    wish = await read(store, records.backup_wishes, keys.BACKUP_WISH)
    check = await read(store, records.backup_checks, keys.BACKUP_CHECK)
    made: builtins.list[Backup] = [
        each.value for each in await read_all(store, records.backups, keys.BACKUPS)
    ]
    return BackupHealth(
        every_s=every_s,
        now=now,
        key=key.value if key else None,
        last=max(made, key=lambda each: each.made_at, default=None),
        failure=failure.value if failure else None,
        wish=wish.value if wish else None,
        check=check.value if check else None,
    )


def wish_for_one(reason: str, now: float) -> Put:
    """Return what has a backup made soon: what made those of before worth less is in it, too.

    It belongs into the transaction of that change; changes soon after each other get one.
    """
    return Put(keys.BACKUP_WISH, records.backup_wishes.encode(BackupWish(now, reason)))


def first_key(public: bytes, now: float, by: Actor) -> tuple[Compare, Put]:
    """Return what gives a new cluster its recovery key."""
    key = BackupKey(key_id(public), base64.b64encode(public).decode(), now, by.name)
    return Compare(keys.BACKUP_KEY, 0), Put(keys.BACKUP_KEY, records.backup_keys.encode(key))


def _under_way() -> Clash:
    return Clash(
        "a backup is being made on this appliance",
        "wait for its end: `cairn backup list`",
        code="backup_under_way",
    )


def _checked_public(text: str) -> bytes:
    try:
        octets = base64.b64decode(text, validate=True)
        share_with(octets)
    except (binascii.Error, ValueError, PkiError) as error:
        raise Invalid("the public half of the recovery key is none", code="invalid_key") from error
    return octets


async def _content(contents: Contents, snapshot: Snapshot) -> AsyncGenerator[bytes, None]:
    octets = msgspec.json.encode(contents)
    yield len(octets).to_bytes(_LENGTH_OCTETS) + octets
    async for chunk in snapshot.chunks:
        yield chunk


def _name(head: Head) -> str:
    at = datetime.datetime.fromtimestamp(head.made_at, datetime.UTC).strftime("%Y%m%dT%H%M%SZ")
    return f"cairn-{head.cluster_id[:8]}-{at}-r{head.revision}.backup"
