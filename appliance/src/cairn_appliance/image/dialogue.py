"""How the menu talks with the one at the console: lines of plain text, and numbered choices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from cairn_appliance.domain.errors import CairnError
from cairn_appliance.image.seed import SeedError

IDLE_S = 300.0


class WentBack(CairnError):
    """The operator went back one step (Ctrl-C or Ctrl-D)."""

    code = "went_back"
    remedy = "nothing: nothing more was done"


class NotAnswered(WentBack):
    """Nobody answered in time."""

    code = "not_answered"


class Dialogue(Protocol):
    """A terminal with somebody at it."""

    def say(self, text: str) -> None:
        """Show a text; control characters in it are made visible."""

    def ask(self, prompt: str, *, hidden: bool = False, within_s: float = IDLE_S) -> str:
        """Return one line without the spaces around it (hidden: as typed, and not shown).

        Raise WentBack, NotAnswered.
        """

    def pause(self, seconds: float) -> None:
        """Wait, unless the operator goes back meanwhile: raise WentBack."""


def choose(talk: Dialogue, heading: str, choices: Sequence[str]) -> int:
    """Return the index of the choice that was made by its number; raise WentBack."""
    width = len(str(len(choices)))
    lines = [f"  {number:>{width}}  {each}" for number, each in enumerate(choices, 1)]
    talk.say("\n".join(["", heading, *lines, f"  {0:>{width}}  back"]))
    while True:
        answer = talk.ask("Number: ")
        if answer == "0":
            raise WentBack("back")
        if answer.isascii() and answer.isdecimal() and 0 < int(answer[:9]) <= len(choices):
            return int(answer[:9]) - 1
        if answer:
            talk.say(f"There is no {answer[:20]!r}: type a number from 0 to {len(choices)}.")


def is_confirmed(talk: Dialogue, question: str, word: str = "yes") -> bool:
    """Say whether the operator typed just that word."""
    return talk.ask(f"{question}\nType {word} to do it: ") == word


def words(talk: Dialogue, prompt: str, now: Sequence[str]) -> list[str]:
    """Return several words; Enter leaves those of now, - takes them away."""
    shown = " ".join(now) or "none"
    answer = talk.ask(f"{prompt} [{shown}]: ")
    if not answer:
        return list(now)
    return [] if answer == "-" else answer.replace(",", " ").split()


def show_error(talk: Dialogue, error: CairnError) -> None:
    """Say what is in the way, and what to do."""
    remedy = "correct it and do it again" if error.remedy == SeedError.remedy else error.remedy
    talk.say(f"\nNot done: {error.cause}\n  what to do: {remedy}")
