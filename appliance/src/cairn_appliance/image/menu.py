"""The menu of the machine's console: what somebody who stands at it may do (docs/adr/0021).

It decides nothing: what needs root is asked for (request.py) and checked again there.

menu            this: the list of what there is
menu_network    the network, kept only if somebody says so
menu_cluster    makes or joins a cluster
menu_upkeep     password, time, support bundle, restart, reset
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cairn_appliance.domain.errors import CairnError
from cairn_appliance.image import menu_cluster, menu_network, menu_upkeep
from cairn_appliance.image.dialogue import Dialogue, NotAnswered, WentBack, choose, show_error
from cairn_appliance.image.menu_parts import Machine

Item = Callable[[Dialogue, Machine], None]


@dataclass(frozen=True, slots=True)
class _Choice:
    name: str
    item: Item
    when: bool | None = None  # only once it is set up (True), only before (False), always (None)


_CHOICES = (
    _Choice("network", menu_network.change),
    _Choice("create a cluster", menu_cluster.create, when=False),
    _Choice("join a cluster", menu_cluster.join, when=False),
    _Choice("address of the console, and fingerprint", menu_cluster.show, when=True),
    _Choice("password of an admin", menu_upkeep.reset_password, when=True),
    _Choice("time", menu_upkeep.time_of_day),
    _Choice("support bundle", menu_upkeep.write_bundle),
    _Choice("restart or power off", menu_upkeep.restart),
    _Choice("factory reset", menu_upkeep.factory_reset),
)


def run(talk: Dialogue, machine: Machine) -> None:
    """Show the menu until somebody goes back, or nobody answers any more."""
    while True:
        choices = [
            each for each in _CHOICES if each.when is None or each.when is machine.is_set_up()
        ]
        try:
            chosen = choices[choose(talk, "Cairn appliance", [each.name for each in choices])]
        except WentBack:
            return
        try:
            chosen.item(talk, machine)
        except NotAnswered:
            return
        except WentBack:
            talk.say("Back: nothing more was done.")
        except CairnError as error:
            show_error(talk, error)
