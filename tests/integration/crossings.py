"""What crossed a pair of gateways and when; and whether there was ever more than one forwarder.

A member floods numbered broadcasts into the vSubnet: each gateway that forwards puts every one
of them on the LAN, where the port it came in by says which gateway it was. The LAN's switch floods
the other way, out of each gateway's port with another label, so that a frame that arrives at the
member says by which gateway it came. All times are the kernel's.
"""

from __future__ import annotations

import bisect
import itertools
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tests.lab import Machine
from tests.lab.crossing import RECORD
from tests.lab.lan import Lan

EVERY_MS = 8  # under the 200 a second that a member, or a station, may send to all
GAP_NS = 40_000_000  # a gateway that let nothing pass for so long did not forward all the while
_SCRIPT = Path(__file__).parents[1] / "lab" / "crossing.py"

Way = Literal["out", "in"]  # onto the LAN, off the LAN


@dataclass(frozen=True, slots=True, order=True)
class Crossing:
    """One frame that a gateway let pass."""

    at_ns: int  # CLOCK_REALTIME
    gateway: str
    number: int


@dataclass(frozen=True, slots=True, order=True)
class Run:
    """A gateway forwarded from one frame to another, without a gap."""

    begin_ns: int
    end_ns: int
    gateway: str


class Crossings:
    """Reads the files that are being written."""

    def __init__(self, files: dict[Way, Path], gateways: list[str]) -> None:
        self._files = files
        self._gateways = gateways
        self._offsets = dict.fromkeys(files, 0)

    def take(self) -> dict[Way, list[Crossing]]:
        """Return what crossed since the last call, in the order of time."""
        return {way: sorted(self._read(way)) for way in self._files}

    def forwarder(self, *, within_s: float = 0.3) -> str:
        """Return whose frame was the last one seen on the LAN; empty: none of late."""
        file = self._files["out"]
        size = file.stat().st_size // RECORD.size * RECORD.size
        if not size:
            return ""
        with file.open("rb") as records:
            records.seek(size - RECORD.size)
            at_ns, place, _, _ = RECORD.unpack(records.read(RECORD.size))
        return self._gateways[place] if time.time_ns() - at_ns < within_s * 1e9 else ""

    def _read(self, way: Way) -> Iterator[Crossing]:
        with self._files[way].open("rb") as records:
            records.seek(self._offsets[way])
            octets = records.read()
        whole = len(octets) // RECORD.size * RECORD.size
        self._offsets[way] += whole
        for at_ns, place, label, number in RECORD.iter_unpack(octets[:whole]):
            yield Crossing(at_ns, self._gateways[place if way == "out" else label], number)


@contextmanager
def crossing(
    lan: Lan, member: Machine, tap: str, gateways: dict[str, Machine], port: str
) -> Iterator[Crossings]:
    """Flood both ways and watch, while a pair of gateways has `port` on the LAN."""
    switch, ports = lan.switch, [lan.port(machine, port) for machine in gateways.values()]
    files: dict[Way, Path] = {"out": switch.directory / "out", "in": member.directory / "in"}
    labelled = [f"{name}={label}" for label, name in enumerate(ports)]
    programs = []
    for machine, arguments in (
        (switch, ["watch", str(files["out"]), *ports]),
        (member, ["watch", str(files["in"]), tap]),
        (member, ["send", str(EVERY_MS), f"{tap}=255"]),
        (switch, ["send", str(EVERY_MS), *labelled]),
    ):
        command = machine.python(_SCRIPT, *arguments)
        programs.append(machine.start(command, name=f"crossing-{arguments[0]}"))
        programs[-1].wait_for_log("ready", within_s=10)
    for file in files.values():
        file.touch()
    try:
        yield Crossings(files, list(gateways))
    finally:
        for program in programs:
            program.stop()


def doubled(crossings: Iterable[Crossing]) -> list[str]:
    """Return which of a member's frames more than one gateway put on the LAN."""
    seen: dict[int, Crossing] = {}
    found = []
    for each in crossings:
        first = seen.setdefault(each.number, each)
        if first.gateway != each.gateway:
            apart_ms = (each.at_ns - first.at_ns) / 1e6
            found.append(f"frame {each.number}: {first.gateway}, {each.gateway} {apart_ms:.1f} ms")
    return found


def runs(crossings: Iterable[Crossing]) -> list[Run]:
    """Return from when to when each gateway forwarded."""
    found: list[Run] = []
    last: dict[str, tuple[int, int]] = {}
    for each in crossings:
        begin, end = last.get(each.gateway, (each.at_ns, each.at_ns))
        if each.at_ns - end > GAP_NS:
            found.append(Run(begin, end, each.gateway))
            begin = each.at_ns
        last[each.gateway] = begin, each.at_ns
    return sorted([*found, *(Run(begin, end, who) for who, (begin, end) in last.items())])


def overlaps(found: list[Run]) -> list[str]:
    """Return where two gateways forwarded at one time."""
    said = []
    begins = [run.begin_ns for run in found]
    for place, run in enumerate(found):
        for other in found[place + 1 : bisect.bisect_right(begins, run.end_ns)]:
            if other.gateway != run.gateway:
                shared_ms = (min(run.end_ns, other.end_ns) - other.begin_ns) / 1e6
                said.append(f"{run.gateway} and {other.gateway} for {shared_ms:.1f} ms")
    return said


def violations(taken: dict[Way, list[Crossing]]) -> list[str]:
    """Return all that shows more than one forwarder."""
    said = [f"twice on the LAN: {each}" for each in doubled(taken["out"])]
    for way, crossings in taken.items():
        said += [f"at one time, {way}: {each}" for each in overlaps(runs(crossings))]
    return said


def hand_overs(crossings: Iterable[Crossing]) -> int:
    """Return how often another gateway than before was the one that forwarded."""
    names = [run.gateway for run in runs(crossings)]
    return sum(one != other for one, other in itertools.pairwise(names))


def longest_gap_s(crossings: Iterable[Crossing], until_ns: int) -> float:
    """Return for how long nothing crossed, at the longest; the time up to `until_ns` counts."""
    times = [each.at_ns for each in crossings]
    gaps = (after - before for before, after in itertools.pairwise([*times, until_ns]))
    return max(gaps, default=until_ns) / 1e9
