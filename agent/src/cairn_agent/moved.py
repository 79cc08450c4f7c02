"""What is done where this machine has another address and no appliance tells the others so.

Peers that there is a session with follow by themselves (rule 9). The others know an address where
nobody is any more, until they are gone to.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final

from cairn_agent.dataplane import DataPlane
from cairn_agent.errors import AgentError
from cairn_agent.membership import Membership

log = logging.getLogger(__name__)

_TOLD_S: Final = 1.0  # a registration takes a tenth of it; all peers are to know within ten
_KNOWN_S: Final = 10.0  # until the netmap has what was registered, also in a storm
_LOOK_S: Final = 0.1


async def keep_known(
    may_be_elsewhere: asyncio.Event,
    membership_of: Callable[[], Membership | None],
    dataplane_of: Callable[[], DataPlane | None],
) -> None:
    """Go to all peers whenever this machine has moved and they are not told."""
    while True:
        await may_be_elsewhere.wait()
        membership = membership_of()
        if membership is None:
            may_be_elsewhere.clear()
            continue
        is_told = await _is_told(membership, may_be_elsewhere)
        dataplane = dataplane_of()
        # A node that is another one by now, or a data plane that comes later, is another occasion.
        if not is_told and dataplane is not None and membership_of() is membership:
            await _go_to_all(dataplane)


async def _is_told(membership: Membership, has_moved_again: asyncio.Event) -> bool:
    """Wait until the netmap tells the peers where this node is; not for long."""
    begun = 0.0
    while True:
        if has_moved_again.is_set():
            has_moved_again.clear()
            begun = time.monotonic()
        if not membership.has_moved():
            return True
        within_s = _KNOWN_S if membership.link.told.is_set() else _TOLD_S
        if time.monotonic() - begun >= within_s:
            return False
        await asyncio.sleep(_LOOK_S)


async def _go_to_all(dataplane: DataPlane) -> None:
    try:
        await dataplane.warm_all()
        log.info("peers are not told of the new address: each of them is gone to")
    except AgentError as error:
        log.warning("peers may look for this node where it was: %s", error.cause)
