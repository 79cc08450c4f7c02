"""One terminal of the machine: shows how it is, and the menu to who presses Enter."""

from __future__ import annotations

import sys

from cairn_appliance.image import (
    interfaces,
    machine,
    menu,
    password_reset,
    places,
    screen,
    state,
    terminal,
)
from cairn_appliance.image.menu_parts import Machine
from cairn_appliance.image.request import ask_root
from cairn_appliance.image.terminal import Terminal
from cairn_appliance.services.passwords import hash_password

_PAUSE_S = 5.0


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
        reset_password=password_reset.ask,
        has_time=places.SYNCHRONISED.exists,
    )
