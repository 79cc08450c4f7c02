"""Backups: what is known of each, and when their want is a problem."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cairn_appliance.domain.alarm import Alarm
from cairn_appliance.domain.identity import SYSTEM
from cairn_appliance.domain.problem import Problem

_LATE_AFTER = 2.5  # times the interval
_WANTED_S = 600.0  # by then one that is wanted should be there
# Of those by the clock these are kept: the newest, then one of each hour, then of each day.
_NEWEST, _HOURLY_S = 12, 48 * 3600.0


@dataclass(frozen=True, slots=True)
class Head:
    """What everybody may read of a backup."""

    cluster_id: str
    incarnation: int
    revision: int  # the store's; what was acknowledged up to it is in the backup
    made_at: float  # seconds since 1970
    appliance: str  # whose disk it was first written to
    version: str  # of Cairn


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in a backup beside the snapshot of etcd; secret."""

    kek: str  # base64; opens what is sealed in the snapshot
    settings: str  # settings.toml of the appliance that made it
    last_number: int  # of the appliance named last
    v: int = 1


@dataclass(frozen=True, slots=True)
class Backup:
    """One backup that was made."""

    name: str  # of its file
    place: str  # the whole path, on the appliance that made it
    appliance: str
    made_at: float  # seconds since 1970
    revision: int
    octets: int
    key_id: str
    made_by: str
    reason: str = ""  # what it was made for, where it was not asked for or due

    @property
    def is_routine(self) -> bool:
        """True for one that was due, and made for nothing else."""
        return self.made_by == SYSTEM.name and not self.reason


@dataclass(frozen=True, slots=True)
class BackupKey:
    """The public half of the recovery key, which new backups are sealed for."""

    id: str
    public: str  # base64
    made_at: float  # seconds since 1970
    made_by: str


@dataclass(frozen=True, slots=True)
class BackupFailure:
    """Why the last backup that was wanted is not there."""

    at: float  # seconds since 1970
    appliance: str
    cause: str
    remedy: str


@dataclass(frozen=True, slots=True)
class BackupWish:
    """What made the backups of before worth less; a backup since then ends it."""

    at: float  # seconds since 1970
    reason: str


@dataclass(frozen=True, slots=True)
class BackupCheck:
    """Nothing had happened since the last backup when the next was due."""

    at: float  # seconds since 1970
    name: str  # of that backup


@dataclass(frozen=True, slots=True)
class BackupHealth:
    """How it stands with backups now."""

    every_s: float  # 0: none are made by themselves
    now: float
    key: BackupKey | None
    last: Backup | None
    failure: BackupFailure | None
    wish: BackupWish | None = None
    check: BackupCheck | None = None

    @property
    def complete_at(self) -> float:
        """Until when the last backup has all that happened; 0 where there is none."""
        if self.last is None:
            return 0.0
        is_about_it = self.check is not None and self.check.name == self.last.name
        return max(self.last.made_at, self.check.at if self.check and is_about_it else 0.0)


def problems_of_backups(health: BackupHealth) -> Iterator[Problem]:
    """Yield what is wrong with the backups."""
    if health.key is None:
        if health.every_s:
            yield Problem(
                Alarm.NO_RECOVERY_KEY,
                "no backups are made: there is no recovery key to seal them for",
                "make one with `cairn backup key` and keep it where no appliance is",
            )
        return
    failure = health.failure
    # Counted from the key on where there is none: a new cluster has no backup yet.
    age_s = health.now - max(health.complete_at, health.key.made_at)
    is_late = bool(health.every_s) and age_s > _LATE_AFTER * health.every_s
    if not is_late and failure is None:
        yield from _wanted(health)
        return
    made = f"the last backup is {_hours(age_s)} old" if health.last else "there is no backup"
    if failure is None:
        yield Problem(
            Alarm.BACKUP_LATE,
            f"{made}: none was made when it was due",
            "make one with `cairn backup create`; the logs of the appliances say what was wrong",
        )
        return
    cause = f"{made}: {failure.appliance}: {failure.cause}"
    yield Problem(Alarm.BACKUP_LATE, cause, failure.remedy)


def _wanted(health: BackupHealth) -> Iterator[Problem]:
    """Where none are made by themselves it is said at once."""
    wish = health.wish
    if wish is None or (health.every_s and health.now - wish.at < _WANTED_S):
        return
    yield Problem(
        Alarm.BACKUP_LATE,
        f"no backup was made since {wish.reason}",
        "make one with `cairn backup create`; nodes may not believe one of before",
    )


def superfluous(own: Sequence[Backup], kept: int) -> list[Backup]:
    """Return which of an appliance's backups go, given newest first; at most `kept` stay.

    Backups by the clock come every few minutes: of older ones fewer are enough.
    """
    hours, days, routine = set[int](), set[int](), 0
    gone, left = list[Backup](), 0
    for backup in own:
        hour, day = int(backup.made_at // 3600), int(backup.made_at // 86_400)
        is_recent = own[0].made_at - backup.made_at < _HOURLY_S
        is_first = (is_recent and hour not in hours) or day not in days
        stays = not backup.is_routine or routine < _NEWEST or is_first
        routine += backup.is_routine
        if stays and left < kept:
            left += 1
            hours.add(hour)
            days.add(day)
        else:
            gone.append(backup)
    return gone


def _hours(seconds: float) -> str:
    if seconds < 5400:
        return f"{max(0, seconds) / 60:.0f} minutes"
    return f"{seconds / 3600:.0f} hours"
