"""Three appliances: they grow, lose one, are cut apart, lose all, and forget nothing.

    one LAN:   m1   m2   m3   vm   second   client        `client` writes without a pause

Each appliance has its own etcd; `vm` and `second` are nodes whose agents follow them, and probes
go between the two whatever becomes of the appliances. The tests run in
order on one cluster and leave it whole; those marked slow are in `make chaos`. Bars: trust.md
A1, A2, A9, A11, etcd.md section 8.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes

from tests.integration.trio import (
    Trio,
    Write,
    at_appliance,
    cut_off,
    grown_trio,
    healthy,
    longest_stall,
    lost,
    mend,
    moved_from,
    places,
    writing,
)
from tests.lab import Lab, until
from tests.lab.cairn import OPS_PORT, Appliance, missing_programs
from tests.lab.errors import CommandError
from tests.lab.program import children_of
from tests.proofs import record, record_seconds

pytestmark = [
    pytest.mark.timed,
    pytest.mark.root,
    pytest.mark.tun,
    pytest.mark.etcd,
    pytest.mark.timeout(240),
]

POWER_FAILURES = int(os.environ.get("CAIRN_A9_REPEATS", "0"))  # none: for so long
POWER_FAILURES_S = 180.0
AT_ONCE_S = 0.010  # within which a power failure ends all appliances


@pytest.fixture(scope="module")
def trio() -> Iterator[Trio]:
    """Grow a cluster from one to three while `client` writes."""
    with grown("cluster") as trio:
        yield trio


@contextmanager
def grown(
    name: str,
    settings: dict[str, object] | None = None,
    prepare: Callable[[Appliance], None] = lambda _: None,
) -> Iterator[Trio]:
    """Yield a cluster that grew from one to three while `client` wrote.

    `settings` replace what is in each one's settings.toml before its first start; `prepare`
    is called before anything else is done on its machine.
    """
    if missing := missing_programs():
        pytest.fail(f"not built: {', '.join(missing)}; run make setup")
    with Lab(name) as lab:
        yield grown_trio(lab, prepare=prepare, settings=settings)


def test_it_grows_while_a_writer_writes(trio: Trio) -> None:
    acknowledged = [write for write in trio.growth if write.id]
    stall, gone = longest_stall(trio.growth), lost(trio, acknowledged)
    assert [each["name"] for each in trio.shown()] == ["m1", "m2", "m3"]
    until("there is no problem", lambda: _problems(trio) == [], within_s=10)
    assert record(
        "CLUSTER-grow",
        what=f"grown from 1 to 3 under {len(acknowledged)} writes, {gone} and "
        f"{trio.growth_probes}: longest stall",
        bar="<= 3 s, 0 lost",
        value=round(stall, 3),
        unit="s",
        holds=stall <= 3.0
        and gone == 0
        and len(acknowledged) > 100
        and trio.growth_probes.none_lost,
    )


def _problems(trio: Trio) -> list[dict[str, Any]]:
    """All but how busy the disk of this machine is, which says nothing of the cluster."""
    problems = trio.appliances["m1"].cairn("cluster", "status")["problems"]
    return [each for each in problems if each["name"] != "slow_disk"]


def test_the_agent_learns_of_all_appliances_without_asking(trio: Trio) -> None:
    known = {f"{appliance.host.v4}:8002" for appliance in trio.appliances.values()}
    until(
        "the agent knows all three",
        lambda: set(trio.vm.status()["link"]["appliances"]) == known,
        within_s=10,
    )


@pytest.mark.slow
def test_keys_are_replaced_although_the_appliance_that_began_it_is_killed(trio: Trio) -> None:
    trio.wait_until_whole()
    first, second = trio.appliances["m1"], trio.appliances["m2"]
    before = first.cairn("ca", "status")
    begun = time.monotonic()
    for key in ("ca", "map-key"):
        first.cairn(key, "rotate", "--yes")
    first.kill()

    def reached(ca: set[str], behind: set[str]) -> bool:
        with contextlib.suppress(CommandError):
            shown = second.cairn("ca", "status")
            late = {each["name"] for each in shown["ca"]["behind"]}
            return (
                shown["map_key"]["phase"] == "steady"
                and shown["ca"]["phase"] in ca
                and late <= behind
            )
        return False

    # Where it was killed before it showed the new CA's certificate, it is waited for.
    until(
        "the others go on by themselves",
        lambda: reached({"issuing", "steady"}, {"m1"}),
        within_s=90,
    )
    first.start()
    until("all have the new keys", lambda: reached({"steady"}, set()), within_s=90)
    took_s = time.monotonic() - begun
    after = second.cairn("ca", "status")
    assert after["map_key"]["public_key"] != before["map_key"]["public_key"]
    fingerprint = after["ca"]["fingerprint"]
    assert fingerprint != before["ca"]["fingerprint"]
    trio.wait_until_whole()
    shown_by = {name: _issuer_shown(each) for name, each in trio.appliances.items()}
    assert set(shown_by.values()) == {fingerprint}, shown_by
    until("the agent has a link", lambda: trio.served_by() in places(trio), within_s=30)
    for appliance in trio.appliances.values():
        appliance.fingerprint = fingerprint
        appliance.login()
    assert record_seconds(
        "A14-cluster",
        took_s,
        at_most_s=600,
        what="the appliance that began to replace the CA and the map key is killed: until the "
        "others and it have the new ones, by themselves",
    )


def test_the_leader_is_killed_under_writes(trio: Trio) -> None:
    trio.wait_until_whole()
    leader = trio.leader()
    victim = trio.appliances[leader]
    other = next(name for name in trio.appliances if name != leader)
    # The agent follows the victim, and so does one writer: the worst case for both. What
    # another writer has under way by a follower goes to a leader that is no more.
    with (
        at_appliance(trio, leader),
        trio.probed() as probes,
        trio.taking() as taken,
        trio.writing(first=leader) as writer,
        trio.writing(first=other) as elsewhere,
    ):
        writer.wait_for(20)
        taken.wait_for(20)
        killed = time.monotonic()
        victim.kill()
        moved = moved_from(trio, victim)
        writer.wait_for(50, within_s=15)
        taken.wait_for(20)
        both = [writer.acknowledged(), elsewhere.acknowledged()]
    acknowledged = both[0] + both[1]
    stall = max(longest_stall(each, since=killed - 0.5) for each in both)
    gone = lost(trio, acknowledged)
    victim.start()
    trio.wait_until_whole()
    wrong = trio.violations(taken, acknowledged)
    assert record(
        "A1",
        what=f"kill -9 of the leader under {len(acknowledged)} writes, {probes}: no write for",
        bar="<= 3 s, 0 probes lost",
        value=round(stall, 3),
        unit="s",
        holds=stall <= 3.0 and probes.none_lost,
    )
    assert record(
        "A1-lost",
        what=f"the same: acknowledged writes of {len(acknowledged)} lost; of {taken} {len(wrong)} "
        "that no truth explains",
        bar="0; no two owners, none that lost what it had",
        value=gone,
        unit="writes",
        holds=gone == 0 and not wrong,
    ), wrong
    assert record_seconds(
        "A1-agents",
        moved - killed,
        at_most_s=5,
        what="the same: its agent follows another appliance after",
    )


def test_a_follower_is_killed_under_writes(trio: Trio) -> None:
    trio.wait_until_whole()
    leader = trio.leader()
    victim = trio.appliances[next(name for name in trio.appliances if name != leader)]
    with trio.probed() as probes, trio.writing(first=leader) as writer:
        writer.wait_for(20)
        killed = time.monotonic()
        victim.kill()
        writer.wait_for(50)
        acknowledged = writer.acknowledged()
    stall = longest_stall(acknowledged, since=killed - 0.5)
    gone = lost(trio, acknowledged)
    victim.start()
    trio.wait_until_whole()
    assert record(
        "A1-follower",
        what=f"kill -9 of a follower under writes, {gone} and {probes}: no write for",
        bar="<= 1 s, 0 lost",
        value=round(stall, 3),
        unit="s",
        holds=stall <= 1.0 and gone == 0 and probes.none_lost,
    )


@pytest.mark.slow
def test_the_leader_is_stopped_under_writes_and_nobody_waits(trio: Trio) -> None:
    trio.wait_until_whole()
    leader = trio.leader()
    stopped = trio.appliances[leader]
    other = next(name for name in trio.appliances if name != leader)
    with (
        at_appliance(trio, leader),
        trio.probed() as probes,
        trio.writing(first=leader) as at_leader,
        trio.writing(first=other) as elsewhere,
    ):
        at_leader.wait_for(10)
        begun = time.monotonic()
        stopping = threading.Thread(target=stopped.stop)
        stopping.start()
        moved = moved_from(trio, stopped)
        stopping.join(20)
        ended, log = time.monotonic(), stopped.log
        elsewhere.wait_for(20)
        at_leader.wait_for(10)
        written = [at_leader.acknowledged(), elsewhere.acknowledged()]
        failed = [write for write in elsewhere.writes() if not write.id]
    stall = max(longest_stall(each, since=begun - 0.5) for each in written)
    gone = lost(trio, written[0] + written[1])
    stopped.start()
    trio.wait_until_whole()
    assert f"the lead was handed over from={leader}" in log
    assert failed == []
    assert record(
        "DRAIN",
        what=f"the leader stopped (SIGTERM) under writes, {gone} and {probes}: no write for",
        bar="<= 1 s, 0 lost",
        value=round(stall, 3),
        unit="s",
        holds=stall <= 1.0 and gone == 0 and probes.none_lost,
    )
    assert record(
        "DRAIN-agents",
        what=f"the same (it ended after {ended - begun:.1f} s): its agent follows another after",
        bar="<= 5 s, ended <= 10 s",
        value=round(moved - begun, 3),
        unit="s",
        holds=moved - begun <= 5.0 and ended - begun <= 10.0,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "proof"),
    [
        pytest.param("both ways", "A2", id="both ways"),
        pytest.param("nothing out", "A2-out", id="it is not heard"),
        pytest.param("nothing in", "A2-in", id="it hears nothing"),
    ],
)
def test_an_appliance_that_is_cut_off_refuses_and_sends_its_agents_away(
    trio: Trio, way: str, proof: str
) -> None:
    trio.wait_until_whole()
    leader = trio.leader()
    cut = trio.appliances[leader]
    others = [each for name, each in trio.appliances.items() if name != leader]
    with at_appliance(trio, leader):
        place = [f"{cut.host.v4}:{OPS_PORT}"]
        rest = [f"{each.host.v4}:{OPS_PORT}" for each in others]
        session = cut.session()
        with (
            trio.probed() as probes,
            trio.taking() as taken,
            writing(trio.client, place, session) as minority,
        ):
            minority.wait_for(10)
            taken.wait_for(20)
            with writing(trio.client, rest, session) as majority:
                majority.wait_for(10)
                begun = time.monotonic()
                cut_off(cut, others, way)
                moved = moved_from(trio, cut)
                majority.wait_for(20, within_s=15)
                taken.wait_for(20)
                until(
                    "the minority refuses",
                    lambda: sum(w.status == 503 for w in minority.writes()) >= 20,
                    within_s=15,
                )
                status, problem = cut.asked("/readyz")
                mend(cut)
                minority.wait_for(10, within_s=20)
                taken.wait_for(20)
                written = minority.acknowledged() + majority.acknowledged()
                refused = [w for w in minority.writes() if w.sent >= begun - 5.0 and not w.id]
                stall = longest_stall(majority.acknowledged(), since=begun - 0.5)
    slowest = max(write.took for write in refused)
    gone = lost(trio, written)
    trio.wait_until_whole()
    wrong = trio.violations(taken, written)
    assert status == 503
    assert "quorum" in problem
    assert {write.status for write in refused} == {503}
    assert record(
        proof,
        what=f"the leader cut off ({way}), {probes}; {len(refused)} writes refused there: the "
        "slowest took",
        bar="<= 2 s, 0 probes lost",
        value=round(slowest, 3),
        unit="s",
        holds=slowest <= 2.0 and probes.none_lost,
    )
    assert record(
        f"{proof}-lost",
        what=f"the same: of {len(written)} writes acknowledged on both sides, lost; of {taken} on "
        f"both at once {len(wrong)} that no truth explains",
        bar="0; no two owners, none that lost what it had",
        value=gone,
        unit="writes",
        holds=gone == 0 and not wrong,
    ), wrong
    assert record_seconds(
        f"{proof}-majority",
        stall,
        at_most_s=3,
        what="the same: no write at the majority for",
    )
    assert record_seconds(
        f"{proof}-agents",
        moved - begun,
        at_most_s=5,
        what="the same: its agent, told to go, follows another appliance after",
    )


@pytest.mark.slow
def test_two_that_do_not_see_each_other_both_serve_by_the_third(trio: Trio) -> None:
    trio.wait_until_whole()
    leader = trio.leader()
    follower, third = (name for name in trio.appliances if name != leader)
    one, other = trio.appliances[leader], trio.appliances[follower]
    session = one.session()
    place = {name: [f"{each.host.v4}:{OPS_PORT}"] for name, each in trio.appliances.items()}
    with (
        trio.probed() as probes,
        trio.taking() as taken,
        writing(trio.client, place[leader], session) as at_leader,
        writing(trio.client, place[follower], session) as at_follower,
        writing(trio.client, place[third], session) as at_third,
    ):
        writers = [at_leader, at_follower, at_third]
        for writer in writers:
            writer.wait_for(5)
        begun = time.monotonic()
        cut_off(one, [other], "both ways")
        for writer in writers:
            writer.wait_for(20, within_s=30)
        time.sleep(5)  # whatever it came to has to last
        for writer in writers:
            writer.wait_for(20, within_s=10)
        taken.wait_for(20)
        mend(one)
        acknowledged = [write for writer in writers for write in writer.acknowledged()]
        stall = max(longest_stall(writer.acknowledged(), since=begun) for writer in writers)
    gone = lost(trio, acknowledged)
    trio.wait_until_whole()
    wrong = trio.violations(taken, acknowledged)
    assert record(
        "A2-pair",
        what=f"leader and follower don't see each other, both see the third; of "
        f"{len(acknowledged)} writes {gone} and {probes}, of {taken} {len(wrong)} that no truth "
        "explains: no write at one of them for",
        bar="<= 3 s, 0 lost",
        value=round(stall, 3),
        unit="s",
        holds=stall <= 3.0 and gone == 0 and probes.none_lost and not wrong,
    ), wrong


@pytest.mark.slow
@pytest.mark.timeout(POWER_FAILURES_S + 60 * POWER_FAILURES + 300)
def test_all_three_are_killed_and_forget_nothing(trio: Trio) -> None:
    trio.wait_until_whole()
    acknowledged: list[Write] = []
    worst_s, spread_s, failures = 0.0, 0.0, 0
    end = time.monotonic() + POWER_FAILURES_S
    with trio.probed() as probes, trio.taking() as taken:
        taken.wait_for(20)
        while failures < POWER_FAILURES or (not POWER_FAILURES and time.monotonic() < end):
            with trio.writing() as writer:
                writer.wait_for(30)
                spread_s = max(spread_s, killed_at_once(trio))
                acknowledged += writer.acknowledged()
            begun = time.monotonic()
            for appliance in trio.appliances.values():
                appliance.begin()
            trio.wait_until_whole(within_s=60)
            worst_s = max(worst_s, time.monotonic() - begun)
            failures += 1
    until("the agent is back", lambda: trio.served_by() != "", within_s=45)
    gone, wrong = lost(trio, acknowledged), trio.violations(taken, acknowledged)
    assert record(
        "A9",
        what=f"all three killed {failures} times under writes, within {spread_s * 1000:.1f} ms, "
        f"{probes}; of {taken} {len(wrong)} that no truth explains; acknowledged of "
        f"{len(acknowledged)} writes lost",
        bar="0, no two owners, 0 probes lost; killed within 10 ms, >= 3 times (100 times: "
        "CAIRN_A9_REPEATS)",
        value=gone,
        unit="writes",
        holds=gone == 0
        and len(acknowledged) >= 30 * failures
        and failures >= 3
        and spread_s <= AT_ONCE_S
        and probes.none_lost
        and not wrong,
    ), wrong
    assert record_seconds(
        "A9-back",
        worst_s,
        at_most_s=60,
        what="the same: until all three are ready again, the slowest time",
    )


@pytest.mark.slow
def test_one_alone_says_that_it_waits_for_the_others(trio: Trio) -> None:
    trio.wait_until_whole()
    for appliance in trio.appliances.values():
        appliance.kill()
    alone = trio.appliances["m2"]
    alone.begin()
    status, problem = until(
        "it answers",
        lambda: answer if (answer := alone.asked("/api/v1/status"))[0] else None,
        within_s=15,
    )
    assert status == 503
    assert "waits for a quorum" in problem
    assert alone.asked("/healthz")[0] == 200
    for name in ("m1", "m3"):
        trio.appliances[name].begin()
    trio.wait_until_whole(within_s=60)


@pytest.mark.slow
def test_a_living_one_is_not_replaced(trio: Trio) -> None:
    trio.wait_until_whole()
    first = trio.appliances["m1"]
    refused = first.host.run(["cairn", "cluster", "replace", "m3", "--yes"], check=False)
    assert refused.returncode == 4
    assert "m3 is alive" in refused.stderr


@pytest.mark.slow
def test_a_dead_one_is_replaced(trio: Trio) -> None:
    trio.wait_until_whole()
    first, dead = trio.appliances["m1"], trio.appliances["m3"]
    with trio.probed() as probes, trio.writing() as writer:
        writer.wait_for(20)
        dead.kill()
        until("m3 is seen dead", lambda: not healthy(trio, "m3"), within_s=10)
        string = str(first.cairn("cluster", "replace", "m3", "--yes")["join_string"])
        dead.host.run(["rm", "-rf", str(dead.data_dir)])
        assert json.loads(dead.join(string).stdout)["name"] == "m4"
        dead.start()
        trio.appliances["m4"] = trio.appliances.pop("m3")
        trio.wait_until_whole()
        writer.wait_for(20)
        acknowledged = writer.acknowledged()
    again = Appliance(trio.client)
    used = again.join(string, check=False)
    assert used.returncode == 4
    assert "was used up" in used.stderr
    assert again.join(string[:-9], check=False).returncode == 2
    assert not again.data_dir.exists()
    stall, gone = longest_stall(acknowledged), lost(trio, acknowledged)
    assert record(
        "CLUSTER-replace",
        what=f"one of three killed and replaced under writes, {gone} and {probes}: no write for",
        bar="<= 3 s, 0 lost",
        value=round(stall, 3),
        unit="s",
        holds=stall <= 3.0 and gone == 0 and probes.none_lost,
    )


@pytest.mark.slow
def test_two_of_three_are_lost_and_the_third_recovers_everything(trio: Trio) -> None:
    trio.wait_until_whole()
    survivor = trio.appliances["m2"]
    with trio.probed() as probes:
        with trio.taking() as taken, trio.writing(first="m1") as writer:
            writer.wait_for(50)
            taken.wait_for(20)
            for name in ("m1", "m4"):
                trio.appliances[name].kill()
            acknowledged = writer.acknowledged()
        shown = survivor.host.run(
            ["cairn-appliance", "status", "--data-dir", str(survivor.data_dir)], check=False
        )
        assert shown.returncode == 3
        assert "no quorum" in shown.stdout
        survivor.stop()
        begun = time.monotonic()
        recover = ["cairn-appliance", "recover", "--data-dir", str(survivor.data_dir), "--json"]
        assert survivor.host.run(recover, check=False).returncode == 2, "it wants to be sure"
        done = json.loads(survivor.host.run([*recover, "--others-are-lost"], within_s=60).stdout)
        assert done["incarnation"] > 1
        survivor.start()
        until("it is ready", survivor.is_ready, within_s=20)
        took = time.monotonic() - begun
        survivor.login()  # sessions of before are void
        for name in ("m1", "m4"):
            lost_one = trio.appliances.pop(name)
            lost_one.host.run(["rm", "-rf", str(lost_one.data_dir)])
            string = str(survivor.cairn("cluster", "join-string")["join_string"])
            name = json.loads(lost_one.join(string).stdout)["name"]
            lost_one.start()
            lost_one.login()
            trio.appliances[name] = lost_one
        trio.wait_until_whole()
        # The cluster listens to its nodes first, for a minute where some never come.
        until("the agent is back", lambda: trio.served_by() != "", within_s=120)
    gone, wrong = lost(trio, acknowledged), trio.violations(taken, acknowledged)
    assert record(
        "A11",
        what=f"two of three lost, {probes}, of {taken} {len(wrong)} that no truth explains; of "
        f"{len(acknowledged)} acknowledged writes, lost by `recover`",
        bar="0 (RPO 0), no two owners, 0 probes lost",
        value=gone,
        unit="writes",
        holds=gone == 0 and probes.none_lost and not wrong,
    ), wrong
    assert record_seconds(
        "A11-time",
        took,
        at_most_s=900,
        what="the same: from `recover` until it is ready",
    )


@pytest.mark.slow
def test_one_leaves_and_ends_by_itself(trio: Trio) -> None:
    trio.wait_until_whole()
    leaver = trio.leader()
    left = trio.appliances.pop(leaver)
    asker = next(iter(trio.appliances.values()))
    with (
        at_appliance(trio, leaver, left),
        trio.probed() as probes,
        trio.writing(first=min(trio.appliances)) as writer,
    ):
        writer.wait_for(20)
        asker.cairn("cluster", "leave", leaver, "--yes")
        until("it has ended", lambda: left.ended is not None, within_s=20)
        until("the agent is elsewhere", lambda: trio.served_by() in places(trio), within_s=20)
        writer.wait_for(20)
        acknowledged = writer.acknowledged()
    assert left.ended == 4
    assert "was removed from the cluster" in left.log
    left.begin()
    until("its old data are refused", lambda: left.ended is not None, within_s=30)
    assert left.ended == 4
    stall, gone = longest_stall(acknowledged), lost(trio, acknowledged)
    known = {f"{each.host.v4}:8002" for each in trio.appliances.values()}
    until(
        "the agent forgets it",
        lambda: set(trio.vm.status()["link"]["appliances"]) == known,
        within_s=10,
    )
    assert record(
        "CLUSTER-leave",
        what=f"the leader leaves under writes, {gone} and {probes}: no write for",
        bar="<= 3 s, 0 lost",
        value=round(stall, 3),
        unit="s",
        holds=stall <= 3.0 and gone == 0 and probes.none_lost,
    )


def killed_at_once(trio: Trio) -> float:
    """Kill all appliances and their etcds as one power failure does; return how long it took.

    From the first kill to the last: none of them runs on for longer beside one that is dead.
    """
    appliances = list(trio.appliances.values())
    doomed = [pid for each in appliances for pid in (*children_of(each.pid), each.pid)]
    assert len(doomed) == 2 * len(appliances)
    begun = time.monotonic()
    for pid in doomed:
        os.kill(pid, signal.SIGKILL)
    took_s = time.monotonic() - begun
    until(
        "all have ended",
        lambda: (
            not any(each.running for each in appliances)
            and not any(Path(f"/proc/{pid}").exists() for pid in doomed)
        ),
        within_s=30,
    )
    return took_s


def _issuer_shown(appliance: Appliance) -> str:
    """Return the fingerprint of the CA that signed what the APIs show, as it lies there."""
    pem = (appliance.data_dir / "pki" / "api.pem").read_bytes()
    leaf, *others = x509.load_pem_x509_certificates(pem)
    for each in others:
        with contextlib.suppress(InvalidSignature):
            leaf.verify_directly_issued_by(each)
            each.verify_directly_issued_by(each)  # a cross certificate has the same name, too
            return each.fingerprint(hashes.SHA256()).hex()
    return ""
