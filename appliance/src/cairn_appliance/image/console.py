"""One terminal of the machine: shows how it is, and the menu to who presses Enter."""

from __future__ import annotations

import subprocess
import sys

from cairn_appliance.domain.errors import CairnError
from cairn_appliance.image import interfaces, machine, menu, places, screen, state, terminal
from cairn_appliance.image.menu_parts import Machine
from cairn_appliance.image.request import ask_root
from cairn_appliance.image.terminal import Terminal
from cairn_appliance.services.passwords import hash_password

_PAUSE_S = 5.0
_RESET_WITHIN_S = 120.0
_PROGRAM = "/usr/bin/cairn-image"


def show() -> None:
    """Show it, and again whenever it has changed; never ends."""
    with terminal.opened(sys.stdin.fileno(), sys.stdout.fileno()) as opened:
        while True:
            wait_for_enter(opened)
            menu.run(opened, this_machine())


def wait_for_enter(opened: Terminal) -> None:
    """Show how the machine is until somebody presses Enter."""
    drawn = ""
    while True:
        text = screen.text_of(screen.look())
        if text != drawn:
            opened.show_alone(text)
            drawn = text
        if opened.has_enter(_PAUSE_S):
            return


def this_machine() -> Machine:
    """Return the machine that this runs on."""
    return Machine(
        ask_root=ask_root,
        look=screen.look,
        is_set_up=state.is_set_up,
        kept=machine.kept_system,
        wired=interfaces.wired,
        cluster_hosts=screen.hosts,
        hash_password=hash_password,
        reset_password=reset_password,
        has_time=places.SYNCHRONISED.exists,
    )


def reset_password(password: str, program: str = _PROGRAM) -> str:
    """Have it done by a process that ends: the store's client is large. Raise CairnError."""
    try:
        done = subprocess.run(
            [program, "reset-password"],
            input=password + "\n",
            text=True,
            capture_output=True,
            check=False,
            timeout=_RESET_WITHIN_S,
        )
    except subprocess.TimeoutExpired as error:
        raise CairnError("the appliance did not answer in time", "do it again later") from error
    if done.returncode == 0:
        return done.stdout
    raise _of_text(done.stderr)


def _of_text(text: str) -> CairnError:
    """Return the error that a step wrote as it ended."""
    cause, _, remedy = text.rpartition("error: ")[2].partition("\n  what to do: ")
    return CairnError(cause.strip() or "it failed", remedy.strip() or "look into the journal")
