"""A word every second or so on each stream that has nothing to say.

A node can tell by it that this appliance lives, and goes elsewhere where it stays away. For a
thousand nodes that is seven hundred words a second: no task wakes up for one, and the layers of
HTTP are passed by. The streams take turns, so that there is a little to do all the time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

Say = Callable[[bytes], None]

_TURNS = 20
_LOOKED_AT_EVERY_S = 1.0  # where no words are wanted


class Words:
    """Repeats the last word of each stream that waits."""

    def __init__(self, every_s: Callable[[], float | None]) -> None:
        """`every_s` is how often; None where nobody listens for it."""
        self._every_s = every_s
        self._turns: list[dict[object, tuple[Say, bytes]]] = [{} for _ in range(_TURNS)]
        self._turn = 0

    @contextlib.contextmanager
    def repeated(self, say: Say, word: bytes) -> Iterator[None]:
        """Let the word be said again and again inside the block, in which nothing else is."""
        waiting = self._turns[self._turn]  # which has its turn again after all the others
        key = object()
        waiting[key] = (say, word)
        try:
            yield
        finally:
            del waiting[key]

    async def run(self) -> None:
        """Speak until cancelled."""
        clock = asyncio.get_running_loop().time
        due = clock()
        while True:
            every_s = self._every_s()
            if every_s is None:
                await asyncio.sleep(_LOOKED_AT_EVERY_S)
                due = clock()
                continue
            due = max(due + every_s / _TURNS, clock())  # what was missed is not made up for
            await asyncio.sleep(due - clock())
            self._turn = (self._turn + 1) % _TURNS
            for say, word in self._turns[self._turn].values():
                say(word)
