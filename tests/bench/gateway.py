"""`make bench-gateway`: what crosses a gateway between a LAN and a VM, beside two VMs of a vSubnet.

One TCP stream each way, both paths in turn, round by round on the same machine. Worth something
only while nothing else runs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from tests.integration.office import build_office
from tests.integration.test_dataplane import BINARY, LIVING, Node
from tests.lab import ROOT, Lab
from tests.load.traffic import connected
from tests.proofs import record

_RATE = ROOT / "tests" / "lab" / "rate.py"
_PORT = 5201
_SHARE = 0.5
_ROUNDS = 5
_BUSY = 0.5  # of the load average: more, and something else runs


def main() -> int:
    """Measure, tell, and write the proof where the rounds suffice; 0 if the bar is met."""
    parser = argparse.ArgumentParser(prog="make bench-gateway", description=__doc__)
    parser.add_argument("--rounds", type=int, default=_ROUNDS)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each stream")
    arguments = parser.parse_args()
    if os.geteuid() != 0 or not BINARY.exists():
        print("error: namespaces need root, and the data plane must be built", file=sys.stderr)
        print("  what to do: make setup, and run make bench-gateway as root", file=sys.stderr)
        return 6
    load = os.getloadavg()[0]
    gbit_s: dict[str, list[float]] = defaultdict(list)
    for _ in range(max(1, arguments.rounds)):
        with plain() as (one, other):
            gbit_s["VM to VM"].append(carried(one, other, arguments.seconds))
        with bridged() as (vm, leaf):
            gbit_s["VM to LAN"].append(carried(vm, leaf, arguments.seconds))
            gbit_s["LAN to VM"].append(carried(leaf, vm, arguments.seconds))
    medians = {path: statistics.median(each) for path, each in gbit_s.items()}
    for path, median in medians.items():
        runs = " ".join(f"{each:.2f}" for each in gbit_s[path])
        print(f"{path}: {median:.2f} Gbit/s ({runs})")
    share = min(medians["VM to LAN"], medians["LAN to VM"]) / medians["VM to VM"]
    print(f"the slower way through the gateway: {share:.2f} x the plain vSubnet (bar {_SHARE} x)")
    if load > _BUSY:
        print(f"load average {load:.1f} at the start: something else runs, no proof was written")
    elif arguments.rounds >= _ROUNDS:
        record(
            "C-THROUGHPUT",
            what=", ".join(f"{path} {median:.2f} Gbit/s" for path, median in medians.items()),
            bar=f">= {_SHARE} x the plain vSubnet, TCP, 1 stream, the slower way",
            value=round(share, 2),
            unit="x",
            holds=share >= _SHARE,
            command="make bench-gateway",
        )
    return 0 if share >= _SHARE else 1


@contextmanager
def plain() -> Iterator[tuple[Node, Node]]:
    """Two VMs of a vSubnet."""
    with Lab("bench-plain") as lab, forgotten():
        yield connected(lab)


@contextmanager
def bridged() -> Iterator[tuple[Node, Node]]:
    """A VM, and a machine on the LAN of a gateway."""
    with Lab("bench-gateway") as lab, forgotten():
        office = build_office(lab)
        office.settle()
        yield office.a, office.leaf


@contextmanager
def forgotten() -> Iterator[None]:
    """Close what the nodes of a lab have open."""
    try:
        yield
    finally:
        while LIVING:
            LIVING.pop().disconnect()


def carried(sender: Node, receiver: Node, seconds: float) -> float:
    """Return what one TCP stream carries, in Gbit/s of payload."""
    address, port = receiver.ips[0], str(_PORT)
    there = receiver.host.start(receiver.host.python(_RATE, "receive", address, port), name="rate")
    there.wait_for_log("ready", within_s=10)
    here = sender.host.python(_RATE, "send", address, port, str(seconds))
    sender.host.run(here, within_s=seconds + 30)
    if there.wait(within_s=30) != 0:
        raise RuntimeError(there.tail())
    octets, took = there.text().splitlines()[-1].split()
    return int(octets) * 8 / float(took) / 1e9


if __name__ == "__main__":
    sys.exit(main())
