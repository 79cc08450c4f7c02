"""Whether the cluster is all right, and if not: why, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

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

QUOTA_OCTETS = 2 << 30  # of each member's database
_FULL_AT = 0.6  # of the quota: time enough to do something
_BEHIND = 5000  # entries of the raft log: more than a busy second


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

    def lag(self, seen: Seen) -> int | None:
        """Return by how many entries of the log a member is behind; None where it is silent."""
        if seen.state is None:
            return None
        states = [each.state for each in self.seen if each.state is not None]
        return max(0, max(state.raft_index for state in states) - seen.state.raft_applied)


def problems_of(view: ClusterView) -> tuple[Problem, ...]:
    """Return what is wrong, the urgent first."""
    found = [*_quorum(view), *_alarms(view)]
    for seen in view.seen:
        found += _of_member(view, seen)
    found += _size(view)
    if view.backups is not None:
        found += problems_of_backups(view.backups)
    if view.restore is not None:
        found += problems_of_restore(view.restore)
    return tuple(sorted(found, key=lambda problem: not problem.is_urgent))


def _quorum(view: ClusterView) -> Iterator[Problem]:
    if not view.has_quorum:
        needed = quorum_of(len(view.voters))
        yield Problem(
            f"no quorum: {needed} of {len(view.voters)} appliances must run and reach each other",
            "start the others and check TCP 2380 between them; if too many are lost for good, "
            "run `cairn-appliance recover` on one that is left (docs/operate.md)",
            is_urgent=True,
        )


def _alarms(view: ClusterView) -> Iterator[Problem]:
    names = {seen.member.id: seen.name for seen in view.seen}
    for alarm in view.alarms:
        name = names.get(alarm.member, "?")
        if alarm.kind == "NOSPACE":
            yield Problem(
                f"{name}: the store is full, changes are refused",
                "free space on its disk, then compact, defragment and disarm (docs/operate.md)",
                is_urgent=True,
            )
        else:
            yield Problem(
                f"{name}: its copy of the store is damaged ({alarm.kind})",
                f"stop it, then `cairn cluster replace {name}` and let it join anew",
                is_urgent=True,
            )


def _of_member(view: ClusterView, seen: Seen) -> Iterator[Problem]:
    if seen.member.is_learner:
        yield Problem(
            f"{seen.name} has joined but has no vote yet",
            "start it there with `cairn-appliance run`; it gets its vote when it has caught up",
        )
    elif seen.state is None:
        yield Problem(
            f"{seen.name}: its etcd gives no answer",
            "look whether the appliance runs and TCP 2379 and 2380 reach it; if it is lost for "
            f"good, `cairn cluster replace {seen.name}`",
        )
    elif not seen.is_healthy:
        yield Problem(
            f"{seen.name}: its etcd sees no leader",
            f"check the network between it and the others: {', '.join(seen.member.peer_urls)}",
        )
    elif seen.replica is None:
        yield Problem(
            f"{seen.name}: its etcd runs, its APIs don't",
            "look into the log of `cairn-appliance run` there",
        )
    if seen.state is None:
        return
    for error in seen.state.errors:
        if "NOSPACE" not in error and "CORRUPT" not in error and "no leader" not in error:
            yield Problem(f"{seen.name}: {error}", "look into etcd.log there")
    if (view.lag(seen) or 0) > _BEHIND and not seen.member.is_learner:
        yield Problem(
            f"{seen.name} is {view.lag(seen)} entries behind the leader",
            "its disk or network is slow: look at the load there",
        )
    if seen.state.db_octets > _FULL_AT * QUOTA_OCTETS:
        yield Problem(
            f"{seen.name}: the store has {seen.state.db_octets >> 20} MiB of "
            f"{QUOTA_OCTETS >> 20} MiB",
            "defragment it (docs/operate.md); at the limit changes are refused",
        )


def _size(view: ClusterView) -> Iterator[Problem]:
    if len(view.voters) % 2 == 0:
        yield Problem(
            f"{len(view.voters)} appliances stand no more failures than {len(view.voters) - 1}",
            "let one more join: `cairn cluster join-string`",
        )
