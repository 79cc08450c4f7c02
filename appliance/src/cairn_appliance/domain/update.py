"""Updates of the image: how one machine stands with its two slots, and who of a cluster is next.

A machine's root writes down a `Standing`; the appliance there reads it and tells the cluster a
`Report`. A `Plan` leads one appliance after the other to the new version: `advance` says what
follows from what all have reported, and knows neither store nor clock.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from cairn_appliance.domain.cluster_health import ClusterView, Seen, apart, faults_of
from cairn_appliance.domain.errors import UpdateUnusable

SHARED_UPDATE = "/appliance/v1/update"  # on the agents' port, for other appliances
# An appliance is to be well before the next is taken: a fault may go by itself, for so long.
WELL_WITHIN_S = 600.0
# From an appliance's turn until it is back: fetched, written, started, and if need be gone back.
BACK_WITHIN_S = 2700.0
_VERSION = re.compile(r"(\d{1,9})\.(\d{1,9})\.(\d{1,9})-(\d{1,9})")


def version_of(text: str) -> tuple[int, ...]:
    """Return the numbers of an image's version, in the order of releases; raise UpdateUnusable."""
    found = _VERSION.fullmatch(text)
    if found is None:
        raise UpdateUnusable(f"{text[:64]!r} is no version of an image")
    return tuple(map(int, found.groups()))


class Step(StrEnum):
    """How far a machine is with what it was asked for last."""

    NONE = "none"
    INSTALLING = "installing"
    RESTARTING = "restarting"
    ON_TRIAL = "on_trial"
    CONFIRMED = "confirmed"
    ROLLED_BACK = "rolled_back"
    FAILED = "failed"

    @property
    def is_under_way(self) -> bool:
        """True while the machine is at it."""
        return self in (Step.INSTALLING, Step.RESTARTING, Step.ON_TRIAL)


class Action(StrEnum):
    """What a machine may be asked for."""

    INSTALL = "install"
    ROLLBACK = "rollback"  # to the other slot


@dataclass(frozen=True, slots=True)
class Wish:
    """What the appliance asks of its machine's root; nothing in it is believed."""

    id: str  # of the plan: each is carried out once
    action: Action


@dataclass(frozen=True, slots=True)
class Standing:
    """How a machine stands with its slots; root's word."""

    slot: str = ""  # that runs
    version: str = ""  # of the image that runs
    whole: Mapping[str, str] = field(default_factory=dict)  # slot -> version of what lies in it
    step: Step = Step.NONE
    wish: str = ""  # ID of what was asked for last
    wanted: str = ""  # the version that it is about
    cause: str = ""  # of ROLLED_BACK and FAILED
    remedy: str = ""
    at: float = 0.0  # seconds since 1970

    @property
    def other(self) -> str:
        """The slot beside the one that runs."""
        return "b" if self.slot == "a" else "a"

    @property
    def other_version(self) -> str:
        """What lies whole in the other slot; empty: nothing."""
        return self.whole.get(self.other, "")

    def begun(self, wish: str, wanted: str, now: float) -> Standing:
        """Return it with something asked for; the other slot is about to be written, or tried."""
        return replace(
            self, step=Step.INSTALLING, wish=wish, wanted=wanted, cause="", remedy="", at=now
        )

    def overwriting(self) -> Standing:
        """Return it while the other slot is no whole system."""
        return replace(self, whole=self._without(self.other))

    def written(self) -> Standing:
        """Return it with the wanted system in the other slot, looked at octet for octet."""
        return replace(self, whole={**self.whole, self.other: self.wanted})

    def restarting(self, now: float) -> Standing:
        """Return it with the other slot to be tried at the next start."""
        return replace(self, step=Step.RESTARTING, at=now)

    def failed(self, cause: str, remedy: str, now: float) -> Standing:
        """Return it with the reason why the slot of before was not left."""
        return replace(self, step=Step.FAILED, cause=cause, remedy=remedy, at=now)

    def booted(
        self, slot: str, version: str, now: float, *, is_trial: bool, fell_back: bool
    ) -> Standing:
        """Return it at the start of a slot: on trial, back from one, or as it was."""
        here = replace(self, slot=slot, version=version)
        if is_trial:
            return replace(here, step=Step.ON_TRIAL, wanted=version, at=now)
        if fell_back:
            cause = self.cause or f"{self.wanted or 'the other slot'} did not come up"
            return replace(
                here,
                step=Step.ROLLED_BACK,
                whole=here._without(here.other),
                cause=cause,
                remedy=self.remedy
                or f"nothing is urgent, this machine goes on with {version}; report the cause "
                "with a support bundle, which its menu makes, and take another version",
                at=now,
            )
        if self.step.is_under_way:
            return here.failed(
                "the machine was started again before the update could be tried",
                "nothing was changed; start the update again",
                now,
            )
        return here

    def doomed(self, cause: str, remedy: str) -> Standing:
        """Return it on trial with the reason why the slot of before will be started."""
        return replace(self, cause=cause, remedy=remedy)

    def well(self, now: float) -> Standing:
        """Return it with the running slot confirmed."""
        here = replace(self, whole={**self.whole, self.slot: self.version})
        if self.step is not Step.ON_TRIAL:
            return here
        return replace(here, step=Step.CONFIRMED, cause="", remedy="", at=now)

    def _without(self, slot: str) -> dict[str, str]:
        return {each: version for each, version in self.whole.items() if each != slot}


@dataclass(frozen=True, slots=True)
class Report:
    """What an appliance that runs from the image tells the cluster of its machine."""

    name: str
    standing: Standing
    bundle: str = ""  # digest of the update that lies there, checked
    bundle_version: str = ""
    refused: str = ""  # ID of a wish that did not come as far as the machine
    cause: str = ""
    remedy: str = ""


class Phase(StrEnum):
    """How far a plan is."""

    BACKUP = "backup"  # one is made first
    CHOOSING = "choosing"  # all are to be well before the next one is taken
    UPDATING = "updating"  # the current one is at it
    DONE = "done"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class Plan:
    """One update of all appliances, or the way back of all."""

    id: str
    action: Action
    version: str  # to be run in the end by all; empty: of a way back that there isn't
    bundle: str = ""  # digest
    source: str = ""  # the appliance that has it
    started_by: str = ""
    started_at: float = 0.0  # seconds since 1970
    phase: Phase = Phase.BACKUP
    since: float = 0.0
    current: str = ""
    done: tuple[str, ...] = ()
    cause: str = ""  # of STOPPED
    remedy: str = ""

    @property
    def is_over(self) -> bool:
        """True where nothing follows."""
        return self.phase in (Phase.DONE, Phase.STOPPED)

    def asks(self, name: str) -> bool:
        """Return whether it is this appliance's turn."""
        return self.phase is Phase.UPDATING and self.current == name

    def backed_up(self, now: float) -> Plan:
        """Return it after the backup."""
        return replace(self, phase=Phase.CHOOSING, since=now)

    def stopped(self, cause: str, remedy: str, now: float) -> Plan:
        """Return it ended before all were through."""
        return replace(self, phase=Phase.STOPPED, cause=cause, remedy=remedy, since=now)


def hindrance(
    plan: Plan, view: ClusterView, reports: Mapping[str, Report]
) -> tuple[str, str] | None:
    """Return why a plan can't begin, and what to do; None: it can."""
    names = [each.name for each in view.seen]
    foreign = sorted(set(names) - set(reports))
    if foreign:
        return (
            f"{', '.join(foreign)}: does not run from the image, or has not told how it stands yet",
            "what runs from a clone is updated as docs/operate.md, Upgrading, says",
        )
    busy = sorted(name for name in names if reports[name].standing.step.is_under_way)
    if busy:
        return f"{', '.join(busy)}: is being updated already", "wait until it is through"
    if plan.action is Action.ROLLBACK:
        return _hindrance_back(plan, names, reports)
    for name in names:
        running = reports[name].standing.version
        if apart(running, plan.version) > 1:
            return (
                f"{name} runs {running}, and {plan.version} is more than one version further",
                "install the version that follows its own first",
            )
    if all(reports[name].standing.version == plan.version for name in names):
        return f"all appliances run {plan.version} already", "nothing"
    return None


def newest_uploaded(reports: Mapping[str, Report]) -> str:
    """Return the newest version of which an update lies on an appliance; empty: none does."""
    versions = [each.bundle_version for each in reports.values() if each.bundle]
    return max(versions, key=version_of, default="")


def version_back(reports: Mapping[str, Report]) -> str:
    """Return what those that run the newest version have in the other slot; empty: no one older.

    Whoever was not updated yet, or went back by itself, runs that already, and stays.
    """
    told = _newest(reports)
    others = {each.standing.other_version for each in told}
    older = others.pop() if len(others) == 1 else ""
    return older if older and version_of(older) < version_of(told[0].standing.version) else ""


def _newest(reports: Mapping[str, Report]) -> list[Report]:
    versions = {name: version_of(each.standing.version) for name, each in sorted(reports.items())}
    last = max(versions.values(), default=())
    return [reports[name] for name, version in versions.items() if version == last]


def _hindrance_back(
    plan: Plan, names: Sequence[str], reports: Mapping[str, Report]
) -> tuple[str, str] | None:
    if not plan.version:
        others = ", ".join(
            f"{each.name} {each.standing.other_version or 'nothing'}" for each in _newest(reports)
        )
        return (
            f"there is no older system that all could go back to; the other slots have: {others}",
            "stay, or install a newer version",
        )
    for name in sorted(names):
        standing = reports[name].standing
        if plan.version not in (standing.version, standing.other_version):
            return (
                f"{name}: runs {standing.version} and can't go back to {plan.version} with the "
                "others",
                "stay, or install a newer version",
            )
    return None


def advance(plan: Plan, view: ClusterView, reports: Mapping[str, Report], now: float) -> Plan:
    """Return the plan as it goes on from here; the same where there is to be waited."""
    if plan.phase is Phase.CHOOSING:
        return _choose(plan, view, reports, now)
    if plan.phase is Phase.UPDATING:
        return _await(plan, view, reports, now)
    return plan


def _choose(plan: Plan, view: ClusterView, reports: Mapping[str, Report], now: float) -> Plan:
    left = [each for each in view.seen if not _is_through(plan, each.name, reports)]
    if not left:
        return replace(plan, phase=Phase.DONE, current="", since=now)
    faults = [fault.cause for fault in faults_of(view)]
    alone = len(view.voters) < 3  # nobody can be spared: changes wait meanwhile, traffic doesn't
    chosen = min(left, key=lambda each: (each.leads, each.name))
    if not faults and not alone and not view.survives_without(chosen.name):
        faults = [f"without {chosen.name} the others have no quorum"]
    if not faults:
        return replace(plan, phase=Phase.UPDATING, current=chosen.name, since=now)
    if now - plan.since < WELL_WITHIN_S:
        return plan
    return plan.stopped(
        f"the cluster is not well enough to spare {chosen.name}: {faults[0]}",
        "`cairn cluster status` says what to do; then start the update again",
        now,
    )


def _await(plan: Plan, view: ClusterView, reports: Mapping[str, Report], now: float) -> Plan:
    name = plan.current
    seen = next((each for each in view.seen if each.name == name), None)
    report = reports.get(name)
    if seen is None:
        return plan.stopped(f"{name} is no appliance of the cluster any more", _AGAIN, now)
    if report is not None and report.refused == plan.id:
        return plan.stopped(f"{name}: {report.cause}", report.remedy, now)
    if report is not None and report.standing.wish == plan.id:
        standing = report.standing
        if standing.step in (Step.ROLLED_BACK, Step.FAILED):
            how = "went back to" if standing.step is Step.ROLLED_BACK else "stayed with"
            cause = f"{name} {how} {standing.version}: {standing.cause}"
            return plan.stopped(cause, standing.remedy, now)
        if standing.step is Step.CONFIRMED and _is_back(seen):
            done = (*plan.done, name)
            return replace(plan, phase=Phase.CHOOSING, current="", done=done, since=now)
    if now - plan.since < BACK_WITHIN_S:
        return plan
    return plan.stopped(
        f"{name} is not back after {BACK_WITHIN_S / 60:.0f} min",
        f"look at the screen of {name}: it says what it waits for; the others go on as they are",
        now,
    )


def _is_through(plan: Plan, name: str, reports: Mapping[str, Report]) -> bool:
    if name in plan.done:
        return True
    report = reports.get(name)
    return (
        report is not None
        and report.standing.version == plan.version
        and not report.standing.step.is_under_way
    )


def _is_back(seen: Seen) -> bool:
    return seen.is_healthy and seen.replica is not None


_AGAIN = "`cairn cluster status` shows who is; start the update again"
