"""Whether the appliances can be upgraded now, one after the other, and in which order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from cairn_appliance.domain.alarm import Alarm
from cairn_appliance.domain.backup import problems_of_backups
from cairn_appliance.domain.cluster_health import (
    ClusterView,
    Seen,
    apart,
    faults_of,
    release_of,
    version_of,
)
from cairn_appliance.domain.problem import Problem

_NAMED = 5  # nodes; then it is only said how many


@dataclass(frozen=True, slots=True)
class UpgradeCheck:
    """What was found; a finding that is urgent is in the way."""

    order: tuple[str, ...]  # the old ones first, who leads last
    findings: tuple[Problem, ...]

    @property
    def is_ready(self) -> bool:
        """True where nothing is in the way."""
        return not any(each.is_urgent for each in self.findings)


def check_upgrade(view: ClusterView, agents: Mapping[str, str]) -> UpgradeCheck:
    """Return whether the next appliance may be stopped; `agents`: node name -> version."""
    in_the_way = [*faults_of(view), *_too_far(view), *_old_agents(view, agents)]
    findings = [replace(each, is_urgent=True) for each in in_the_way]
    return UpgradeCheck(_order(view.seen), (*findings, *_waits(view), *_backups(view)))


def _order(seen: Iterable[Seen]) -> tuple[str, ...]:
    ordered = sorted(seen, key=lambda each: (release_of(version_of(each)), each.leads, each.name))
    return tuple(each.name for each in ordered)


def _too_far(view: ClusterView) -> Iterator[Problem]:
    known = sorted((version_of(each) for each in view.seen if version_of(each)), key=release_of)
    if known and apart(known[0], known[-1]) > 1:
        yield Problem(
            Alarm.VERSIONS_APART,
            f"the appliances' versions are more than one apart: {known[0]} and {known[-1]}",
            "bring the oldest to the version that follows its own first",
        )


def _old_agents(view: ClusterView, agents: Mapping[str, str]) -> Iterator[Problem]:
    """An agent that is a version behind now would be two behind after the upgrade."""
    releases = [release_of(version_of(each)) for each in view.seen if version_of(each)]
    if not releases:
        return
    old = sorted(name for name, version in agents.items() if release_of(version) < min(releases))
    if old:
        names = ", ".join(old[:_NAMED]) + (", ..." if len(old) > _NAMED else "")
        yield Problem(
            Alarm.AGENTS_OLD,
            f"{len(old)} nodes run an agent older than all appliances: {names}",
            "update their agents first; `cairn node list` shows the versions",
        )


def _backups(view: ClusterView) -> Iterator[Problem]:
    """A backup that is late or can't be made stops nobody, but ought to."""
    if view.backups is not None:
        yield from problems_of_backups(view.backups)


def _waits(view: ClusterView) -> Iterator[Problem]:
    if not all(view.survives_without(each.name) for each in view.voters):
        yield Problem(
            Alarm.NONE_TO_SPARE,
            f"of {len(view.voters)} appliances none can be spared: changes wait while one restarts",
            "nothing, traffic goes on; or let others join first: three go on without a pause",
        )
