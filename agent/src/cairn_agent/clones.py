"""Which peers proved of late that they are two machines (docs/protocol.md 1.4)."""

from __future__ import annotations

from typing import Final

from cairn_agent.host.machine import boottime

KEPT_S: Final = 600.0  # after it was seen last
KEPT_MAX: Final = 16  # peers, each once for a vSubnet: no more fit into a report


class Clones:
    """Keeps them for a while: the proof itself is a moment, and ends the session."""

    def __init__(self) -> None:
        self._seen: dict[tuple[int, str], float] = {}  # (VNI, node ID) -> boottime, oldest first

    def note(self, vni: int, peer: str, now: float | None = None) -> None:
        """Note that one was seen; where there are too many, the oldest is forgotten."""
        self._seen.pop((vni, peer), None)
        self._seen[vni, peer] = boottime() if now is None else now
        while len(self._seen) > KEPT_MAX:
            del self._seen[next(iter(self._seen))]

    def seen(self, now: float | None = None) -> list[tuple[int, str]]:
        """Return those of the last ten minutes, always in the same order."""
        now = boottime() if now is None else now
        self._seen = {key: at for key, at in self._seen.items() if now - at < KEPT_S}
        return sorted(self._seen)
