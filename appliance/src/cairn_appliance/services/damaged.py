"""Gathers which values of the store this replica leaves out."""

from __future__ import annotations

from cairn_appliance.domain.damaged import problems_of_values
from cairn_appliance.domain.problem import Problem
from cairn_appliance.netmap.netmaps import Netmaps
from cairn_appliance.store.records import quarantine


def damaged_values(netmaps: Netmaps) -> tuple[Problem, ...]:
    """Return what is wrong with values of the store."""
    unreadable = {key: reason for key, (_, reason) in quarantine.broken.items()}
    return problems_of_values(unreadable | netmaps.snapshot.flaws)
