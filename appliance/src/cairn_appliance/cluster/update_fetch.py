"""An update comes from another appliance of the cluster, by the way that they have."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Sequence
from typing import Final

import httpx

from cairn_appliance.cluster.appliance_client import ApplianceClient
from cairn_appliance.domain.errors import Unavailable
from cairn_appliance.domain.update import SHARED_UPDATE

log = logging.getLogger(__name__)

_PIECE_WITHIN_S: Final = 30.0


async def fetch(client: ApplianceClient, places: Sequence[str]) -> AsyncGenerator[bytes, None]:
    """Yield the file that another appliance has, reached at these addresses; raise Unavailable."""
    reasons = []
    for place in places:
        has_begun = False
        try:
            connected = await client.connected()
            request = connected.stream(
                "GET", f"https://{place}{SHARED_UPDATE}", timeout=_PIECE_WITHIN_S
            )
            async with request as answer:
                if answer.status_code != 200:
                    raise httpx.HTTPError(f"HTTP {answer.status_code}")
                async for piece in answer.aiter_bytes():
                    has_begun = True
                    yield piece
        except httpx.HTTPError as error:
            reasons.append(f"{place} ({error})")
            if has_begun:
                break  # another address would begin anew
        else:
            return
    if reasons:
        raise Unavailable(f"the update did not come from {', '.join(reasons)}")
    raise Unavailable("nobody says where the appliance is that has the update")
