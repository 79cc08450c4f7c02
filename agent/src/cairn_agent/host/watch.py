"""Tells when the host's network changed, by netlink."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from cairn_agent.host.network import Network, read_network

log = logging.getLogger(__name__)

# RTMGRP_LINK, _IPV4_IFADDR, _IPV4_ROUTE, _IPV6_IFADDR, _IPV6_ROUTE (linux/rtnetlink.h)
_GROUPS: Final = 0x1 | 0x10 | 0x40 | 0x100 | 0x400
_DEBOUNCE_S: Final = 0.1  # a DHCP renewal or an interface coming up is a burst of messages
_REOPEN_S: Final = 1.0  # after the kernel dropped messages (ENOBUFS)


@dataclass(frozen=True, slots=True)
class Change:
    """The network after a change; `is_underlay` unless only own TAPs were touched."""

    network: Network
    is_underlay: bool


async def network_changes(netlink: AsyncIPRoute) -> AsyncIterator[Change]:
    """Yield after each change of links, addresses or routes; never ends by itself.

    Bursts come as one change. After an interruption of the watch one change is yielded
    for whatever was missed.
    """
    is_first = True
    while True:
        with contextlib.suppress(NetlinkError, OSError):
            async with AsyncIPRoute() as monitor:
                await monitor.bind(groups=_GROUPS)
                network = await read_network(netlink)
                yield Change(network, is_underlay=not is_first)
                async for change in _changes(monitor, netlink, network):
                    yield change
        is_first = False
        log.warning("netlink watch was interrupted and is opened again")
        await asyncio.sleep(_REOPEN_S)


async def _changes(
    monitor: AsyncIPRoute, netlink: AsyncIPRoute, network: Network
) -> AsyncIterator[Change]:
    while True:
        touched = await _batch(monitor) | await _settle(monitor)
        before, network = network, await read_network(netlink)
        yield Change(network, is_underlay=_is_underlay(touched, before, network))


def _is_underlay(touched: set[int], before: Network, after: Network) -> bool:
    """Return whether any of the interfaces is below the overlay.

    What was down and still is carries nothing: an own TAP that is yet to be marked as one, too.
    """
    overlay = before.overlay_indexes() | after.overlay_indexes()
    up = before.up_indexes() | after.up_indexes()
    return any(index in up or index == 0 for index in touched - overlay)


async def _batch(monitor: AsyncIPRoute) -> set[int]:
    """Wait for messages; return the indexes of the interfaces they are about, 0: several."""
    return {
        int(message.get("index") or message.get_attr("RTA_OIF") or 0)
        async for message in monitor.get()
    }


async def _settle(monitor: AsyncIPRoute) -> set[int]:
    """Let the burst end; at most ten times the quiet interval, so that it can't be held up."""
    touched: set[int] = set()
    deadline = asyncio.get_running_loop().time() + 10 * _DEBOUNCE_S
    while asyncio.get_running_loop().time() < deadline:
        try:
            async with asyncio.timeout(_DEBOUNCE_S):
                touched |= await _batch(monitor)
        except TimeoutError:
            break
    return touched
