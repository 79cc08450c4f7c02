"""What a cluster that began again, from a backup or a survivor, has to learn from its nodes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from cairn_appliance.domain.alarm import Alarm
from cairn_appliance.domain.problem import Problem

ABSORB_S = 60.0  # agents come back within 30 s of the first appliance (its back-off)
REASSERT_S = 30 * 86_400.0  # as long as a node may be without an appliance
_NAMED_MAX = 10
QUARANTINE_S = 86_400.0  # what may have been given out in the lost time is given to nobody


@dataclass(frozen=True, slots=True)
class Restored:
    """The last time that the cluster began again, from a backup or from a survivor's data."""

    incarnation: int
    base_revision: int  # of its data: what happened later is not in them
    made_at: float  # of its data, seconds since 1970
    restored_at: float
    appliance: str  # that was restored; it alone absorbs
    absorb_s: float = ABSORB_S
    is_absorbed: bool = False
    absorbed: dict[str, tuple[int, int]] = field(default_factory=dict)
    """vSubnet ID -> incarnation and revision of the document that was taken over."""
    unheard: tuple[str, ...] = ()  # IDs of the vSubnets of its data that no node spoke for
    base_incarnation: int = 0  # of the data; 0: a version noted it that didn't say
    how: str = "restored from a backup"

    def is_later(self, incarnation: int, revision: int) -> bool:
        """Return whether the data lack what was true at this revision of this incarnation.

        After `recover` revisions go on from the survivor's, so that a later incarnation may
        have lower ones.
        """
        return (incarnation, revision) > self._base(incarnation)

    def is_reached(self, incarnation: int, revision: int) -> bool:
        """Return whether a netmap at this revision has all that the data have."""
        return (incarnation, revision) >= self._base(incarnation)

    def _base(self, incarnation: int) -> tuple[int, int]:
        return self.base_incarnation or incarnation, self.base_revision


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
            f"{restored.how}: it listens to the nodes first and answers nobody, for up to "
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
        f"{restored.how}, and not seen since: {names}" + (f" and {more} more" if more > 0 else ""),
        "those that were removed in the time that is lost: `cairn node delete`; the others come "
        "back by themselves",
    )


def next_incarnation(current: int, now: float) -> int:
    """Return an incarnation above every one that there has been.

    The clock's seconds are, as it takes longer than a second. So the same backup can be
    restored twice, or one from before another restore; so can data of an appliance that was
    away meanwhile be recovered.
    """
    return max(current + 1, int(now))
