"""Copies of one process share what is equal, and each is verified until it is."""

from __future__ import annotations

from cairn_agent.protocol import netmap as wire

from tests.sim.sharing import Shared, SharingCopy
from tests.unit.agent.fakes.netmaps import Cluster, member, node_id
from tests.unit.agent.test_netmap_held import Members, update


def members(*generations: int) -> Members:
    return {
        node_id(number): wire.encode(member(number, generation=generation))
        for number, generation in enumerate(generations, 1)
    }


def test_copies_that_began_apart_share_what_they_come_to() -> None:
    cluster, shared = Cluster(), Shared()
    copies = [
        SharingCopy(shared, cluster_id=cluster.id, node_id=node_id(1), map_key=cluster.map_key)
        for _ in range(3)
    ]

    def apply(line: bytes, *to: SharingCopy) -> None:
        for copy in to:
            copy.apply(shared.decoded(line))

    def held(copy: SharingCopy) -> object:
        return copy._base().held[7]

    for copy in copies:
        copy.apply(wire.Reset(cluster.id, 1))
    apply(update(cluster, 2, members(1, 1)), copies[0])
    apply(update(cluster, 3, members(2, 1)), *copies[1:])
    assert held(copies[0]) is not held(copies[1])
    assert held(copies[1]) is held(copies[2])

    third = members(3, 1)
    apply(update(cluster, 4, third, send={node_id(1): third[node_id(1)]}), *copies)

    assert held(copies[0]) is held(copies[1]) is held(copies[2])
    assert shared.verified == 4, "a whole each, and the change from each beginning"
    fourth = members(3, 2)
    apply(update(cluster, 5, fourth, send={node_id(2): fourth[node_id(2)]}), *copies)
    assert held(copies[0]) is held(copies[2])
    assert shared.verified == 5
