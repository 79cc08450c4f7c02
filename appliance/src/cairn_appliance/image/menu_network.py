"""The menu's network: what is chosen is used at once, and goes back unless somebody keeps it."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from cairn_appliance.image import request, seed, trial
from cairn_appliance.image.dialogue import (
    Dialogue,
    NotAnswered,
    WentBack,
    choose,
    is_confirmed,
    words,
)
from cairn_appliance.image.menu_parts import Machine
from cairn_appliance.image.seed import Network

_SETTLES_S = 5.0


def change(talk: Dialogue, machine: Machine) -> None:
    """Ask for a network, try it, and keep it if that is confirmed in time."""
    now = machine.kept().network
    show(talk, machine, now)
    wanted = asked(talk, machine, now)
    seed.check_network(wanted)
    talk.say("\nThis is to be used:\n" + "\n".join(lines(wanted)))
    for each in warnings(wanted, machine.cluster_hosts()):
        talk.say(f"But: {each}")
    if is_confirmed(talk, "It is used at once."):
        try_out(talk, machine, wanted)
    else:
        talk.say("Nothing was changed.")


def try_out(talk: Dialogue, machine: Machine, wanted: Network) -> None:
    """Use it, and ask whether it may stay."""
    machine.ask_root(request.TryNetwork(wanted))
    try:
        talk.pause(_SETTLES_S)
        talk.say("\nIt is in use:")
        _show_interfaces(talk, machine)
        within = trial.KEEP_WITHIN_S - _SETTLES_S
        prompt = f"Type keep within {within:.0f} s to keep it, else it goes back by itself: "
        if talk.ask(prompt, within_s=within) == "keep":
            machine.ask_root(request.KeepNetwork())
            talk.say("It is kept.")
            return
    except NotAnswered:
        talk.say("Nobody said keep.")
    except WentBack:
        talk.say("")
    machine.ask_root(request.RevertNetwork())
    talk.say("The network is as it was before.")


def asked(talk: Dialogue, machine: Machine, now: Network) -> Network:
    """Return what the operator wants, not checked."""
    kind = choose(
        talk, "Addresses", ["by DHCP and router advertisements", "fixed ones, typed in here"]
    )
    mac = _interface(talk, machine)
    if kind == 0:
        return Network(mac=mac, dns=_dns(talk, now), ntp=now.ntp)
    talk.say(
        "\nIPv4 and IPv6, several with spaces between them."
        "\nEnter leaves what is in [ ], and - takes it away."
    )
    return Network(
        mac=mac,
        addresses=words(talk, "Addresses with prefix length (192.0.2.10/24)", now.addresses),
        gateways=words(talk, "Gateways", now.gateways),
        dns=_dns(talk, now),
        ntp=words(talk, "Time servers (NTP)", now.ntp),
    )


def lines(network: Network) -> list[str]:
    """Return the network as the operator reads it."""
    how = ", ".join(network.addresses) or "by DHCP and router advertisements"
    rows = {
        "interface": network.mac or "all wired ones",
        "addresses": how,
        "gateways": ", ".join(network.gateways),
        "DNS": ", ".join(network.dns),
        "NTP": ", ".join(network.ntp),
    }
    return [f"  {name:<12} {value}" for name, value in rows.items() if value]


def warnings(wanted: Network, hosts: Sequence[str]) -> list[str]:
    """Say whom an address that goes away was told to."""
    if not wanted.addresses:
        return []
    own = set(wanted.hosts())
    gone = [each for each in hosts if _is_address(each) and each not in own]
    return [
        f"nodes, operators and other appliances know this appliance as {each}. It takes "
        "its new address in place of that; nodes that know no other appliance lose it"
        for each in gone
    ]


def show(talk: Dialogue, machine: Machine, now: Network) -> None:
    """Say how the network is."""
    talk.say("\nNetwork, as it is kept:\n" + "\n".join(lines(now)) + "\nInterfaces:")
    _show_interfaces(talk, machine)


def _show_interfaces(talk: Dialogue, machine: Machine) -> None:
    talk.say("\n".join(f"  {each}" for each in machine.wired()) or "  none is there")


def _interface(talk: Dialogue, machine: Machine) -> str:
    """Return the MAC address of the one that is meant; all of them: none."""
    there = machine.wired()
    if len(there) < 2:
        return ""
    chosen = choose(talk, "Interface", ["all wired ones", *map(str, there)])
    return "" if chosen == 0 else there[chosen - 1].mac


def _dns(talk: Dialogue, now: Network) -> list[str]:
    return words(talk, "DNS servers", now.dns)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
