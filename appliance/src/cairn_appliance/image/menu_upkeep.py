"""The menu's items for a machine in use: password, time, support bundle, restart, reset."""

from __future__ import annotations

import calendar
import time

from cairn_appliance.domain.errors import Invalid
from cairn_appliance.image import request, support
from cairn_appliance.image.dialogue import Dialogue, choose, is_confirmed, words
from cairn_appliance.image.menu_cluster import new_password
from cairn_appliance.image.menu_parts import Machine
from cairn_appliance.image.password_reset import Order

_FORM = "%Y-%m-%d %H:%M"


def reset_password(talk: Dialogue, machine: Machine) -> None:
    """Give a user another password; audit and events say so."""
    talk.say("\nA user gets another password, which has to be changed at the next login.")
    user = talk.ask("User [the only admin]: ")
    is_code_lost = talk.ask("Is a code asked for beside it, and lost? (yes, Enter: no) ") == "yes"
    password = new_password(talk)
    talk.say(machine.reset_password(Order(user, password, is_code_lost)))


def time_of_day(talk: Dialogue, machine: Machine) -> None:
    """Show the time, and change whom it comes from, or what it is."""
    servers = machine.kept().network.ntp
    source = "from a time server" if machine.has_time() else "no time server has answered yet"
    talk.say(f"\nIt is {time.strftime(_FORM, time.gmtime())} UTC; {source}.")
    talk.say(f"Time servers: {' '.join(servers) or 'those of the system'}")
    if choose(talk, "Time", ["time servers", "set the clock by hand"]) == 0:
        wanted = words(talk, "Time servers (NTP)", servers)
        machine.ask_root(request.SetTimeServers(wanted))
        talk.say("They are asked from now on.")
        return
    at = moment(talk.ask("Time in UTC, as 2026-12-31 23:59: "))
    machine.ask_root(request.SetClock(at))
    talk.say(f"It is {time.strftime(_FORM, time.gmtime())} UTC.")


def moment(text: str) -> int:
    """Return seconds since 1970; raise Invalid."""
    try:
        return calendar.timegm(time.strptime(text, _FORM))
    except ValueError as error:
        raise Invalid(f"{text!r} is no time", "write it as 2026-12-31 23:59") from error


def write_bundle(talk: Dialogue, machine: Machine) -> None:
    """Write what somebody else needs to help."""
    talk.say(
        "\nThe journal, and how units, network and disk are; no keys, no passwords, nothing of the"
        f" store.\nAttach a disk or stick with a FAT file system of the label {support.LABEL}."
    )
    if is_confirmed(talk, "It is written there."):
        talk.say(f"Written: {machine.ask_root(request.WriteBundle())}")


def restart(talk: Dialogue, machine: Machine) -> None:
    """Start the machine again, or switch it off."""
    if choose(talk, "The machine", ["restart", "power off"]) == 0:
        if is_confirmed(talk, "It starts again.", "restart"):
            machine.ask_root(request.Restart())
            talk.say("It starts again.")
    elif is_confirmed(talk, "It is switched off.", "off"):
        machine.ask_root(request.PowerOff())
        talk.say("It is switched off.")


def factory_reset(talk: Dialogue, machine: Machine) -> None:
    """Remove all state once the machine's name was typed."""
    name = machine.look().hostname
    talk.say(
        "\nAll that this machine knows goes: keys, store, backups, settings, journal. It starts as"
        " new.\nNothing brings it back but a backup that is elsewhere, and its recovery key."
    )
    if machine.is_set_up():
        talk.say(
            "If the cluster has other appliances, first let this one leave, on any machine with an"
            " admin's\nsession: `cairn cluster leave NAME`. Else they wait for it."
        )
    if is_confirmed(talk, "Everything is removed.", name):
        machine.ask_root(request.FactoryReset(name))
        talk.say("It starts again, as new.")
    else:
        talk.say("Nothing was changed.")
