"""Whether the cluster is all right, and if not: why, and what to do."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cairn_appliance.domain.alarm import Alarm, Sign
from cairn_appliance.domain.backup import BackupHealth, problems_of_backups
from cairn_appliance.domain.cluster import (
    Appliance,
    EtcdAlarm,
    EtcdMember,
    EtcdState,
    Replica,
    quorum_of,
)
from cairn_appliance.domain.problem import Problem
from cairn_appliance.domain.restored import RestoreHealth, problems_of_restore

_FILLING_AT = 0.6  # of the quota: time enough to do something
_BEHIND = 5000  # entries of the raft log: more than a busy second
_RELEASE = re.compile(r"(\d+)\.(\d+)")


@dataclass(frozen=True, slots=True)
class Seen:
    """One appliance of the cluster, as it looks from here."""

    member: EtcdMember
    state: EtcdState | None  # None: its etcd gives no answer
    appliance: Appliance | None = None  # None: it never ran
    replica: Replica | None = None  # None: its APIs don't run

    @property
    def name(self) -> str:
        """Its name; one that was never started has only an address."""
        return self.member.name or (self.member.peer_urls or ("?",))[0]

    @property
    def is_healthy(self) -> bool:
        """True where its etcd answers and follows a leader."""
        return self.state is not None and self.state.leader != 0

    @property
    def leads(self) -> bool:
        """True for the leader."""
        return self.state is not None and self.state.leader == self.member.id


@dataclass(frozen=True, slots=True)
class ClusterView:
    """All appliances of the cluster, and what etcd itself complains of."""

    seen: tuple[Seen, ...]
    alarms: tuple[EtcdAlarm, ...] = ()
    fenced: tuple[str, ...] = ()  # taken out since their copy was damaged
    asked: str = ""  # the appliance that answers
    own_signs: tuple[Sign, ...] | None = None  # what it notices of itself at this moment
    backups: BackupHealth | None = None  # None: not known, without a quorum
    restore: RestoreHealth | None = None  # None: there was none, or it is not known

    @property
    def voters(self) -> tuple[Seen, ...]:
        """Those that count for the quorum."""
        return tuple(each for each in self.seen if not each.member.is_learner)

    @property
    def has_quorum(self) -> bool:
        """True where enough members answer and follow a leader."""
        healthy = sum(each.is_healthy for each in self.voters)
        return bool(self.voters) and healthy >= quorum_of(len(self.voters))

    def survives_without(self, name: str) -> bool:
        """Return whether the others would have a quorum, and can decide on the removal now."""
        others = [each for each in self.voters if each.name != name]
        healthy = sum(each.is_healthy for each in others)
        return bool(others) and healthy >= quorum_of(len(others))

    def signs_of(self, seen: Seen) -> tuple[Sign, ...]:
        """Return what an appliance notices of itself, as far as it is known here."""
        if self.own_signs is not None and seen.name == self.asked:
            return self.own_signs
        return seen.replica.signs if seen.replica else ()

    def lag(self, seen: Seen) -> int | None:
        """Return by how many entries of the log a member is behind; None where it is silent."""
        if seen.state is None:
            return None
        states = [each.state for each in self.seen if each.state is not None]
        return max(0, max(state.raft_index for state in states) - seen.state.raft_applied)


def problems_of(view: ClusterView) -> tuple[Problem, ...]:
    """Return what is wrong, the urgent first."""
    warnings = (each for each in _signs(view) if not each.is_urgent)
    found = [*faults_of(view), *warnings, *_fenced(view), *_size(view), *_versions(view)]
    if view.backups is not None:
        found += problems_of_backups(view.backups)
    if view.restore is not None:
        found += problems_of_restore(view.restore)
    return tuple(sorted(found, key=lambda problem: not problem.is_urgent))


def faults_of(view: ClusterView) -> Iterator[Problem]:
    """Yield what is broken: nothing may be stopped meanwhile that can wait."""
    yield from _quorum(view)
    yield from _alarms(view)
    for seen in view.seen:
        yield from _of_member(view, seen)
    yield from (each for each in _signs(view) if each.is_urgent)


def version_of(seen: Seen) -> str:
    """Return the version that an appliance runs, or ran last; empty where it never did."""
    return seen.appliance.version if seen.appliance else ""


def release_of(version: str) -> tuple[int, int]:
    """Return the two numbers that count for what goes with what; (0, 0) for no version."""
    found = _RELEASE.match(version)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def apart(one: str, other: str) -> int:
    """Return how many releases lie between two versions.

    The first of a major version follows whichever was the last of the one before.
    """
    (old_major, old_minor), (major, minor) = sorted((release_of(one), release_of(other)))
    return minor - old_minor if major == old_major else (major - old_major - 1) * 2 + minor + 1


def _quorum(view: ClusterView) -> Iterator[Problem]:
    if view.has_quorum:
        return
    needed = quorum_of(len(view.voters))
    cause = f"no quorum: {needed} of {len(view.voters)} appliances must run and reach each other"
    yield Problem(
        Alarm.NO_QUORUM,
        cause if view.voters else "no quorum: the etcd of this appliance gives no answer",
        "start the others and check TCP 2380 between them; if too many are lost for good, "
        "stop one that is left and run `cairn-appliance recover --data-dir DIR --others-are-lost` "
        "on it (docs/operate.md)",
        is_urgent=True,
    )


def _alarms(view: ClusterView) -> Iterator[Problem]:
    names = {seen.member.id: seen.name for seen in view.seen}
    for alarm in view.alarms:
        name = names.get(alarm.member, "?")
        if alarm.kind == "NOSPACE":
            yield Problem(
                Alarm.STORE_FULL,
                f"{name}: the store is full, changes are refused",
                "wait a minute: the appliances make room; if it lasts, raise etcd_quota_mib in "
                "settings.toml of each and restart them one by one",
                is_urgent=True,
            )
        else:
            yield Problem(
                Alarm.MEMBER_CORRUPT,
                f"{name}: its copy of the store is damaged ({alarm.kind})",
                REMEDIES[Alarm.MEMBER_CORRUPT],
                is_urgent=True,
            )


def _of_member(view: ClusterView, seen: Seen) -> Iterator[Problem]:
    if seen.member.is_learner:
        yield Problem(
            Alarm.MEMBER_LEARNS,
            f"{seen.name} has joined but has no vote yet",
            "start it there with `cairn-appliance run`; it gets its vote when it has caught up",
        )
    elif seen.state is None:
        yield Problem(
            Alarm.MEMBER_AWAY,
            f"{seen.name}: its etcd gives no answer",
            "look whether the appliance runs and TCP 2379 and 2380 reach it; if it is lost for "
            f"good, `cairn cluster replace {seen.name}`",
        )
    elif not seen.is_healthy:
        yield Problem(
            Alarm.MEMBER_CUT_OFF,
            f"{seen.name}: its etcd sees no leader",
            f"check the network between it and the others: {', '.join(seen.member.peer_urls)}",
        )
    elif seen.replica is None:
        yield Problem(
            Alarm.APIS_AWAY,
            f"{seen.name}: its etcd runs, its APIs don't",
            "look into the log of `cairn-appliance run` there",
        )
    if seen.state is None:
        return
    for error in seen.state.errors:
        if "NOSPACE" not in error and "CORRUPT" not in error and "no leader" not in error:
            yield Problem(Alarm.ETCD_FAILS, f"{seen.name}: {error}", REMEDIES[Alarm.ETCD_FAILS])
    if (view.lag(seen) or 0) > _BEHIND and not seen.member.is_learner:
        yield Problem(
            Alarm.MEMBER_BEHIND,
            f"{seen.name} is {view.lag(seen)} entries behind the leader",
            "its disk or network is slow: look at the load there",
        )
    if seen.state.db_octets > _FILLING_AT * seen.state.db_quota_octets:
        yield Problem(
            Alarm.STORE_FILLING,
            f"{seen.name}: the store has {seen.state.db_octets >> 20} MiB of "
            f"{seen.state.db_quota_octets >> 20} MiB, {seen.state.db_used_octets >> 20} in use",
            "nothing, if little is in use: the appliances make room; else raise etcd_quota_mib "
            "in settings.toml of each: at the limit changes are refused",
        )


def _signs(view: ClusterView) -> Iterator[Problem]:
    """Yield what the appliances notice of themselves."""
    for seen in view.seen:
        yield from (_of_sign(seen.name, sign) for sign in view.signs_of(seen))
    if view.asked and view.asked not in (seen.name for seen in view.seen):
        yield from (_of_sign(view.asked, sign) for sign in view.own_signs or ())


def _fenced(view: ClusterView) -> Iterator[Problem]:
    for name in view.fenced:
        yield Problem(
            Alarm.MEMBER_CORRUPT,
            f"{name}: its copy of the store was damaged, and it was taken out of the cluster",
            REMEDIES[Alarm.MEMBER_CORRUPT],
        )


def _versions(view: ClusterView) -> Iterator[Problem]:
    versions = {seen.name: version_of(seen) for seen in view.seen if version_of(seen)}
    if len(set(versions.values())) < 2:
        return
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    oldest, newest = (pick(versions.values(), key=release_of) for pick in (min, max))
    if apart(oldest, newest) > 1:
        yield Problem(
            Alarm.VERSIONS_APART,
            f"the appliances' versions are more than one apart, which is not supported: {told}",
            f"upgrade those with {oldest} to the version that follows it, then on from there",
        )
    else:
        yield Problem(
            Alarm.VERSIONS_MIXED,
            f"the appliances run different versions: {told}",
            "go on with the upgrade, or back: `cairn cluster upgrade-check` says who is next",
        )


def _of_sign(name: str, sign: Sign) -> Problem:
    remedy = REMEDIES.get(sign.name, f"look for {sign.name} in docs/operate/alarms.md")
    return Problem(sign.name, f"{name}: {sign.detail}", remedy, sign.is_urgent)


def _size(view: ClusterView) -> Iterator[Problem]:
    if view.voters and len(view.voters) % 2 == 0:
        yield Problem(
            Alarm.MEMBERS_EVEN,
            f"{len(view.voters)} appliances stand no more failures than {len(view.voters) - 1}",
            "let one more join: `cairn cluster join-string`",
        )


# What to do about what an appliance notices of itself.
REMEDIES: Mapping[str, str] = {
    Alarm.DISK_FULL: "free space on the file system of its data directory, or enlarge it; it goes "
    "on by itself",
    Alarm.MEMBER_CORRUPT: "stop it there and run `cairn-appliance rebuild --data-dir DIR`, which "
    "takes the data from the others",
    Alarm.MEMBER_FLAPS: "look at the end of etcd.log there: memory, disk and clock come first",
    Alarm.ETCD_FAILS: "look at the end of etcd.log there",
    Alarm.SLOW_DISK: "look at what else uses its disk, or give it a faster one",
    Alarm.LEADER_UNSTEADY: "look at disk, processor and network of the appliances: one of them is "
    "too slow or loses packets",
    Alarm.CLOCK_OFF: "set its clock by NTP (timedatectl, chronyc makestep; image: Time in the "
    "menu)",
    Alarm.CLOCK_UNSYNCHRONISED: "let NTP keep it: `timedatectl` there says whether a time server "
    "answers; UDP 123 to it must pass (image: Time in the menu, or `ntp` in the seed)",
    Alarm.CERTIFICATE_EXPIRES: "look into its log why the certificate was not renewed; a restart "
    "of the appliance tries again",
    Alarm.ADDRESS_UNKNOWN: "correct the name at your DNS, or `addresses` in its settings.toml",
    Alarm.AUDIT_BROKEN: "find out who writes to the store beside the appliances; keep an export as "
    'evidence, then `cairn audit accept` begins that chain anew (docs/operate.md, "Audit")',
    Alarm.APPLIANCE_TWICE: "switch off the copy: a data directory belongs to one machine",
}
