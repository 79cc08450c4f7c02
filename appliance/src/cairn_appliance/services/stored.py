"""Values with the revision of their last write: what an ETag and a compare need."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from cairn_appliance.store.codec import Codec
from cairn_appliance.store.port import Item, Store
from cairn_appliance.store.records import quarantine

T = TypeVar("T")

_DECODED_AT_ONCE = 250  # then all else that waits has its turn


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
    items = (await store.list(prefix)).items
    found: list[Stored[T]] = []
    for start in range(0, len(items), _DECODED_AT_ONCE):
        if start:
            await asyncio.sleep(0)
        found += decoded(codec, items[start : start + _DECODED_AT_ONCE])
    return found


def decoded(codec: Codec[T], items: Iterable[Item]) -> list[Stored[T]]:
    """Return the items' values; broken ones are left out and reported."""
    return [
        Stored(value, item.revision)
        for item in items
        for value in codec.decode_all([item], quarantine)
    ]
