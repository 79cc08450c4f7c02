"""What an appliance measures of itself, for who watches it from outside."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OwnFigures:
    """Of this appliance alone; what is not known yet is None or left out."""

    fsync_p99_s: float | None = None  # of the last while
    leader_changes: int = 0  # that its etcd has seen since it was started
    certificates: tuple[tuple[str, float], ...] = ()  # (file, when it ends, seconds since 1970)
