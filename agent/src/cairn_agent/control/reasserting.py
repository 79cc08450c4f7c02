"""Tells a cluster that was restored from a backup what this node's netmap says.

What the cluster gave out after the backup it has forgotten; its nodes hold it, signed by the
cluster's own key. Until the cluster has taken it over, the node keeps the netmap it has.
"""

from __future__ import annotations

import logging

from cairn_agent.control.replica import Replica
from cairn_agent.netmap.held import NetmapCopy, full_update, node_update
from cairn_agent.protocol.reassertion import ReassertedVSubnet, ReassertRequest

log = logging.getLogger(__name__)


async def reassert(replica: Replica, copy: NetmapCopy, data_public_key: str) -> None:
    """Say what is held, and show what the appliance wants to see; raise AgentError."""
    netmap = copy.current
    if netmap is None or netmap.node is None:
        return
    request = ReassertRequest(
        incarnation=netmap.incarnation,
        revision=netmap.revision,
        node=node_update(netmap.node),
        data_public_key=data_public_key,
        vsubnets={str(vni): held.revision for vni, held in netmap.vsubnets.items()},
    )
    answer = await replica.reassert(request)
    shown = [vni for vni in answer.wanted if vni in netmap.vsubnets]
    for vni in shown:
        document = full_update(vni, netmap.vsubnets[vni])
        await replica.reassert_vsubnet(ReassertedVSubnet(netmap.incarnation, document))
    log.info(
        "the cluster was restored: told appliance=%s what is held incarnation=%d revision=%d "
        "documents=%d",
        replica.address,
        netmap.incarnation,
        netmap.revision,
        len(shown),
    )
