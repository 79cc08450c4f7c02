"""Whether the open stream of a node lives, at whichever appliance it is open."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

Here = Callable[[str], Awaitable[bool | None]]  # node -> None: it has no stream here
Elsewhere = Callable[[str], set[str]]  # node -> the other appliances that have a stream of it
# Appliance, node -> whether a stream of it that is open there lives; None where it doesn't say
Ask = Callable[[str, str], Awaitable[bool | None]]


async def _nobody_says(_appliance: str, _node: str) -> bool | None:
    return None


class Liveness:
    """Asks this appliance and those that say of themselves that they have a stream."""

    def __init__(self, here: Here, elsewhere: Elsewhere) -> None:
        self._here = here
        self._elsewhere = elsewhere
        self.ask: Ask = _nobody_says

    async def answers(self, node_id: str) -> bool | None:
        """Return whether a machine answers on an open stream of the node.

        False: whoever has a stream of it was heard, and none lives. None: somebody wasn't heard.
        """
        others = sorted(self._elsewhere(node_id))
        here, *there = await asyncio.gather(
            self._here(node_id), *(self.ask(other, node_id) for other in others)
        )
        if here or any(there):
            return True
        return None if None in there else False
