"""Netmap -> bridges: whose, and which MACs aren't on the LAN."""

from __future__ import annotations

import base64

from cairn_agent.gateway.wanted import bridged, bridges, duties, has_work
from cairn_agent.netmap.held import Netmap, NetmapCopy
from cairn_agent.protocol import netmap as wire
from cairn_agent.protocol.gateway import GatewayDuty, Guards

from tests.unit.agent.fakes.netmaps import Cluster, member, node_id

KEY = base64.b64encode(bytes(32)).decode()


def _duty(segment: str, **changes: object) -> GatewayDuty:
    values: dict[str, object] = {
        "segment": segment,
        "name": f"segment {segment}",
        "vni": 7,
        "port": "eth1",
        "vlan": 0,
        "key": KEY,
        "gateways": [node_id(1), node_id(2)],
        "preference": "safety",
        "guards": Guards(),
    }
    return GatewayDuty(**(values | changes))  # type: ignore[arg-type]


def _netmap(*gateways: GatewayDuty, role: str = "gateway") -> Netmap:
    cluster = Cluster()
    members = [
        member(1, role=role, ips=[]),
        member(2, role="gateway", ips=[]),
        member(3),
        member(4, role="gateway", ips=[]),
    ]
    copy = NetmapCopy(cluster_id=cluster.id, node_id=node_id(1), map_key=cluster.map_key)
    lines = [
        cluster.reset(),
        cluster.node(1, [7], 5, gateways=gateways),
        cluster.vsubnet(members, 5),
        wire.encode(wire.InSync(5)),
    ]
    for line in lines:
        copy.apply(wire.decode_received(line))
    assert copy.current is not None
    return copy.current


def test_a_duty_is_a_bridge_of_tap_and_port() -> None:
    netmap = _netmap(_duty("a", vlan=20))
    (wanted,) = bridges(netmap, node_id(1), 1390)
    assert (wanted.vni, wanted.tap, wanted.port, wanted.vlan) == (7, "cairn7", "eth1", 20)
    assert wanted.mtu == 1390 and has_work(netmap) and list(duties(netmap)) == ["a"]


def test_the_macs_of_all_members_are_the_overlays() -> None:
    (wanted,) = bridges(_netmap(_duty("a")), node_id(1), None)
    assert wanted.overlay_macs == {f"02:00:00:00:00:0{number}" for number in (1, 2, 3, 4)}


def test_a_bridge_learns_on_the_overlay_s_side_where_there_are_other_lans() -> None:
    (wanted,) = bridges(_netmap(_duty("a")), node_id(1), None)
    assert wanted.has_other_lans  # node 4 is a gateway of another segment
    everyone = [node_id(number) for number in (1, 2, 4)]
    (wanted,) = bridges(_netmap(_duty("a", gateways=everyone)), node_id(1), None)
    assert not wanted.has_other_lans


def test_two_segments_of_one_vsubnet_share_no_bridge() -> None:
    netmap = _netmap(_duty("b", port="eth2"), _duty("a"))
    assert {vni: duty.segment for vni, duty in bridged(netmap, node_id(1)).items()} == {7: "a"}


def test_who_is_no_gateway_or_no_member_bridges_nothing() -> None:
    assert not bridges(_netmap(_duty("a"), role="host"), node_id(1), None)
    assert not bridges(_netmap(_duty("a", vni=8)), node_id(1), None)
    assert not bridges(None, node_id(1), None)
    assert not has_work(_netmap()) and not has_work(None)
