"""What a restore from a backup leaves to be done: to learn what happened after the backup."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from cairn_appliance.domain.alarm import Alarm
from cairn_appliance.domain.problem import Problem

ABSORB_S = 60.0  # agents come back within 30 s of the first appliance (its back-off)
REASSERT_S = 30 * 86_400.0  # as long as a node may be without an appliance
_NAMED_MAX = 10
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


@dataclass(frozen=True, slots=True)
class RestoreHealth:
    """How far a restore is now."""

    restored: Restored
    now: float
    unseen: tuple[str, ...]  # names of approved nodes that have not registered since


def problems_of_restore(health: RestoreHealth) -> Iterator[Problem]:
    """Yield what is not yet as it was before."""
    restored = health.restored
    if not restored.is_absorbed:
        yield Problem(
            Alarm.RESTORING,
            "restored from a backup: it listens to the nodes first and answers nobody, for up to "
            f"{restored.absorb_s:.0f} seconds; nodes go on with the netmap that they have",
            f"wait; if it lasts, look into the log of {restored.appliance}",
            is_urgent=True,
        )
        return
    if health.now > restored.restored_at + REASSERT_S or not health.unseen:
        return
    names = ", ".join(health.unseen[:_NAMED_MAX])
    more = len(health.unseen) - _NAMED_MAX
    yield Problem(
        Alarm.NODES_UNSEEN,
        f"restored from a backup, and not seen since: {names}"
        + (f" and {more} more" if more > 0 else ""),
        "those that were removed after the backup: `cairn node delete`; the others come back by "
        "themselves",
    )


def next_incarnation(current: int, now: float) -> int:
    """Return an incarnation above every one that there has been.

    The clock's seconds are: `recover` adds one, and a restore takes longer than a second. So
    the same backup can be restored twice, or one from before another restore.
    """
    return max(current + 1, int(now))
