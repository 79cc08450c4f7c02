"""A reader of a node's stream, without a connection."""

from __future__ import annotations

from collections.abc import Sequence

from cairn_appliance.services.streams import Stream


class Following:
    """A reader of a node's stream; `lines` has what was said together as one."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.is_slow = False
        self.heard_before_s = 0.0
        self.is_ended = False
        self.is_believed = True
        self.stream: Stream | None = None

    def say(self, lines: Sequence[bytes]) -> None:
        assert not self.is_ended
        self.lines.append(b"".join(lines))

    def end(self) -> None:
        self.is_ended = True

    def heard_s(self) -> float:
        return self.heard_before_s

    def keep_up(self) -> None:
        """Read what was said, after a while."""
        assert self.stream is not None
        self.is_slow = False
        self.stream.resumed()
