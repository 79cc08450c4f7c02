"""The chains of the audit as the store has them, read and shown; nothing here writes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from cairn_appliance.domain import audit
from cairn_appliance.domain.audit import (
    Broken,
    ChainReport,
    Head,
    Kind,
    Mark,
    Outcome,
    Record,
    hash_of,
)
from cairn_appliance.domain.errors import CairnError
from cairn_appliance.store import keys
from cairn_appliance.store.port import Item

NOTHING = Mark(0, "")
_DIGITS, INDEX_END = 12, 10**11


class BrokenChain(CairnError):
    """A chain can't be exported."""

    code = "audit_broken"
    remedy = "see `cairn audit verify`"

    def __init__(self, appliance: str, problem: str) -> None:
        super().__init__(f"the audit of {appliance}: {problem}")


@dataclass(frozen=True, slots=True)
class Shown:
    """A record that stands for itself, with what became of it."""

    sequence: int  # the store's revision: the order over all chains
    record: Record
    hash: str
    ended: Record | None = None

    @property
    def outcome(self) -> str:
        """What became of it."""
        if self.ended is not None:
            return self.ended.entry.outcome
        return self.record.entry.outcome or (
            Outcome.UNKNOWN if self.record.entry.kind is Kind.ASKED else ""
        )


@dataclass(frozen=True, slots=True)
class Verified:
    """What a look at all chains found."""

    chains: tuple[ChainReport, ...]
    at: float

    @property
    def is_ok(self) -> bool:
        """True where every chain is whole."""
        return not any(chain.problem for chain in self.chains)


@dataclass(slots=True)
class Chain:
    """One chain as the store has it."""

    head: Item | None = None
    records: list[Item] = field(default_factory=list)


def by_chain(items: Iterable[Item]) -> dict[str, Chain]:
    """Return the chains that items belong to, by the appliance that writes each."""
    chains: dict[str, Chain] = {}
    for item in items:
        name, _, rest = item.key.removeprefix(keys.AUDIT).partition("/")
        chain = chains.setdefault(name, Chain())
        if rest == "head":
            chain.head = item
        else:
            chain.records.append(item)
    return chains


def shown_of(items: Iterable[Item]) -> Iterator[Shown]:
    """Join what was asked with what became of it; the latter comes first, being newer."""
    ended: dict[str, Record] = {}
    for item in items:
        try:
            record = audit.decode_record(item.value)
        except Broken:
            continue  # `verify` tells
        if record.entry.kind is Kind.ENDED:
            ended.setdefault(record.entry.request, record)
        elif record.entry.kind is not Kind.CHECKPOINT:
            became = ended.pop(record.entry.request, None)
            yield Shown(item.created, record, hash_of(item.value), became)


def last_marks(chain: Chain | None) -> dict[str, Mark]:
    """Return what the newest checkpoint in a chain says of all chains."""
    for item in reversed(chain.records if chain else []):
        try:
            record = audit.decode_record(item.value)
            if record.entry.kind is Kind.CHECKPOINT:
                return audit.marks_of(record)
        except Broken:
            continue
    return {}


def readable_head(item: Item | None) -> Head | None:
    """Return a head as it lies there, checked or not; None where it can't be read."""
    if item is None:
        return None
    try:
        return audit.decode_head(item.value)
    except Broken:
        return None


def index_of(key: str) -> int:
    """Return the index in a record's key; 0 for any that no chain gets to."""
    last = keys.last_part(key)
    index = int(last) if len(last) == _DIGITS and last.isdecimal() else 0
    return index if index < INDEX_END else 0


def is_well_named(item: Item) -> bool:
    """Return whether a record lies where it says that it does."""
    try:
        record = audit.decode_record(item.value)
    except Broken:
        return False
    return item.key == keys.audit_record(record.appliance, record.index)
