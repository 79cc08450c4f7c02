"""`make demo`: shows a vSubnet working, proof by proof, and cleans up after itself.

Exit status: 0 all proofs held; 1 one did not; 6 the machine lacks something; 130 or 143
interrupted. Nothing is left behind in any case: every namespace, process and interface of
the demo is tied to this process by the kernel.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from types import FrameType

from tests.demo.door import open_door
from tests.demo.proofs import ALONE, CONNECTED, OFFICE_LAN, RETURN, Proof, ProofFailed
from tests.demo.show import Show
from tests.demo.stage import PICTURE, PRINTER, Stage, build
from tests.lab import Lab, LabError
from tests.lab.cairn import missing_programs
from tests.lab.program import die_with_parent

_FAILED, _LACKING = 1, 6


class Interrupted(BaseException):
    """SIGINT or SIGTERM came."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_status = 128 + number


def main() -> int:
    """Run the demo; return the exit status."""
    parser = argparse.ArgumentParser(prog="make demo", description=__doc__)
    parser.add_argument("--once", action="store_true", help="end after the last proof")
    arguments = parser.parse_args()
    show = Show()
    if (lacking := _what_is_lacking()) is not None:
        cause, remedy = lacking
        print(f"error: {cause}\n  what to do: {remedy}", file=sys.stderr)
        return _LACKING
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    die_with_parent(signal.SIGTERM)  # `make` or a terminal that is killed ends the demo too
    try:
        return _run(show, once=arguments.once)
    except Interrupted as interrupted:
        show.plain("\n  interrupted; everything has been removed")
        return interrupted.exit_status


def _run(show: Show, *, once: bool) -> int:
    show.title("Cairn: two clouds and an office on one virtual Ethernet")
    show.plain(PICTURE)
    with Lab("demo") as lab:
        try:
            show.title("Setting up")
            stage = build(lab, show)
            for title, proofs in (
                ("Proofs", CONNECTED),
                ("A LAN without agents, behind two gateways", OFFICE_LAN),
                ("The appliance is taken away", ALONE),
                ("And it comes back", RETURN),
            ):
                show.title(title)
                for proof in proofs:
                    if not _proved(proof, stage, show):
                        return _keep(lab, show)
        except LabError as error:
            show.failed("the demo could not go on", str(error))
            return _keep(lab, show)
        if not once:
            _stay(stage, show)
    show.plain()
    show.step("all proofs held; everything the demo made has been removed")
    return 0


def _proved(proof: Proof, stage: Stage, show: Show) -> bool:
    name, measure = proof
    try:
        show.proof(name, measure(stage))
    except (ProofFailed, LabError) as error:
        show.failed(name, str(error))
        return False
    return True


def _keep(lab: Lab, show: Show) -> int:
    show.plain(f"\n  logs and captures are kept in {lab.keep('demo')}")
    return _FAILED


def _stay(stage: Stage, show: Show) -> None:
    """Let the person look around until Ctrl-C, which is the demo's normal end."""
    appliance = stage.appliance
    show.title("Have a look around; Ctrl-C ends the demo and removes everything")
    try:
        stage.lab.reach(appliance.host)
        show.plain(f"  console          {appliance.url}  (in a browser on this machine)")
    except LabError as error:
        show.plain(f"  console          {appliance.url}  (not reachable from here: {error})")
    show.plain(f"  login            admin   password {appliance.password}")
    show.plain(f"  CA fingerprint   {appliance.fingerprint}")
    try:
        with open_door(stage) as inside:
            show.plain(f"  operator         {inside} appliance cairn node list")
            show.plain(f"  a node           {inside} web-1 cairn-agent status")
            show.plain(f"  ping             {inside} web-1 ping {stage.address('db-1')}")
            show.plain(f"  the printer      {inside} web-1 ping {PRINTER[4]}")
            show.plain(f"  gateways         {inside} appliance cairn gateway list")
            signal.pause()
    except Interrupted:
        show.plain()


def _interrupt(number: int, _frame: FrameType | None) -> None:
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)  # the clean-up is not to be interrupted
    raise Interrupted(number)


def _what_is_lacking() -> tuple[str, str] | None:
    """Return cause and remedy if the demo can't run here."""
    if os.geteuid() != 0:
        return "the demo needs root for network namespaces", "run it as root: sudo make demo"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "/dev/net/tun is missing", "load the module: modprobe tun"
    if missing := missing_programs():
        return f"not built yet: {', '.join(missing)}", "run make setup"
    return None


if __name__ == "__main__":
    sys.exit(main())
