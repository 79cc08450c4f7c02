"""The real agent in a namespace; appliance and data plane are fakes behind real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from cairn_agent.host.network import Network, read_network
from cairn_agent.netmap.desired import link_local
from pyroute2 import AsyncIPRoute

from tests.lab.machine import ROOT
from tests.unit.agent.fakes.appliance import FakeAppliance
from tests.unit.agent.fakes.dataplane import FakeDataPlane
from tests.unit.agent.fakes.netmaps import header, member, node_id
from tests.unit.agent.fakes.network import eth0, in_new_network

pytestmark = [pytest.mark.root, pytest.mark.tun]

AGENT = ROOT / ".venv" / "bin" / "cairn-agent"


class Host:
    """One machine: its agent's processes, its data plane, and the appliance it knows."""

    def __init__(self, directory: Path, netlink: AsyncIPRoute, **environment: str) -> None:
        self.state_dir = directory / "state"
        self.runtime_dir = directory / "run"
        self.appliance = FakeAppliance(directory)
        self.dataplane = FakeDataPlane(self.runtime_dir / "dataplane.sock")
        self.netlink = netlink
        self.log = directory / "agent.log"
        self.agent: asyncio.subprocess.Process | None = None
        self._environment = {**os.environ, **environment}

    async def start_agent(self) -> None:
        """Start `cairn-agent run` and wait until it answers commands."""
        with self.log.open("ab") as log:
            self.agent = await asyncio.create_subprocess_exec(
                *self._command("run"), stdout=log, stderr=log, env=self._environment
            )
        await self.until("the agent answers", lambda: (self.runtime_dir / "agent.sock").exists())

    async def stop_agent(self, number: int = signal.SIGTERM) -> int:
        """End the agent; return its exit status."""
        assert self.agent is not None
        self.agent.send_signal(number)
        async with asyncio.timeout(5):
            status = await self.agent.wait()
        self.agent = None
        return status

    async def run(self, *arguments: str, stdin: str = "") -> tuple[int, str, str]:
        """Run a command of the agent; return exit status and both outputs."""
        process = await asyncio.create_subprocess_exec(
            *self._command(*arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._environment,
        )
        async with asyncio.timeout(30):
            out, err = await process.communicate(stdin.encode())
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()

    async def join(self) -> None:
        """Join as node whatever-its-ID-is of the appliance's cluster."""
        status, _, err = await self.run("join", "-", stdin=self.appliance.token() + "\n")
        assert status == 0, err

    async def status(self) -> dict[str, Any]:
        """Return `status --json`."""
        status, out, err = await self.run("status", "--json")
        assert status == 0, err
        found: dict[str, Any] = json.loads(out)
        return found

    async def until(
        self, what: str, condition: Callable[[], object], within_s: float = 30.0
    ) -> None:
        """Wait for a condition that may be awaitable."""
        deadline = time.monotonic() + within_s
        while True:
            found = condition()
            if isinstance(found, Awaitable):
                found = await found
            if found:
                return
            assert time.monotonic() < deadline, f"not in time: {what}\n{self.log.read_text()}"
            await asyncio.sleep(0.02)

    async def network(self) -> Network:
        """Return the host's network."""
        return await read_network(self.netlink)

    async def has_tap(self) -> bool:
        """Return whether the TAP of vSubnet 7 is there."""
        return "cairn7" in (await self.network()).own()

    def members(self, *others: int) -> list[Any]:
        """Return this node as number 1, and others."""
        return [member(1, node_id=self.appliance.node_id), *map(member, others)]

    def netmap(self, revision: int, *others: int) -> list[bytes]:
        """Return a full set for this node."""
        cluster = self.appliance.cluster
        document = cluster.node_of(self.appliance.node_id, [7], revision, [self.appliance.address])
        return [
            cluster.reset(),
            document,
            cluster.vsubnet(self.members(*others), revision),
            cluster.in_sync(revision),
        ]

    def has_peers(self, *numbers: int) -> bool:
        """Return whether the data plane has exactly these peers in vSubnet 7."""
        vsubnets = (self.dataplane.state or {}).get("vsubnets", [])
        return [{peer["id"] for peer in v["peers"]} for v in vsubnets] == [
            {node_id(number) for number in numbers}
        ]

    def _command(self, *arguments: str) -> list[str]:
        directories = ["--state-dir", str(self.state_dir), "--runtime-dir", str(self.runtime_dir)]
        return [str(AGENT), *directories, *arguments]


@contextlib.asynccontextmanager
async def a_host(
    directory: Path, netlink: AsyncIPRoute, *, dataplane: bool = True, **environment: str
) -> AsyncIterator[Host]:
    host = Host(directory, netlink, **environment)
    await host.appliance.start()
    if dataplane:
        await host.dataplane.start()
    try:
        yield host
    finally:
        if host.agent is not None:
            await host.stop_agent(signal.SIGKILL)
        await host.appliance.stop()
        if dataplane:
            await host.dataplane.stop()


@contextlib.asynccontextmanager
async def a_member(
    directory: Path, netlink: AsyncIPRoute, **environment: str
) -> AsyncIterator[Host]:
    """A host that has joined vSubnet 7, with node 2 as its peer."""
    async with a_host(directory, netlink, **environment) as host:
        await host.start_agent()
        await host.join()
        await host.appliance.until(lambda fake: fake.stream_count == 1)
        host.appliance.lines = host.netmap(10, 2)
        host.appliance.send(*host.appliance.lines)
        await host.until("peer 2 is loaded", lambda: host.has_peers(2))
        await host.until("and kept after that", (host.state_dir / "netmap.jsonl").exists)
        yield host


def test_joining_makes_tap_addresses_and_state(tmp_path: Path) -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        async with a_member(tmp_path, netlink) as host:
            network = await host.network()
            link = network.own()["cairn7"]
            addresses = {str(a.interface) for a in network.addresses if a.index == link.index}
            assert (link.mac, link.mtu, link.is_up) == ("02:00:00:00:00:01", 1400, True)
            assert addresses == {"10.7.0.1/24", f"{link_local(link.mac)}/64"}

            registered = host.appliance.asked("register")[0]
            assert registered["endpoints"] == ["192.0.2.1:8002"]
            await host.appliance.until(lambda fake: fake.asked("ack"))
            ack = host.appliance.asked("ack")[-1]
            assert ack["revision"] == 10
            assert set(ack["digests"]) == {"node", "7"}

            status = await host.status()
            assert status["state"] == "approved"
            assert status["link"]["is_up"]
            assert [peer["name"] for peer in status["peers"]] == ["vm-2"]

    in_new_network(test)


def test_overlay_addresses_are_never_offered_as_endpoints(tmp_path: Path) -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        async with a_member(tmp_path, netlink) as host:
            index = await eth0(netlink)
            await netlink.addr("add", index=index, address="10.7.0.200", prefixlen=24)
            await netlink.addr("add", index=index, address="192.0.2.9", prefixlen=24)

            await host.appliance.until(lambda fake: len(fake.asked("register")) >= 2)

            endpoints = host.appliance.asked("register")[-1]["endpoints"]
            assert endpoints == ["192.0.2.1:8002", "192.0.2.9:8002"]
            await host.dataplane.until("told", lambda fake: fake.underlay_changes > 0)

    in_new_network(test)


@pytest.mark.timed
def test_peers_are_gone_to_where_no_appliance_can_be_told_of_a_new_address(tmp_path: Path) -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        async with a_member(tmp_path, netlink) as host:
            index = await eth0(netlink)
            for last in range(9, 12):
                before, begun = host.dataplane.warmed_all, time.monotonic()
                times = len(host.appliance.asked("register"))
                await netlink.addr("add", index=index, address=f"192.0.2.{last}", prefixlen=24)
                await host.appliance.until(lambda fake, n=times: len(fake.asked("register")) > n)
                told_s = time.monotonic() - begun
                await asyncio.sleep(2)
                if told_s < 0.5:  # else the machine stood still, and they were gone to rightly
                    break
            assert told_s < 0.5
            assert host.dataplane.warmed_all == before, "it could be told"

            await host.appliance.stop()
            await asyncio.sleep(2)
            before = host.dataplane.warmed_all
            await netlink.addr("add", index=index, address="192.0.2.77", prefixlen=24)
            await host.dataplane.until("gone to", lambda fake: fake.warmed_all > before)

    in_new_network(test)


def test_peers_are_gone_to_after_a_reboot_at_another_address_without_an_appliance(
    tmp_path: Path,
) -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        async with a_member(tmp_path, netlink) as host:
            await host.appliance.stop()
            await host.stop_agent(signal.SIGKILL)
            index = await eth0(netlink)
            await netlink.addr("add", index=index, address="192.0.2.77", prefixlen=24)
            await host.start_agent()
            await host.dataplane.until("gone to", lambda fake: fake.warmed_all)

    in_new_network(test)


def test_peers_are_not_gone_to_after_a_reboot_where_it_was(tmp_path: Path) -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        async with a_member(tmp_path, netlink) as host:
            await host.appliance.stop()
            await _restart_after_reboot(host)
            await asyncio.sleep(3)
            assert host.dataplane.warmed_all == 0

    in_new_network(test)


@pytest.mark.timed
def test_a_delta_reaches_the_data_plane_at_once(tmp_path: Path) -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        async with a_member(tmp_path, netlink) as host:
            begun = time.monotonic()
            result = host.members(2, 3)
            host.appliance.send(
                host.appliance.cluster.vsubnet(result, 11, full=False, send=[member(3)]),
                host.appliance.cluster.in_sync(11),
            )
            await host.until("peer 3 is loaded", lambda: host.has_peers(2, 3))
            assert time.monotonic() - begun < 0.5

    in_new_network(test)


@pytest.mark.timed
@pytest.mark.parametrize("what", ["peer removed", "node removed"])
def test_a_slow_disk_does_not_keep_a_removal_from_the_data_plane(tmp_path: Path, what: str) -> None:
    slow = tmp_path / "slow"
    (tmp_path / "sitecustomize.py").write_text(_SLOW_DISK)

    async def test(netlink: AsyncIPRoute) -> None:
        environment = {"PYTHONPATH": str(tmp_path), "SLOW_DISK": str(slow)}
        async with a_member(tmp_path, netlink, **environment) as host:
            await host.appliance.until(lambda fake: fake.asked("ack"))
            assert (await host.status())["link"]["is_up"]
            slow.touch()
            begun = time.monotonic()
            if what == "peer removed":
                gone = host.appliance.cluster.vsubnet(
                    host.members(), 11, full=False, send=[], remove=[node_id(2)]
                )
                host.appliance.send(gone, host.appliance.cluster.in_sync(11))
                await host.until("it has no peer", lambda: host.has_peers())
            else:
                host.appliance.send(json.dumps({"type": "removed", "reason": "removed"}).encode())
                await host.until("no sessions", lambda: host.dataplane.state["vsubnets"] == [])
            assert time.monotonic() - begun < 1.0
            slow.unlink()
            if what == "peer removed":
                kept = host.state_dir / "netmap.jsonl"
                await host.until("it is kept", lambda: node_id(2) not in kept.read_text())

    in_new_network(test)


# Read by Python before all else.
_SLOW_DISK = """
import os, time
whole = os.fsync
def fsync(descriptor):
    time.sleep(2.0 if os.path.exists(os.environ["SLOW_DISK"]) else 0.0)
    whole(descriptor)
os.fsync = fsync
"""


@pytest.mark.timed
def test_the_kept_netmap_is_applied_within_two_seconds_without_an_appliance(
    tmp_path: Path,
) -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        async with a_member(tmp_path, netlink) as host:
            await host.appliance.stop()
            took_s = [await _restart_after_reboot(host) for _ in range(3)]
            assert min(took_s) < 2.0, f"{took_s} (other programs may have had the processors)"
            await host.appliance.start()

    in_new_network(test)


async def _restart_after_reboot(host: Host) -> float:
    """Lose agent, data plane and TAP; return the seconds from the agent's start to its state."""
    await host.stop_agent(signal.SIGKILL)
    await host.dataplane.stop()
    await host.netlink.link("del", index=(await host.network()).own()["cairn7"].index)
    await host.dataplane.start()
    begun = time.monotonic()
    await host.start_agent()
    await host.until("peer 2 is loaded again", lambda: host.has_peers(2))
    assert await host.has_tap()
    return time.monotonic() - begun


@pytest.mark.timed
def test_everything_is_applied_again_to_a_new_data_plane(tmp_path: Path) -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        async with a_member(tmp_path, netlink) as host:
            await host.dataplane.stop()
            await host.dataplane.start()
            begun = time.monotonic()
            await host.until("peer 2 is loaded again", lambda: host.has_peers(2))
            assert time.monotonic() - begun < 1.0

    in_new_network(test)


def test_what_the_data_plane_tells_is_shown_until_it_is_over(tmp_path: Path) -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        async with a_member(tmp_path, netlink) as host:
            host.dataplane.emit(event="degraded", what="entropy", reason="no RDRAND")

            async def shown() -> Any:
                return (await host.status())["dataplane"]["offloads"].get("entropy")

            await host.until("it is shown", shown)
            assert await shown() == "off: no RDRAND"
            await host.dataplane.stop()
            await host.dataplane.start()
            await host.until("peer 2 is loaded again", lambda: host.has_peers(2))
            assert await shown() is None

    in_new_network(test)


def test_sigterm_leaves_tap_and_data_plane_as_they_are(tmp_path: Path) -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        async with a_member(tmp_path, netlink) as host:
            applied = len(host.dataplane.applied)
            assert await host.stop_agent() == 0
            assert await host.has_tap()
            assert len(host.dataplane.applied) == applied
            assert not (host.runtime_dir / "agent.sock").exists()

    in_new_network(test)


@pytest.mark.timed
@pytest.mark.parametrize("way", ["stream", "register"])
def test_a_removed_node_ends_its_sessions_at_once_and_stays_out(tmp_path: Path, way: str) -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        async with a_member(tmp_path, netlink) as host:
            problem = {"title": "No", "status": 403, "code": "node_removed", "detail": "removed"}
            host.appliance.answers["register"] = lambda _: (403, problem)
            begun = time.monotonic()
            if way == "stream":
                host.appliance.send(json.dumps({"type": "removed", "reason": "removed"}).encode())
            else:
                index = await eth0(netlink)
                await netlink.addr("add", index=index, address="192.0.2.9", prefixlen=24)
            await host.until("no sessions", lambda: host.dataplane.state["vsubnets"] == [])
            assert time.monotonic() - begun < 1.0
            await host.until("the TAP is gone", lambda: _lacks(host))

            await host.stop_agent()
            await host.start_agent()
            status = await host.status()
            assert (status["state"], status["barred"]) == ("barred", "removed")
            _, shown, _ = await host.run("status")
            assert "cairn-agent leave" in " ".join(shown.split())
            assert not (host.state_dir / "netmap.jsonl").exists()

    in_new_network(test)


async def _lacks(host: Host) -> bool:
    return not await host.has_tap()


def test_leaving_removes_everything(tmp_path: Path) -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        async with a_member(tmp_path, netlink) as host:
            status, out, err = await host.run("leave", "--yes")
            assert status == 0, out + err
            assert len(host.appliance.asked("leave")) == 1
            assert host.dataplane.state["vsubnets"] == []
            assert not await host.has_tap()
            assert not (host.state_dir / "identity.json").exists()
            assert (await host.status())["state"] == "none"

    in_new_network(test)


@pytest.mark.parametrize("is_running", [True, False])
def test_leaving_without_an_appliance_needs_force(tmp_path: Path, is_running: bool) -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        async with a_member(tmp_path, netlink) as host:
            await host.appliance.stop()
            if not is_running:
                await host.stop_agent()
            status, _, err = await host.run("leave", "--yes")
            assert status == 3, err
            assert "what to do" in err
            assert (host.state_dir / "identity.json").exists()

            status, _, err = await host.run("leave", "--yes", "--force")
            assert status == 0, err
            assert not await host.has_tap()
            assert host.dataplane.state["vsubnets"] == []
            await host.appliance.start()

    in_new_network(test)


def test_trust_ends_by_boot_time_and_comes_back_with_the_appliance(tmp_path: Path) -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        async with a_member(tmp_path, netlink, CAIRN_TEST_OFFLINE_TRUST_S="2") as host:
            await host.appliance.stop()
            await host.until("no sessions", lambda: host.dataplane.state["vsubnets"] == [])
            await host.until("the TAP is down", lambda: _is_down(host))
            status = await host.status()
            assert "longer than this vSubnet allows" in status["vsubnets"][0]["problem"]

            await host.appliance.start()
            await host.until("it is back", lambda: host.has_peers(2), within_s=40)
            network = await host.network()
            assert network.own()["cairn7"].is_up
            assert len([a for a in network.addresses if "10.7.0.1" in str(a.interface)]) == 1

    in_new_network(test)


async def _is_down(host: Host) -> bool:
    return not (await host.network()).own()["cairn7"].is_up


def test_a_second_agent_on_the_same_state_is_refused(tmp_path: Path) -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        async with a_member(tmp_path, netlink) as host:
            status, _, err = await host.run("run")
            assert status == 6
            assert "already running" in err
            assert "Traceback" not in err

    in_new_network(test)


def test_ping_finds_a_peer_by_name_address_and_id(tmp_path: Path) -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        async with a_member(tmp_path, netlink) as host:
            for reference in ("vm-2", "10.7.0.2", node_id(2)):
                status, out, err = await host.run("ping", reference, "-c", "1")
                assert status == 0, err
                assert "answer from vm-2: seq=1 time=0.420 ms via 192.0.2.2:8002" in out
            status, _, err = await host.run("ping", "nobody", "-c", "1")
            assert (status, "no peer has the name" in err) == (2, True)

    in_new_network(test)


def test_a_foreign_interface_of_that_name_is_left_alone(tmp_path: Path) -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        await netlink.link("add", ifname="cairn7", kind="veth", peer="other7")
        async with a_host(tmp_path, netlink) as host:
            await host.start_agent()
            await host.join()
            await host.appliance.until(lambda fake: fake.stream_count == 1)
            host.appliance.send(*host.netmap(10, 2))

            async def is_told() -> bool:
                vsubnets = (await host.status())["vsubnets"]
                return any("didn't make it" in vsubnet["problem"] for vsubnet in vsubnets)

            await host.until("the problem is told", is_told)
            link = next(k for k in (await host.network()).links if k.name == "cairn7")
            assert (link.kind, link.is_up) == ("veth", False)

    in_new_network(test)


def test_a_vsubnet_that_is_left_loses_its_tap(tmp_path: Path) -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        async with a_member(tmp_path, netlink) as host:
            cluster = host.appliance.cluster
            host.appliance.send(
                cluster.node_of(host.appliance.node_id, [], 12),
                b'{"type":"gone","vni":7}',
                cluster.in_sync(12),
            )
            await host.until("the TAP is gone", lambda: _lacks(host))
            assert host.dataplane.state["vsubnets"] == []

    in_new_network(test)


def test_a_changed_mtu_and_address_reach_the_tap_without_a_restart(tmp_path: Path) -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        async with a_member(tmp_path, netlink) as host:
            await netlink.addr(
                "add",
                index=(await host.network()).own()["cairn7"].index,
                address="10.7.0.77",
                prefixlen=24,
            )  # a person's, or a DHCP client's
            me = member(1, node_id=host.appliance.node_id, ips=["10.7.0.50/24", "fd00:7::50/64"])
            update = host.appliance.cluster.vsubnet(
                [me, member(2)], 11, full=False, send=[me], header_=header(mtu=1300)
            )
            host.appliance.send(update, host.appliance.cluster.in_sync(11))

            async def is_changed() -> bool:
                network = await host.network()
                link = network.own()["cairn7"]
                found = {str(a.interface) for a in network.addresses if a.index == link.index}
                return link.mtu == 1300 and found == {
                    "10.7.0.50/24",
                    "fd00:7::50/64",
                    "10.7.0.77/24",
                    f"{link_local(link.mac)}/64",
                }

            await host.until("MTU and addresses are set", is_changed)

    in_new_network(test)


def test_a_tap_is_no_larger_than_the_underlay_carries_and_grows_with_it(tmp_path: Path) -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        async with a_member(tmp_path, netlink) as host:
            [address, *_] = (await host.network()).underlay()

            async def has(mtu: int) -> bool:
                return (await host.network()).own()["cairn7"].mtu == mtu

            await netlink.link("set", index=address.index, mtu=1400)
            await host.until("the TAP is smaller", lambda: has(1400 - 28 - 52))
            await host.until(
                "the data plane knows",
                lambda: host.dataplane.state["vsubnets"][0]["mtu"] == 1400 - 28 - 52,
            )
            _, out, _ = await host.run("doctor")
            told = " ".join(out.split())
            assert "cairn7 has MTU 1,320, vSubnet net-7 has 1,400" in told, told
            assert "cairn vsubnet set net-7 --mtu 1320" in told

            await netlink.link("set", index=address.index, mtu=1500)
            await host.until("the TAP is as the netmap says", lambda: has(1400))

    in_new_network(test)


def test_what_the_data_plane_refuses_is_told_to_people_and_to_the_appliance(
    tmp_path: Path,
) -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        async with a_member(tmp_path, netlink) as host:
            host.dataplane.refuse_apply = "UDP 8002 is in use by another program; stop it"
            host.appliance.send(
                host.appliance.cluster.vsubnet(host.members(2, 3), 11),
                host.appliance.cluster.in_sync(11),
            )
            await host.appliance.until(
                lambda fake: any("UDP 8002 is in use" in a["refused"] for a in fake.asked("ack"))
            )
            status = await host.status()
            assert "UDP 8002 is in use" in status["dataplane"]["error"]
            assert status["dataplane"]["loaded_revision"] == 10
            exit_status, out, _ = await host.run("doctor")
            assert exit_status == 6
            assert "UDP 8002 is in use" in " ".join(out.split())

            host.dataplane.refuse_apply = None
            await host.until("it is tried again", lambda: host.has_peers(2, 3))

    in_new_network(test)


def test_run_waits_for_an_identity_and_takes_it_up(tmp_path: Path) -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        async with a_host(tmp_path, netlink) as host:
            await host.start_agent()
            assert (await host.status())["state"] == "none"
            status, out, err = await host.run("join", host.appliance.token())
            assert status == 0, err
            assert "isn't running" not in out
            await host.appliance.until(lambda fake: fake.stream_count == 1)
            status, _, err = await host.run("join", host.appliance.token())
            assert (status, "joined already" in err) == (4, True)

    in_new_network(test)


def test_the_appliance_coming_back_is_noticed_and_resumed(tmp_path: Path) -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        async with a_member(tmp_path, netlink) as host:
            await host.appliance.until(lambda fake: fake.asked("ack"))
            registered = len(host.appliance.asked("register"))
            await host.appliance.stop()
            host.appliance.lines = [host.appliance.cluster.in_sync(10)]
            await host.appliance.start()
            await host.appliance.until(lambda fake: fake.stream_count == 1, within_s=20)
            assert len(host.appliance.asked("register")) == registered + 1
            assert host.appliance.stream_queries[-1] == "incarnation=1&after=10"
            await host.until("acknowledged anew", lambda: len(host.appliance.asked("ack")) >= 2)

    in_new_network(test)


def test_a_netmap_that_breaks_a_rule_is_reported_and_asked_for_anew(tmp_path: Path) -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        async with a_member(tmp_path, netlink) as host:
            forged = host.appliance.cluster.vsubnet(host.members(2, 3), 9)
            host.appliance.send(forged)
            await host.appliance.until(
                lambda fake: any("older" in a["refused"] for a in fake.asked("ack"))
            )
            assert host.has_peers(2)
            await host.appliance.until(lambda fake: len(fake.stream_queries) >= 2, within_s=20)
            assert host.appliance.stream_queries[1] == "incarnation=0&after=0"

    in_new_network(test)
