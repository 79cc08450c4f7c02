"""A word every second or so on each stream that has nothing to say, every 15 s where it is alone.

A node can tell by it that this appliance lives, and goes elsewhere where it stays away. For a
thousand nodes that is seven hundred words a second: no task wakes up for one, and the layers of
HTTP are passed by. The streams take turns, so that there is a little to do all the time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

_TURNS = 20


class Speaker(Protocol):
    """A stream."""

    def repeat(self) -> None:
        """Say the last word again, where it can be said at once."""


class Words:
    """Repeats the last word of each stream."""

    def __init__(self, every_s: Callable[[], float]) -> None:
        """`every_s` is how often."""
        self._every_s = every_s
        self._turns: list[set[Speaker]] = [set() for _ in range(_TURNS)]
        self._turn = 0

    def enter(self, speaker: Speaker) -> None:
        """Let the word be said again and again."""
        self._turns[self._turn].add(speaker)  # which has its turn again after all the others

    def leave(self, speaker: Speaker) -> None:
        """Let it be said no more."""
        for turn in self._turns:
            turn.discard(speaker)

    async def run(self) -> None:
        """Speak until cancelled."""
        clock = asyncio.get_running_loop().time
        due = clock()
        while True:
            due = max(due + self._every_s() / _TURNS, clock())  # what was missed stays missed
            await asyncio.sleep(due - clock())
            self._turn = (self._turn + 1) % _TURNS
            for speaker in list(self._turns[self._turn]):
                speaker.repeat()
