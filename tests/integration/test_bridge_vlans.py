"""A trunk: three VLANs of one NIC on three vSubnets, and nothing of one on another.

Where this kernel has VLAN devices the agent makes them. Where it hasn't, a relay in the place of
the network's makers takes the trunk apart, and the agent finds the interfaces there.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from cairn_agent.errors import Environment
from cairn_agent.host.bridge import BridgeWanted, ensure_bridges, remove_other_bridges
from cairn_agent.host.bridge_journal import Journal
from cairn_agent.host.taps import ensure_taps
from cairn_agent.netmap.desired import Tap
from pyroute2 import AsyncIPRoute

from tests.integration.test_bridge_host import differences, lan, run, settled, shown, wanted
from tests.lab import until
from tests.unit.agent.fakes.network import in_new_network

pytestmark = [pytest.mark.root, pytest.mark.tun]

VLANS = {10: 7, 20: 8, 30: 9}  # and their vSubnets
_TUNSETIFF, _FLAGS = 0x400454CA, 0x0002 | 0x1000 | 0x4000 | 0x0100
_HEADER = 10
_SENTINEL = 0x9000
_FIRST_S = 10.0  # the relay is a process: beside other tests it takes its time
_QUIET_S = 0.3


def has_vlans() -> bool:
    """Whether this kernel has VLAN devices."""
    command = ["ip", "link", "add", "link", "lan0", "name", "probe", "type", "vlan", "id", "9"]
    if subprocess.run(command, capture_output=True).returncode != 0:
        return False
    run("ip", "link", "del", "probe")
    return True


def vm(vni: int) -> str:
    """Return the MAC of a VM of a vSubnet."""
    return f"02:00:00:00:01:{vni:02x}"


def station(vlan: int) -> str:
    """Return the MAC of a station of a VLAN."""
    return f"02:aa:00:00:02:{vlan:02x}"


def on_the_trunk() -> list[BridgeWanted]:
    """Return what is bridged."""
    return [
        wanted(vni=vni, tap=f"cairn{vni}", vlan=vlan, overlay_macs=frozenset({vm(vni)}))
        for vlan, vni in VLANS.items()
    ]


@contextmanager
def trunk_taken_apart() -> Iterator[None]:
    """Put a relay and interfaces `eth1.VLAN` where the kernel can't have VLAN devices."""
    if has_vlans():
        yield
        return
    for vlan in VLANS:
        run("ip", "link", "add", f"eth1.{vlan}", "type", "veth", "peer", "name", f"t{vlan}")
        Path(f"/proc/sys/net/ipv6/conf/t{vlan}/disable_ipv6").write_text("1")
        for name in (f"t{vlan}", f"eth1.{vlan}"):
            run("ip", "link", "set", name, "up")
    script = Path(__file__).resolve().parents[1] / "lab/trunk.py"
    named = [f"{vlan}=t{vlan}" for vlan in VLANS]
    relay = subprocess.Popen(
        [sys.executable, "-I", "-S", str(script), "eth1", *named], stdout=subprocess.PIPE, text=True
    )
    try:
        assert relay.stdout is not None and relay.stdout.readline() == "ready\n"
        yield
    finally:
        relay.kill()
        relay.communicate()


@contextmanager
def tap_of(vni: int) -> Iterator[int]:
    """Open a TAP as the data plane does."""
    opened = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(opened, _TUNSETIFF, struct.pack("16sH22x", f"cairn{vni}".encode(), _FLAGS))
        yield opened
    finally:
        os.close(opened)


def all_forward() -> bool:
    """Whether the bridges' ports are open: the kernel sees a TAP's carrier a moment later."""
    ports = shown("ip", "-j", "-d", "link", "show", "type", "bridge_slave")
    # This `ip` prints an empty object for each interface that is none.
    states = [port["linkinfo"]["info_slave_data"]["state"] for port in ports if port]
    return states == ["forwarding"] * (2 * len(VLANS))


@contextmanager
def cable() -> Iterator[socket.socket]:
    """Open the far end of the trunk."""
    opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    try:
        opened.setsockopt(263, 8, 1)  # SOL_PACKET, PACKET_AUXDATA
        opened.setsockopt(263, 23, 1)  # PACKET_IGNORE_OUTGOING
        opened.bind(("lan0", 3))
        yield opened
    finally:
        opened.close()


def frame(source: str, destination: str, vlan: int = 0) -> bytes:
    """Return a frame of the tests' EtherType, with a tag or without."""
    macs = bytes.fromhex((destination + source).replace(":", ""))
    tag = struct.pack("!HH", 0x8100, vlan) if vlan else b""
    return macs + tag + struct.pack("!H", _SENTINEL) + b"%046d" % vlan


def read_tap(opened: int, count: int) -> list[bytes]:
    """Return the frames of the tests' EtherType that a TAP gets: so many, and until quiet."""
    found: list[bytes] = []
    while select.select([opened], [], [], _FIRST_S if len(found) < count else _QUIET_S)[0]:
        octets = os.read(opened, 65_600)[_HEADER:]
        if octets[12:14] == struct.pack("!H", _SENTINEL):
            found.append(octets)
    return found


def read_cable(opened: socket.socket, count: int) -> list[tuple[int, bytes]]:
    """Return (VLAN, frame) of what comes out at the far end: so many, and until quiet."""
    found: list[tuple[int, bytes]] = []
    while select.select([opened], [], [], _FIRST_S if len(found) < count else _QUIET_S)[0]:
        octets, ancillary, _, _ = opened.recvmsg(65_600, 256)
        if octets[12:14] != struct.pack("!H", _SENTINEL):
            continue
        data = next((data for _, kind, data in ancillary if kind == 8), bytes(20))
        status, _, _, _, _, tci, _ = struct.unpack("IIIHHHH", data)
        found.append((tci & 0xFFF if status & 0x10 else 0, octets))
    return found


async def taps(netlink: AsyncIPRoute) -> None:
    """Make the LAN's cable and the TAPs of the vSubnets."""
    await lan(netlink)
    made = [
        Tap(f"cairn{vni}", vni, f"02:00:00:00:00:{vni:02x}", 1400, (), is_up=True)
        for vni in VLANS.values()
    ]
    assert not (await ensure_taps(netlink, made)).failed


def test_each_vlan_is_on_its_vsubnet_and_the_nic_is_as_it_was_after(tmp_path: Path) -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        await taps(netlink)
        run("ip", "addr", "add", "192.0.2.1/24", "dev", "eth1")
        with ExitStack() as stack:
            stack.enter_context(trunk_taken_apart())
            before = await settled()
            journal = Journal(tmp_path / "bridges.json")
            outcomes = await ensure_bridges(netlink, on_the_trunk(), journal)
            for vlan, vni in VLANS.items():
                assert outcomes[vni].error is None, outcomes[vni].error
                assert outcomes[vni].port == f"eth1.{vlan}" and not outcomes[vni].is_one_nic
            again = await ensure_bridges(netlink, on_the_trunk(), journal)
            assert all(outcome.changes == () for outcome in again.values())
            assert "192.0.2.1" in str(shown("ip", "-j", "addr", "show", "dev", "eth1"))

            opened = {vni: stack.enter_context(tap_of(vni)) for vni in VLANS.values()}
            until("every TAP's port forwards", all_forward, within_s=10)
            far = stack.enter_context(cable())
            for vlan in (*VLANS, 0, 40):  # the last two are nobody's
                for vni in VLANS.values():
                    far.send(frame(station(vlan), vm(vni), vlan))
            for vlan, vni in VLANS.items():
                # What has the right tag but the MAC of another vSubnet's VM goes nowhere.
                got = read_tap(opened[vni], 1)
                assert [octets[:12] for octets in got] == [frame(station(vlan), vm(vni))[:12]]
                assert got[0][14:] == b"%046d" % vlan
            for vlan, vni in VLANS.items():
                os.write(opened[vni], bytes(_HEADER) + frame(vm(vni), station(vlan)))
            assert sorted(vlan for vlan, _ in read_cable(far, len(VLANS))) == sorted(VLANS)

            two = on_the_trunk()[:2]
            await remove_other_bridges(netlink, two, journal)
            for one in two:
                assert (await ensure_bridges(netlink, two, journal))[one.vni].changes == ()
            await remove_other_bridges(netlink, [], journal)
            assert differences(before, await settled()) == []

    in_new_network(test)


def test_a_trunk_that_was_down_is_down_again(tmp_path: Path) -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        await taps(netlink)
        run("ip", "link", "set", "eth1", "down")
        with trunk_taken_apart():
            before = await settled()
            journal = Journal(tmp_path / "bridges.json")
            outcomes = await ensure_bridges(netlink, on_the_trunk(), journal)
            assert all(outcome.error is None for outcome in outcomes.values()), outcomes
            assert "UP" in shown("ip", "-j", "link", "show", "eth1")[0]["flags"]
            await remove_other_bridges(netlink, [], journal)
            assert differences(before, await settled()) == []

    in_new_network(test)


def test_without_vlans_in_the_kernel_a_sentence_says_what_to_do(tmp_path: Path) -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        await taps(netlink)
        before = await settled()
        journal = Journal(tmp_path / "bridges.json")
        outcomes = await ensure_bridges(netlink, on_the_trunk(), journal)
        if has_vlans():
            assert all(outcome.error is None for outcome in outcomes.values()), outcomes
            assert shown("ip", "-d", "-j", "link", "show", "eth1.10")[0]["linkinfo"]
        else:
            error = outcomes[7].error
            assert isinstance(error, Environment)
            assert "no VLANs" in error.cause and "8021q" in error.remedy
        await remove_other_bridges(netlink, [], journal)
        assert differences(before, await settled()) == []

    in_new_network(test)
