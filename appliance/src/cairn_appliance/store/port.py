"""What the services ask of a store, and what it promises.

Two implementations, one contract suite (tests/contract): `etcd.EtcdStore` and
`memory.MemoryStore`. Keys are text, values octets. Every write is a transaction that
compares revisions; there is no unconditional read-modify-write.

A write that ends in Unavailable may have happened. So a caller makes it repeatable: it
compares revisions and puts an operation ID of its own into the value; when it reads again
and finds its own ID, the write is done.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Protocol

MAX_WRITES = 128  # compares or writes in one transaction: etcd's --max-txn-ops default
MAX_TRANSACTION_OCTETS = 1_000_000  # keys and values; etcd's limit is 1.5 MiB with framing


class StoreError(Exception):
    """The root of everything that a store raises."""


class Conflict(StoreError):
    """A compared key was written by someone else since it was read."""


class LeaseLost(StoreError):
    """A put names a lease that is gone; stop acting on it, then take a new one."""


class Unavailable(StoreError):
    """No quorum or no answer within the bound; a write may or may not have happened."""


class Full(Unavailable):
    """The store's quota is used up: reads and deletes work, puts don't until it is freed."""


@dataclass(frozen=True, slots=True)
class Item:
    """One key with its value; `revision` is that of its last write, `created` of its first."""

    key: str
    value: bytes
    revision: int
    created: int


@dataclass(frozen=True, slots=True)
class Listing:
    """The items under a prefix, in key order, as they were at `revision`."""

    revision: int
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Compare:
    """The key must be at this revision for the transaction to happen; 0: must not exist."""

    key: str
    revision: int


@dataclass(frozen=True, slots=True)
class Put:
    """Write a key; with a lease it goes when the lease goes."""

    key: str
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete a key; nothing happens where there is none."""

    key: str


@dataclass(frozen=True, slots=True)
class Reset:
    """All items under the prefix at `revision`: comes first, and again after any doubt."""

    revision: int
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Events:
    """What changed, in order; all of one revision or more, never part of a revision."""

    revision: int
    puts_and_deletes: tuple[Item | Delete, ...]


@dataclass(frozen=True, slots=True)
class Progress:
    """Everything up to `revision` has been delivered, and the link is alive."""

    revision: int


class Lease(Protocol):
    """A lease kept alive by the store until closed or lost."""

    @property
    def id(self) -> int:
        """The number to give to `Put`."""

    @property
    def is_lost(self) -> bool:
        """True once it could not be renewed in time: stop acting first, then take a new one."""

    async def close(self) -> None:
        """Revoke it; its keys go at once."""


class Store(Protocol):
    """Keys with revisions. Every call ends within ten seconds, by Unavailable if need be."""

    async def get(self, key: str) -> Item | None:
        """Return the item as a linearizable read."""

    async def get_all(self, keys: Sequence[str]) -> tuple[Item | None, ...]:
        """Return the items of these keys, all at one revision, as one linearizable read."""

    async def list(self, prefix: str) -> Listing:
        """Return all items under the prefix at one revision (linearizable)."""

    async def surplus(self, prefix: str, kept: int) -> tuple[str, ...]:
        """Return the first keys under the prefix, all but the last `kept`; no value is read.

        They come in order, and of very many only as many as are worth one answer.
        """

    async def newest(self, prefix: str) -> int:
        """Return the revision of the last write under the prefix, of the keys that are there.

        0 without any; no value is read (linearizable).
        """

    async def commit(self, compares: Sequence[Compare], writes: Sequence[Put | Delete]) -> int:
        """Do all writes at one revision and return it, if every compare holds.

        Raises Conflict if one does not, Unavailable if it can't be known in time; then
        the caller reads again and looks whether its write is there. Raises LeaseLost, and
        ValueError for a transaction past the limits or that writes a key twice. Deleting
        nothing but missing keys changes nothing and returns the revision of now.
        """

    async def write_and_read(self, writes: Sequence[Put], read: Sequence[str]) -> Listing:
        """Do all writes, and return these keys as they are with them, in one transaction.

        The items come in the order asked for, without the keys that there are none of. So
        whoever sees its own write knows that what it reads held at that moment.
        """

    def follow(self, prefix: str) -> AsyncGenerator[Reset | Events | Progress, None]:
        """Yield a Reset, then what changes, none left out; a Reset again after any doubt.

        Goes on for ever through failures of members; the caller ends it by closing
        (`contextlib.aclosing`). While it is healthy something comes every few seconds, at
        least Progress; silence for longer than ten seconds means: what you have is stale.
        """

    async def lease(self, ttl_s: int) -> Lease:
        """Return a new lease that is kept alive in the background."""

    async def close(self) -> None:
        """End all background work."""


def check_transaction(compares: Sequence[Compare], writes: Sequence[Put | Delete]) -> None:
    """Raise ValueError for what no store accepts, before anything is sent."""
    if max(len(compares), len(writes)) > MAX_WRITES:
        raise ValueError(f"a transaction has at most {MAX_WRITES} compares and writes")
    keys = [write.key for write in writes]
    if len(set(keys)) != len(keys):
        raise ValueError("a transaction writes each key once")
    if not all(keys):
        raise ValueError("a key has at least one character")
    octets = sum(len(w.key) + len(w.value) for w in writes if isinstance(w, Put))
    if octets > MAX_TRANSACTION_OCTETS:
        raise ValueError(f"a transaction has at most {MAX_TRANSACTION_OCTETS} octets, not {octets}")
