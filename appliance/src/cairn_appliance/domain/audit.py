"""The audit: what operators asked for and what became of it, in a chain for each appliance.

A record is one line of canonical JSON, and its hash is the SHA-256 of that line; each record
has the hash of the one before. A head, signed, says where a chain begins and ends. So whoever
can't sign changes nothing unseen: no octet of a record, none left out, added or moved. What
remains is to put back a whole older state; that is what marks are for (docs/adr/0012).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any, TypeVar

_CONTEXT = b"cairn-audit-1\x00"
_HASH_CHARACTERS = 64
_WRITER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True)
T = TypeVar("T", "Record", "Head", "End")

Sign = Callable[[bytes], str]  # octets -> signature, base64
IsSigned = Callable[[bytes, str], bool]


class Kind(StrEnum):
    """What a line says."""

    BEGAN = "began"  # the process that writes this chain
    ASKED = "asked"  # written before the change is carried out
    ENDED = "ended"  # what became of it
    REFUSED = "refused"  # asked for by someone who may not; nothing was carried out
    CHECKPOINT = "checkpoint"  # signed, with the marks of all chains
    HEAD = "head"  # of a chain
    END = "end"  # of a file


class Outcome(StrEnum):
    """What became of a request."""

    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"
    UNKNOWN = "unknown"  # cut off, or the appliance ended: look at what there is


class Broken(Exception):
    """A line or a chain is not as it was written; the message says where and why."""


@dataclass(frozen=True, slots=True)
class Who:
    """Who asked, as the gate knew it then."""

    kind: str = ""  # an ActorKind
    name: str = ""
    role: str = ""
    address: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is to be recorded; a chain makes a record of it."""

    kind: Kind
    at_ms: int  # milliseconds since 1970
    request: str = ""  # ID that joins "asked" and "ended"
    who: Who = field(default_factory=Who)
    action: str = ""  # method and route: "DELETE /api/v1/tokens/{token}"
    target: str = ""  # the path that was asked for
    digest: str = ""  # of the body, keyed: what it was can't be guessed from it
    outcome: str = ""
    status: int = 0
    details: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Record:
    """An entry in its place."""

    appliance: str
    index: int  # from 1, without a gap
    previous: str  # hash of the record before
    entry: Entry
    signature: str = ""  # of a checkpoint


@dataclass(frozen=True, slots=True)
class Head:
    """Where a chain begins and ends."""

    appliance: str
    first: int  # index of the oldest record that is kept
    before: str  # hash of the record before that
    index: int  # of the newest; first - 1: none is kept
    hash: str  # of the newest
    changed: int  # index of the newest that is no checkpoint
    at_ms: int
    kind: Kind = Kind.HEAD
    signature: str = ""


@dataclass(frozen=True, slots=True)
class Mark:
    """A record that was seen: it has to be there, or to have been put into the archive."""

    index: int
    hash: str


@dataclass(frozen=True, slots=True)
class End:
    """The last line of a file: which chains are in it, from where to where."""

    at_ms: int
    heads: dict[str, Head]
    kind: Kind = Kind.END
    signature: str = ""


@dataclass(frozen=True, slots=True)
class Seal:
    """Signs, and checks signatures, for one cluster."""

    cluster: str
    sign: Sign
    is_signed: IsSigned

    def signed(self, value: T) -> T:
        """Return the value with its signature."""
        return replace(value, signature=self.sign(self._octets(value)))

    def check(self, value: Record | Head | End, what: str) -> None:
        """Raise Broken unless the value is signed."""
        if not self.is_signed(self._octets(value), value.signature):
            raise Broken(f"the signature of {what} is wrong")

    def _octets(self, value: Record | Head | End) -> bytes:
        return _CONTEXT + self.cluster.encode() + b"\x00" + encode(replace(value, signature=""))


@dataclass(frozen=True, slots=True)
class ChainReport:
    """What a look at one chain found; `problem` empty: it is whole."""

    appliance: str
    records: int
    checkpoints: int
    first: int
    index: int
    problem: str = ""


_WANTED = {
    kind: {each.name: str(each.type) for each in fields(kind)}
    for kind in (Who, Entry, Record, Head, End)
}


def hash_of(line: bytes) -> str:
    """Return the hash of a record, in hex."""
    return hashlib.sha256(line).hexdigest()


def genesis(cluster: str, appliance: str) -> str:
    """Return what stands for the record before the first one: no chain fits on another."""
    return hash_of(_CONTEXT + cluster.encode() + b"\x00" + appliance.encode())


def empty_head(cluster: str, appliance: str) -> Head:
    """Return the head, not signed, of a chain that nothing was written to yet."""
    start = genesis(cluster, appliance)
    return Head(appliance, 1, start, 0, start, 0, 0)


def encode(value: Record | Head | End) -> bytes:
    """Return the line, without its end: the same octets for the same value, ASCII only."""
    if isinstance(value, Record):
        plain = {**_of(value.entry), **_of(value), "who": _of(value.entry.who)}
        del plain["entry"]
    elif isinstance(value, End):
        plain = {**_of(value), "heads": {name: _of(head) for name, head in value.heads.items()}}
    else:
        plain = _of(value)
    return _WRITER.encode(plain).encode()


def _of(value: Record | Entry | Who | Head | End) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__slots__}


def decode_record(line: bytes) -> Record:
    """Return the record of a line; raise Broken for anything that `encode` doesn't make."""
    plain = _plain(line)
    entry = {name: plain.pop(name, None) for name in Entry.__slots__}
    value = Record(**_checked(plain, Record, ("entry",)), entry=_entry(entry))
    return _same(value, line)


def decode_head(line: bytes) -> Head:
    """Return the head of a line; raise Broken."""
    return _same(_head(_plain(line)), line)


def decode_end(line: bytes) -> End:
    """Return the end of a file; raise Broken."""
    plain = _plain(line)
    heads = plain.pop("heads", None)
    if not isinstance(heads, dict) or not all(isinstance(each, dict) for each in heads.values()):
        raise Broken("a line is not what it should be")
    values = _checked(plain, End, ("heads",))
    return _same(End(heads={name: _head(each) for name, each in heads.items()}, **values), line)


def chained(
    entries: Iterable[Entry], head: Head, seal: Seal, at_ms: int
) -> tuple[list[bytes], Head]:
    """Return the lines of the entries at the end of a chain, and its head with them, signed."""
    lines = []
    for entry in entries:
        record = Record(head.appliance, head.index + 1, head.hash, entry)
        is_checkpoint = entry.kind is Kind.CHECKPOINT
        line = encode(seal.signed(record) if is_checkpoint else record)
        lines.append(line)
        changed = head.changed if is_checkpoint else record.index
        head = replace(head, index=record.index, hash=hash_of(line), changed=changed)
    return lines, seal.signed(replace(head, at_ms=at_ms))


def checkpoint(heads: Mapping[str, Head], at_ms: int) -> Entry:
    """Return the entry that marks how far every chain is."""
    details = {name: f"{head.index} {head.hash}" for name, head in heads.items()}
    return Entry(Kind.CHECKPOINT, at_ms, details=details)


def marks_of(record: Record) -> dict[str, Mark]:
    """Return what a checkpoint marks; raise Broken."""
    found = {}
    for name, text in record.entry.details.items():
        index, _, known = text.partition(" ")
        if not index.isdecimal() or len(index) > 15 or len(known) != _HASH_CHARACTERS:
            raise Broken(f"checkpoint {record.index} can't be read")
        found[name] = Mark(int(index), known)
    return found


class Examination:
    """Looks at chains, line by line; what it finds is told at the end."""

    def __init__(self, seal: Seal) -> None:
        self._seal = seal
        self._chains: dict[str, _Chain] = {}
        self._marks: list[tuple[str, str, Mark]] = []  # who marked it, chain, mark

    def begin(self, appliance: str, head: Head | bytes | None) -> None:
        """Begin with a chain, by its head as it was kept (None: it is gone)."""
        chain = self._chains[appliance] = _Chain(appliance)
        try:
            if head is None:
                raise Broken("its head is gone")
            head = decode_head(head) if isinstance(head, bytes) else head
            self._seal.check(head, "its head")
            if head.appliance != appliance:
                raise Broken(f"its head is that of {head.appliance}")
        except Broken as error:
            chain.problem = str(error)
            return
        chain.start(head)

    def take(self, appliance: str, line: bytes) -> None:
        """Look at the chain's next line."""
        chain = self._chains[appliance]
        chain.records += 1
        if chain.problem:
            return
        try:
            record = chain.next(line)
            if record.entry.kind is Kind.CHECKPOINT:
                self._seal.check(record, f"checkpoint {record.index}")
                chain.checkpoints += 1
                by = f"checkpoint {record.index} of {appliance}"
                self._marks += [(by, name, mark) for name, mark in marks_of(record).items()]
        except Broken as error:
            chain.problem = str(error)

    def reports(self, seen: Mapping[str, Mark] | None = None) -> tuple[ChainReport, ...]:
        """Return what was found, compared with what each chain and `seen` say of the others."""
        here = [("this appliance", name, mark) for name, mark in (seen or {}).items()]
        for _, name, _ in (*self._marks, *here):
            if name not in self._chains:
                self.begin(name, None)
        for chain in self._chains.values():
            chain.finish()
        for by, name, mark in (*self._marks, *here):
            self._chains[name].compare(by, mark)
        return tuple(self._chains[name].report() for name in sorted(self._chains))


class _Chain:
    """One chain as far as it was looked at."""

    def __init__(self, appliance: str) -> None:
        self.appliance = appliance
        self.problem = ""
        self.records = 0
        self.checkpoints = 0
        self._head: Head | None = None
        self._hashes: list[str] = []  # from that before the first record on

    def start(self, head: Head) -> None:
        self._head = head
        self._hashes = [head.before]

    def next(self, line: bytes) -> Record:
        assert self._head is not None
        index = self._head.first + len(self._hashes) - 1
        record = _at(index, line)
        if record.appliance != self.appliance or record.index != index:
            raise Broken(f"in the place of record {index} is {record.index} of {record.appliance}")
        if record.previous != self._hashes[-1]:
            raise Broken(f"record {index} doesn't follow the one before: one of them was changed")
        self._hashes.append(hash_of(line))
        return record

    def finish(self) -> None:
        head = self._head
        if self.problem or head is None:
            return
        last = head.first + len(self._hashes) - 2
        if last < head.index:
            self.problem = f"records {last + 1} to {head.index} are gone"
        elif last > head.index:
            self.problem = f"there are records after {head.index}, the last one that was written"
        elif self._hashes[-1] != head.hash:
            self.problem = f"record {last} was changed"

    def compare(self, by: str, mark: Mark) -> None:
        head = self._head
        if self.problem or head is None:
            return
        place = mark.index - head.first + 1
        if mark.index > head.index:
            self.problem = f"records {head.index + 1} to {mark.index} are gone: {by} has seen them"
        elif place >= 0 and self._hashes[place] != mark.hash:
            self.problem = f"record {mark.index} is not the one that {by} has seen"

    def report(self) -> ChainReport:
        first, index = (self._head.first, self._head.index) if self._head else (0, 0)
        return ChainReport(
            self.appliance, self.records, self.checkpoints, first, index, self.problem
        )


def examine_file(lines: Iterable[bytes], seal: Seal) -> tuple[End, tuple[ChainReport, ...]]:
    """Look at a file as `GET /audit/export` gives it; raise Broken where it has no end."""
    whole = list(lines)
    if not whole:
        raise Broken("the file is empty")
    try:
        end = decode_end(whole[-1])
    except Broken as error:
        raise Broken("the last line is not the signed end: the file was cut off") from error
    seal.check(end, "the last line")
    examination = Examination(seal)
    for name, head in end.heads.items():
        examination.begin(name, head)
    for number, line in enumerate(whole[:-1], 1):
        try:
            name = decode_record(line).appliance
        except Broken as error:
            raise Broken(f"line {number}: {error}") from error
        if name not in end.heads:
            raise Broken(f"line {number} is of {name}, which the last line doesn't know")
        examination.take(name, line)
    return end, examination.reports()


def _at(index: int, line: bytes) -> Record:
    try:
        return decode_record(line)
    except Broken as error:
        raise Broken(f"record {index}: {error}") from error


def _plain(line: bytes) -> dict[str, Any]:
    try:
        plain = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise Broken("a line is no JSON") from error
    if not isinstance(plain, dict):
        raise Broken("a line is not what it should be")
    return plain


def _head(plain: dict[str, Any]) -> Head:
    head = Head(**_checked(plain, Head, ()))
    if head.first < 1 or head.index < head.first - 1:
        raise Broken("a head is not what it should be")
    return head


def _entry(plain: dict[str, Any]) -> Entry:
    who, details = plain.pop("who"), plain.pop("details")
    if not isinstance(who, dict) or not isinstance(details, dict):
        raise Broken("a line is not what it should be")
    if not all(isinstance(text, str) for text in details.values()):
        raise Broken("a line is not what it should be")
    values = _checked(plain, Entry, ("who", "details"))
    return Entry(**values, who=Who(**_checked(who, Who, ())), details=details)


def _checked(plain: dict[str, Any], kind: type[Any], without: tuple[str, ...]) -> dict[str, Any]:
    """Return the fields if they are those of the class, each of its type; raise Broken."""
    wanted = {name: of for name, of in _WANTED[kind].items() if name not in without}
    if plain.keys() != wanted.keys():
        raise Broken("a line is not what it should be")
    for name, value in plain.items():
        if type(value) is not (int if wanted[name] == "int" else str):
            raise Broken(f"its {name} is not what it should be")
    try:
        return {n: Kind(v) if wanted[n] == "Kind" else v for n, v in plain.items()}
    except ValueError as error:
        raise Broken("it is of no known kind") from error


def _same(value: T, line: bytes) -> T:
    """Return the value if the line is how it is written, octet by octet; raise Broken."""
    if encode(value) != line:
        raise Broken("a line is not written as it was")
    return value
