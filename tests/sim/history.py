"""What clients asked of a cluster and what they were told, and whether one truth explains it.

Each operation is an interval: asked at, answered at. Somewhere in between it happened, at
one instant. The checks look for what no choice of instants explains:

- `exclusive`: two owners of one thing (an IP, a MAC, a VNI, a name, a node ID) at once;
- `evicted`: an owner who never let go, and whom the end doesn't show;
- `overused`: a thing with n uses (a token) that was used by more than n;
- `lost`: an acknowledged write that is gone at the end, or is not the last one;
- `stale`: a read of what had been overwritten before the read began, or was never written;
- `backwards`: a client that was shown an older state than before;
- `diverged`: clients at rest whose maps are not the truth.

An operation without an answer may have happened or not, at any time after it was asked; one
that was refused did not happen. Nothing here knows of a network: times are numbers of one
clock, values are text.
"""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import combinations, pairwise
from math import inf

import msgspec


class Kind(StrEnum):
    """What was asked for."""

    TAKE = "take"  # become the owner of a thing; value: the owner
    RELEASE = "release"  # stop being it
    USE = "use"  # one of the uses of a thing; value: the user
    WRITE = "write"  # set a thing to a value; an empty one deletes it
    READ = "read"  # value: what was read


class Outcome(StrEnum):
    """What the client was told."""

    DONE = "done"
    REFUSED = "refused"
    UNKNOWN = "unknown"


class Operation(msgspec.Struct, frozen=True):
    """One operation of one client."""

    client: str
    kind: Kind
    thing: str
    value: str
    asked: float
    answered: float
    outcome: Outcome

    @property
    def may_have_happened(self) -> bool:
        """True unless the client was told that it didn't."""
        return self.outcome is not Outcome.REFUSED


class Seen(msgspec.Struct, frozen=True):
    """The state that a client was shown; an incarnation begins anew."""

    client: str
    revision: int
    incarnation: int = 0


@dataclass(frozen=True, slots=True)
class Violation:
    """A rule that was broken, and how, in a sentence."""

    rule: str
    text: str


class Call:
    """An operation under way."""

    def __init__(self) -> None:
        self.outcome = Outcome.UNKNOWN
        self.value: str | None = None

    def succeeded(self, value: str | None = None) -> None:
        """The answer was yes; `value` is what was read or given, if it was not known before."""
        self.outcome, self.value = Outcome.DONE, value

    def refused(self) -> None:
        """The answer was no: it did not happen and will not."""
        self.outcome = Outcome.REFUSED


@dataclass
class History:
    """Records what clients do; `clock` is one that all of them share."""

    clock: Callable[[], float] = time.monotonic
    operations: list[Operation] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    _last_seen: dict[str, int] = field(default_factory=dict)  # client -> where in `seen`

    @contextlib.contextmanager
    def of(self, client: str, kind: Kind, thing: str, value: str) -> Iterator[Call]:
        """Record an operation; unless the block says how it ended that is unknown."""
        call, asked = Call(), self.clock()
        try:
            yield call
        finally:
            value = value if call.value is None else call.value
            self.operations.append(
                Operation(client, kind, thing, value, asked, self.clock(), call.outcome)
            )

    def done(self, client: str, kind: Kind, thing: str, value: str, asked: float) -> None:
        """Record an operation that ended well just now."""
        self.operations.append(
            Operation(client, kind, thing, value, asked, self.clock(), Outcome.DONE)
        )

    def saw(self, client: str, revision: int, incarnation: int = 0) -> None:
        """Record a state that a client was shown.

        Of states that follow one another upwards the last is enough to notice a step back.
        """
        new, at = Seen(client, revision, incarnation), self._last_seen.get(client)
        if at is not None:
            old = self.seen[at]
            if (incarnation, revision) >= (old.incarnation, old.revision):
                self.seen[at] = new
                return
        self._last_seen[client] = len(self.seen)
        self.seen.append(new)


def check(
    operations: Sequence[Operation],
    seen: Iterable[Seen] = (),
    final: Mapping[str, str] | None = None,
    uses: Mapping[str, int] | None = None,
) -> list[Violation]:
    """Return all that no truth explains.

    `final` is what the store holds at the end, by thing: everything that was written and not
    deleted. `uses` is how often each used thing may be used.
    """
    found = [*exclusive(operations), *stale(operations), *backwards(seen)]
    if final is not None:
        found += lost(operations, final)
    if uses is not None:
        found += overused(operations, uses)
    return found


def exclusive(operations: Iterable[Operation]) -> Iterator[Violation]:
    """Find things with two owners at once.

    An owner has a thing for certain from the answer to its taking until it asks to release
    it. Two owners are explained where one may have let go before the other took.
    """
    for thing, owned in _tenures(operations).items():
        for one, other in combinations(owned, 2):
            if one.owner == other.owner or one.may_precede(other) or other.may_precede(one):
                continue
            yield Violation(
                "exclusive", f"{thing} was given to {one.owner} and to {other.owner} at once"
            )


def evicted(operations: Iterable[Operation], owners: Mapping[str, str]) -> Iterator[Violation]:
    """Find owners who never let go, and whom the end doesn't show."""
    for thing, owned in _tenures(operations).items():
        for owner in sorted({each.owner for each in owned if each.from_left == inf}):
            if owners.get(thing) != owner:
                yield Violation(
                    "evicted",
                    f"{thing} was given to {owner} and is {owners.get(thing)}'s at the end",
                )


def overused(operations: Iterable[Operation], uses: Mapping[str, int]) -> Iterator[Violation]:
    """Find things that were used by more than they allow; asking again is no further use."""
    users: defaultdict[str, set[str]] = defaultdict(set)
    for each in operations:
        if each.kind is Kind.USE and each.outcome is Outcome.DONE:
            users[each.thing].add(each.value)
    for thing, by in users.items():
        if len(by) > uses.get(thing, 0):
            yield Violation(
                "overused", f"{thing} allows {uses.get(thing, 0)} and was used by {len(by)}"
            )


def lost(operations: Iterable[Operation], final: Mapping[str, str]) -> Iterator[Violation]:
    """Find acknowledged writes that the end doesn't show."""
    for thing, writes in _by_thing(operations, Kind.WRITE).items():
        acknowledged = [each for each in writes if each.outcome is Outcome.DONE]
        if not acknowledged:
            continue
        held = final.get(thing, "")
        last = {each.value for each in writes if not _is_overwritten(each, acknowledged, inf)}
        if held not in last:
            shown = repr(held) if held else "gone"
            yield Violation("lost", f"{thing} is {shown} at the end, not one of {sorted(last)}")


def stale(operations: Sequence[Operation]) -> Iterator[Violation]:
    """Find reads of what had been overwritten before they began, or was never written."""
    writes = _by_thing(operations, Kind.WRITE)
    for read in operations:
        if read.kind is not Kind.READ or read.outcome is not Outcome.DONE:
            continue
        of_thing = writes.get(read.thing, [])
        acknowledged = [each for each in of_thing if each.outcome is Outcome.DONE]
        may_be = [
            each
            for each in of_thing
            if each.value == read.value
            and each.asked <= read.answered
            and not _is_overwritten(each, acknowledged, read.asked)
        ]
        is_first = read.value == "" and not any(w.answered < read.asked for w in acknowledged)
        if not may_be and not is_first:
            yield Violation(
                "stale", f"{read.client} read {read.value!r} of {read.thing} when it could not be"
            )


def backwards(seen: Iterable[Seen]) -> Iterator[Violation]:
    """Find clients that were shown an older state than before."""
    by_client: defaultdict[str, list[Seen]] = defaultdict(list)
    for each in seen:
        by_client[each.client].append(each)
    for client, states in by_client.items():
        for before, after in pairwise(states):
            if (after.incarnation, after.revision) < (before.incarnation, before.revision):
                yield Violation(
                    "backwards", f"{client} saw {before.revision}, then {after.revision}"
                )


def diverged(
    held: Mapping[str, Mapping[str, str]], truth: Mapping[str, Mapping[str, str]]
) -> Iterator[Violation]:
    """Find clients at rest that hold another map than the truth (digests by document)."""
    for client in sorted(truth.keys() | held.keys()):
        has, should = held.get(client), truth.get(client)
        if has is None or should is None:
            yield Violation("diverged", f"{client} {'holds nothing' if should else 'is none'}")
            continue
        differing = sorted(
            key for key in has.keys() | should.keys() if has.get(key) != should.get(key)
        )
        if differing:
            yield Violation("diverged", f"{client} holds another {', '.join(differing)}")


@dataclass(frozen=True, slots=True)
class _Tenure:
    """Someone's certain ownership: taken no later than `until_taken`, left no earlier than
    `from_left`."""

    owner: str
    until_taken: float
    from_left: float

    def may_precede(self, other: _Tenure) -> bool:
        """True where it may have ended before the other began."""
        return self.from_left <= other.until_taken


def _tenures(operations: Iterable[Operation]) -> dict[str, list[_Tenure]]:
    """Return who owned what; a tenure ends with the first release that may have come after."""
    found: defaultdict[str, list[_Tenure]] = defaultdict(list)
    releases: defaultdict[tuple[str, str], list[Operation]] = defaultdict(list)
    takes = []
    for each in operations:
        if each.kind is Kind.RELEASE and each.may_have_happened:
            releases[each.thing, each.value].append(each)
        elif each.kind is Kind.TAKE and each.outcome is Outcome.DONE:
            takes.append(each)
    for take in takes:
        left = [
            max(release.asked, take.asked)
            for release in releases[take.thing, take.value]
            if release.outcome is Outcome.UNKNOWN or release.answered >= take.asked
        ]
        found[take.thing].append(_Tenure(take.value, take.answered, min(left, default=inf)))
    return found


def _by_thing(operations: Iterable[Operation], kind: Kind) -> dict[str, list[Operation]]:
    """Return the operations of one kind that may have happened, by thing."""
    found: defaultdict[str, list[Operation]] = defaultdict(list)
    for each in operations:
        if each.kind is kind and each.may_have_happened:
            found[each.thing].append(each)
    return found


def _is_overwritten(write: Operation, acknowledged: Iterable[Operation], before: float) -> bool:
    """True where another write certainly came after it, and was over `before` then.

    A write without an answer may happen late, so nothing certainly comes after it.
    """
    if write.outcome is not Outcome.DONE:
        return False
    return any(
        other is not write and other.asked > write.answered and other.answered < before
        for other in acknowledged
    )
