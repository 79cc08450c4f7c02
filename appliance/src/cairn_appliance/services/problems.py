"""Gathers all that is wrong, with what it is about: the one list behind status, overview, metrics.

What nodes say of themselves is not among it: that is theirs, and there may be a thousand. What
they say of others is, where it is that one is two machines.
"""

from __future__ import annotations

from dataclasses import dataclass

from cairn_appliance.domain.cluster_health import ClusterView, problems_of
from cairn_appliance.domain.problem import Problem
from cairn_appliance.services.damaged import damaged_values
from cairn_appliance.services.services import Services


@dataclass(frozen=True, slots=True)
class About:
    """A problem and whose it is; without a kind the cluster's."""

    problem: Problem
    kind: str = "cluster"  # or "segment", "receiver", "node"
    id: str = ""
    name: str = ""


def problems_known(services: Services, view: ClusterView | None) -> list[About]:
    """Return what is wrong; of the cluster only where `view`, how it is, could be asked."""
    found = [About(each) for each in (problems_of(view) if view else ())]
    found += [About(each) for each in damaged_values(services.netmaps)]
    found += [
        About(problem, "segment", segment.id, segment.name)
        for segment, problem in services.gateway_health.problems_by_segment()
    ]
    found += [
        About(problem, "receiver", receiver.id, receiver.place)
        for receiver, problem in services.outputs.problems_by_receiver()
    ]
    found += [
        About(problem, "node", node.id, node.name)
        for node, problem in services.clones.problems_by_node()
    ]
    return sorted(found, key=lambda each: not each.problem.is_urgent)
