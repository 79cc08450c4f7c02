"""The audit: records in the store, a chain for each appliance, with one writer each.

What is asked for is written before it is carried out, in one transaction with the signed head of
the chain; requests that come at once share it. What became of it follows within a second, with
whatever is written next. Every appliance looks at all chains regularly (docs/adr/0012).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import deque
from collections.abc import AsyncIterator, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from cairn_appliance.domain import audit
from cairn_appliance.domain.access import is_user_name
from cairn_appliance.domain.alarm import Alarm
from cairn_appliance.domain.alarm import Sign as Noticed
from cairn_appliance.domain.audit import (
    Broken,
    ChainReport,
    End,
    Entry,
    Examination,
    Head,
    Kind,
    Mark,
    Outcome,
    Record,
    hash_of,
)
from cairn_appliance.domain.errors import CairnError
from cairn_appliance.domain.event import Severity
from cairn_appliance.domain.identity import SYSTEM, Actor
from cairn_appliance.pki.audit_key import AuditKey
from cairn_appliance.services.audit_chains import (
    INDEX_END,
    NOTHING,
    BrokenChain,
    Chain,
    Shown,
    Verified,
    by_chain,
    index_of,
    is_well_named,
    last_marks,
    readable_head,
    shown_of,
)
from cairn_appliance.services.audit_disk import Files, NoFiles
from cairn_appliance.services.clock import Clock, wall_clock
from cairn_appliance.services.events import Journal
from cairn_appliance.store import keys
from cairn_appliance.store.port import (
    Compare,
    Conflict,
    Delete,
    Full,
    Put,
    Store,
    StoreError,
    Unavailable,
)

log = logging.getLogger(__name__)

KEPT = 10_000  # records of a chain in the store; older ones are in the archive
KEPT_OF_GONE = 1_000  # of an appliance that is no more
_SURPLUS = 500  # pruned when there are so many more
_AT_ONCE = 60  # records in one transaction
_DELETED_AT_ONCE = 100
_LATER_MAX = 10_000
_REFUSALS_AN_HOUR = 100  # each in a record of its own; the rest is counted
_LATER_WRITTEN_EVERY_S = 0.5
_LOOKED_AT_EVERY_S = 60.0
_EXAMINED_AT_ONCE = 200  # records, between which others have their turn
_TRIES = 5
_GAP = 10_000  # what another appliance may have seen of a chain that this one has not


@dataclass(frozen=True, slots=True)
class _Tip:
    head: Head
    revision: int  # of the key of the head; 0: there is none


@dataclass(slots=True)
class _Waiting:
    entries: Sequence[Entry]
    is_over: bool = False
    error: StoreError | None = None


class Audit:
    """Writes this appliance's chain, and reads all."""

    def __init__(
        self,
        store: Store,
        cluster: str,
        appliance: str,
        key: AuditKey,
        journal: Journal,
        clock: Clock = wall_clock,
        files: Files | None = None,
    ) -> None:
        self._store = store
        self._cluster = cluster
        self._appliance = appliance
        self._key = key
        self._seal = key.seal(cluster)
        self._journal = journal
        self._clock = clock
        self._files = files or NoFiles()
        self._marks = self._known_marks()
        self._kept_marks = dict(self._marks)
        self._tip: _Tip | None = None
        self._doubted: tuple[str, list[Entry]] | None = None  # hash of a head that may be written
        self._turn = asyncio.Lock()
        self._spooling = asyncio.Lock()
        self._queue: deque[_Waiting] = deque()
        self._later: deque[Entry] = deque(maxlen=_LATER_MAX)
        self._refusals = _Budget(clock)
        self.signs: tuple[Noticed, ...] = ()
        self.kept = KEPT

    @property
    def public_key(self) -> str:
        """What exported files are checked with."""
        return self._key.public

    @property
    def cluster(self) -> str:
        """ID of the cluster, which every signature is bound to."""
        return self._cluster

    def now_ms(self) -> int:
        """Return the time as records have it."""
        return int(self._clock() * 1000)

    def digest(self, body: bytes) -> str:
        """Return what stands for a body in its record; empty for none."""
        return self._key.digest(body) if body else ""

    async def is_user(self, name: str) -> bool:
        """Return whether there is such a user: what else was typed as a name may be a password."""
        try:
            return is_user_name(name) and await self._store.get(keys.user(name)) is not None
        except StoreError:
            return False

    async def ask(self, entry: Entry, *, may_wait: bool = False) -> None:
        """Record what is about to be done; where this raises it must not be done.

        `may_wait`: a deletion. The store lets it through while it is full and refuses the record;
        that is on this appliance's disk meanwhile.
        """
        try:
            await self._append([entry])
        except Full:
            if not may_wait:
                raise
            line = audit.encode(Record(self._appliance, 0, "", entry))
            async with self._spooling:
                await asyncio.to_thread(self._files.spool, line)
            log.warning("recorded on disk while the store is full request=%s", entry.request)

    async def record(self, *entries: Entry) -> None:
        """Record what was done before anybody is told; raise StoreError."""
        await self._append(entries)

    def end(self, entry: Entry) -> None:
        """Record within a second what became of a request."""
        if len(self._later) == _LATER_MAX:
            log.warning("the oldest outcome of the audit is given up: too many wait")
        self._later.append(entry)

    def refused(self, entry: Entry) -> None:
        """Record within a second what was refused, as far as the hour's number goes."""
        if self._refusals.may():
            self.end(entry)

    async def flush(self) -> None:
        """Write what waits."""
        while self._later:
            await self._append([])

    async def run(self) -> None:
        """Write, mark and look until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._write_later(), name="write the audit's outcomes")
            tasks.create_task(self._look_after(), name="look at the audit")

    async def shown(self) -> Iterator[Shown]:
        """Return the records of all chains that stand for themselves, newest first."""
        await self.flush()
        items = [
            item
            for item in (await self._store.list(keys.AUDIT)).items
            if not item.key.endswith("/head")
        ]
        items.sort(key=lambda item: (item.created, item.key), reverse=True)
        return shown_of(items)

    async def verify(self) -> Verified:
        """Look at all chains, in pieces; note what is wrong."""
        seen = dict(self._marks)
        chains = await self._chains()
        verified = await self._examined(chains, seen)
        await self._note(verified, chains)
        return verified

    async def export(self) -> AsyncIterator[bytes]:
        """Yield the lines of all chains as they were at one moment, and their signed end."""
        await self.flush()
        chains = await self._chains()
        heads = {}
        for name, chain in chains.items():
            head = readable_head(chain.head)
            if head is None:
                raise BrokenChain(name, "its head can't be read")
            heads[name] = head
            for start in range(0, len(chain.records), _EXAMINED_AT_ONCE):
                piece = chain.records[start : start + _EXAMINED_AT_ONCE]
                yield b"".join(item.value + b"\n" for item in piece)
        yield audit.encode(self._seal.signed(End(self.now_ms(), heads))) + b"\n"

    async def accept(self, by: Actor) -> tuple[ChainReport, ...]:
        """Put chains that are broken aside and begin them anew; return which they were."""
        verified = await self.verify()
        broken = tuple(chain for chain in verified.chains if chain.problem)
        for report in broken:
            await self._begin_again(report, by)
        await self.verify()
        return broken

    async def checkpoint(self) -> bool:
        """Mark, signed, how far all chains are, where one has changed since; return whether."""
        await self.flush()
        return await self._checkpoint(await self._chains())

    async def prune(self, appliances: Container[str]) -> int:
        """Move what is old into the archive of this appliance; return how many records.

        That is its own chain, and those of appliances that are no more.
        """
        return await self._prune_all(await self._chains(), appliances)

    async def look(self) -> None:
        """Do all that is due: what waited on the disk, a look, a checkpoint, the archive."""
        await self.catch_up()
        for more in self._refusals.counted(self.now_ms()):
            self.end(more)
        await self.flush()
        seen = dict(self._marks)
        chains = await self._chains()
        verified = await self._examined(chains, seen)
        await self._note(verified, chains)
        await self._checkpoint(chains)
        appliances = (await self._store.list(keys.APPLIANCES)).items
        whole = {report.appliance for report in verified.chains if not report.problem}
        await self._prune_all(
            {name: chain for name, chain in chains.items() if name in whole},
            {keys.last_part(item.key) for item in appliances},
        )

    async def _chains(self) -> dict[str, Chain]:
        return by_chain((await self._store.list(keys.AUDIT)).items)

    async def _checkpoint(self, chains: Mapping[str, Chain]) -> bool:
        heads = {
            name: head
            for name, chain in chains.items()
            if (head := readable_head(chain.head)) is not None
        }
        marked = last_marks(chains.get(self._appliance))
        due = any(head.changed > marked.get(name, NOTHING).index for name, head in heads.items())
        if due:
            await self._append([audit.checkpoint(heads, self.now_ms())])
        return due

    async def _prune_all(self, chains: Mapping[str, Chain], appliances: Container[str]) -> int:
        pruned = 0
        for name, chain in chains.items():
            kept = self.kept if name == self._appliance else KEPT_OF_GONE
            is_due = len(chain.records) > kept + _SURPLUS
            if is_due and (name == self._appliance or name not in appliances):
                pruned += await self._prune(name, chain, len(chain.records) - kept)
        return pruned

    async def catch_up(self) -> None:
        """Write what had to wait on the disk for room in the store."""
        async with self._spooling:
            lines = await asyncio.to_thread(self._files.spooled)
            for line in lines:
                await self._append([self._late(line)])
            if lines:
                await asyncio.to_thread(self._files.unspool)

    def _late(self, line: bytes) -> Entry:
        try:
            entry = audit.decode_record(line).entry
        except Broken as error:
            log.error("a record on the disk can't be read reason=%s", error)  # noqa: TRY400
            entry = Entry(Kind.ASKED, self.now_ms(), details={"unreadable": str(error)})
        return replace(entry, details={**entry.details, "late": "store_full"})

    def _known_marks(self) -> dict[str, Mark]:
        try:
            return self._files.marks()
        except CairnError as error:
            log.error("how far the audit was is not known here reason=%s", error)  # noqa: TRY400
            return {}

    async def _append(self, entries: Sequence[Entry]) -> None:
        """Write the entries, with those of others that wait and with what was put off."""
        waiting = _Waiting(entries)
        self._queue.append(waiting)
        try:
            async with self._turn:
                if not waiting.is_over:
                    await self._commit_some()
        finally:
            if not waiting.is_over and waiting in self._queue:
                self._queue.remove(waiting)
        if waiting.error is not None:
            raise waiting.error

    async def _commit_some(self) -> None:
        batch = [self._queue.popleft()]
        count = len(batch[0].entries)
        while self._queue and count + len(self._queue[0].entries) <= _AT_ONCE:
            batch.append(self._queue.popleft())
            count += len(batch[-1].entries)
        room = min(len(self._later), max(0, _AT_ONCE - count))
        later = [self._later.popleft() for _ in range(room)]
        asked = [entry for waiting in batch for entry in waiting.entries]
        error: StoreError | None = Unavailable("writing the audit was cut off")
        try:
            if asked or later:
                await self._commit([*later, *asked])
            error = None
        except StoreError as failed:
            error = failed
        finally:  # whoever else waits is told, also where this one is cut off
            if error is not None:
                self._later.extendleft(reversed(later))
            for waiting in batch:
                waiting.is_over, waiting.error = True, error

    async def _commit(self, entries: list[Entry]) -> None:
        """Write at the end of the chain; a try that ends in doubt is looked at by the next."""
        for _ in range(_TRIES):
            tip = self._tip or await self._load()
            lines, head = audit.chained(entries, tip.head, self._seal, self.now_ms())
            start = tip.head.index + 1
            writes = [
                Put(keys.audit_record(self._appliance, index), line)
                for index, line in enumerate(lines, start)
            ]
            writes.append(Put(keys.audit_head(self._appliance), audit.encode(head)))
            self._tip, self._doubted = None, (head.hash, entries)
            try:
                revision = await self._store.commit(
                    [Compare(keys.audit_head(self._appliance), tip.revision)], writes
                )
            except Full:
                self._tip, self._doubted = tip, None
                raise
            except Conflict:
                self._doubted = None
                found = await self._load()
                if found.head.hash == head.hash:
                    return  # a try of the connection's own, before this one, went through
                continue
            self._take(tip, head, revision)
            return
        raise Unavailable("another process writes this appliance's audit")

    def _take(self, before: _Tip, head: Head, revision: int) -> None:
        self._tip, self._doubted = _Tip(head, revision), None
        # Only from where it was seen: what was put back to an older state must not look whole.
        known = self._marks.get(self._appliance, NOTHING)
        is_first = known.index == 0 and before.head.index == 0
        if is_first or known == Mark(before.head.index, before.head.hash):
            self._marks[self._appliance] = Mark(head.index, head.hash)

    async def _load(self) -> _Tip:
        """Return the end of this appliance's chain as the store has it."""
        key = keys.audit_head(self._appliance)
        item = await self._store.get(key)
        head = readable_head(item)
        if head is not None:
            try:
                self._seal.check(head, "the head")
            except Broken:
                head = None
        if head is None:
            head = await self._after_what_was()
        doubted, self._doubted = self._doubted, None
        if doubted is not None and doubted[0] == head.hash:
            self._not_done(doubted[1])
        self._tip = _Tip(head, item.revision if item else 0)
        return self._tip

    def _not_done(self, entries: Iterable[Entry]) -> None:
        """Whoever waited for these was told that they could not be written; they were."""
        for entry in entries:
            if entry.kind is Kind.ASKED:
                details = {"reason": "not recorded in time"}
                ended = replace(entry, kind=Kind.ENDED, outcome=Outcome.REFUSED, details=details)
                self.end(ended)

    async def _after_what_was(self) -> Head:
        """Return where to go on without a head: above all that there was, not to hide it."""
        listing = await self._store.list(keys.audit_of(self._appliance))
        last = max((index_of(item.key) for item in listing.items), default=0)
        index = max(last, self._marks.get(self._appliance, NOTHING).index)
        head = audit.empty_head(self._cluster, self._appliance)
        if index:
            log.error("the head of the audit is gone or damaged; going on after record=%d", index)
        return replace(head, first=index + 1, index=index)

    async def _examined(self, chains: Mapping[str, Chain], seen: Mapping[str, Mark]) -> Verified:
        examination = Examination(self._seal)
        for name, chain in chains.items():
            examination.begin(name, chain.head.value if chain.head else None)
            for number, item in enumerate(chain.records):
                examination.take(name, item.value if is_well_named(item) else b"")
                if number % _EXAMINED_AT_ONCE == 0:
                    await asyncio.sleep(0)
        return Verified(examination.reports(seen), self._clock())

    async def _note(self, verified: Verified, chains: Mapping[str, Chain]) -> None:
        """Remember what is whole, and raise the alarm for what is not."""
        for report in verified.chains:
            head = readable_head(chains[report.appliance].head) if not report.problem else None
            known = self._marks.get(report.appliance, NOTHING)
            if head is not None and head.index > known.index:
                self._marks[report.appliance] = Mark(head.index, head.hash)
        if self._marks != self._kept_marks:
            marks = dict(self._marks)
            await asyncio.to_thread(self._files.keep_marks, marks)
            self._kept_marks = marks
        signs = tuple(
            Noticed(
                Alarm.AUDIT_BROKEN,
                f"it finds the audit of {report.appliance} tampered with: {report.problem}",
                is_urgent=True,
            )
            for report in verified.chains
            if report.problem
        )
        new = [sign for sign in signs if sign not in self.signs]
        self.signs = signs
        for sign in new:
            log.error("the audit is not as it was written: %s", sign.detail)
            text = f"{self._appliance}: {sign.detail}"
            entry = self._journal.entry("audit_broken", text, SYSTEM, severity=Severity.ALARM)
            await self._store.commit([], [entry])

    async def _prune(self, name: str, chain: Chain, surplus: int) -> int:
        async with self._turn:
            old = chain.records[:surplus]
            head = readable_head(chain.head)
            if head is None or chain.head is None:
                return 0
            self._seal.check(head, "the head")
            lines = [item.value for item in old]
            part = replace(head, index=index_of(old[-1].key), hash=hash_of(lines[-1]))
            end = self._seal.signed(End(self.now_ms(), {name: self._seal.signed(part)}))
            file = f"{name}-{head.first:012d}-{part.index:012d}.jsonl"
            await asyncio.to_thread(self._files.archive, file, [*lines, audit.encode(end)])
            if name == self._appliance:
                self._tip = None
            for start in range(0, len(old), _DELETED_AT_ONCE):
                piece = old[start : start + _DELETED_AT_ONCE]
                item = await self._store.get(keys.audit_head(name))
                now = readable_head(item)
                if item is None or now is None or now.first != index_of(piece[0].key):
                    raise Conflict(keys.audit_head(name))
                self._seal.check(now, "the head")
                before = hash_of(piece[-1].value)
                now = replace(now, first=index_of(piece[-1].key) + 1, before=before)
                put = Put(item.key, audit.encode(self._seal.signed(now)))
                deletes = [Delete(each.key) for each in piece]
                await self._store.commit([Compare(item.key, item.revision)], [*deletes, put])
        log.info("audit moved to the archive chain=%s records=%d", name, len(old))
        return len(old)

    async def _begin_again(self, report: ChainReport, by: Actor) -> None:
        name = report.appliance
        async with self._turn:
            items = [
                item
                for item in (await self._store.list(keys.AUDIT)).items
                if item.key.removeprefix(keys.AUDIT).partition("/")[0] == name
            ]
            file = f"broken-{self.now_ms()}.jsonl"
            where = await asyncio.to_thread(
                self._files.archive, file, [item.value for item in items]
            )
            known = max((index_of(item.key) for item in items), default=0)
            seen = self._marks.get(name, NOTHING).index
            known = max(known, report.index if report.index < INDEX_END else 0, seen)
            head = audit.empty_head(self._cluster, name)
            head = replace(head, first=known + _GAP + 1, index=known + _GAP)
            details = {"accepted": report.problem[:200], "by": by.name, "aside": where}
            entry = Entry(Kind.BEGAN, self.now_ms(), details=details)
            (line,), head = audit.chained([entry], head, self._seal, self.now_ms())
            kept = ""
            if keys.is_id(name):
                kept = keys.audit_head(name)
                old = next((item.revision for item in items if item.key == kept), 0)
                writes = [
                    Put(keys.audit_record(name, head.index), line),
                    Put(kept, audit.encode(head)),
                ]
                revision = await self._store.commit([Compare(kept, old)], writes)
                if name == self._appliance:
                    self._tip = _Tip(head, revision)
                self._marks[name] = Mark(head.index, head.hash)
            stale = [item for item in items if item.key != kept]
            for start in range(0, len(stale), _DELETED_AT_ONCE):
                piece = stale[start : start + _DELETED_AT_ONCE]
                await self._store.commit([], [Delete(item.key) for item in piece])

    async def _write_later(self) -> None:
        while True:
            await asyncio.sleep(_LATER_WRITTEN_EVERY_S * random.uniform(0.8, 1.2))
            try:
                await self.flush()
            except StoreError as error:
                log.info("outcomes of the audit wait reason=%s", error)

    async def _look_after(self) -> None:
        self.end(Entry(Kind.BEGAN, self.now_ms()))  # this process writes from here on
        while True:
            try:
                await self.look()
            except (StoreError, CairnError, Broken) as error:
                log.warning("looking at the audit was put off reason=%s", error)
            await asyncio.sleep(_LOOKED_AT_EVERY_S * random.uniform(0.8, 1.0))


class _Budget:
    """How many refusals of an hour have a record of their own: nobody fills the audit by asking."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._hour = 0
        self._used = 0
        self._more = 0

    def may(self) -> bool:
        """Count one and return whether it is recorded by itself."""
        hour = int(self._clock() // 3600)
        if hour != self._hour:
            self._hour, self._used = hour, 0
        self._used += 1
        if self._used <= _REFUSALS_AN_HOUR:
            return True
        self._more += 1
        return False

    def counted(self, at_ms: int) -> Iterator[Entry]:
        """Yield the record of those that have none, and begin to count anew."""
        more, self._more = self._more, 0
        if more:
            details = {"more": str(more)}
            yield Entry(Kind.REFUSED, at_ms, outcome=Outcome.REFUSED, details=details)
