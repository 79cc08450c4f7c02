"""TAPs and the netlink watch, on a real kernel in a namespace of their own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from cairn_agent.host.network import read_network
from cairn_agent.host.taps import ensure_taps, remove_other_taps
from cairn_agent.host.watch import Change, network_changes
from cairn_agent.netmap.desired import Tap
from pyroute2 import AsyncIPRoute

from tests.integration.test_bridge_host import run, shown
from tests.unit.agent.fakes.network import eth0, in_new_network

pytestmark = [pytest.mark.root, pytest.mark.tun]

SEVEN = Tap("cairn7", 7, "02:00:00:00:00:07", 1400, ("10.7.0.1/24", "fd00:7::1/64"), is_up=True)


def test_making_a_tap_twice_changes_nothing() -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        first = await ensure_taps(netlink, [SEVEN])
        assert first.changes
        assert not first.failed
        again = await ensure_taps(netlink, [SEVEN])
        assert again.changes == ()

    in_new_network(test)


def test_a_superframe_of_a_tap_fits_one_send() -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        jumbo = Tap("cairn8", 8, "02:00:00:00:00:08", 8900, (), is_up=True)
        usual = Tap("cairn9", 9, "02:00:00:00:00:09", 1500, (), is_up=True)
        for tap, segments in ((SEVEN, 45), (jumbo, 7), (usual, 42)):
            assert not (await ensure_taps(netlink, [tap])).failed
            link = (await netlink.link("get", ifname=tap.name))[0]
            assert link.get("IFLA_GSO_MAX_SEGS") == segments
            assert link.get("IFLA_GSO_MAX_SIZE") == 65_536

    in_new_network(test)


def test_ipv6_addresses_are_usable_at_once() -> None:
    """Duplicate address detection would hold back the first pings."""

    async def test(netlink: AsyncIPRoute) -> None:
        await ensure_taps(netlink, [SEVEN])
        network = await read_network(netlink)
        index = network.own()["cairn7"].index
        addresses = [a for a in network.addresses if a.index == index]
        assert {str(a.interface) for a in addresses} == set(SEVEN.addresses)
        assert not any(a.flags & 0x40 for a in addresses), "tentative"

    in_new_network(test)


def test_an_address_of_somebody_else_stays_when_ours_goes() -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        await ensure_taps(netlink, [SEVEN])
        index = (await read_network(netlink)).own()["cairn7"].index
        await netlink.addr("add", index=index, address="10.7.0.77", prefixlen=24)
        moved = Tap(SEVEN.name, 7, SEVEN.mac, 1400, ("10.7.0.9/24",), is_up=True)

        await ensure_taps(netlink, [moved])

        network = await read_network(netlink)
        found = {str(a.interface) for a in network.addresses if a.index == index}
        assert found == {"10.7.0.9/24", "10.7.0.77/24"}

    in_new_network(test)


def test_only_own_taps_are_removed() -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        await ensure_taps(netlink, [SEVEN])
        await netlink.link("add", ifname="cairn8", kind="veth", peer="cairn9")
        removed = await remove_other_taps(netlink, [])
        names = {link.name for link in (await read_network(netlink)).links}
        assert removed == ("removed cairn7",)
        assert names == {"lo", "eth0", "wire0", "cairn8", "cairn9"}

    in_new_network(test)


def test_a_tap_left_half_made_by_a_crash_is_taken_up() -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        flags = {"no_pi": 1, "one_queue": 0, "vnet_hdr": 1, "tun_excl": 1, "multi_queue": 1}
        flags |= {"persist": 0, "nofilter": 0}
        await netlink.link("add", ifname="cairn7", kind="tuntap", mode="tap", ifr=flags)
        outcome = await ensure_taps(netlink, [SEVEN])
        assert not outcome.failed
        assert (await read_network(netlink)).own()["cairn7"].is_up

    in_new_network(test)


def test_one_tap_that_fails_leaves_the_others() -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        await netlink.link("add", ifname="cairn7", kind="veth", peer="other")
        eight = Tap("cairn8", 8, "02:00:00:00:00:08", 1400, ("10.8.0.1/24",), is_up=True)
        outcome = await ensure_taps(netlink, [SEVEN, eight])
        assert set(outcome.failed) == {7}
        assert "didn't make it" in outcome.failed[7].cause
        assert set((await read_network(netlink)).own()) == {"cairn8"}

    in_new_network(test)


@pytest.mark.parametrize("what", ["address", "route", "link"])
def test_a_change_below_is_told_once(what: str) -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        if what == "link":
            # The cable's other end would see it when the kernel gets round to it: another change.
            run("ip", "link", "set", "wire0", "down")
            async with asyncio.timeout(20):
                while shown("ip", "-j", "link", "show", "eth0")[0]["operstate"] == "UP":
                    await asyncio.sleep(0.02)
        async with _watching() as changes:
            index = await eth0(netlink)
            match what:
                case "address":
                    await netlink.addr("add", index=index, address="192.0.2.50", prefixlen=24)
                case "route":
                    await netlink.route("add", dst="198.51.100.0/24", oif=index)
                case _:
                    await netlink.link("set", index=index, state="down")
            async with asyncio.timeout(10):
                change = await changes.get()
            assert change.is_underlay
            await asyncio.sleep(0.4)
            assert changes.empty(), "a burst is one change"

    in_new_network(test)


def test_what_happens_on_own_taps_is_not_the_underlay() -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        async with _watching() as changes:
            await ensure_taps(netlink, [SEVEN])
            async with asyncio.timeout(10):
                change = await changes.get()
            assert not change.is_underlay
            assert set(change.network.own()) == {"cairn7"}

            await remove_other_taps(netlink, [])
            async with asyncio.timeout(10):
                change = await changes.get()
            assert not change.is_underlay

    in_new_network(test)


def test_a_tap_that_is_marked_late_is_not_the_underlay() -> None:
    """On a slow machine what becomes of it is more than one burst."""

    async def test(_netlink: AsyncIPRoute) -> None:
        steps = (
            ("tuntap", "add", "cairn7", "mode", "tap"),
            ("link", "set", "cairn7", "alias", "cairn-agent: vSubnet 7"),
            ("addr", "add", "10.7.0.1/24", "dev", "cairn7"),
            ("link", "set", "cairn7", "up"),
            ("link", "del", "cairn7"),
        )
        async with _watching() as changes:
            for step in steps:
                run("ip", *step)
                await asyncio.sleep(0.4)  # the kernel doesn't tell of an alias by itself
            told = [changes.get_nowait() for _ in range(changes.qsize())]
        assert len(told) >= 3, "more than one burst"
        assert not any(change.is_underlay for change in told)

    in_new_network(test)


@contextlib.asynccontextmanager
async def _watching() -> AsyncIterator[asyncio.Queue[Change]]:
    """Watch from now on."""
    queue: asyncio.Queue[Change] = asyncio.Queue()

    async def watch() -> None:
        async with AsyncIPRoute() as netlink:
            async for change in network_changes(netlink):
                queue.put_nowait(change)

    task = asyncio.get_running_loop().create_task(watch())
    await queue.get()
    await asyncio.sleep(0.2)
    while not queue.empty():
        queue.get_nowait()
    try:
        yield queue
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
