"""SC-3 and SC-7: changes at a steady rate, and what each change costs the store."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field

from cairn_appliance.cluster import metrics

from tests.sim.churn import age_s, slope
from tests.sim.figures import percentile
from tests.sim.messages import Churned, Moved
from tests.sim.scenarios import Stage
from tests.sim.world import World
from tests.sim.writes import Writes, counted

CHANGES_PER_S = 50.0
CHURN_S = 1200.0  # ten minutes; and as many again, for the memory, which settles in the first
SAMPLE_S = 5.0
PARTS = 5  # of a churn: the first is left out, the second and the last are compared
GROWTH_MAX = 1.5
WAITING_MAX_S = 1.0  # of the changes of so long may one be without an answer at the end
SLOPE_MAX = 256 * 1024  # octets a minute
RSS_SHARE = 0.5  # of the churn, its end: until then histories and buffers come to their size
CAUGHT_UP_S = 30.0
QUIET_S = 3.0
MOVES = 20
AUDITED = 20
_MINUTE_S = 60.0


@dataclass
class _Course:
    """A churn as it went, in samples."""

    said: list[Churned] = field(default_factory=list)
    rss: list[tuple[float, float]] = field(default_factory=list)  # (seconds, octets)

    def ages(self, begin: float = 0.0, end: float = 1.0) -> Counter[int]:
        """Return the ages of the changes of a part, given as shares of the whole."""
        chosen = self.said[int(len(self.said) * begin) : max(1, int(len(self.said) * end))]
        return sum((Counter(each.ages) for each in chosen), Counter[int]())

    def growth(self) -> float:
        """Return by which factor changes were slower in the last part than in the second."""
        early = age_s(self.ages(1 / PARTS, 2 / PARTS), 0.99)
        late = age_s(self.ages((PARTS - 1) / PARTS, 1.0), 0.99)
        return late / early if early < float("inf") else float("inf")

    def slope(self) -> float:
        """Return how fast memory grew towards the end, in octets a second."""
        return slope(self.rss[int(len(self.rss) * (1 - RSS_SHARE)) :])


async def churn(stage: Stage, seconds: float) -> None:
    """SC-3: nodes change their endpoints, fifty a second, for twenty minutes."""
    world, run = stage.world, stage.run
    await stage.acknowledged()
    await stage.fleet.do("forget")
    cpu, began = world.cpu_s(), time.monotonic()
    course = await _churned(stage, seconds, began)
    took_s, waiting = time.monotonic() - began, course.said[-1].waiting
    share = (world.cpu_s() - cpu) / took_s
    caught_up_s = await _caught_up(stage)
    state = await stage.fleet.state()
    answered = [each for said in course.said for each in said.answered]
    rate = len(answered) / took_s
    failures = ", ".join(f"{count} x {text}" for text, count in state.failures.items())
    run.notes["churn"] = (
        f"{len(answered):,} changes in {took_s:.0f} s, answered within "
        f"{percentile(answered, 0.5) * 1000:.0f} ms (p50) and "
        f"{percentile(answered, 0.99) * 1000:.0f} ms (p99); "
        f"{course.ages().total():,} arrivals, p50 {age_s(course.ages(), 0.5) * 1000:.0f} ms; "
        f"{share * 100:.0f} % of a core; all at rest {caught_up_s:.1f} s after the last; "
        f"{state.kinds}; tries that failed: {failures or 'none'}"
    )
    is_whole = seconds >= CHURN_S and rate >= 0.95 * CHANGES_PER_S
    p99 = age_s(course.ages(1 / PARTS), 0.99)
    what = f"{rate:.0f} changes/s for {took_s:.0f} s"
    run.add(
        "SC-3-p99",
        f"{what}: from asking until a member has applied it, p99",
        "50/s, at most 1 s",
        p99,
        "s",
        met=p99 <= 1,
        size=1_000,
        whole=is_whole,  # a shorter one, or a slower one, shows nothing
    )
    run.add(
        "SC-3-backlog",
        f"{what}: p99 of the last fifth, of that of the second; {waiting} unanswered at the end",
        "no growth (at most 1.5; of one second)",
        course.growth(),
        "times",
        met=course.growth() <= GROWTH_MAX and waiting <= CHANGES_PER_S * WAITING_MAX_S,
        size=1_000,
        whole=is_whole,
    )
    per_minute = course.slope() * _MINUTE_S
    run.add(
        "SC-3-rss",
        f"{what}: memory of the appliance, its slope over the last half",
        "about 0 (at most 256 KiB a minute)",
        per_minute / 1024,
        "KiB/min",
        met=per_minute <= SLOPE_MAX,
        size=1_000,
        whole=is_whole,
    )


async def _churned(stage: Stage, seconds: float, began: float) -> _Course:
    """Let there be churn; return how it went."""
    course = _Course()
    each = CHANGES_PER_S / len(stage.fleet.workers)
    await stage.fleet.do("churn", per_s=each, began=began)
    while time.monotonic() - began < seconds:
        left_s = began + seconds - time.monotonic()
        await asyncio.sleep(min(SAMPLE_S, max(left_s, 0.0)))
        course.said.append(_together(await stage.fleet.all("churned", Churned)))
        course.rss.append((time.monotonic() - began, stage.world.rss_octets()))
    await stage.fleet.do("churn", per_s=0.0, began=began)
    return course


def _together(said: list[Churned]) -> Churned:
    return Churned(
        asked=sum(each.asked for each in said),
        answered=[seconds for each in said for seconds in each.answered],
        waiting=sum(each.waiting for each in said),
        ages=dict(sum((Counter(each.ages) for each in said), Counter[int]())),
    )


async def _caught_up(stage: Stage) -> float:
    """Return how long after the end of the churn the last of its changes was applied."""
    begun = last = time.monotonic()
    while time.monotonic() - last < QUIET_S:
        await asyncio.sleep(0.1)
        if _together(await stage.fleet.all("churned", Churned)).ages:
            last = time.monotonic()
        if last - begun > CAUGHT_UP_S:
            return float("inf")
    return last - begun


async def store_writes(stage: Stage) -> None:
    """SC-7: what a change costs etcd, in transactions."""
    world, run = stage.world, stage.run
    await stage.acknowledged()
    before = await metrics.read(world.metrics_port, time.monotonic())
    async with world.appliance.operator() as services, counted(services.store) as writes:
        for number in range(MOVES):
            endpoint = f"203.0.114.{number + 1}:{20_000 + number}"
            await stage.witness.all("move", Moved, which=0, endpoint=endpoint)
    registered = writes.with_kind("registrations")
    each = writes.others / MOVES
    run.add(
        "SC-7-change",
        "etcd transactions for one endpoint change, its event included",
        "1",
        each,
        "",
        met=each == 1 and registered == MOVES,
        size=1,
    )
    run.notes["writes, endpoint changes"] = writes.told()
    async with world.appliance.operator() as services, counted(services.store) as writes:
        await _audited(world)
    each = (writes.others - writes.with_kind("sessions")) / AUDITED
    run.notes["writes, audited changes"] = f"{each:.2f} transactions each: {writes.told()}"
    after = await metrics.read(world.metrics_port, time.monotonic())
    run.notes["writes, log"] = _fsyncs(before, after)


def registrations(stage: Stage, writes: Writes, took_s: float) -> None:
    """SC-7: what the storm of registrations has cost."""
    registered = writes.with_kind("registrations")
    each = writes.others / max(registered, 1)
    stage.run.notes["writes, registrations"] = f"{writes.told()}; {registered / took_s:.0f}/s"
    stage.run.add(
        "SC-7-registration",
        "etcd transactions for one registration, its event included",
        "1",
        each,
        "",
        met=each == 1 and registered >= stage.run.agents,
        size=1_000,
    )


async def _audited(world: World) -> None:
    """Make tokens, one after the other, as an operator does: each is recorded in the audit."""
    async with world.appliance.operations() as client:
        for _ in range(AUDITED):
            (await client.post("/tokens", json={"vsubnets": ["net-0"]})).raise_for_status()
            await asyncio.sleep(0.05)
        await asyncio.sleep(1.0)  # the last outcomes are written


def _fsyncs(before: metrics.Sample | None, after: metrics.Sample | None) -> str:
    if before is None or after is None:
        return "etcd said nothing of its log"
    history = metrics.History(kept_s=3600.0)
    history.add(before)
    history.add(after)
    p99 = history.fsync_p99_s(3600.0, at_least=1)
    count = after.fsyncs[-1][1] - before.fsyncs[-1][1]
    return f"{count:.0f} writes to the disk, p99 at most {(p99 or 0) * 1000:.0f} ms"
