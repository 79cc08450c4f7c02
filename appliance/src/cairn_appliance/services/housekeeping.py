"""What has to be done from time to time; every replica may do it, once is enough."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence

from cairn_appliance.domain.errors import CairnError
from cairn_appliance.services.events import Events
from cairn_appliance.services.nodes import Nodes
from cairn_appliance.services.tokens import Tokens
from cairn_appliance.services.vsubnets import VSubnets
from cairn_appliance.store.port import StoreError

log = logging.getLogger(__name__)

INTERVAL_S = 30.0


async def keep_house(
    vsubnets: VSubnets,
    nodes: Nodes,
    tokens: Tokens,
    events: Events,
    interval_s: float = INTERVAL_S,
    more: Sequence[Callable[[], Awaitable[object]]] = (),
) -> None:
    """Run until cancelled; a failure is logged and the work comes again."""
    while True:
        works = (vsubnets.tidy, nodes.tidy, tokens.tidy, events.prune, *more)
        for work in works:
            try:
                await work()
            except (StoreError, CairnError) as error:
                name = getattr(work, "__qualname__", "?")
                log.warning("housekeeping was put off work=%s reason=%s", name, error)
        await asyncio.sleep(interval_s * random.uniform(0.8, 1.2))
