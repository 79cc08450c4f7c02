"""A network namespace for one test: a thread of its own, gone when the thread ends."""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import subprocess
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

from pyroute2 import AsyncIPRoute

_CLONE_NEWNET = 0x40000000


def in_new_network(test: Callable[[AsyncIPRoute], Awaitable[None]]) -> None:
    """Run a coroutine in a namespace with loopback and an underlay, 192.0.2.1/24 on eth0.

    Processes started by it are in the namespace too.
    """
    failure: list[BaseException] = []

    def body() -> None:
        try:
            if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            asyncio.run(_with_underlay(test))
        except BaseException as error:  # noqa: BLE001 - handed to the test's own thread
            failure.append(error)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]


async def _with_underlay(test: Callable[[AsyncIPRoute], Awaitable[None]]) -> None:
    async with AsyncIPRoute() as netlink:
        await netlink.link("set", index=1, state="up")
        await netlink.link("add", ifname="eth0", kind="veth", peer="wire0")
        for name in ("eth0", "wire0"):  # it would end, and tell so, in the middle of a test
            Path(f"/proc/sys/net/ipv6/conf/{name}/accept_dad").write_text("0")
        [wire] = await netlink.link_lookup(ifname="wire0")
        await netlink.link("set", index=wire, state="up")
        index = await eth0(netlink)
        await netlink.addr("add", index=index, address="192.0.2.1", prefixlen=24)
        await netlink.link("set", index=index, state="up")
        async with asyncio.timeout(20):
            while not _has_followed():
                await asyncio.sleep(0.02)
        await test(netlink)


def _has_followed() -> bool:
    """Whether the kernel has done all that it does by itself when the underlay comes up."""
    shown = subprocess.run(["ip", "-j", "addr"], check=True, capture_output=True, text=True).stdout
    return all(
        link["operstate"] == "UP"
        and "link" in {address["scope"] for address in link["addr_info"]}
        and "tentative" not in str(link["addr_info"])
        for link in json.loads(shown)
        if link["ifname"] in ("eth0", "wire0")
    )


async def eth0(netlink: AsyncIPRoute) -> int:
    """Return the index of the underlay's interface."""
    [index] = await netlink.link_lookup(ifname="eth0")
    return int(index)
