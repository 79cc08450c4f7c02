"""A word every second or so on each stream that has nothing to say, every 15 s where it is alone.

A node can tell by it that this appliance lives, and goes elsewhere where it stays away. For a
thousand nodes that is seven hundred words a second: no task wakes up for one, and the layers of
HTTP are passed by. The streams take turns, so that there is a little to do all the time.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator

Repeat = Callable[[], object]  # says a stream's last word again

_TURNS = 20


class Words:
    """Repeats the last word of each stream that waits."""

    def __init__(self, every_s: Callable[[], float]) -> None:
        """`every_s` is how often."""
        self._every_s = every_s
        self._turns: list[set[Repeat]] = [set() for _ in range(_TURNS)]
        self._turn = 0

    @contextlib.contextmanager
    def repeated(self, repeat: Repeat) -> Iterator[None]:
        """Let the word be said again and again inside the block."""
        waiting = self._turns[self._turn]  # which has its turn again after all the others
        waiting.add(repeat)
        try:
            yield
        finally:
            waiting.discard(repeat)

    async def run(self) -> None:
        """Speak until cancelled."""
        clock = asyncio.get_running_loop().time
        due = clock()
        while True:
            due = max(due + self._every_s() / _TURNS, clock())  # what was missed stays missed
            await asyncio.sleep(due - clock())
            self._turn = (self._turn + 1) % _TURNS
            for repeat in self._turns[self._turn]:
                repeat()
