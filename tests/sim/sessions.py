"""The sessions that simulated agents report, worked out once for all agents of a process.

What a peer's figures are changes once a second, and who is reported when members come or go.
"""

from __future__ import annotations

import bisect
import random
import time
from collections import OrderedDict

from cairn_agent.dataplane import PeerStats
from cairn_agent.netmap.held import HeldVSubnet

SESSIONS = 20  # that an agent reports
_ORDERS = 64


class Sessions:
    """What the data planes of the agents would say of their peers."""

    def __init__(self) -> None:
        self._orders: OrderedDict[str, list[str]] = OrderedDict()  # digest -> members
        self._stats: dict[str, PeerStats] = {}
        self._second = 0

    def behind(self, vsubnet: HeldVSubnet, own: str) -> list[PeerStats]:
        """Return the sessions of a node: with the members that come after it."""
        others = self._order(vsubnet)
        begin, count = bisect.bisect(others, own), min(SESSIONS, len(others) - 1)
        chosen = (others[(begin + n) % len(others)] for n in range(count))
        return [self._of(node) for node in chosen if node != own]

    def _order(self, vsubnet: HeldVSubnet) -> list[str]:
        known = self._orders.get(vsubnet.digest)
        if known is None:
            self._orders[vsubnet.digest] = known = sorted(vsubnet.members)
            if len(self._orders) > _ORDERS:
                self._orders.popitem(last=False)
        return known

    def _of(self, node: str) -> PeerStats:
        """Return a session that nothing is sent through, but what measures it."""
        second = round(time.monotonic())
        if second != self._second:
            self._second, self._stats = second, {}
        known = self._stats.get(node)
        if known is None:
            octets = 1_000_000 + second * 50
            self._stats[node] = known = PeerStats(
                node,
                "192.0.2.1:8002",
                "up",
                "direct",
                rtt_us=1000 + random.randrange(200),
                tx_octets=octets,
                rx_octets=octets,
                mtu=1400,
            )
        return known
