"""Bridges of gateway mode on a real kernel: what is made, that it goes back, and crashes between.

lan0 --- eth1 [cbr7] cairn7, in a namespace of its own
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cairn_agent.errors import BadInput, Environment
from cairn_agent.host.bridge import (
    BridgeWanted,
    block_port,
    ensure_bridges,
    flush_stations,
    learn_stations,
    remove_other_bridges,
    station_changes,
    stations,
)
from cairn_agent.host.bridge_journal import Journal
from cairn_agent.host.network import read_network
from cairn_agent.host.taps import ensure_taps
from cairn_agent.netmap.desired import Tap
from cairn_agent.protocol.gateway import Guards
from pyroute2 import AsyncIPRoute

from tests.unit.agent.fakes.network import in_new_network

pytestmark = [pytest.mark.root, pytest.mark.tun]

VM = "02:00:00:00:00:77"
TAP = Tap("cairn7", 7, "02:00:00:00:00:07", 1400, (), is_up=True)


def wanted(**changes: Any) -> BridgeWanted:
    """Return what the tests bridge."""
    values: dict[str, Any] = {"vni": 7, "tap": "cairn7", "port": "eth1", "vlan": 0, "mtu": 1400}
    values |= {"guards": Guards(), "overlay_macs": frozenset({VM})}
    return BridgeWanted(**(values | changes))


def run(*argv: str) -> str:
    """Run a command in the namespace of this thread."""
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def shown(*argv: str) -> Any:
    """Return the JSON that a command prints."""
    return json.loads(run(*argv) or "[]")


def state_of_the_host() -> dict[str, Any]:
    """Return everything of the network that bridging could leave changed."""
    links = shown("ip", "-d", "-j", "link")
    addresses = shown("ip", "-d", "-j", "addr")
    for link in links:
        link.pop("promiscuity", None) if link["ifname"] == "lo" else None
    return {
        "links": [link for link in links if not link["ifname"].startswith("cairn")],
        "addresses": [a for a in addresses if not a["ifname"].startswith("cairn")],
        "routes": [
            sorted(
                (
                    route
                    for route in shown("ip", "-d", "-j", family, "route", "show", "table", "all")
                    if not str(route.get("dev")).startswith("cairn")
                ),
                key=json.dumps,
            )
            for family in ("-4", "-6")
        ],
        "rules": run("nft", "list", "ruleset"),
    }


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Return what one state has and the other hasn't, a line each."""

    def lines(state: dict[str, Any]) -> set[str]:
        found = set(state["rules"].splitlines())
        for what in (
            *state["links"],
            *state["addresses"],
            *state["routes"][0],
            *state["routes"][1],
        ):
            found.add(json.dumps(what, sort_keys=True))
        return found

    gone, new = lines(before) - lines(after), lines(after) - lines(before)
    return [f"- {line}" for line in sorted(gone)] + [f"+ {line}" for line in sorted(new)]


async def settled() -> dict[str, Any]:
    """Return the state once the kernel has done what it does by itself, a moment later."""
    for _ in range(400):
        state = state_of_the_host()
        if "tentative" not in json.dumps(state) and all(map(_has_followed, state["links"])):
            return state
        await asyncio.sleep(0.05)
    raise AssertionError(f"the kernel doesn't come to an end: {state['links']}")


def _has_followed(link: dict[str, Any]) -> bool:
    """Whether a link's state is that of its carrier; the kernel has a thread for it."""
    return ("LOWER_UP" in link["flags"]) == (link["operstate"] in ("UP", "UNKNOWN"))


async def lan(netlink: AsyncIPRoute, *, has_ipv6: bool = True) -> None:
    """Make the LAN port, up, and the vSubnet's TAP."""
    for where in ("all", "default"):  # saves seconds of each test
        Path(f"/proc/sys/net/ipv6/conf/{where}/accept_dad").write_text("0")
    run("ip", "link", "add", "eth1", "type", "veth", "peer", "name", "lan0")
    run("ip", "link", "del", "eth0")
    # The other end of the cable, in this same network, says nothing by itself.
    Path("/proc/sys/net/ipv6/conf/lan0/disable_ipv6").write_text("1")
    Path("/proc/sys/net/ipv4/conf/lan0/arp_ignore").write_text("8")
    if not has_ipv6:
        Path("/proc/sys/net/ipv6/conf/eth1/disable_ipv6").write_text("1")
    run("ip", "link", "set", "lan0", "up")
    run("ip", "link", "set", "eth1", "up")
    for _ in range(200):  # the kernel says that there is a carrier when it gets round to it
        links = {each["ifname"]: each["operstate"] for each in shown("ip", "-j", "link", "show")}
        if (links["eth1"], links["lan0"]) == ("UP", "UP"):
            break
        await asyncio.sleep(0.05)
    assert not (await ensure_taps(netlink, [TAP])).failed


def bridge(name: str = "cbr7") -> dict[str, Any]:
    """Return how the kernel shows a bridge."""
    found: dict[str, Any] = shown("ip", "-d", "-j", "link", "show", name)[0]
    return found


def port(name: str) -> dict[str, Any]:
    """Return how the kernel shows a port."""
    found: dict[str, Any] = bridge(name)["linkinfo"]["info_slave_data"]
    return found


def test_a_bridge_is_made_as_promised_and_again_changes_nothing(tmp_path: Path) -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        await lan(netlink)
        journal = Journal(tmp_path / "bridges.json")

        outcome = (await ensure_bridges(netlink, [wanted()], journal))[7]

        assert outcome.error is None, outcome.error
        assert (outcome.port, outcome.is_one_nic) == ("eth1", False)
        assert outcome.changes
        data = bridge()["linkinfo"]["info_data"]
        assert (data["stp_state"], data["group_fwd_mask"]) == (0, "0")
        assert (data["mcast_snooping"], data["mcast_querier"]) == (1, 1)
        assert (data["ageing_time"], data["no_linklocal_learn"]) == (30_000, 1)
        assert port("eth1")["learning"] and not port("eth1")["flood"]
        assert not port("cairn7")["learning"] and not port("cairn7")["flood"]
        assert port("cairn7")["isolated"] and not port("eth1")["isolated"]
        for name in ("cbr7", "eth1", "cairn7"):
            assert shown("ip", "-j", "addr", "show", name)[0]["addr_info"] == []
        entries = shown("bridge", "-j", "fdb", "show", "dev", "cairn7", "state", "static")
        assert [(e["mac"], e["flags"]) for e in entries if "vlan" not in e] == [(VM, ["sticky"])]
        assert bridge("cairn7")["mtu"] == 1500, "what is too long must reach the data plane"
        assert bridge("cairn7")["txqlen"] == 8192, "a burst of the LAN's waits there"

        again = (await ensure_bridges(netlink, [wanted()], journal))[7]
        assert again.changes == () and again.error is None
        assert not (await ensure_taps(netlink, [TAP])).changes, "the TAP's MTU is the bridge's"

    in_new_network(test)


def test_only_what_differs_is_changed(tmp_path: Path) -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        await lan(netlink)
        journal = Journal(tmp_path / "bridges.json")
        await ensure_bridges(netlink, [wanted()], journal)
        index = bridge()["ifindex"]
        run("bridge", "link", "set", "dev", "eth1", "flood", "on")
        run("ip", "link", "set", "cairn7", "nomaster")
        moved = wanted(
            overlay_macs=frozenset({"02:00:00:00:00:78"}),
            guards=Guards(silent_hosts=["02:00:00:00:00:99"]),
        )

        outcome = (await ensure_bridges(netlink, [moved], journal))[7]

        assert outcome.error is None, outcome.error
        assert bridge()["ifindex"] == index
        assert not port("eth1")["flood"]
        for name, mac in (("cairn7", "02:00:00:00:00:78"), ("eth1", "02:00:00:00:00:99")):
            entries = shown("bridge", "-j", "fdb", "show", "dev", name, "state", "static")
            assert [e["mac"] for e in entries if "vlan" not in e] == [mac]

    in_new_network(test)


def test_the_port_is_as_it_was_after_detaching(tmp_path: Path) -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        await lan(netlink)
        run("ip", "link", "set", "eth1", "mtu", "1480")
        run("ip", "-6", "route", "add", "2001:db8:9::/64", "dev", "eth1")
        before = await settled()
        journal = Journal(tmp_path / "bridges.json")
        await ensure_bridges(netlink, [wanted()], journal)
        assert state_of_the_host() != before

        assert await remove_other_bridges(netlink, [], journal)

        assert differences(before, await settled()) == []
        assert journal.bridges == {}

    in_new_network(test)


def test_a_port_that_was_down_is_down_again(tmp_path: Path) -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        await lan(netlink)
        run("ip", "link", "set", "eth1", "down")
        before = await settled()
        journal = Journal(tmp_path / "bridges.json")
        outcome = (await ensure_bridges(netlink, [wanted()], journal))[7]
        assert outcome.error is None and "UP" in bridge("eth1")["flags"]

        await remove_other_bridges(netlink, [], journal)

        assert differences(before, await settled()) == []

    in_new_network(test)


def test_a_bridge_whose_journal_was_lost_goes_all_the_same(tmp_path: Path) -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        await lan(netlink)
        before = await settled()
        path = tmp_path / "bridges.json"
        await ensure_bridges(netlink, [wanted()], Journal(path))
        path.write_text("{ cut short")

        journal = Journal(path)
        await remove_other_bridges(netlink, [], journal)

        assert differences(before, await settled()) == []
        assert list(tmp_path.glob("*.corrupt-*"))

    in_new_network(test)


def test_what_can_not_be_bridged_is_said_and_nothing_is_changed(tmp_path: Path) -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        await lan(netlink)
        run("ip", "link", "add", "br0", "type", "bridge")
        run("ip", "link", "add", "eth2", "type", "veth", "peer", "name", "lan2")
        run("ip", "link", "set", "eth2", "master", "br0")
        before = await settled()
        journal = Journal(tmp_path / "bridges.json")

        async def error(one: BridgeWanted) -> str:
            found = (await ensure_bridges(netlink, [one], journal))[7].error
            assert isinstance(found, Environment), found
            assert found.remedy
            return found.cause

        assert "belongs to br0" in await error(wanted(port="eth2"))
        assert "no interface eth9" in await error(wanted(port="eth9"))
        assert "isn't there yet" in await error(wanted(tap="cairn9"))
        assert "is no LAN port" in await error(wanted(port="br0"))
        assert "is no LAN port" in await error(wanted(port="lo"))
        assert differences(before, await settled()) == []

        both = [wanted(), wanted(vni=8, tap="cairn7")]
        outcomes = await ensure_bridges(netlink, both, journal)
        assert outcomes[7].error is None, "one that fails doesn't stop the others"
        assert isinstance(outcomes[8].error, BadInput)

    in_new_network(test)


def test_a_bridge_that_somebody_made_is_left_alone(tmp_path: Path) -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        await lan(netlink)
        run("ip", "link", "add", "cbr7", "type", "bridge")
        run("ip", "link", "set", "cbr7", "up")
        journal = Journal(tmp_path / "bridges.json")
        outcome = (await ensure_bridges(netlink, [wanted()], journal))[7]
        assert "didn't make it" in str(outcome.error)
        await remove_other_bridges(netlink, [], journal)
        assert bridge()["flags"]

    in_new_network(test)


def test_without_guards_nothing_is_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        await lan(netlink)
        journal = Journal(tmp_path / "bridges.json")
        with monkeypatch.context() as without:
            without.setenv("PATH", "/nowhere")
            outcome = (await ensure_bridges(netlink, [wanted()], journal))[7]
        assert "nft" in str(outcome.error) and "nftables" in outcome.error.remedy  # type: ignore[union-attr]
        assert "master" not in bridge("eth1") and "master" not in bridge("cairn7")

    in_new_network(test)


def test_a_blocked_port_stays_blocked_until_it_is_let_go(tmp_path: Path) -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        await lan(netlink)
        journal = Journal(tmp_path / "bridges.json")
        await ensure_bridges(netlink, [wanted()], journal)
        await block_port(netlink, 7, True)
        run("ip", "link", "set", "lan0", "down")
        run("ip", "link", "set", "lan0", "up")
        await ensure_bridges(netlink, [wanted()], journal)
        assert port("eth1")["isolated"]
        await block_port(netlink, 7, False)
        assert not port("eth1")["isolated"]

    in_new_network(test)


def test_stations_are_those_heard_on_the_lan_and_at_most_as_many_as_allowed(
    tmp_path: Path,
) -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        await lan(netlink)
        journal = Journal(tmp_path / "bridges.json")
        few = wanted(guards=Guards(mac_limit=16))
        outcome = (await ensure_bridges(netlink, [few], journal))[7]
        heard = [f"02:00:00:00:10:{number:02x}" for number in range(64)]
        _speak("lan0", heard[:3])
        assert await stations(netlink, 7) == set(heard[:3])
        _speak("lan0", heard)
        if not any("limit" in warning for warning in outcome.warnings):
            assert len(await stations(netlink, 7)) == 16
        _speak("lan0", [VM])
        assert VM not in await stations(netlink, 7), "pinned to the overlay's side"
        await flush_stations(netlink, 7)
        assert await stations(netlink, 7) == frozenset()
        assert await stations(netlink, 8) == frozenset()

    in_new_network(test)


def test_stations_that_another_gateway_heard_are_known_until_they_age(tmp_path: Path) -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        await lan(netlink)
        await ensure_bridges(netlink, [wanted()], Journal(tmp_path / "bridges.json"))
        told = "02:00:00:00:10:01"
        await learn_stations(netlink, 7, [told, VM])
        await learn_stations(netlink, 7, [told])
        assert await stations(netlink, 7) == {told}, "and none of the overlay's"
        await flush_stations(netlink, 7)
        assert await stations(netlink, 7) == frozenset()
        await learn_stations(netlink, 8, [told])

    in_new_network(test)


def test_stations_that_come_and_go_are_told(tmp_path: Path) -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        await lan(netlink)
        await ensure_bridges(netlink, [wanted()], Journal(tmp_path / "bridges.json"))
        changes = station_changes(netlink)
        async with contextlib.aclosing(changes), asyncio.timeout(5):
            assert await anext(changes) == {7}
            _speak("lan0", ["02:00:00:00:10:01"])
            assert await anext(changes) == {7}
            assert await stations(netlink, 7) == {"02:00:00:00:10:01"}
            await flush_stations(netlink, 7)
            assert await anext(changes) == {7}
            assert await stations(netlink, 7) == frozenset()

    in_new_network(test)


def test_an_address_on_a_gateways_bridge_is_an_underlay_address(tmp_path: Path) -> None:
    async def test(netlink: AsyncIPRoute) -> None:
        await lan(netlink)
        run("ip", "addr", "add", "192.0.2.80/24", "dev", "eth1")
        journal = Journal(tmp_path / "bridges.json")
        outcome = (await ensure_bridges(netlink, [wanted()], journal))[7]
        assert outcome.error is None and outcome.is_one_nic
        found = {str(a.interface) for a in (await read_network(netlink)).underlay()}
        assert "192.0.2.80/24" in found

    in_new_network(test)


def _speak(interface: str, macs: list[str]) -> None:
    frames = ["01005e000001" + mac.replace(":", "") + "9000" + "00" * 46 for mac in macs]
    script = Path(__file__).resolve().parents[1] / "lab/frames.py"
    subprocess.run(
        ["python3", str(script), interface, "1", "0"],
        input="\n".join(frames),
        text=True,
        check=True,
    )
