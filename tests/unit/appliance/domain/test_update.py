"""Who is updated next, and when it stops: rules over values; how a machine tells of its slots."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace

from cairn_appliance.domain.cluster import EtcdState
from cairn_appliance.domain.cluster_health import ClusterView
from cairn_appliance.domain.update import (
    BACK_WITHIN_S,
    WELL_WITHIN_S,
    Action,
    Phase,
    Plan,
    Report,
    Standing,
    Step,
    advance,
    hindrance,
    version_back,
)

from tests.unit.appliance.domain.test_cluster_health import seen

OLD, NEW = "0.1.0-1", "0.1.0-2"
PLAN = Plan("p1", Action.INSTALL, NEW, "digest", "m1", phase=Phase.CHOOSING)
NAMES = ("m1", "m2", "m3")


def standing(version: str = OLD, **changes: object) -> Standing:
    return replace(Standing("a", version, {"a": version}), **changes)  # type: ignore[arg-type]


def reports(**others: Standing) -> dict[str, Report]:
    return {name: Report(name, others.get(name, standing())) for name in NAMES}


def view(*away: str, number: int = 3, leader: int = 1) -> ClusterView:
    found = [seen(each) for each in range(1, number + 1)]
    for each in found:
        assert each.state is not None
    led = [replace(each, state=_led_by(each.state, leader)) for each in found]
    return ClusterView(
        tuple(replace(each, state=None) if each.name in away else each for each in led)
    )


def _led_by(state: EtcdState | None, leader: int) -> EtcdState | None:
    return None if state is None else replace(state, leader=leader)


def test_who_leads_comes_last_and_each_waits_for_the_one_before() -> None:
    told, plan = reports(), PLAN
    order = []
    while not plan.is_over:
        plan = advance(plan, view(), told, 10.0)
        if plan.phase is Phase.UPDATING:
            order.append(plan.current)
            assert advance(plan, view(plan.current), told, 20.0) == plan  # it starts again
            on_trial = standing(NEW, step=Step.ON_TRIAL, wish="p1")
            told[plan.current] = Report(plan.current, on_trial)
            assert advance(plan, view(), told, 20.0) == plan
            told[plan.current] = Report(plan.current, replace(on_trial, step=Step.CONFIRMED))
            assert advance(plan, view(plan.current), told, 20.0) == plan  # its etcd is not back
    assert order == ["m2", "m3", "m1"]
    assert plan.phase is Phase.DONE and plan.done == ("m2", "m3", "m1")


def test_those_that_run_it_already_are_passed_over() -> None:
    plan = advance(PLAN, view(), reports(m2=standing(NEW), m3=standing(NEW)), 10.0)
    assert plan.current == "m1"
    every = {name: standing(NEW) for name in NAMES}
    assert advance(PLAN, view(), reports(**every), 10.0).phase is Phase.DONE


def test_nobody_is_taken_while_another_is_away_and_not_for_ever() -> None:
    assert advance(PLAN, view("m3"), reports(), 10.0) == PLAN
    stopped = advance(PLAN, view("m3"), reports(), WELL_WITHIN_S + 1)
    assert stopped.phase is Phase.STOPPED and "m3: its etcd gives no answer" in stopped.cause
    assert stopped.remedy


def test_one_alone_and_two_are_updated_though_changes_wait_meanwhile() -> None:
    for number in (1, 2):
        plan = advance(PLAN, view(number=number), reports(), 10.0)
        assert plan.phase is Phase.UPDATING, number


def test_it_stops_at_the_first_that_went_back() -> None:
    plan = replace(PLAN, phase=Phase.UPDATING, current="m2", done=("m3",))
    for step, word in ((Step.ROLLED_BACK, "went back to"), (Step.FAILED, "stayed with")):
        told = reports(m2=standing(step=step, wish="p1", cause="it has a fault", remedy="wait"))
        stopped = advance(plan, view(), told, 10.0)
        assert stopped.phase is Phase.STOPPED
        assert stopped.cause == f"m2 {word} {OLD}: it has a fault" and stopped.remedy == "wait"
        assert stopped.done == ("m3",)
        assert advance(stopped, view(), reports(), 99.0) == stopped


def test_what_came_of_an_earlier_plan_says_nothing() -> None:
    plan = replace(PLAN, phase=Phase.UPDATING, current="m2")
    for step in (Step.ROLLED_BACK, Step.FAILED, Step.CONFIRMED):
        told = reports(m2=standing(step=step, wish="p0", cause="of before"))
        assert advance(plan, view(), told, 10.0) == plan


def test_it_stops_where_one_does_not_come_back_or_could_not_ask() -> None:
    plan = replace(PLAN, phase=Phase.UPDATING, current="m2", since=100.0)
    assert advance(plan, view("m2"), reports(), 100.0 + BACK_WITHIN_S - 1) == plan
    late = advance(plan, view("m2"), reports(), 100.0 + BACK_WITHIN_S)
    assert late.phase is Phase.STOPPED and "m2 is not back after 45 min" in late.cause
    told = reports()
    told["m2"] = replace(told["m2"], refused="p1", cause="no room", remedy="make room")
    refused = advance(plan, view(), told, 101.0)
    assert (refused.cause, refused.remedy) == ("m2: no room", "make room")
    gone = advance(replace(plan, current="m9"), view(), reports(), 101.0)
    assert gone.phase is Phase.STOPPED


def test_the_way_back_takes_each_once() -> None:
    plan = replace(PLAN, action=Action.ROLLBACK, version=OLD, done=("m2", "m3"))
    told = reports(**{name: standing(NEW, whole={"a": NEW, "b": OLD}) for name in NAMES})
    assert hindrance(plan, view(), told) is None
    plan = advance(plan, view(), told, 10.0)
    assert plan.current == "m1"
    told["m1"] = Report("m1", standing(step=Step.CONFIRMED, wish="p1"))
    done = advance(advance(plan, view(), told, 11.0), view(), told, 12.0)
    assert done.phase is Phase.DONE


def test_the_way_back_leaves_alone_who_was_never_updated() -> None:
    """An update stopped after the first: m2 has the new one, m3 went back, m1 had no turn."""
    told = reports(
        m1=standing(OLD, whole={"a": OLD, "b": "0.0.9-1"}),
        m2=standing(NEW, whole={"a": NEW, "b": OLD}),
        m3=standing(OLD, whole={"a": OLD}, step=Step.ROLLED_BACK),
    )
    plan = replace(PLAN, action=Action.ROLLBACK, version=version_back(told))
    assert plan.version == OLD and hindrance(plan, view(), told) is None
    plan = advance(plan, view(), told, 10.0)
    assert plan.current == "m2"
    told["m2"] = Report("m2", standing(OLD, step=Step.CONFIRMED, wish="p1"))
    plan = advance(advance(plan, view(), told, 11.0), view(), told, 12.0)
    assert plan.phase is Phase.DONE and plan.done == ("m2",)


def test_the_way_back_that_is_none_for_all_is_refused() -> None:
    after = standing(NEW, whole={"a": NEW, "b": OLD})
    back = standing(OLD, whole={"a": OLD, "b": NEW})
    cases: list[tuple[dict[str, Report], str]] = [
        (reports(m1=back, m2=back, m3=back), f"m1 {NEW}, m2 {NEW}, m3 {NEW}"),  # was made already
        (reports(m1=standing(NEW), m2=after, m3=after), f"m1 nothing, m2 {OLD}, m3 {OLD}"),
        (
            reports(m1=standing(NEW, whole={"b": "0.0.9-1"}), m2=after, m3=after),
            f"m1 0.0.9-1, m2 {OLD}, m3 {OLD}",
        ),
        (
            reports(m1=standing("0.0.8-1", whole={"b": "0.0.7-1"}), m2=after, m3=after),
            f"m1: runs 0.0.8-1 and can't go back to {OLD} with the others",
        ),
    ]
    for told, cause in cases:
        plan = replace(PLAN, action=Action.ROLLBACK, version=version_back(told))
        found = hindrance(plan, view(), told)
        assert found is not None and cause in found[0] and found[1], (cause, found)


def test_what_is_in_the_way_of_a_start() -> None:
    assert hindrance(PLAN, view(), reports()) is None
    without = reports()
    del without["m2"]
    busy = reports(m3=standing(step=Step.INSTALLING))
    current = reports(**{name: standing(NEW) for name in NAMES})
    ahead = replace(PLAN, version="0.3.0-1")
    back = replace(PLAN, action=Action.ROLLBACK, version="")
    cases: list[tuple[Plan, Mapping[str, Report], str]] = [
        (PLAN, without, "m2: does not run from the image"),
        (PLAN, busy, "m3: is being updated"),
        (PLAN, current, "run 0.1.0-2 already"),
        (ahead, reports(), "more than one version further"),
        (back, reports(), "no older system"),
    ]
    for plan, told, cause in cases:
        found = hindrance(plan, view(), told)
        assert found is not None and cause in found[0] and found[1]


def test_whatever_is_reported_never_two_are_at_it_and_it_ends() -> None:
    """Random reports, members away, leaders that change: at most one is asked at a time."""
    dice = random.Random(5)
    steps = list(Step)
    for _ in range(300):
        plan, now = PLAN, 0.0
        while not plan.is_over:
            told = {
                name: Report(name, standing(dice.choice((OLD, NEW)), step=dice.choice(steps),
                                            wish=dice.choice(("p0", "p1")), cause="c"))
                for name in NAMES if dice.random() < 0.9
            }  # fmt: skip
            away = [name for name in NAMES if dice.random() < 0.3]
            now += dice.uniform(0, 300)
            before, seen_now = plan, view(*away, leader=dice.randint(1, 3))
            plan = advance(plan, seen_now, told, now)
            if plan.current and plan.current != before.current:
                assert not away and not before.current and plan.current not in plan.done
            assert sum(plan.asks(name) for name in NAMES) <= 1
            assert now < 100_000
        assert plan.phase is Phase.DONE or (plan.cause and plan.remedy is not None)


def test_a_machine_tells_its_way_from_the_wish_to_the_confirmed_slot() -> None:
    told = Standing("a", OLD, {"a": OLD, "b": "0.0.9-1"}).begun("p1", NEW, 1.0)
    assert told.step is Step.INSTALLING and told.other_version == "0.0.9-1"
    told = told.overwriting()
    assert told.other_version == ""
    told = told.written().restarting(2.0)
    assert told.step is Step.RESTARTING and told.other_version == NEW
    told = told.booted("b", NEW, 3.0, is_trial=True, fell_back=False)
    assert (told.step, told.slot, told.version) == (Step.ON_TRIAL, "b", NEW)
    told = told.well(4.0)
    assert told.step is Step.CONFIRMED and told.whole == {"a": OLD, "b": NEW}
    again = told.booted("b", NEW, 5.0, is_trial=False, fell_back=False).well(6.0)
    assert again.step is Step.CONFIRMED and again.at == 4.0


def test_a_machine_that_went_back_says_why() -> None:
    tried = Standing("a", OLD, {"a": OLD}).begun("p1", NEW, 1.0).written().restarting(2.0)
    silent = tried.booted("a", OLD, 3.0, is_trial=False, fell_back=True)
    assert silent.step is Step.ROLLED_BACK and f"{NEW} did not come up" in silent.cause
    assert silent.remedy and silent.whole == {"a": OLD}
    on_trial = tried.booted("b", NEW, 3.0, is_trial=True, fell_back=False)
    doomed = on_trial.doomed(f"{NEW} was not ready", "")
    back = doomed.booted("a", OLD, 9.0, is_trial=False, fell_back=True)
    assert back.step is Step.ROLLED_BACK and back.cause == f"{NEW} was not ready" and back.remedy
    assert back.wish == "p1" and back.version == OLD
    kept = back.well(10.0)
    assert kept.step is Step.ROLLED_BACK and kept.cause == back.cause
    cut = Standing("a", OLD, {"a": OLD}).begun("p1", NEW, 1.0).overwriting()
    woken = cut.booted("a", OLD, 2.0, is_trial=False, fell_back=False)
    assert woken.step is Step.FAILED and "nothing was changed" in woken.remedy
