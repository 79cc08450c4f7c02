"""Text that came from agents or operators, made harmless for screens and logs."""

from __future__ import annotations

import re
import unicodedata

# Unicode categories that draw nothing themselves: control, format (bidi), surrogate, unassigned.
_INVISIBLE = ("Cc", "Cf", "Cs", "Cn", "Zl", "Zp")
# Enrolment tokens, join strings, sessions, API tokens: each begins with what it is.
_PASTED = re.compile(r"(cairn1\.|cairn-join1\.|cs1_|ct1_)[A-Za-z0-9_-]{8,}")


def visible(text: str) -> str:
    """Return the text with everything that draws nothing written as an escape."""
    return "".join(map(_visible, text))


def without_secrets(text: str) -> str:
    """Return the text without a token or session that was pasted into the wrong place."""
    return _PASTED.sub(r"\1...", text)


def _visible(character: str) -> str:
    if unicodedata.category(character) not in _INVISIBLE:
        return character
    return character.encode("unicode_escape").decode()
