"""What an appliance notices of itself, and what it lets pass."""

from __future__ import annotations

import shutil
import time
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cairn_appliance.cluster import metrics, self_watch
from cairn_appliance.cluster.self_watch import (
    SelfWatch,
    certificate_signs,
    clock_signs,
    disk_signs,
    etcd_signs,
    is_disk_slow,
)
from cairn_appliance.domain.alarm import Alarm, Sign
from cairn_appliance.pki.authority import Authority

NOW = datetime(2026, 11, 26, tzinfo=UTC)
GIB = 1 << 30


@dataclass
class Usage:
    total: int
    free: int


@dataclass
class FakeEtcd:
    pid: int | None = 7
    failed: Sign | None = None
    ended_at: deque[float] = field(default_factory=deque)


@pytest.mark.parametrize(
    ("total", "free", "found"),
    [
        (100 * GIB, 50 * GIB, []),
        (100 * GIB, 4 * GIB, [(Alarm.DISK_FULL, False)]),
        (8 * GIB, 200 << 20, [(Alarm.DISK_FULL, False)]),
        (8 * GIB, 20 << 20, [(Alarm.DISK_FULL, True)]),
        (GIB // 4, 100 << 20, []),
    ],
)
def test_a_disk_is_full_before_it_is_too_late(
    monkeypatch: pytest.MonkeyPatch, total: int, free: int, found: list[tuple[str, bool]]
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(total, free))
    assert [(s.name, s.is_urgent) for s in disk_signs(Path("/data"))] == found


@pytest.mark.parametrize(
    ("behind_s", "text"),
    [
        ([], None),
        ([0.4, -0.9], None),
        ([3600.0, 3601.0], "its clock is 60 minutes ahead of the other appliances'"),
        ([-3600.0, 0.1], None),
        ([-56 * 365 * 86_400.0, -56 * 365 * 86_400.0], "its clock is 56 years behind"),
        ([30.0], "its clock is 30 s ahead of the other appliance's"),
    ],
)
def test_who_disagrees_with_the_others_has_a_wrong_clock(
    behind_s: list[float], text: str | None
) -> None:
    details = [sign.detail for sign in clock_signs(behind_s)]
    assert len(details) == (text is not None)
    assert text is None or details[0].startswith(text)


def test_a_clock_that_nothing_keeps_is_told_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alone, and where all are off alike: nobody disagrees. A machine that starts has no time."""
    kept: list[bool | None] = [False]
    monkeypatch.setattr(self_watch, "is_synchronised", lambda: kept[0])
    watch = SelfWatch(None, FakeEtcd(), tuple)  # type: ignore[arg-type]
    begun = time.monotonic()

    def told(after_s: float) -> list[tuple[str, bool]]:
        return [(sign.name, sign.is_urgent) for sign in watch._clock_kept(begun + after_s)]

    assert told(500) == []
    assert told(700) == [(Alarm.CLOCK_UNSYNCHRONISED, False)]
    kept[0] = True
    assert told(800) == []
    kept[0] = False
    assert told(1300) == []
    assert told(1500) == [(Alarm.CLOCK_UNSYNCHRONISED, False)]
    kept[0] = None  # the kernel doesn't say
    assert told(9000) == []


@pytest.mark.parametrize(
    ("days", "found"),
    [
        (200, []),
        (13, [(False, "pki/api.pem ends on 2026-12-09")]),
        (-1, [(True, "pki/api.pem ended on 2026-11-25")]),
    ],
)
def test_a_certificate_is_named_two_weeks_before_its_end(
    days: int, found: list[tuple[bool, str]]
) -> None:
    begin = NOW - timedelta(days=365 - days)
    authority = Authority.create("test", begin)
    pem = authority.issue_pair("api", "server", ("192.0.2.1",), begin).certificate
    signs = certificate_signs([("pki/api.pem", pem)], NOW)
    assert [(sign.is_urgent, sign.detail) for sign in signs] == found


def test_a_certificate_that_is_none_is_named() -> None:
    (sign,) = certificate_signs([("pki/api.pem", b"")], NOW)
    assert sign.detail == "pki/api.pem can't be read"


def test_why_etcd_does_not_run_is_told_until_it_runs_again() -> None:
    why = Sign(Alarm.DISK_FULL, "its etcd does not run: the disk is full", True)
    etcd = FakeEtcd(None, why, deque([100.0]))
    assert list(etcd_signs(etcd, 1000.0)) == []  # type: ignore[arg-type]
    assert list(etcd_signs(etcd, 120.0)) == [why]  # type: ignore[arg-type]
    etcd.pid = 8
    assert list(etcd_signs(etcd, 120.0)) == [why], "it may end at once"  # type: ignore[arg-type]
    assert list(etcd_signs(etcd, 150.0)) == []  # type: ignore[arg-type]
    etcd.ended_at.extend((200.0, 300.0))
    names = [sign.name for sign in etcd_signs(etcd, 400.0)]  # type: ignore[arg-type]
    assert names == [Alarm.MEMBER_FLAPS]


def page(fast: int, slow: int, changes: int = 1) -> str:
    name = "etcd_disk_wal_fsync_duration_seconds_bucket"
    return (
        f'{name}{{le="0.008"}} {fast}\n{name}{{le="0.064"}} {fast}\n'
        f'{name}{{le="0.256"}} {fast + slow}\n{name}{{le="+Inf"}} {fast + slow}\n'
        f"etcd_server_leader_changes_seen_total {changes}\n"
    )


def test_the_slowest_in_ten_of_late_count() -> None:
    history = metrics.History(300.0)
    assert history.fsync_p90_s(30.0, 10) is None
    history.add(metrics.parse(page(10_000, 0), 0.0))
    assert history.fsync_p90_s(30.0, 10) is None
    history.add(metrics.parse(page(10_005, 0), 5.0))
    assert history.fsync_p90_s(30.0, 10) is None, "five are too few to tell"
    history.add(metrics.parse(page(10_100, 0), 10.0))
    assert history.fsync_p90_s(30.0, 10) == 0.008
    history.add(metrics.parse(page(10_110, 30), 15.0))
    assert history.fsync_p90_s(30.0, 10) == 0.256
    history.add(metrics.parse(page(10_300, 30), 60.0))
    assert history.fsync_p90_s(30.0, 10) is None, "nothing else was read within 30 s"


def stuck_page(fast: int, slow: int) -> str:
    """A page with writes of about a second."""
    name = "etcd_disk_wal_fsync_duration_seconds_bucket"
    bounds = ("0.008", "0.064", "0.512")
    below = "".join(f'{name}{{le="{bound}"}} {fast}\n' for bound in bounds)
    return f'{below}{name}{{le="1.024"}} {fast + slow}\n{name}{{le="+Inf"}} {fast + slow}\n'


def test_a_disk_that_takes_a_second_is_told_before_the_quick_ones_of_before_are_forgotten() -> None:
    history = metrics.History(60.0)
    for second in range(0, 31, 5):
        history.add(metrics.parse(stuck_page(20 * second, 0), float(second)))
    assert not is_disk_slow(history)
    history.add(metrics.parse(stuck_page(600, 5), 35.0))
    assert history.fsync_p90_s(30.0, 10) == 0.008
    assert is_disk_slow(history)


def test_one_write_of_a_few_that_is_late_says_nothing() -> None:
    history = metrics.History(60.0)
    history.add(metrics.parse(stuck_page(0, 0), 0.0))
    history.add(metrics.parse(stuck_page(4, 1), 1.0))
    assert not is_disk_slow(history)


def test_an_etcd_that_was_started_again_begins_anew() -> None:
    history = metrics.History(300.0)
    history.add(metrics.parse(page(10_000, 0, changes=9), 0.0))
    history.add(metrics.parse(page(5, 0, changes=1), 5.0))
    assert history.fsync_p90_s(30.0, 1) is None
    history.add(metrics.parse(page(5, 0, changes=4), 10.0))
    assert history.leader_changes(300.0) == 3
