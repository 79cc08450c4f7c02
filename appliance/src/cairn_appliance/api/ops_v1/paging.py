"""Pages of long lists: `limit` and an opaque `cursor`, stable while others write."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, TypeVar

from fastapi import Depends, Query

from cairn_appliance.domain.errors import Invalid

LIMIT_DEFAULT, LIMIT_MAX = 100, 1000
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Paging:
    """Which page is asked for: what follows the item whose position is `after`."""

    limit: int
    after: str

    def page(
        self, items: Sequence[T], position: Callable[[T], str], *, newest_first: bool = False
    ) -> tuple[list[T], str | None]:
        """Return the page and the cursor of the next; None: it was the last.

        `position` is unique and gives the order, so that items that come or go between
        two pages neither repeat nor hide others.
        """
        ordered = sorted(items, key=position, reverse=newest_first)
        if self.after:
            ordered = [item for item in ordered if self._follows(position(item), newest_first)]
        page = ordered[: self.limit]
        is_last = len(ordered) <= self.limit
        return page, None if is_last else _cursor(position(page[-1]))

    def _follows(self, position: str, newest_first: bool) -> bool:
        return position < self.after if newest_first else position > self.after


def _paging(
    limit: Annotated[int, Query(ge=1, le=LIMIT_MAX)] = LIMIT_DEFAULT,
    cursor: Annotated[str, Query(max_length=500)] = "",
) -> Paging:
    return Paging(limit, _position(cursor))


def _cursor(position: str) -> str:
    return base64.urlsafe_b64encode(position.encode()).rstrip(b"=").decode()


def _position(cursor: str) -> str:
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        return base64.b64decode(padded, b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise Invalid(
            "the cursor is none of ours",
            "send `next` of the page before, or leave it out for the first page",
            code="invalid_cursor",
        ) from error


def has(part: str, *texts: str) -> bool:
    """Return whether one of the texts has this in it, in whatever case; nothing is in all."""
    return any(part.lower() in text.lower() for text in texts)


Reference = Annotated[str, Query(max_length=128, description="name, ID or VNI")]
Part = Annotated[str, Query(max_length=128, description="only those that have this in it")]
PagingDep = Annotated[Paging, Depends(_paging)]
