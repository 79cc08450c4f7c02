"""The menu's way into a cluster: the same as a seed's, so that there is one to get right."""

from __future__ import annotations

import time

from cairn_appliance.domain.access import check_password
from cairn_appliance.domain.errors import CairnError
from cairn_appliance.domain.joining import decode as decode_join_string
from cairn_appliance.image import request
from cairn_appliance.image.dialogue import Dialogue, is_confirmed, show_error, words
from cairn_appliance.image.menu_parts import Machine
from cairn_appliance.image.seed import Cluster, Seed, check

_TRIES = 3
_WITHIN_S = 900.0
_PAUSE_S = 3.0


def create(talk: Dialogue, machine: Machine) -> None:
    """Ask for what a new cluster needs, and make it."""
    talk.say("\nA new cluster, of which this is the first appliance.")
    hostname = _hostname(talk, machine)
    addresses = _addresses(talk, machine)
    kept = machine.hash_password(new_password(talk))
    _set_up(talk, machine, hostname, Cluster("create", addresses, admin_password_hash=kept))


def join(talk: Dialogue, machine: Machine) -> None:
    """Ask for a join string, and join the cluster that it is of."""
    talk.say("\nThis is to be one more appliance of a cluster.")
    hostname = _hostname(talk, machine)
    addresses = _addresses(talk, machine)
    string = talk.ask("Paste the string that `cairn cluster join-string` printed: ", hidden=True)
    decode_join_string(string)
    string = "".join(string.split())
    _set_up(talk, machine, hostname, Cluster("join", addresses, join_string=string))


def show(talk: Dialogue, machine: Machine) -> None:
    """Say where it is reached, and who it is."""
    shown = machine.look()
    for url in shown.urls:
        talk.say(f"  console      {url}")
    talk.say(f"  fingerprint  {shown.fingerprint or 'not known: the appliance does not answer'}")
    talk.say(f"  state        {shown.state}")
    talk.say("The fingerprint is of the cluster's CA: compare it at the first login.")


def new_password(talk: Dialogue) -> str:
    """Return a password that was typed twice; raise Invalid after a few tries."""
    talk.say("Nothing is shown while you type. The keyboard is taken for a US one.")
    for _ in range(_TRIES):
        password = check_password(talk.ask("New password: ", hidden=True))
        if talk.ask("The same again: ", hidden=True) == password:
            return password
        talk.say("These two are not the same.")
    raise CairnError("no password was typed twice the same", "do it again")


def _hostname(talk: Dialogue, machine: Machine) -> str:
    now = machine.kept().hostname
    name = talk.ask(f"Name of this machine [{now}]: ") or now
    check(Seed(1, hostname=name))
    return name


def _addresses(talk: Dialogue, machine: Machine) -> list[str]:
    """Return at which addresses or names nodes reach it."""
    now = machine.kept().network.hosts() or [
        address.partition("/")[0] for each in machine.wired() for address in each.addresses
    ]
    if not now:
        raise CairnError("this machine has no address yet", "set up its network first")
    return words(talk, "Addresses or names at which nodes reach it", now)


def _set_up(talk: Dialogue, machine: Machine, hostname: str, cluster: Cluster) -> None:
    check(Seed(1, hostname, machine.kept().network, cluster))
    verb = "makes" if cluster.action == "create" else "joins"
    if not is_confirmed(talk, f"{hostname} {verb} a cluster as {', '.join(cluster.addresses)}."):
        talk.say("Nothing was changed.")
        return
    machine.ask_root(request.SetUp(hostname, cluster))
    talk.say(f"It {verb} the cluster. This takes a minute or more; Ctrl-C leaves it to itself.")
    _follow(talk, machine)


def _follow(talk: Dialogue, machine: Machine) -> None:
    """Say how it goes until it is ready or something is in the way."""
    end, told = time.monotonic() + _WITHIN_S, ""
    while time.monotonic() < end:
        talk.pause(_PAUSE_S)
        shown = machine.look()
        if shown.state != told:
            talk.say(f"  {shown.state}")
            told = shown.state
        if shown.fingerprint:
            show(talk, machine)
            return
        if shown.problem:
            show_error(talk, CairnError(shown.problem, shown.remedy))
            talk.say("What may go by itself is tried again; else correct it and do this anew.")
            return
    talk.say("It is not ready yet; the screen goes on telling.")
