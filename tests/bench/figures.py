"""What is measured of a system that runs on a pair."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.pair import End, Pair, machine_busy_s
from tests.lab import LabError, until

TRAFFIC = Path(__file__).with_name("traffic.py")
_IPERF_PORT, _SINK_PORT, _ECHO_PORT = 5201, 6001, 6002
_GRACE_S = 20.0
Values = dict[str, float]


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure's key in build/bench.json, what it is, and which way is better."""

    key: str
    title: str
    unit: str
    digits: int
    more_is_better: bool


FIGURES = (
    Figure("tcp1_gbit_s", "TCP, one stream", "Gbit/s", 2, True),
    Figure("tcp4_gbit_s", "TCP, four streams", "Gbit/s", 2, True),
    Figure("tcp1_wire_gbit_s", "TCP, one stream, veth without offloads", "Gbit/s", 2, True),
    Figure("tcp4_wire_gbit_s", "TCP, four streams, veth without offloads", "Gbit/s", 2, True),
    Figure("udp64_pps", "64-octet UDP, loss at most 0.1 %", "kpps", 1, True),
    Figure("udp1300_gbit_s", "1,300-octet UDP, loss at most 0.1 %", "Gbit/s", 2, True),
    Figure("rtt_p50_us", "round trip, p50", "us", 0, False),
    Figure("rtt_p99_us", "round trip, p99", "us", 0, False),
    Figure("cpu_s_per_gb", "CPU of the system, both ends", "s/GByte", 2, False),
    Figure("machine_cpu_s_per_gb", "CPU of the whole machine", "s/GByte", 2, False),
    Figure("rss_mib", "memory of one end, idle", "MiB", 1, False),
)
SHOWN_PER = {"kpps": 1000.0}  # a unit of the pictures to that of the JSON


@dataclass(frozen=True, slots=True)
class Durations:
    """How long each figure is measured."""

    tcp_s: int  # iperf3 takes whole seconds
    udp_s: float  # of one step of the search
    udp_steps: int
    rtt_s: float
    wire_s: int


FULL = Durations(tcp_s=2, udp_s=0.5, udp_steps=6, rtt_s=1.0, wire_s=2)
QUICK = Durations(tcp_s=2, udp_s=0.3, udp_steps=5, rtt_s=1.0, wire_s=1)


def measure(
    pair: Pair, times: Durations, *, in_kernel: bool, failed: Callable[[str, Exception], None]
) -> Values:
    """Return the figures of a system that answers on `pair`; a figure that fails is missing."""
    values: Values = {}
    if not in_kernel:
        values["rss_mib"] = max(end.rss_mib() for end in pair.ends)
    pair.b.machine.start(["iperf3", "-s", "-B", pair.b.inner], name="iperf3")
    until("iperf3 listens", lambda: pair.b.machine.listens("tcp", _IPERF_PORT), within_s=5)
    parts: dict[str, Callable[[], Values]] = {
        "tcp1": lambda: _tcp1(pair, times.tcp_s, in_kernel=in_kernel),
        "tcp4": lambda: {"tcp4_gbit_s": _gbit_s(_iperf(pair, 4, times.tcp_s))},
        "udp": lambda: _udp(pair, times),
        "rtt": lambda: _rtt(pair, times.rtt_s),
        "wire": lambda: _wire(pair, times.wire_s),
    }
    for name, part in parts.items():
        try:
            values |= part()
        except (LabError, ValueError, KeyError, OSError) as error:
            failed(name, error)
    return values


def _tcp1(pair: Pair, seconds: int, *, in_kernel: bool) -> Values:
    """One stream; the system's CPU over it, start and end of iperf3 included.

    In the kernel: all that the machine did, without what was charged to iperf3.
    """
    own, machine = sum(end.cpu_s() for end in pair.ends), machine_busy_s()
    ended = _iperf(pair, 1, seconds)
    machine = machine_busy_s() - machine
    own = sum(end.cpu_s() for end in pair.ends) - own
    gbyte = ended["sum_received"]["bytes"] / 1e9
    if in_kernel:
        use = ended["cpu_utilization_percent"]
        tools = (use["host_total"] + use["remote_total"]) / 100 * ended["sum_sent"]["seconds"]
        own = max(0.0, machine - tools)
    return {
        "tcp1_gbit_s": _gbit_s(ended),
        "cpu_s_per_gb": own / gbyte,
        "machine_cpu_s_per_gb": machine / gbyte,
    }


def _wire(pair: Pair, seconds: int) -> Values:
    """The streams again, on a veth that is a plain wire; the last part, as it stays so."""
    pair.switch_offloads_off()
    return {
        f"tcp{streams}_wire_gbit_s": _gbit_s(_iperf(pair, streams, seconds)) for streams in (1, 4)
    }


def _iperf(pair: Pair, streams: int, seconds: int) -> dict[str, Any]:
    command = ["iperf3", "-J", "-c", pair.b.inner, "-t", str(seconds), "-P", str(streams)]
    done = pair.a.machine.run(command, check=False, within_s=seconds + _GRACE_S)
    answer: dict[str, Any] = json.loads(done.stdout)
    if "error" in answer:
        raise LabError(f"iperf3: {answer['error']}")
    ended: dict[str, Any] = answer["end"]
    return ended


def _gbit_s(ended: dict[str, Any]) -> float:
    return float(ended["sum_received"]["bits_per_second"]) / 1e9


def _udp(pair: Pair, times: Durations) -> Values:
    sink = pair.b.machine.python(TRAFFIC, "sink", pair.b.underlay, str(_SINK_PORT))
    program = pair.b.machine.start(sink, name="sink")
    program.wait_for_log("ready", within_s=5)
    values = {}
    for octets in (64, 1300):
        words = ["search", pair.b.underlay, pair.b.inner, str(_SINK_PORT), str(octets)]
        words += [str(times.udp_s), str(times.udp_steps)]
        within_s = (times.udp_s + 1) * (times.udp_steps + 1) + _GRACE_S
        command = pair.a.machine.python(TRAFFIC, *words)
        per_s = json.loads(pair.a.machine.run(command, within_s=within_s).stdout)["per_s"]
        if octets == 64:
            values["udp64_pps"] = float(per_s)
        else:
            values["udp1300_gbit_s"] = per_s * octets * 8 / 1e9
    program.stop()
    return values


def _rtt(pair: Pair, seconds: float) -> Values:
    with _an_end_a_cpu(pair) as on:
        command = [*on(pair.b), *pair.b.machine.python(TRAFFIC, "echo", str(_ECHO_PORT))]
        echo = pair.b.machine.start(command, name="echo")
        echo.wait_for_log("ready", within_s=5)
        words = ["pingpong", pair.b.inner, str(_ECHO_PORT), str(seconds)]
        command = [*on(pair.a), *pair.a.machine.python(TRAFFIC, *words)]
        taken = json.loads(pair.a.machine.run(command, within_s=seconds + _GRACE_S).stdout)
        echo.stop()
    return {"rtt_p50_us": taken["p50"], "rtt_p99_us": taken["p99"]}


@contextmanager
def _an_end_a_cpu(pair: Pair) -> Iterator[Callable[[End], list[str]]]:
    """Give each end a CPU of its own, as two machines have; yields how to start traffic there.

    Unpinned, the scheduler puts all on one CPU or each hop on another, and the figures are its.
    """
    every = os.sched_getaffinity(0)
    cpus = dict(zip((1, 2), sorted(every), strict=False))
    if len(cpus) < 2:
        yield lambda _end: []
        return
    for end in pair.ends:
        end.pin({cpus[end.number]})
        end.steer({cpus[end.number]})
    try:
        yield lambda end: ["taskset", "-c", str(cpus[end.number])]
    finally:
        for end in pair.ends:
            end.pin(every)
            end.steer(set())
