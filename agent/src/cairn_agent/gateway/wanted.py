"""Netmap -> which bridges this node is to have."""

from __future__ import annotations

from collections.abc import Mapping

from cairn_agent.host.bridge import BridgeWanted
from cairn_agent.netmap.desired import tap_mtu, tap_name
from cairn_agent.netmap.held import HeldVSubnet, Netmap
from cairn_agent.protocol.gateway import GatewayDuty


def duties(netmap: Netmap | None) -> Mapping[str, GatewayDuty]:
    """Return the duties by segment."""
    if netmap is None or netmap.node is None:
        return {}
    return {duty.segment: duty for duty in netmap.node.document.gateways}


def has_work(netmap: Netmap | None) -> bool:
    """Return whether the appliances want anything of this node as a gateway."""
    node = netmap.node.document if netmap and netmap.node else None
    return node is not None and bool(node.gateways or node.preflights)


def bridged(netmap: Netmap | None, node_id: str) -> Mapping[int, GatewayDuty]:
    """Return the duty that each vSubnet's bridge is for.

    A vSubnet of which the node is no gateway (yet) has none, and two segments can't share one.
    """
    found: dict[int, GatewayDuty] = {}
    for _, duty in sorted(duties(netmap).items()):
        vsubnet = netmap.vsubnets.get(duty.vni) if netmap else None
        held = vsubnet.members.get(node_id) if vsubnet else None
        if held is not None and held.member is not None and held.member.role == "gateway":
            found.setdefault(duty.vni, duty)
    return found


def bridges(netmap: Netmap | None, node_id: str, carried_mtu: int | None) -> list[BridgeWanted]:
    """Return the bridges that the host should have; always the same for the same input."""
    if netmap is None:
        return []
    return [
        BridgeWanted(
            vni=vni,
            tap=tap_name(vni),
            port=duty.port,
            vlan=duty.vlan,
            guards=duty.guards,
            overlay_macs=overlay_macs(netmap.vsubnets[vni], duty.gateways),
            mtu=tap_mtu(netmap.vsubnets[vni].header.mtu, carried_mtu),
            has_other_lans=_has_other_lans(netmap.vsubnets[vni], duty.gateways),
        )
        for vni, duty in sorted(bridged(netmap, node_id).items())
    ]


def _has_other_lans(vsubnet: HeldVSubnet, gateways: list[str]) -> bool:
    """Return whether the vSubnet has gateways of other segments."""
    return any(
        member.role == "gateway" and member.node_id not in gateways for member in vsubnet.readable()
    )


def overlay_macs(vsubnet: HeldVSubnet, gateways: list[str]) -> frozenset[str]:
    """Return the MACs that aren't on the LAN of these gateways.

    Of a gateway the first is its own; what follows are stations of its LAN.
    """
    found: set[str] = set()
    for member in vsubnet.readable():
        is_here = member.role == "gateway" and member.node_id in gateways
        found.update(mac.lower() for mac in (member.macs[:1] if is_here else member.macs))
    return frozenset(found)
