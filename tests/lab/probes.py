"""Continuous probes between all pairs of machines, and what was lost (trust.md section 3).

Every 10 ms in both directions, sequence-numbered. A window in time says which probes
count, so that one run can cover several faults.
"""

from __future__ import annotations

import json
import signal
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tests.lab.machine import Machine
from tests.lab.program import Program

INTERVAL_MS = 10
_LINGER_S = 1.0  # for what is still under way once nobody sends any more
_HERE = Path(__file__).resolve().parent


@dataclass(frozen=True, slots=True)
class Pair:
    """What happened to the probes from one machine to another in a window of time."""

    source: str
    destination: str
    sent: int
    lost: int
    duplicated: int
    reordered: int
    affected: int  # probes from the first lost one to the last lost one
    outage_s: float  # the longest time without one probe getting through

    def __str__(self) -> str:
        return (
            f"{self.source} -> {self.destination}: {self.lost} of {self.sent} lost, "
            f"longest outage {self.outage_s * 1000:.0f} ms, {self.duplicated} duplicated, "
            f"{self.reordered} reordered"
        )


class Probes:
    """Probes between the inner addresses of several machines, running from construction.

    `addresses` maps each machine to the address where the others find it.
    """

    def __init__(
        self, addresses: dict[Machine, str], *, directory: Path, interval_ms: float = INTERVAL_MS
    ) -> None:
        self._machines = list(addresses)
        self._results: dict[int, dict[str, dict[str, list[object]]]] = {}
        self._files = {n: directory / f"probe-{n}.json" for n in range(len(self._machines))}
        self._programs: list[Program] = []
        for number, machine in enumerate(self._machines):
            self._files[number].unlink(missing_ok=True)
            peers = [
                f"{address}={other}"
                for other, address in enumerate(addresses.values())
                if other != number
            ]
            arguments = [str(self._files[number]), str(interval_ms), str(number), *peers]
            command = machine.python(_HERE / "probe.py", *arguments)
            self._programs.append(machine.start(command, name=f"probe-{number}"))
        for program in self._programs:
            program.wait_for_log("ready", within_s=10)
        for program in self._programs:
            program.send_signal(signal.SIGUSR1)

    @staticmethod
    def now() -> float:
        """Return the time in the probes' clock, to mark the edges of a window."""
        return time.monotonic()

    def stop(self) -> None:
        """End sending, wait for stragglers, and read the results; safe to call again."""
        for program in self._programs:
            if program.running:
                program.send_signal(signal.SIGTERM)
        time.sleep(_LINGER_S)
        for program in self._programs:
            if program.running:
                program.send_signal(signal.SIGUSR1)
        for number, program in enumerate(self._programs):
            program.wait(within_s=20)
            self._results[number] = json.loads(self._files[number].read_text())
        self._programs = []

    def pairs(self, *, since: float = 0.0, until: float = float("inf")) -> list[Pair]:
        """Stop if still running; return every directed pair for probes sent in the window."""
        if self._programs:
            self.stop()
        numbers = range(len(self._machines))
        return [self._pair(a, b, since, until) for a in numbers for b in numbers if a != b]

    def lost(self, *, since: float = 0.0, until: float = float("inf")) -> int:
        """Return how many probes of all pairs were lost in the window."""
        return sum(pair.lost for pair in self.pairs(since=since, until=until))

    def worst(self, *, since: float = 0.0, until: float = float("inf")) -> Pair:
        """Return the pair with the longest outage in the window."""
        return max(self.pairs(since=since, until=until), key=lambda pair: pair.outage_s)

    def last_received(self, source: Machine, destination: Machine) -> float:
        """Return when `destination` last received a probe of `source` (0.0: never)."""
        if self._programs:
            self.stop()
        a, b = self._machines.index(source), self._machines.index(destination)
        arrived = self._results[b]["received"][str(a)]
        return max((float(item[1]) for item in arrived if isinstance(item, list)), default=0.0)

    def _pair(self, a: int, b: int, since: float, until: float) -> Pair:
        sent = self._results[a]["sent"][str(b)]
        arrived = self._results[b]["received"][str(a)]
        return account(
            self._machines[a].name,
            self._machines[b].name,
            [float(str(at)) for at in sent],
            [int(item[0]) for item in arrived if isinstance(item, list)],
            since=since,
            until=until,
        )


def account(
    source: str,
    destination: str,
    sent: list[float],
    arrived: list[int],
    *,
    since: float = 0.0,
    until: float = float("inf"),
) -> Pair:
    """Return the accounts of one direction from send times and arrived sequence numbers."""
    window = [number for number, at in enumerate(sent) if since <= at < until]
    counts: dict[int, int] = {}
    for number in arrived:
        counts[number] = counts.get(number, 0) + 1
    lost = [number for number in window if number not in counts]
    inside = [number for number in arrived if window and window[0] <= number <= window[-1]]
    reordered = sum(1 for a, b in pairwise(inside) if b < a)
    return Pair(
        source,
        destination,
        sent=len(window),
        lost=len(lost),
        duplicated=sum(counts.get(number, 1) - 1 for number in window),
        reordered=reordered,
        affected=lost[-1] - lost[0] + 1 if lost else 0,
        outage_s=_longest_outage(sent, lost),
    )


def _longest_outage(sent: list[float], lost: list[int]) -> float:
    """Return the longest run of lost probes in seconds: from its first to the next sent."""
    longest, start, previous = 0.0, 0, -2
    for number in lost:
        if number != previous + 1:
            start = number
        previous = number
        end = sent[number + 1] if number + 1 < len(sent) else sent[number]
        longest = max(longest, end - sent[start])
    return longest
