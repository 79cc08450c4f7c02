"""`make bench` (ARGS=--quick for under five minutes): measures, and tells."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time

from tests.bench import bars, picture, results, table
from tests.bench.figures import FULL, QUICK, Durations, measure
from tests.bench.pair import fails, make_pair
from tests.bench.results import Results
from tests.bench.systems import System, chosen
from tests.lab import Lab, LabError

_ROUNDS = 5  # of both kinds: the bars are on medians of at least five
_READY_S = 20.0


def main() -> int:
    """Measure all systems round by round; 0 if Cairn was measured."""
    arguments = _arguments()
    if os.geteuid() != 0:
        print("error: namespaces need root\n  what to do: run make bench as root", file=sys.stderr)
        return 6
    signal.signal(signal.SIGTERM, _end)  # so that the labs close, as on Ctrl-C
    systems, reasons = chosen(quick=arguments.quick)
    if not any(one.name == "cairn" for one in systems):
        print(f"error: {reasons['cairn']}\n  what to do: make setup", file=sys.stderr)
        return 6
    command = "make bench" + (" ARGS=--quick" if arguments.quick else "")
    taken = Results(systems, reasons, command=command)
    begun = time.monotonic()
    try:
        _run(taken, systems, QUICK if arguments.quick else FULL, arguments.rounds)
    except KeyboardInterrupt:
        print("\nbench: interrupted; nothing was written", file=sys.stderr)
        return 130
    taken.took_s = time.monotonic() - begun
    _tell(taken)
    return 0 if taken.values.get("tcp1_gbit_s", {}).get("cairn") else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="veth, VXLAN, the best peer and Cairn; short figures"
    )
    parser.add_argument("--rounds", type=int, default=_ROUNDS, help="interleaved rounds")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds needs 1 or more")
    return arguments


def _end(number: int, _frame: object) -> None:
    raise KeyboardInterrupt(number)


def _run(taken: Results, systems: list[System], times: Durations, rounds: int) -> None:
    for number in range(rounds):
        shift = number % len(systems)  # nobody is always first, or always after the same
        for system in systems[shift:] + systems[:shift]:
            taken.add(system.name, number, _measured(taken, system, number, times))
            print(taken.line(system.name, number), flush=True)


def _measured(taken: Results, system: System, number: int, times: Durations) -> dict[str, float]:
    def failed(part: str, error: Exception) -> None:
        taken.failures.append(f"round {number + 1}, {system.name}, {part}: {fails(error)}")

    with Lab(f"bench-{system.name}") as lab:
        try:
            pair = make_pair(lab)
            system.start(pair)
            pair.answers(within_s=_READY_S)
            if number == 0 and pair.shows_plaintext() == bool(system.cipher):
                raise LabError("the wire shows plaintext, or none where it should")
        except (LabError, OSError, IndexError) as error:
            failed("start", error)
            lab.keep(f"bench-{system.name}")
            return {}
        return measure(pair, times, in_kernel=system.in_kernel, failed=failed)


def _tell(taken: Results) -> None:
    judged = bars.judge(taken)
    print(table.whole(taken, judged))
    results.write(taken)
    picture.write(taken)
    if taken.rounds >= _ROUNDS:
        bars.prove(judged, taken)
    else:
        print(
            f"bench: {taken.rounds} rounds, and the bars are on {_ROUNDS}: no proofs were written"
        )
    print(f"bench: {results.VALUES} and {picture.FILE} written, {taken.took_s:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
