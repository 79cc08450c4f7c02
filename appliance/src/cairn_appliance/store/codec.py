"""How domain values lie in the store: JSON with a schema version in `v`.

A value that can't be read (hand-edited, truncated, written by a newer version) is put in
quarantine: reported once, left out, and no reason to stop.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import msgspec

from cairn_appliance.store.port import Item, StoreError

log = logging.getLogger(__name__)

T = TypeVar("T")
Fields = dict[str, Any]
Upgrade = Callable[[Fields], Fields]
_VERSION = "v"


class Broken(StoreError):
    """The value of a key can't be read as what the key promises."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key}: {reason}")
        self.key = key
        self.reason = reason


class Codec(Generic[T]):
    """Encodes and decodes one type at one schema version.

    `upgrades[n]` turns the fields of version n into those of n + 1. Adding a field with a
    default needs no new version: unknown fields are ignored, missing ones take the default.
    """

    def __init__(
        self, kind: type[T], version: int = 1, upgrades: Mapping[int, Upgrade] | None = None
    ) -> None:
        self._kind = kind
        self._version = version
        self._upgrades = upgrades or {}
        missing = set(range(1, version)) - self._upgrades.keys()
        if missing:
            raise ValueError(f"{kind.__name__} lacks an upgrade from version {min(missing)}")

    def encode(self, value: T) -> bytes:
        """Return the JSON object of the value, the same octets for the same value."""
        fields = msgspec.to_builtins(value)
        return msgspec.json.encode({_VERSION: self._version, **fields})

    def decode(self, item: Item) -> T:
        """Return the value; raise Broken, never anything else."""
        try:
            fields = msgspec.json.decode(item.value, type=Fields)
            return msgspec.convert(self._upgraded(fields), self._kind)
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            raise Broken(item.key, str(error)) from error

    def decode_all(self, items: Iterable[Item], quarantine: Quarantine) -> Iterator[T]:
        """Yield what can be read; the rest goes to the quarantine."""
        for item in items:
            try:
                value = self.decode(item)
            except Broken as broken:
                quarantine.add(item, broken.reason)
                continue
            quarantine.release(item.key)
            yield value

    def _upgraded(self, fields: Fields) -> Fields:
        version = fields.pop(_VERSION, None)
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise ValueError(f"no schema version but {version!r}")
        if version > self._version:
            raise ValueError(f"schema version {version} is newer than {self._version}")
        for step in range(version, self._version):
            fields = self._upgrades[step](fields)
        return fields


class Quarantine:
    """The objects that could not be read, with the reason: an alarm, not a crash."""

    def __init__(self) -> None:
        self._broken: dict[str, tuple[int, str]] = {}

    @property
    def broken(self) -> Mapping[str, tuple[int, str]]:
        """Key -> revision and reason."""
        return MappingProxyType(self._broken)

    def add(self, item: Item, reason: str) -> None:
        """Keep it; log it once for each revision."""
        if self._broken.get(item.key) == (item.revision, reason):
            return
        self._broken[item.key] = (item.revision, reason)
        log.error(
            "object can't be read and is left out key=%s revision=%d reason=%s",
            item.key,
            item.revision,
            reason,
        )

    def release(self, key: str) -> None:
        """Forget a key that is whole again or gone."""
        self._broken.pop(key, None)
