"""Never two forwarders: what the check finds, and random schedules of cuts, pauses and kills.

`make gateway`; CAIRN_GATEWAY_SCHEDULES sets how many schedules, CAIRN_GATEWAY_SEED what happens
in them, which is printed first.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from tests.integration.crossings import (
    Crossing,
    Crossings,
    Run,
    Way,
    crossing,
    doubled,
    hand_overs,
    longest_gap_s,
    overlaps,
    runs,
    violations,
)
from tests.integration.office import BRIDGE, now_ns
from tests.integration.split import COMBINATIONS, GATEWAYS, KINDS, Fault, Split, built, draw
from tests.integration.test_dataplane import BINARY, LIVING, TAP, VNI, JsonObject
from tests.integration.test_dataplane import Node as Plane
from tests.integration.world import assert_no_program_crashed
from tests.lab import Lab, Program, until
from tests.lab.cairn import missing_programs
from tests.lab.lan import Lan
from tests.proofs import record, record_seconds

pytestmark = [pytest.mark.root, pytest.mark.tun]

SCHEDULES = int(os.environ.get("CAIRN_GATEWAY_SCHEDULES", "20"))
SEED = int(os.environ.get("CAIRN_GATEWAY_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
_SAME_PREFERENCE = 10  # schedules with one, then as many with the other
_SEEN_AFTER_S = 0.3  # of calm: nothing may have crossed in a schedule
_LEAST_FRAMES = 20  # each way, that time included
_MS = 1_000_000


def test_what_is_two_forwarders_and_what_is_a_hand_over() -> None:
    one = [Crossing(at * 8 * _MS, "g1", at) for at in range(10)]
    other = [Crossing(at * 8 * _MS, "g2", at) for at in range(10, 20)]
    assert not violations({"out": one + other, "in": one + other})
    assert hand_overs(one + other) == 1

    late = Crossing(15 * 8 * _MS, "g1", 9)  # a frame that it had in its hands for long
    assert violations({"out": sorted([*one[:9], *other, late]), "in": []}) == [
        "at one time, out: g2 and g1 for 0.0 ms"
    ]
    again = Crossing(19 * 8 * _MS + 1, "g1", 19)
    assert doubled([*other, again]) == ["frame 19: g2, g1 0.0 ms"]
    assert overlaps(runs([*one, *[Crossing(each.at_ns + 1, "g2", 1) for each in one]]))
    assert runs(one) == [Run(0, 72 * _MS, "g1")]


@dataclass(frozen=True)
class Pair:
    """Two gateways' data planes on one LAN, and a member; the test stands for their agents."""

    gateways: dict[str, Plane]
    running: dict[str, Program]  # their data planes
    seen: Crossings
    asking: ThreadPoolExecutor

    def gate(self, name: str, seconds: float) -> None:
        """Set a gateway's gate, whatever the other's is."""
        assert self.ask(name, seconds).result(10)["ok"]

    def ask(self, name: str, seconds: float) -> Future[JsonObject]:
        """Ask for it, and don't wait for the answer."""
        control = self.gateways[name].control
        assert control is not None
        until_ns = now_ns() + int(seconds * 1e9) if seconds else 0
        return self.asking.submit(
            lambda: control.ask("gate", vni=VNI, term=1, forward_until_ns=until_ns)
        )


@contextmanager
def _pair() -> Iterator[Pair]:
    if not BINARY.exists():
        pytest.fail(f"{BINARY} is not built; run make setup")
    with Lab("split") as lab, _closing_connections():
        site = lab.site("dc", families="4", closed=False)
        vm, g1, g2 = (Plane(site.host(name), at) for at, name in enumerate(("vm", "g1", "g2"), 1))
        lan = Lan(lab, "floor")
        running = {}
        for node in (vm, g1, g2):
            node.endpoints = node.endpoints[:1]
            node.make_tap()
            running[node.host.name] = node.start()
            node.connect()
        for node in (g1, g2):
            node.ips = []
            lan.plug(node.host, "eth1")
            node.host.ip(
                f"addr flush dev {TAP}",
                f"link add {BRIDGE} type bridge forward_delay 0 mcast_snooping 0",
                f"link set {TAP} master {BRIDGE}",
                f"link set eth1 master {BRIDGE}",
                f"link set {BRIDGE} up",
            )
            # Two open gates make a loop: it is enough to see the first time round.
            port = lan.port(node.host, "eth1")
            lan.switch.run(["bridge", "link", "set", "dev", port, "isolated", "on"])
        for node in (vm, g1, g2):
            state = node.state(*(each for each in (vm, g1, g2) if each is not node))
            (vsubnet,) = state["vsubnets"]
            vsubnet["role"] = "host" if node is vm else "gateway"
            for peer in vsubnet["peers"]:
                peer["role"] = "host" if peer["id"] == vm.id else "gateway"
            assert node.control and node.control.ask("apply", generation=1, state=state)["ok"]
        machines = {"g1": g1.host, "g2": g2.host}
        with crossing(lan, vm.host, TAP, machines, "eth1") as seen, ThreadPoolExecutor(1) as asking:
            yield Pair({"g1": g1, "g2": g2}, running, seen, asking)


@contextmanager
def _closing_connections() -> Iterator[None]:
    try:
        yield
    finally:
        while LIVING:
            LIVING.pop().disconnect()


def test_the_check_finds_a_gateway_that_forwards_without_the_right() -> None:
    with _pair() as pair:
        pair.gate("g1", 100)
        until("g1 forwards", lambda: pair.seen.forwarder() == "g1", within_s=5)
        time.sleep(0.3)
        pair.gate("g1", 0)
        # The member may still have some of its frames in its hands.
        until("nobody forwards", lambda: pair.seen.forwarder() == "", within_s=10)
        pair.gate("g2", 100)
        until("g2 forwards", lambda: pair.seen.forwarder() == "g2", within_s=5)
        time.sleep(0.3)
        taken = pair.seen.take()
        assert violations(taken) == []
        for way, crossings in taken.items():
            assert {each.gateway for each in crossings} == {"g1", "g2"}, way
            assert hand_overs(crossings) == 1

        pair.gate("g1", 100)  # what it was not granted
        taken = pair.seen.take()
        for sign in ("twice on the LAN", "at one time, out", "at one time, in"):
            until(f"it is found: {sign}", lambda s=sign: _is_found(s, pair, taken), within_s=10)


def _is_found(sign: str, pair: Pair, taken: dict[Way, list[Crossing]]) -> bool:
    """Whether a violation begins so, with what crossed meanwhile."""
    for way, crossings in pair.seen.take().items():
        taken[way] += crossings
    return any(each.startswith(sign) for each in violations(taken))


def test_a_gateway_that_was_paused_forwards_nothing_from_before_its_gate_opened() -> None:
    """What waited in its queues may have crossed by the other gateway long ago."""
    with _pair() as pair:
        pair.gate("g1", 100)
        until("g1 forwards", lambda: pair.seen.forwarder() == "g1", within_s=5)
        paused = pair.running["g2"]
        paused.send_signal(signal.SIGSTOP)
        time.sleep(0.5)
        pair.gate("g1", 0)
        time.sleep(0.1)
        pair.ask("g2", 100)  # it is read when the data plane goes on
        time.sleep(0.1)
        paused.resume()
        until("g2 forwards", lambda: pair.seen.forwarder() == "g2", within_s=5)
        time.sleep(0.3)
        assert violations(pair.seen.take()) == []


def test_schedules_are_drawn_from_their_seed_alone_and_hold_every_fault() -> None:
    drawn = [draw(random.Random(f"7-{number}")) for number in range(200)]
    assert drawn == [draw(random.Random(f"7-{number}")) for number in range(200)]
    faults = [fault for schedule in drawn for fault in schedule]
    assert {fault.what for fault in faults if fault.kind == "cut"} == set(COMBINATIONS)
    assert {fault.kind for fault in faults} == set(KINDS)
    for schedule in drawn:
        assert len({fault.slot for fault in schedule}) == len(schedule)


@dataclass
class Played:
    """What there was in all schedules."""

    count: int = 0
    faults: int = 0
    hand_overs: int = 0
    frames: int = 0
    longest_s: float = 0.0  # that nobody forwarded
    violations: list[str] = field(default_factory=list)
    begun: float = field(default_factory=time.monotonic)

    def add(self, name: str, faults: list[Fault], taken: dict[Way, list[Crossing]]) -> None:
        """Note what was seen in one schedule."""
        found = violations(taken)
        moves = hand_overs(taken["out"])
        longest_s = longest_gap_s(taken["out"], taken["out"][-1].at_ns)
        self.count += 1
        self.faults += len(faults)
        self.hand_overs += moves
        self.frames += sum(map(len, taken.values()))
        self.longest_s = max(self.longest_s, longest_s)
        self.violations += [f"{name}: {each}" for each in found]
        at_s = time.monotonic() - self.begun
        said = f"{name}: {'; '.join(map(str, faults))}: {moves} moves, away {longest_s:.1f} s"
        said += f" (at {at_s:.0f} s)"
        print(
            f"split: {said}{''.join(f'{chr(10)}  VIOLATION {each}' for each in found)}", flush=True
        )


@pytest.fixture(scope="module")
def split() -> Iterator[Split]:
    if missing := missing_programs():
        pytest.fail(f"not built: {', '.join(missing)}; run make setup")
    with built() as made:
        yield made
        assert_no_program_crashed(made.trio.lab)


@pytest.mark.slow
@pytest.mark.etcd
@pytest.mark.timeout(600)
def test_c1_the_forwarder_dies_with_the_appliance_that_leads(split: Split) -> None:
    outages = []
    for _ in range(3):
        first = split.wait_until_calm()
        split.switch_over(first)  # the count of automatic moves begins anew
        node, leader = split.gateways[first], split.trio.appliances[split.leader()]
        assert node.agent is not None and node.dataplane is not None
        split.seen.take()
        time.sleep(0.5)
        leader.kill()
        for program in (node.dataplane, node.agent):
            program.kill_for_good()
        time.sleep(9.0)
        forwarder, taken, ended_ns = split.seen.forwarder(), split.seen.take(), time.time_ns()
        node.start()
        leader.begin()
        assert violations(taken) == []
        assert forwarder == split.other(first)
        outages.append(max(longest_gap_s(each, ended_ns) for each in taken.values()))
    assert record_seconds(
        "C1-leader",
        max(outages),
        at_most_s=6,
        what="three times the forwarder dies, and the appliance with etcd's leader at once: no "
        "frame between LAN and VM, the worst",
    ), outages


@pytest.mark.slow
@pytest.mark.etcd
@pytest.mark.timeout(300)
def test_c5_gateways_whose_cables_are_pulled_in_turns_move_three_times_and_stay(
    split: Split,
) -> None:
    split.switch_over(split.wait_until_calm())  # the count begins anew
    moves = 0
    for _ in range(4):
        first = split.wait_until_calm()
        host = split.gateways[first].host
        split.lan.pull(host, "eth1")
        time.sleep(5.0)
        moves += split.seen.forwarder() == split.other(first)
        is_held_down = split.shown()["held_down"]
        split.lan.put_back(host, "eth1")
        if is_held_down:
            break
    until("it stays with the last one", lambda: split.seen.forwarder() == first, within_s=20)
    told = split.trio.appliances["m1"].host.run(["cairn", "event", "list"]).stdout
    assert record(
        "C5-lab",
        what="the forwarder's LAN cable is pulled again and again: moves until it is held down",
        bar="3, then an alarm, and it stays",
        value=moves,
        unit="moves",
        holds=moves == 3 and is_held_down and "does so no more by itself" in " ".join(told.split()),
    ), told
    split.switch_over(split.other(first))
    until("an operator moves it", lambda: split.seen.forwarder() == split.other(first), within_s=20)
    assert not split.shown()["held_down"]


@pytest.mark.slow
@pytest.mark.etcd
@pytest.mark.timeout(SCHEDULES * 60 + 600)
def test_c3_no_schedule_of_faults_has_two_forwarders(split: Split) -> None:
    print(f"\nsplit: {SCHEDULES} schedules, seed {SEED}", flush=True)
    played = _played(split)
    took_s = time.monotonic() - played.begun
    print(f"split: {played.count} in {took_s:.0f} s, longest away {played.longest_s:.1f} s")
    forwarder = split.wait_until_calm()
    split.seen.take()
    split.steal(split.other(forwarder), 0.3)
    time.sleep(0.8)
    found = violations(split.seen.take())
    assert any(each.startswith("twice on the LAN") for each in found), "it would have been seen"
    assert record(
        "C3",
        what=f"{played.count} random schedules ({played.faults} cuts, pauses, kills; seed {SEED}): "
        f"{played.hand_overs} hand-overs, {played.frames} frames; more than one forwarder",
        bar="0",
        value=len(played.violations),
        unit="times",
        holds=not played.violations and played.count >= SCHEDULES,
    ), played.violations[:20]


def _played(split: Split) -> Played:
    played = Played()
    split.seen.take()
    for number in range(SCHEDULES):
        if number % _SAME_PREFERENCE == 0:
            split.wait_until_calm()
            preference = ("safety", "availability")[number // _SAME_PREFERENCE % 2]
            split.prefer(preference)
        dice = random.Random(f"{SEED}-{number}")
        # An operator's wish also begins the count of automatic moves anew (C5).
        split.switch_over(dice.choice(GATEWAYS))
        faults = draw(dice)
        split.play(faults, split.wait_until_calm())
        split.wait_until_calm()
        time.sleep(_SEEN_AFTER_S)
        taken = split.seen.take()
        assert all(len(crossings) > _LEAST_FRAMES for crossings in taken.values()), "it is blind"
        played.add(f"{number} {preference}", faults, taken)
    return played
