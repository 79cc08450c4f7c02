"""Whatever is done to the audit without its key is found."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from cairn_appliance.domain import audit
from cairn_appliance.domain.audit import (
    Broken,
    End,
    Entry,
    Examination,
    Head,
    Kind,
    Mark,
    Outcome,
    Record,
    Seal,
    Who,
)
from cairn_appliance.pki.audit_key import AuditKey, reading_seal
from cairn_appliance.pki.errors import PkiError
from cairn_appliance.pki.sealing import Sealer
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import proofs

CLUSTER = "0f7b5e0e-5b0e-4a53-9f6e-0d6b6c2a1d11"
KEY = AuditKey(Sealer(b"k" * 32))
SEAL = KEY.seal(CLUSTER)
OTHER_SEAL = AuditKey(Sealer(b"o" * 32)).seal(CLUSTER)
MUTATIONS = int(os.environ.get("CAIRN_AUDIT_MUTATIONS", "1000"))
Lines = dict[str, tuple[bytes, list[bytes]]]  # appliance -> head, records


def entry(number: int, kind: Kind = Kind.ASKED) -> Entry:
    return Entry(
        kind,
        1_800_000_000_000 + number,
        request=f"{number:016x}",
        who=Who("operator", "anna", "admin", "192.0.2.9"),
        action="POST /api/v1/vsubnets",
        target="/api/v1/vsubnets",
        outcome=Outcome.DONE if kind is Kind.ENDED else "",
        status=201 if kind is Kind.ENDED else 0,
        details={"name": f"net-{number}"},
    )


def grown(dice: random.Random, seal: Seal = SEAL, rounds: int = 12) -> Lines:
    """Return two chains that mark each other now and then, as two appliances write them."""
    heads = {name: audit.empty_head(CLUSTER, name) for name in ("m1", "m2")}
    lines: dict[str, list[bytes]] = {name: [] for name in heads}
    for number in range(rounds):
        name = dice.choice(("m1", "m2"))
        new = [entry(number), entry(number, Kind.ENDED)]
        if number % 3 == 2:
            new.append(audit.checkpoint(heads, 5))
        written, heads[name] = audit.chained(new, heads[name], seal, 7)
        lines[name] += written
    return {name: (audit.encode(heads[name]), lines[name]) for name in heads if lines[name]}


def examine(chains: Lines, seen: dict[str, Mark] | None = None) -> dict[str, str]:
    examination = Examination(SEAL)
    for name, (head, records) in chains.items():
        examination.begin(name, head or None)
        for line in records:
            examination.take(name, line)
    return {each.appliance: each.problem for each in examination.reports(seen)}


def seen_of(chains: Lines) -> dict[str, Mark]:
    heads = {name: audit.decode_head(head) for name, (head, _) in chains.items()}
    return {name: Mark(head.index, head.hash) for name, head in heads.items()}


def is_whole(chains: Lines, seen: dict[str, Mark]) -> bool:
    return not any(examine(chains, seen).values())


class Tamperer:
    """Does one thing to one chain; has whatever an honest run has shown, and another key."""

    def __init__(self, dice: random.Random, chains: Lines) -> None:
        self.dice = dice
        self.chains = chains
        self.name = dice.choice(sorted(chains))
        self.head, records = chains[self.name]
        self.records = list(records)
        self.at = dice.randrange(len(self.records))

    def flip(self) -> None:
        octets = bytearray(self.records[self.at])
        octets[self.dice.randrange(len(octets))] ^= 1 << self.dice.randrange(8)
        self.records[self.at] = bytes(octets)

    def flip_head(self) -> None:
        octets = bytearray(self.head)
        octets[self.dice.randrange(len(octets))] ^= 1 << self.dice.randrange(8)
        self.head = bytes(octets)

    def delete(self) -> None:
        del self.records[self.at]

    def delete_head(self) -> None:
        self.head = b""

    def delete_chain(self) -> None:
        self.head, self.records = b"", []

    def reorder(self) -> None:
        other = self.dice.choice([n for n in range(len(self.records)) if n != self.at])
        records = self.records
        records[self.at], records[other] = records[other], records[self.at]

    def duplicate(self) -> None:
        self.records.insert(self.dice.randrange(len(self.records) + 1), self.records[self.at])

    def truncate_end(self) -> None:
        del self.records[self.at :]

    def truncate_beginning(self) -> None:
        del self.records[: self.at + 1]

    def splice(self) -> None:
        """Put a record of another chain in: of the other appliance, or of another run."""
        others = [lines for name, (_, lines) in self.chains.items() if name != self.name]
        others.append(grown(self.dice, rounds=30)[self.name][1])
        line = self.dice.choice(self.dice.choice(others))
        while line == self.records[self.at]:
            line = self.dice.choice(self.dice.choice(others))
        self.records[self.at] = line

    def replace_chain(self) -> None:
        """Put the whole chain of another run in its place, signed rightly."""
        other = grown(random.Random(self.dice.random()), rounds=40)
        self.head, self.records = other[self.name]

    def remake(self) -> None:
        """Change a record and hash all that follow it anew, with a head of one's own key."""
        head = audit.empty_head(CLUSTER, self.name)
        entries = [audit.decode_record(line).entry for line in self.records]
        entries[self.at] = replace(entries[self.at], target="/api/v1/other")
        self.records, head = audit.chained(entries, head, OTHER_SEAL, 7)
        self.head = self.dice.choice([self.head, audit.encode(head)])

    def forge_checkpoint(self) -> None:
        """Put in a checkpoint of one's own, before which all is gone."""
        record = Record(self.name, self.at + 1, "f" * 64, Entry(Kind.CHECKPOINT, 5))
        self.records = [audit.encode(OTHER_SEAL.signed(record)), *self.records[self.at + 1 :]]

    def move_first(self) -> None:
        """Say that what is gone was put into the archive."""
        head = audit.decode_head(self.head)
        before = audit.hash_of(self.records[self.at])
        self.head = audit.encode(replace(head, first=self.at + 2, before=before))
        del self.records[: self.at + 1]

    def write_otherwise(self) -> None:
        """Write the same value as other octets."""
        line = self.records[self.at]
        self.records[self.at] = self.dice.choice(
            [line + b" ", line.replace(b'":', b'": ', 1), line[:-1] + b',"index":1}']
        )

    def put_back(self) -> None:
        """Put back the state of a while ago, whole and signed: only marks know better."""
        kept = self.dice.randrange(len(self.records))
        entries = [audit.decode_record(line).entry for line in self.records[:kept]]
        empty = audit.empty_head(CLUSTER, self.name)
        self.records, head = audit.chained(entries, empty, SEAL, 7)
        self.head = audit.encode(head)

    def done(self) -> Lines:
        return {**self.chains, self.name: (self.head, self.records)}


WAYS: tuple[Callable[[Tamperer], None], ...] = (
    Tamperer.flip,
    Tamperer.flip_head,
    Tamperer.delete,
    Tamperer.delete_head,
    Tamperer.delete_chain,
    Tamperer.reorder,
    Tamperer.duplicate,
    Tamperer.truncate_end,
    Tamperer.truncate_beginning,
    Tamperer.splice,
    Tamperer.replace_chain,
    Tamperer.remake,
    Tamperer.forge_checkpoint,
    Tamperer.move_first,
    Tamperer.write_otherwise,
    Tamperer.put_back,
)


def test_a_thousand_random_mutations_are_all_found() -> None:
    dice = random.Random(20_261_126)
    missed = []
    pool = [(chains, seen_of(chains)) for chains in (grown(dice) for _ in range(50))]
    assert all(is_whole(*each) for each in pool)
    for number, way in zip(range(MUTATIONS), itertools.cycle(WAYS), strict=False):
        chains, seen = dice.choice(pool)
        tamperer = Tamperer(dice, chains)
        way(tamperer)
        assert tamperer.done() != chains, way
        if is_whole(tamperer.done(), seen):
            missed.append((number, way.__name__))

    assert proofs.record(
        "AUDIT-tamper",
        what="random mutations of the audit that no look at it finds",
        bar=f"0 of {MUTATIONS}, in {len(WAYS)} ways",
        value=len(missed),
        unit="mutations",
        holds=not missed and MUTATIONS >= 1000,
    ), missed


@settings(max_examples=100)
@given(st.integers(0, 2**32), st.sampled_from(WAYS))
def test_tampering_is_found(seed: int, way: Callable[[Tamperer], None]) -> None:
    dice = random.Random(seed)
    chains = grown(dice)
    tamperer = Tamperer(dice, chains)
    way(tamperer)
    assert not is_whole(tamperer.done(), seen_of(chains))


def test_what_was_put_back_to_an_older_state_is_known_by_the_other_chain_alone() -> None:
    dice = random.Random(7)
    found = 0
    for _ in range(50):
        chains = grown(dice, rounds=20)
        tamperer = Tamperer(dice, chains)
        tamperer.put_back()
        found += not is_whole(tamperer.done(), {})
    assert found > 25, "checkpoints of the other chain mark it"


@settings(max_examples=100)
@given(st.integers(0, 2**32), st.data())
def test_a_file_is_whole_or_it_is_found(seed: int, data: st.DataObject) -> None:
    dice = random.Random(seed)
    chains = grown(dice)
    lines = [line for _, records in chains.values() for line in records]
    heads = {name: audit.decode_head(head) for name, (head, _) in chains.items()}
    lines.append(audit.encode(SEAL.signed(End(9, heads))))
    reading = reading_seal(CLUSTER, KEY.public)
    end, reports = audit.examine_file(lines, reading)
    assert end.heads == heads
    assert not any(report.problem for report in reports)

    bad = list(lines)
    at = data.draw(st.integers(0, len(bad) - 1))
    way = data.draw(st.sampled_from(["flip", "delete", "cut", "repeat", "swap"]))
    if way == "flip":
        octets = bytearray(bad[at])
        octets[data.draw(st.integers(0, len(octets) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        bad[at] = bytes(octets)
    elif way == "delete":
        del bad[at]
    elif way == "cut":
        del bad[at:]
    elif way == "repeat":
        bad.insert(at, bad[at])
    else:
        bad[at], bad[at - 1] = bad[at - 1], bad[at]
    # The order of two chains in a file says nothing; that of the records of each does.
    if _per_chain(bad) == _per_chain(lines) and bad[-1] == lines[-1]:
        return
    try:
        _, reports = audit.examine_file(bad, reading)
    except Broken:
        return
    assert any(report.problem for report in reports)


def _per_chain(lines: list[bytes]) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {}
    for line in lines[:-1]:
        try:
            found.setdefault(audit.decode_record(line).appliance, []).append(line)
        except Broken:
            found.setdefault("?", []).append(line)
    return found


def test_a_file_of_another_cluster_or_key_is_not_taken() -> None:
    chains = grown(random.Random(3))
    heads = {name: audit.decode_head(head) for name, (head, _) in chains.items()}
    lines = [line for _, records in chains.values() for line in records]
    lines.append(audit.encode(SEAL.signed(End(9, heads))))
    for seal in (reading_seal("other", KEY.public), OTHER_SEAL):
        with pytest.raises(Broken, match="signature of the last line"):
            audit.examine_file(lines, seal)
    with pytest.raises(Broken, match="empty"):
        audit.examine_file([], SEAL)


def test_a_chain_goes_on_where_its_old_records_were_moved_away() -> None:
    chains = grown(random.Random(5), rounds=20)
    head, records = chains["m1"]
    moved = audit.decode_head(head)
    before = audit.hash_of(records[3])
    moved = SEAL.signed(replace(moved, first=5, before=before))
    pruned = {**chains, "m1": (audit.encode(moved), records[4:])}
    assert is_whole(pruned, seen_of(chains))
    assert is_whole(pruned, {"m1": Mark(2, "a" * 64)}), "it is in the archive"
    assert not is_whole(pruned, {"m1": Mark(4, "a" * 64)})


def test_reports_name_the_record() -> None:
    chains = grown(random.Random(5))
    head, records = chains["m1"]
    gone = {**chains, "m1": (head, records[:1] + records[2:])}
    assert "in the place of record 2 is 3 of m1" in examine(gone)["m1"]
    shorter = {**chains, "m1": (head, records[:-1])}
    assert f"records {len(records)} to {len(records)} are gone" in examine(shorter)["m1"]
    assert examine({**chains, "m1": (b"", records)})["m1"] == "its head is gone"


@given(
    st.builds(
        Entry,
        st.sampled_from([Kind.ASKED, Kind.ENDED, Kind.BEGAN, Kind.REFUSED]),
        st.integers(0, 2**50),
        request=st.text(),
        who=st.builds(Who, st.text(), st.text(), st.text(), st.text()),
        action=st.text(),
        target=st.text(),
        details=st.dictionaries(st.text(), st.text()),
    )
)
def test_a_line_is_read_as_it_was_written(made: Entry) -> None:
    record = Record("m1", 1, "0" * 64, made)
    line = audit.encode(record)
    assert b"\n" not in line
    assert line.isascii()
    assert audit.decode_record(line) == record


def _lines() -> Iterator[bytes]:
    good = audit.encode(Record("m1", 1, "0" * 64, entry(1)))
    yield from (b"", b"[]", b"{}", b"null", b"\xff", b"[" * 100_000)
    yield good.replace(b'"index":1', b'"index":true')
    yield good.replace(b'"index":1', b'"index":1.0')
    yield good.replace(b'"index":1', b'"index":' + b"9" * 5000)
    yield good.replace(b'"kind":"asked"', b'"kind":"other"')
    yield good.replace(b'"details":{"name":"net-1"}', b'"details":{"name":1}')
    yield good.replace(b'"appliance":"m1",', b"")


@pytest.mark.parametrize("line", list(_lines()), ids=lambda line: repr(line[:20]))
def test_what_is_no_line_is_refused(line: bytes) -> None:
    for decode in (audit.decode_record, audit.decode_head, audit.decode_end):
        with pytest.raises(Broken):
            decode(line)


def test_a_signature_has_one_text_and_one_meaning() -> None:
    head = SEAL.signed(audit.empty_head(CLUSTER, "m1"))
    SEAL.check(head, "it")
    for bad in (head.signature + "=", head.signature[:-4], "", "A" * 88):
        with pytest.raises(Broken):
            SEAL.check(replace(head, signature=bad), "it")
    with pytest.raises(Broken):
        SEAL.check(Head(**{**_fields(head), "index": 3}), "it")
    with pytest.raises(PkiError):
        reading_seal(CLUSTER, "no key")
    with pytest.raises(PkiError):
        reading_seal(CLUSTER, KEY.public).sign(b"x")


def test_the_key_is_the_same_at_each_appliance_and_no_other_clusters() -> None:
    assert AuditKey(Sealer(b"k" * 32)).public == KEY.public
    assert AuditKey(Sealer(b"l" * 32)).public != KEY.public
    assert KEY.digest(b"a") != AuditKey(Sealer(b"l" * 32)).digest(b"a")


def _fields(head: Head) -> dict[str, object]:
    return {name: getattr(head, name) for name in Head.__slots__}
