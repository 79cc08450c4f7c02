"""Values with the revision of their last write: what an ETag and a compare need."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from cairn_appliance.store.codec import Codec
from cairn_appliance.store.port import Item, Store
from cairn_appliance.store.records import quarantine

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Stored(Generic[T]):
    """What was read, and the revision that `expected` of a change is compared with."""

    value: T
    revision: int


async def read(store: Store, codec: Codec[T], key: str) -> Stored[T] | None:
    """Return the value of a key with its revision, None where there is none."""
    item = await store.get(key)
    return None if item is None else Stored(codec.decode(item), item.revision)


async def read_all(store: Store, codec: Codec[T], prefix: str) -> list[Stored[T]]:
    """Return all values under a prefix in key order; broken ones are left out and reported."""
    return decoded(codec, (await store.list(prefix)).items)


def decoded(codec: Codec[T], items: Iterable[Item]) -> list[Stored[T]]:
    """Return the items' values; broken ones are left out and reported."""
    return [
        Stored(value, item.revision)
        for item in items
        for value in codec.decode_all([item], quarantine)
    ]
