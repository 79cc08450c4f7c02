"""Three appliances: damaged data, slow disks, wrong clocks, old certificates, ends of etcd.

The tests run in order on one cluster and leave it whole. In `make chaos`; bars: trust.md A4, A6,
A8, A16.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cairn_appliance.cluster import bootstrap
from cairn_appliance.pki.authority import Authority, KeyPair
from cryptography import x509

from tests.integration.test_cluster import grown
from tests.integration.trio import Trio, longest_stall, lost
from tests.lab import until
from tests.lab.cairn import Appliance
from tests.lab.program import children_of
from tests.lab.wall_clock import set_clock, wrong_clock
from tests.proofs import record, record_seconds

pytestmark = [
    pytest.mark.root,
    pytest.mark.tun,
    pytest.mark.etcd,
    pytest.mark.slow,
    pytest.mark.timeout(400),
]


TOLD_WITHIN_S = 30.0


@pytest.fixture(scope="module")
def trio() -> Iterator[Trio]:
    """A cluster of three."""
    with grown("damage") as trio:
        yield trio


def test_data_damaged_while_it_was_off_are_found_at_the_start(trio: Trio) -> None:
    trio.wait_until_whole()
    name, victim, asked = follower(trio)
    with trio.writing(first=trio.leader()) as writer:
        writer.wait_for(20)
        mark = writer.acknowledged()[0].id
        victim.stop()
        assert flip(victim, mark) > 0
        begun = time.monotonic()
        victim.begin()
        told = told_after(asked, "member_corrupt", name, since=begun)
        rebuilt = rebuild(trio, victim)
        writer.wait_for(20)
        acknowledged = writer.acknowledged()
    gone, stall = lost(trio, acknowledged), longest_stall(acknowledged)
    assert record(
        "A8",
        what=f"octets of a stopped member flipped; rebuilt by one command in {rebuilt:.0f} s; "
        f"{gone} of {len(acknowledged)} writes lost, none for {stall:.1f} s: found after",
        bar="<= 2 min; rebuilt <= 5 min, 0 lost, no write for at most 3 s",
        value=round(told, 1),
        unit="s",
        holds=told <= 120.0 and rebuilt <= 300.0 and gone == 0 and stall <= 3.0,
    )


@pytest.mark.parametrize("which", ["follower", "leader"])
def test_data_damaged_while_it_runs_are_found_and_taken_out(trio: Trio, which: str) -> None:
    trio.wait_until_whole()
    name, victim, asked = follower(trio)
    if which == "leader":
        name = trio.leader()
        victim, asked = trio.appliances[name], victim
    with trio.writing(first=next(n for n in trio.appliances if n != name)) as writer:
        writer.wait_for(20)
        mark = writer.acknowledged()[0].id
        time.sleep(1.0)  # until it is in the file
        assert flip(victim, mark) > 0
        begun = time.monotonic()
        told = told_after(asked, "member_corrupt", name, since=begun)
        until("it has ended", lambda: victim.ended is not None, within_s=60)
        fenced = time.monotonic() - begun
        rebuilt = rebuild(trio, victim)
        writer.wait_for(20)
        acknowledged = writer.acknowledged()
    gone, stall = lost(trio, acknowledged), longest_stall(acknowledged)
    until("no alarm is left", lambda: "member_corrupt" not in alarms(asked), within_s=30)
    assert record(
        "A8-running" if which == "follower" else "A8-leader",
        what=f"octets of the running {which} flipped; out of the cluster after {fenced:.0f} s, "
        f"rebuilt by one command in {rebuilt:.0f} s; {gone} of {len(acknowledged)} writes lost, "
        f"none for {stall:.1f} s: found after",
        bar="<= 2 min; rebuilt <= 5 min, 0 lost, no write for at most 3 s",
        value=round(told, 1),
        unit="s",
        holds=told <= 120.0 and rebuilt <= 300.0 and gone == 0 and stall <= 3.0,
    )


@pytest.mark.parametrize("delay_ms", [50, 200, 1000])
def test_a_follower_with_a_slow_disk_harms_nobody(trio: Trio, delay_ms: int) -> None:
    trio.wait_until_whole()
    leader = trio.leader()
    _, victim, _ = follower(trio)
    with trio.writing(first=leader) as writer:
        writer.wait_for(100, within_s=60)
        before = median(write.took for write in writer.acknowledged())
        with slow_disk(victim, delay_ms):
            begun = time.monotonic()
            writer.wait_for(200, within_s=120)
            acknowledged = writer.acknowledged()
    slowed = median(write.took for write in acknowledged if write.sent > begun)
    assert trio.leader() == leader
    assert record(
        f"A4-follower-{delay_ms}",
        what=f"fsync of a follower {delay_ms} ms slower: a write takes {before * 1000:.0f} ms "
        f"before and {slowed * 1000:.0f} ms then, the same leader: grown to",
        bar="<= 2 times (nobody notices)",
        value=round(slowed / before, 2),
        unit="times",
        holds=slowed <= 2.0 * before + 0.005,
    )


def test_a_leader_with_a_slow_disk_is_told_and_lets_another_lead(trio: Trio) -> None:
    trio.wait_until_whole()
    leader = trio.leader()
    victim = trio.appliances[leader]
    asked = next(each for name, each in trio.appliances.items() if name != leader)
    terms = term(asked)
    with trio.writing(first=next(n for n in trio.appliances if n != leader)) as writer:
        writer.wait_for(20)
        with slow_disk(victim, 200):
            begun = time.monotonic()
            told = told_after(asked, "slow_disk", leader, since=begun)
            until("another one leads", lambda: trio.leader() != leader, within_s=60)
            moved = time.monotonic() - begun
            time.sleep(max(0.0, begun + 60.0 - time.monotonic()))  # whether it stays so
            changes = term(asked) - terms
            writer.wait_for(20)
        acknowledged = writer.acknowledged()
    gone = lost(trio, acknowledged)
    assert record(
        "A4",
        what=f"fsync of the leader 200 ms slower: another leads after {moved:.0f} s, {changes} "
        f"elections in a minute, {gone} of {len(acknowledged)} writes lost: told after",
        bar="<= 30 s; <= 1 election a minute, 0 lost",
        value=round(told, 1),
        unit="s",
        holds=told <= 30.0 and changes <= 1 and gone == 0,
    )


@pytest.mark.parametrize(
    ("count", "delay_ms", "proof"),
    [
        pytest.param(2, 1000, "A4-two", id="two by 1000 ms"),
        pytest.param(3, 200, "A4-all", id="all by 200 ms"),
    ],
)
def test_with_most_disks_slow_there_is_an_alarm_and_no_election_storm(
    trio: Trio, count: int, delay_ms: int, proof: str
) -> None:
    trio.wait_until_whole()
    leader = trio.leader()
    asked = trio.appliances[leader]
    terms = term(asked)
    slowed = [asked, *(each for name, each in trio.appliances.items() if name != leader)][:count]
    with trio.writing(within_s=15.0, retry_s=15.0) as writer:  # as long as `cairn` waits
        writer.wait_for(20)
        with ExitStack() as slow:
            for each in slowed:
                slow.enter_context(slow_disk(each, delay_ms))
            begun = time.monotonic()
            told = told_after(asked, "slow_disk", "", since=begun)
            time.sleep(max(0.0, begun + TOLD_WITHIN_S - time.monotonic()))
            at_first = term(asked) - terms  # until one leads whose disk is well, where there is one
            time.sleep(max(0.0, begun + 2 * TOLD_WITHIN_S - time.monotonic()))
            changes = term(asked) - terms - at_first
        writer.wait_for(20, within_s=60)
        tried = [write for write in writer.writes() if begun < write.sent <= begun + 60.0]
        acknowledged = writer.acknowledged()
    gone = lost(trio, acknowledged)
    took = [write.took for write in tried if write.id]
    refused = len(tried) - len(took)
    assert record(
        proof,
        what=f"fsync of {count} of three {delay_ms} ms slower: {at_first} elections in half a "
        f"minute and {changes} in the next; {len(took)} changes made in {median(took):.1f} s each "
        f"(at most {max(took):.1f}, repeated for 15 s where refused), {refused} not; "
        f"{gone} of {len(acknowledged)} lost: told after",
        bar="<= 30 s; then <= 1 election in 30 s; slow changes, one in ten not made, 0 lost",
        value=round(told, 1),
        unit="s",
        holds=told <= TOLD_WITHIN_S and changes <= 1 and 9 * refused <= len(took) and gone == 0,
    )


def test_a_wrong_clock_is_told_and_heals_when_it_is_set(trio: Trio) -> None:
    """One hour ahead, one behind, 1970: each from the start, then right again at run time."""
    trio.wait_until_whole()
    name, victim, asked = follower(trio)
    clock = victim.host.directory / "clock"
    told, healed = [], []
    for offset in (3600, -3600, -int(time.time()) + 86_400):
        victim.stop()
        set_clock(clock, offset)
        begun = time.monotonic()
        victim.begin(prefix=wrong_clock(clock))
        with trio.writing(first=trio.leader()) as writer:
            writer.wait_for(20)
            if abs(offset) == 3600:
                told.append(told_after(asked, "clock_off", name, since=begun))
                assert victim.is_ready(), "leases and the quorum don't depend on it"
            else:
                time.sleep(10)
            begun = time.monotonic()
            set_clock(clock, 0)
            until("it is ready", victim.is_ready, within_s=90)
            until("it is not told", lambda: "clock_off" not in alarms(asked), within_s=60)
            healed.append(time.monotonic() - begun)
            acknowledged = writer.acknowledged()
        assert lost(trio, acknowledged) == 0
    victim.stop()
    victim.start()
    trio.wait_until_whole()
    assert record(
        "A6",
        what=f"one clock an hour off, told after {max(told):.0f} s; in 1970 at the start; no "
        "write lost: all is well again after it was set right, at most",
        bar="<= 90 s; told <= 60 s",
        value=round(max(healed), 1),
        unit="s",
        holds=max(healed) <= 90.0 and max(told) <= 60.0,
    )


def test_an_etcd_that_keeps_ending_is_named_and_loses_nothing(trio: Trio) -> None:
    trio.wait_until_whole()
    name, victim, asked = follower(trio)
    with trio.writing(first=trio.leader()) as writer:
        writer.wait_for(10)
        for _ in range(3):
            (etcd,) = until("its etcd runs", lambda: children_of(victim.pid), within_s=40)
            os.kill(etcd, signal.SIGKILL)
            until(
                "another one runs",
                lambda gone=etcd: children_of(victim.pid) not in ([], [gone]),  # type: ignore[misc]
                within_s=40,
            )
        begun = time.monotonic()
        told = told_after(asked, "member_flaps", name, since=begun)
        writer.wait_for(20)
        acknowledged = writer.acknowledged()
    trio.wait_until_whole(within_s=60)
    gone, stall = lost(trio, acknowledged), longest_stall(acknowledged)
    victim.stop()
    victim.start()
    assert record(
        "A16",
        what=f"etcd of one ended three times; {gone} of {len(acknowledged)} writes lost, none for "
        f"{stall:.1f} s: told after",
        bar="<= 30 s; 0 lost, no write for at most 3 s",
        value=round(told, 1),
        unit="s",
        holds=told <= 30.0 and gone == 0 and stall <= 3.0,
    )


def test_a_name_that_nobody_knows_is_told(trio: Trio) -> None:
    trio.wait_until_whole()
    name, victim, asked = follower(trio)
    victim.stop()
    victim.set(addresses=[victim.host.v4, "no-such-appliance.invalid"])
    begun = time.monotonic()
    victim.start()
    told = told_after(asked, "address_unknown", name, since=begun)
    victim.stop()
    victim.set(addresses=[victim.host.v4])
    victim.start()
    trio.wait_until_whole()
    assert record_seconds(
        "A16-name",
        told,
        at_most_s=60,
        what="a name among the addresses that no DNS knows: told after its start",
    )


def test_certificates_that_ended_are_renewed_without_anybody(trio: Trio) -> None:
    """Between the appliances and for nodes, while it runs: only the files are changed."""
    trio.wait_until_whole()
    _, victim, _ = follower(trio)
    local = bootstrap.load(victim.data_dir)
    sealed = (victim.data_dir / "pki" / "etcd-ca-key.sealed").read_bytes()
    ca = (victim.data_dir / "pki" / "etcd-ca.pem").read_bytes()
    authority = Authority.load(KeyPair(ca, local.sealer.open("etcd-ca-key", sealed)))
    long_ago = datetime.now(UTC) - timedelta(days=400)
    for part in ("etcd-server", "etcd-peer"):
        names = ("127.0.0.1", victim.host.v4)
        pair = authority.issue_pair(part, "peer", names, long_ago)
        (victim.data_dir / "pki" / f"{part}-key.pem").write_bytes(pair.private_key)
        (victim.data_dir / "pki" / f"{part}.pem").write_bytes(pair.certificate)
    begun = time.monotonic()
    with trio.writing(first=trio.leader()) as writer:
        writer.wait_for(20)
        renewed = until(
            "both are renewed",
            lambda: (
                min(left_s(victim, p) for p in ("etcd-server", "etcd-peer")) > 0
                and time.monotonic() - begun
            ),
            within_s=120,
        )
        writer.wait_for(20)
        acknowledged = writer.acknowledged()
    victim.kill()
    victim.start()
    trio.wait_until_whole(within_s=60)
    gone = lost(trio, acknowledged)
    assert record(
        "A16-certificates",
        what=f"certificates between the appliances ended; {gone} of {len(acknowledged)} writes "
        "lost: renewed by themselves after",
        bar="<= 90 s; 0 lost",
        value=round(renewed, 1),
        unit="s",
        holds=renewed <= 90.0 and gone == 0,
    )


def follower(trio: Trio) -> tuple[str, Appliance, Appliance]:
    """Return the name of a follower, it, and the leader."""
    leader = trio.leader()
    name = max(each for each in trio.appliances if each != leader)
    return name, trio.appliances[name], trio.appliances[leader]


def problems(asked: Appliance) -> list[dict[str, Any]]:
    done = asked.host.run(["cairn", "cluster", "status", "--json"], check=False)
    found: list[dict[str, Any]] = json.loads(done.stdout)["problems"] if done.stdout else []
    return found


def alarms(asked: Appliance) -> list[str]:
    return [str(each["name"]) for each in problems(asked)]


def told_after(asked: Appliance, alarm: str, name: str, *, since: float) -> float:
    """Return how long after `since` the alarm about an appliance is shown by another."""

    def told() -> bool:
        found = problems(asked)
        return any(p["name"] == alarm and p["cause"].startswith(name) for p in found)

    until(f"{alarm} of {name} is told", told, within_s=150)
    return time.monotonic() - since


def flip(appliance: Appliance, mark: str) -> int:
    """Flip a bit of each octet before the mark in the database's file; return how many."""
    path = appliance.data_dir / "etcd" / "member" / "snap" / "db"
    found = [match.start() for match in re.finditer(re.escape(mark.encode()), path.read_bytes())]
    with path.open("r+b") as file:
        for at in found:
            file.seek(at + len(mark) - 1)
            last = file.read(1)[0]
            file.seek(at + len(mark) - 1)
            file.write(bytes([last ^ 0x01]))
    return len(found)


def rebuild(trio: Trio, appliance: Appliance) -> float:
    """Rebuild it by the one command, and return how long it was until the cluster is whole."""
    appliance.stop()
    begun = time.monotonic()
    command = ["cairn-appliance", "rebuild", "--data-dir", str(appliance.data_dir), "--json"]
    assert json.loads(appliance.host.run(command, within_s=120).stdout)["kept"]
    appliance.start(within_s=90)
    trio.wait_until_whole(within_s=90)
    return time.monotonic() - begun


@contextmanager
def slow_disk(appliance: Appliance, delay_ms: int) -> Iterator[None]:
    """Delay each fdatasync of its etcd inside the block."""
    (etcd,) = children_of(appliance.pid)
    inject = f"inject=fdatasync:delay_exit={delay_ms * 1000}"
    command = ["strace", "-f", "-qq", "-p", str(etcd), "-e", "trace=fdatasync", "-e", inject]
    with (appliance.host.directory / "strace.log").open("wb") as log:
        tracer = subprocess.Popen([*command, "-e", "signal=none"], stdout=log, stderr=log)
    try:
        time.sleep(0.5)
        assert tracer.poll() is None, (appliance.host.directory / "strace.log").read_text()
        yield
    finally:
        tracer.send_signal(signal.SIGINT)
        tracer.wait(20)


def term(asked: Appliance) -> int:
    """Return how often a leader was chosen, by etcd itself."""
    page = asked.host.run(["curl", "-s", "http://127.0.0.1:2381/metrics"]).stdout
    match = re.search(r"(?m)^etcd_server_leader_changes_seen_total (\S+)$", page)
    assert match
    return int(float(match[1]))


def median(values: Iterator[float]) -> float:
    found = sorted(values)
    return found[len(found) // 2]


def left_s(appliance: Appliance, name: str) -> float:
    pem = (appliance.data_dir / "pki" / f"{name}.pem").read_bytes()
    end = x509.load_pem_x509_certificate(pem).not_valid_after_utc
    return (end - datetime.now(UTC)).total_seconds()
