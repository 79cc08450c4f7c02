"""`cairn-image`: what the units of the appliance's image run; people use `cairn-appliance`."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import socket
import subprocess
import sys

from cairn_appliance.domain.errors import CairnError, JoinRefused, Unavailable

_BUG, _BAD_INPUT, _UNREACHABLE, _REFUSED = 1, 2, 3, 4
_MOST_CHARACTERS = 32_768  # of a line

# Each step imports what it needs and no more: they are waited for at each boot.


def main() -> None:
    """Run one step and exit: as `cairn-appliance` does, with cause and remedy on stderr."""
    logging.basicConfig(level=logging.INFO, format="level=%(levelname)s %(message)s")
    steps = {
        "system": _system,
        "first-boot": _first_boot,
        "applied": _applied,
        "judge": _judge,
        "screen": _screen,
        "request": _request,
        "network-revert": _network_revert,
        "wipe": _wipe,
        "reset-password": _reset_password,
        "update": _update,
    }
    parser = argparse.ArgumentParser(prog="cairn-image", description=__doc__)
    parser.add_argument("step", choices=sorted(steps))
    step = steps[parser.parse_args().step]
    try:
        step()
    except CairnError as error:
        _ended(error.cause, error.remedy, _code_of(error))
    except subprocess.SubprocessError as error:
        _ended(str(error), "look into the journal", _BUG)


def _system() -> None:
    from cairn_appliance.image.machine import prepare_system

    prepare_system()


def _first_boot() -> None:
    """Make or join the cluster; the screen says what is in the way."""
    from cairn_appliance.image import state
    from cairn_appliance.image.first_boot import first_boot

    try:
        told = asyncio.run(first_boot())
    except CairnError as error:
        state.tell(error)
        raise
    logging.getLogger(__name__).info("the cluster is set up: %s", told)


def _applied() -> None:
    from cairn_appliance.image.machine import applied

    applied()


def _judge() -> None:
    from cairn_appliance.image.health import judge

    judge()


def _screen() -> None:
    from cairn_appliance.image.console import show

    show()


def _request() -> None:
    """Answer one request of the menu; systemd hands over the connection as standard input."""
    from cairn_appliance.image.root import answer_one

    with socket.socket(fileno=os.dup(0)) as connection:
        answer_one(connection)


def _network_revert() -> None:
    from cairn_appliance.image.trial import revert

    revert()


def _wipe() -> None:
    from cairn_appliance.image.wipe import wipe

    wipe()


def _reset_password() -> None:
    """Do what the order in the first line of standard input says."""
    from cairn_appliance.image.password_reset import reset

    sys.stdout.write(asyncio.run(reset(sys.stdin.readline(_MOST_CHARACTERS))))


def _update() -> None:
    from cairn_appliance.image.update import update

    update()


def _code_of(error: CairnError) -> int:
    """Refused is told apart from what may go by itself: only the latter is tried again."""
    if isinstance(error, Unavailable):
        return _UNREACHABLE
    if isinstance(error, JoinRefused):
        return _REFUSED
    return int(getattr(error, "exit_code", _BUG))


def _ended(cause: str, remedy: str, code: int) -> None:
    sys.stderr.write(f"error: {cause}\n  what to do: {remedy}\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
