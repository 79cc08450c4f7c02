"""What the menu's items need of the machine, so that they can be tried without one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cairn_appliance.image.interfaces import Interface
from cairn_appliance.image.password_reset import Order
from cairn_appliance.image.request import Request
from cairn_appliance.image.screen import Shown
from cairn_appliance.image.seed import System


@dataclass(frozen=True, slots=True)
class Machine:
    """The machine, seen from its menu."""

    ask_root: Callable[[Request], str]  # raises CairnError
    look: Callable[[], Shown]
    is_set_up: Callable[[], bool]
    kept: Callable[[], System]
    wired: Callable[[], Sequence[Interface]]
    cluster_hosts: Callable[[], Sequence[str]]  # at which nodes reach it
    hash_password: Callable[[str], str]
    reset_password: Callable[[Order], str]  # returns what to say; raises CairnError
    has_time: Callable[[], bool]  # from a server
