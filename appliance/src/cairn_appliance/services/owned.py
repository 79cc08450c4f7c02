"""What belongs to a user and is taken away by its ID: sessions and API tokens."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from cairn_appliance.domain.errors import NotFound
from cairn_appliance.domain.identity import Actor
from cairn_appliance.services.commit import until_committed
from cairn_appliance.services.events import Journal
from cairn_appliance.store import keys
from cairn_appliance.store.codec import Codec
from cairn_appliance.store.port import Compare, Delete, Item, Store

ID_CHARACTERS = 16  # of the hash that the store has it under
_ID = re.compile(rf"[0-9a-f]{{{ID_CHARACTERS}}}")


class Owned(Protocol):
    """Something with an owner."""

    @property
    def user(self) -> str:
        """Whose it is."""


T = TypeVar("T", bound=Owned)


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """What one kind of it is called, where it lies, and what is said when it is gone."""

    what: str
    prefix: str
    codec: Codec[T]
    event: str
    said: Callable[[T], str]
    listed_by: str


async def delete(
    store: Store, journal: Journal, kind: Kind[T], wanted: str, by: Actor, owner: str | None
) -> None:
    """Delete one, of this owner if one is given; it opens nothing from then on."""

    async def attempt() -> None:
        item = await _find(store, kind.prefix, wanted)
        found = kind.codec.decode(item) if item else None
        if item is None or found is None or owner not in (None, found.user):
            raise NotFound(
                f"there is no {kind.what} {wanted[:80]!r}", f"look at `{kind.listed_by}`"
            )
        entry = journal.entry(kind.event, kind.said(found), by)
        compare = Compare(item.key, item.revision)
        await journal.delete(store, [compare], [Delete(item.key)], entry)

    await until_committed(attempt)


def id_of(key: str) -> str:
    """Return the ID of what lies there: it opens nothing."""
    return keys.last_part(key)[:ID_CHARACTERS]


async def _find(store: Store, prefix: str, wanted: str) -> Item | None:
    if not _ID.fullmatch(wanted):
        return None
    items = (await store.list(prefix + wanted)).items
    return items[0] if len(items) == 1 else None
