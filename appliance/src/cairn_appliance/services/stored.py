"""A value with the revision of its last write: what an ETag and a compare need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Stored(Generic[T]):
    """What was read, and the revision that `expected` of a change is compared with."""

    value: T
    revision: int
