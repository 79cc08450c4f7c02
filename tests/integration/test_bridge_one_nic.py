"""One-NIC mode: the host's only address moves to the bridge and back, and nobody is cut off.

peer: lan0 192.0.2.9 --- eth1 192.0.2.1 [cbr7] cairn7
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from cairn_agent.host import bridge, bridge_journal
from cairn_agent.host.bridge import (
    BridgeOutcome,
    confirm,
    ensure_bridges,
    remove_other_bridges,
    revert_unconfirmed,
    revert_when_due,
)
from cairn_agent.host.bridge_journal import Journal
from cairn_agent.host.network import read_network
from pyroute2 import AsyncIPRoute

from tests.integration.test_bridge_host import (
    bridge as shown_link,
)
from tests.integration.test_bridge_host import (
    differences,
    lan,
    run,
    settled,
    shown,
    wanted,
)
from tests.unit.agent.fakes.network import in_new_network

pytestmark = [pytest.mark.root, pytest.mark.tun]

ROOT = Path(__file__).resolve().parents[2]


async def one_nic(netlink: AsyncIPRoute) -> None:
    """Give the LAN port all kinds of addresses and routes, and put a peer behind the cable."""
    await lan(netlink)
    for command in (
        "addr add 192.0.2.1/24 brd + dev eth1",
        "addr add 192.0.2.2/24 brd + dev eth1",
        "addr add 192.0.2.3/24 brd + dev eth1 label eth1:1 valid_lft 3600 preferred_lft 1800",
        "addr add 198.51.100.1 peer 198.51.100.2 dev eth1",
        "addr add 2001:db8:1::1/64 dev eth1 valid_lft 7200 preferred_lft 7200 noprefixroute",
        "addr add 2001:db8:1::2/64 dev eth1",
        "-6 route add 2001:db8:1::/64 dev eth1 proto ra metric 100",
        "route add default via 192.0.2.9 proto dhcp src 192.0.2.2 metric 50 mtu 1400",
        "route add 203.0.113.0/24 dev eth1 scope link",
        "route add 203.0.113.0/25 via 192.0.2.9 table 77",
        "route add 10.9.0.0/16 nexthop via 192.0.2.9 weight 2 nexthop via 192.0.2.8 weight 1",
        "-6 route add default via fe80::9 dev eth1 proto ra metric 1024 pref high",
    ):
        run("ip", *command.split())


async def is_moved() -> bool:
    """Whether the bridge has the address."""
    return "192.0.2.1" in run("ip", "addr", "show", "dev", "cbr7")


def without_lifetimes(state: dict[str, Any]) -> dict[str, Any]:
    """Return the state with lifetimes to the minute: they run."""
    for link in state["addresses"]:
        for address in link["addr_info"]:
            for life in ("valid_life_time", "preferred_life_time"):
                address[life] = (address[life] + 30) // 60
    return state


def test_addresses_and_routes_move_and_come_back_as_they_were(tmp_path: Path) -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        await one_nic(netlink)
        before = without_lifetimes(await settled())
        journal = Journal(tmp_path / "bridges.json")

        outcome = (await ensure_bridges(netlink, [wanted()], journal))[7]

        assert outcome.error is None, outcome.error
        assert outcome.is_one_nic and 55 < outcome.unconfirmed_s <= 60
        assert shown("ip", "-j", "addr", "show", "dev", "eth1")[0]["addr_info"] == []
        assert shown_link()["address"] == shown_link("eth1")["address"]
        for family, count in (("-4", 4), ("-6", 2)):
            routes = shown("ip", "-j", family, "route", "show", "table", "all")
            assert not [r for r in routes if r.get("dev") == "eth1" and r.get("type") is None]
            named = [r for r in routes if r.get("protocol") != "kernel"]
            assert len([r for r in named if "cbr7" in str(r)]) == count
        assert (await ensure_bridges(netlink, [wanted()], journal))[7].changes == ()
        confirm(journal)
        assert await revert_unconfirmed(netlink, journal) == ()
        assert (await ensure_bridges(netlink, [wanted()], journal))[7].unconfirmed_s == 0.0

        await remove_other_bridges(netlink, [], journal)

        assert differences(before, without_lifetimes(await settled())) == []

    in_new_network(test)


def test_an_address_that_a_dhcp_client_puts_on_the_port_goes_to_the_bridge(tmp_path: Path) -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        await one_nic(netlink)
        journal = Journal(tmp_path / "bridges.json")
        await ensure_bridges(netlink, [wanted()], journal)
        confirm(journal)
        run("ip", "addr", "add", "192.0.2.44/24", "dev", "eth1")
        outcome = (await ensure_bridges(netlink, [wanted()], journal))[7]
        assert outcome.unconfirmed_s == 0.0
        held = {str(a.interface) for a in (await read_network(netlink)).underlay()}
        assert "192.0.2.44/24" in held
        assert shown("ip", "-j", "addr", "show", "dev", "eth1")[0]["addr_info"] == []
        await remove_other_bridges(netlink, [], journal)
        assert "192.0.2.44" in run("ip", "addr", "show", "dev", "eth1")

    in_new_network(test)


def test_a_bridge_that_somebody_removed_comes_back_with_the_hosts_addresses(
    tmp_path: Path,
) -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        await one_nic(netlink)
        before = without_lifetimes(await settled())
        journal = Journal(tmp_path / "bridges.json")
        await ensure_bridges(netlink, [wanted()], journal)
        confirm(journal)
        run("ip", "link", "del", "cbr7")
        assert (await ensure_bridges(netlink, [wanted()], journal))[7].error is None
        assert await is_moved()
        await remove_other_bridges(netlink, [], journal)
        assert differences(before, without_lifetimes(await settled())) == []

    in_new_network(test)


def test_what_nobody_confirms_goes_back_by_itself_and_is_not_tried_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bridge, "CONFIRM_S", 0.5)

    async def test(netlink: AsyncIPRoute) -> None:
        await one_nic(netlink)
        before = without_lifetimes(await settled())
        journal = Journal(tmp_path / "bridges.json")
        assert (await ensure_bridges(netlink, [wanted()], journal))[7].error is None
        assert await is_moved()

        async with asyncio.timeout(5):
            assert await revert_when_due(netlink, journal)

        assert differences(before, without_lifetimes(await settled())) == []
        again: BridgeOutcome = (await ensure_bridges(netlink, [wanted()], journal))[7]
        assert "moved back" in str(again.error) and "10 minutes" in again.error.remedy  # type: ignore[union-attr]
        assert differences(before, without_lifetimes(await settled())) == []
        monkeypatch.setattr(bridge_journal, "REFUSE_S", 0.0)
        assert (await ensure_bridges(netlink, [wanted()], journal))[7].error is None

    in_new_network(test)


def test_an_agent_that_died_before_the_confirmation_puts_it_back_when_it_starts(
    tmp_path: Path,
) -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        await one_nic(netlink)
        before = without_lifetimes(await settled())
        await ensure_bridges(netlink, [wanted()], Journal(tmp_path / "bridges.json"))
        assert await is_moved()

        outcome = (await ensure_bridges(netlink, [wanted()], Journal(tmp_path / "bridges.json")))[7]

        assert "moved back" in str(outcome.error)
        assert differences(before, without_lifetimes(await settled())) == []

    in_new_network(test)


_TALK = """
import socket, sys, time
role, address = sys.argv[1:]
if role == "answer":
    listening = socket.create_server((address, 7777))
    print("ready", flush=True)
    taken, _ = listening.accept()
    while (read := taken.recv(64)):
        taken.sendall(read)
else:
    opened = socket.create_connection((address, 7777), 5)
    opened.settimeout(5)
    last = time.monotonic()
    print("ready", flush=True)
    worst = 0.0
    while True:
        opened.sendall(b"x")
        if not opened.recv(64):
            sys.exit("closed")
        now = time.monotonic()
        if now - last > worst:
            worst = now - last
            print(f"{worst:.3f}", flush=True)
        last = now
        time.sleep(0.005)
"""


def test_a_connection_of_tcp_goes_on_through_the_move_and_back(tmp_path: Path) -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        await one_nic(netlink)
        holder = subprocess.Popen(["unshare", "--net", "sleep", "60"])
        talkers: list[subprocess.Popen[str]] = []
        try:
            await _in_another_namespace(holder.pid)
            run("ip", "link", "set", "lan0", "netns", str(holder.pid))
            enter = ["nsenter", f"--target={holder.pid}", "--net", "--"]
            run(*enter, "ip", "link", "set", "lan0", "up")
            run(*enter, "ip", "addr", "add", "192.0.2.9/24", "dev", "lan0")
            script = [sys.executable, "-I", "-S", "-c", _TALK]
            talkers.append(_start([*script, "answer", "192.0.2.1"]))
            talkers.append(_start([*enter, *script, "ask", "192.0.2.1"]))
            journal = Journal(tmp_path / "bridges.json")

            await asyncio.sleep(0.3)
            assert (await ensure_bridges(netlink, [wanted()], journal))[7].error is None
            confirm(journal)
            await asyncio.sleep(0.5)
            assert await is_moved()
            await remove_other_bridges(netlink, [], journal)
            await asyncio.sleep(0.5)

            assert all(talker.poll() is None for talker in talkers), "the connection broke"
            talkers[1].send_signal(signal.SIGINT)
            out = talkers[1].communicate(timeout=5)[0]
            worst = float([line for line in out.split() if line[0].isdigit()][-1])
            print(f"longest pause of the connection: {worst:.3f} s")
            assert worst < 1.0
        finally:
            for process in [*talkers, holder]:
                process.kill()
                process.communicate()

    in_new_network(test)


def _start(argv: list[str]) -> subprocess.Popen[str]:
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


async def _in_another_namespace(pid: int) -> None:
    own = os.readlink(f"/proc/self/task/{_thread()}/ns/net")  # noqa: PTH115
    deadline = time.monotonic() + 5
    while os.readlink(f"/proc/{pid}/ns/net") == own:  # noqa: PTH115
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def _thread() -> int:
    import threading

    return threading.get_native_id()
