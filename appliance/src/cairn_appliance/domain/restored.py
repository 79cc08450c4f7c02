"""What a restore from a backup leaves to be done: to learn what happened after the backup."""

from __future__ import annotations

from dataclasses import dataclass, field

ABSORB_S = 60.0  # agents come back within 30 s of the first appliance (its back-off)
REASSERT_S = 30 * 86_400.0  # as long as a node may be without an appliance
QUARANTINE_S = 86_400.0  # what may have been given out since the backup is given to nobody


@dataclass(frozen=True, slots=True)
class Restored:
    """The last restore of the cluster."""

    incarnation: int
    base_revision: int  # what happened later is not in the backup
    made_at: float  # of the backup, seconds since 1970
    restored_at: float
    appliance: str  # that was restored; it alone absorbs
    absorb_s: float = ABSORB_S
    is_absorbed: bool = False
    absorbed: dict[str, tuple[int, int]] = field(default_factory=dict)
    """vSubnet ID -> incarnation and revision of the document that was taken over."""
    unheard: tuple[str, ...] = ()  # IDs of the vSubnets of the backup that no node spoke for


def next_incarnation(current: int, now: float) -> int:
    """Return an incarnation above every one that there has been.

    The clock's seconds are: `recover` adds one, and a restore takes longer than a second. So
    the same backup can be restored twice, or one from before another restore.
    """
    return max(current + 1, int(now))
