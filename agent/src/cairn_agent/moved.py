"""What is done where this machine has another address and no appliance tells the others so.

Peers that there is a session with follow by themselves (rule 9). The others know an address where
nobody is any more, until they are gone to.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from cairn_agent.dataplane import DataPlane
from cairn_agent.errors import AgentError
from cairn_agent.membership import Membership

log = logging.getLogger(__name__)

_TOLD_S: Final = 1.0  # a registration takes a tenth of it; all peers are to know within ten


async def keep_known(
    may_be_elsewhere: asyncio.Event,
    membership_of: Callable[[], Membership | None],
    dataplane_of: Callable[[], DataPlane | None],
) -> None:
    """Go to all peers whenever this machine has moved and no appliance could be told."""
    while True:
        await may_be_elsewhere.wait()
        may_be_elsewhere.clear()
        membership = membership_of()
        if membership is None or not membership.has_moved():
            continue
        try:
            async with asyncio.timeout(_TOLD_S):
                await membership.link.told.wait()
        except TimeoutError:
            dataplane = dataplane_of()
            if dataplane is not None:  # one that comes later is another occasion
                await _go_to_all(dataplane)


async def _go_to_all(dataplane: DataPlane) -> None:
    try:
        await dataplane.warm_all()
        log.info("no appliance could be told of the new address: each peer is gone to")
    except AgentError as error:
        log.warning("peers may look for this node where it was: %s", error.cause)
