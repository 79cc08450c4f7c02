"""Text that came from agents or operators, made harmless for screens and logs."""

from __future__ import annotations

import unicodedata

# Unicode categories that draw nothing themselves: control, format (bidi), surrogate, unassigned.
_INVISIBLE = ("Cc", "Cf", "Cs", "Cn", "Zl", "Zp")


def visible(text: str) -> str:
    """Return the text with everything that draws nothing written as an escape."""
    return "".join(map(_visible, text))


def _visible(character: str) -> str:
    if unicodedata.category(character) not in _INVISIBLE:
        return character
    return character.encode("unicode_escape").decode()
