"""What etcd measures of itself, read from its plain page on loopback."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

_FSYNC = re.compile(
    r'^etcd_disk_wal_fsync_duration_seconds_bucket\{le="([^"]+)"\} ([0-9.e+]+)$', re.MULTILINE
)
_CHANGES = re.compile(r"^etcd_server_leader_changes_seen_total ([0-9.e+]+)$", re.MULTILINE)
_WITHIN_S = 3.0


@dataclass(frozen=True, slots=True)
class Sample:
    """What was read at one time."""

    at: float  # of the monotonic clock
    fsyncs: tuple[tuple[float, float], ...]  # (at most so many seconds, how many), cumulative
    leader_changes: float


async def read(port: int, at: float) -> Sample | None:
    """Return what etcd measures now; None where it gives no answer."""
    try:
        async with asyncio.timeout(_WITHIN_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")
                octets = await reader.read()  # etcd closes it at the end
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return None
    return parse(octets.decode(errors="replace"), at)


def parse(text: str, at: float) -> Sample:
    """Return the sample that a page has."""
    fsyncs = tuple((float(most), float(count)) for most, count in _FSYNC.findall(text))
    changes = _CHANGES.search(text)
    return Sample(at, fsyncs, float(changes[1]) if changes else 0.0)


class History:
    """The samples of the last while."""

    def __init__(self, kept_s: float) -> None:
        self._kept_s = kept_s
        self._samples: deque[Sample] = deque()

    def add(self, sample: Sample) -> None:
        """Add the newest; an etcd that was started again begins to count from 0."""
        if self._samples and _count(sample) < _count(self._samples[-1]):
            self._samples.clear()
        self._samples.append(sample)
        while sample.at - self._samples[0].at > self._kept_s:
            self._samples.popleft()

    def fsync_p90_s(self, within_s: float, at_least: int) -> float | None:
        """Return within what time 9 of 10 writes of the log reached the disk; None: too few."""
        return self._fsync_s(0.9, within_s, at_least)

    def fsync_p99_s(self, within_s: float, at_least: int) -> float | None:
        """Return within what time 99 of 100 did."""
        return self._fsync_s(0.99, within_s, at_least)

    def slow_share(self, over_s: float, within_s: float, at_least: int) -> float:
        """Return which share of the time went, at least, into writes that took longer than that."""
        samples = self._within(within_s)
        if len(samples) < 2 or samples[-1].at <= samples[0].at:
            return 0.0
        slow_s, count, bound_s, below = 0.0, 0.0, 0.0, 0.0
        for most_s, upto in _between(samples[0].fsyncs, samples[-1].fsyncs):
            if bound_s >= over_s:
                count += upto - below
                slow_s += (upto - below) * bound_s
            bound_s, below = most_s, upto
        return slow_s / (samples[-1].at - samples[0].at) if count >= at_least else 0.0

    @property
    def leader_changes_seen(self) -> int:
        """How often the leader changed since etcd was started, as it says."""
        return int(self._samples[-1].leader_changes) if self._samples else 0

    def _fsync_s(self, share: float, within_s: float, at_least: int) -> float | None:
        samples = self._within(within_s)
        if len(samples) < 2:
            return None
        return _quantile(share, samples[0].fsyncs, samples[-1].fsyncs, at_least)

    def leader_changes(self, within_s: float) -> int:
        """Return how often the leader changed."""
        samples = self._within(within_s)
        return int(samples[-1].leader_changes - samples[0].leader_changes) if samples else 0

    def _within(self, seconds: float) -> list[Sample]:
        newest = self._samples[-1].at if self._samples else 0.0
        return [each for each in self._samples if newest - each.at <= seconds]


def _count(sample: Sample) -> float:
    return sample.fsyncs[-1][1] if sample.fsyncs else 0.0


def _between(
    before: Sequence[tuple[float, float]], after: Sequence[tuple[float, float]]
) -> list[tuple[float, float]]:
    """Return (at most so many seconds, how many) of what came in between, cumulative."""
    return [(most, late - early) for (most, late), (_, early) in zip(after, before, strict=False)]


def _quantile(
    share: float,
    before: Sequence[tuple[float, float]],
    after: Sequence[tuple[float, float]],
    at_least: int,
) -> float | None:
    counts = _between(before, after)
    if not counts or counts[-1][1] < at_least:
        return None
    return next(most for most, count in counts if count >= share * counts[-1][1])
