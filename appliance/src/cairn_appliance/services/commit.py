"""The one loop around transactions that compare."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from cairn_appliance.domain.errors import Unavailable
from cairn_appliance.store.port import Compare, Conflict, Item

T = TypeVar("T")

_TRIES = 60
_WAIT_S = 0.002
_WAIT_MAX_S = 0.2


async def until_committed(attempt: Callable[[], Awaitable[T]]) -> T:
    """Call `attempt`, which reads and then commits, until it ends without a Conflict.

    The loop ends because each conflict means that someone else's write went through; the
    jitter gives each of n writers its turn. After some seconds of being the loser, which
    takes hundreds of writers on one key, the caller is told to come back.
    """
    wait = _WAIT_S
    for _ in range(_TRIES):
        try:
            return await attempt()
        except Conflict:
            await asyncio.sleep(random.uniform(0, wait))
            wait = min(2 * wait, _WAIT_MAX_S)
    raise Unavailable("too many changes of the same thing at once")


def unchanged(key: str, item: Item | None) -> Compare:
    """Return the compare that holds while the key is as it was read."""
    return Compare(key, item.revision if item else 0)
