"""Bridges of gateway mode: a LAN port and a vSubnet's TAP, and nothing else, in each.

The kernel forwards; what may not cross is bridge_guards.py's. The host takes no part in the LAN,
unless its own address was on the port (one-NIC mode): then address and routes go to the bridge,
and go back by themselves unless somebody confirms within a minute that the host is reachable.

Everything is compared first and changed only where it differs. The journal on disk says how the
port was before the first change, so that it goes back after any crash.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from cairn_agent.errors import AgentError, BadInput, Environment
from cairn_agent.host.bridge_addresses import is_of_the_host, move, read_addresses, read_routes
from cairn_agent.host.bridge_guards import GuardsWanted, ensure_guards
from cairn_agent.host.bridge_journal import (
    CONFIRM_S,
    BridgeRecord,
    Journal,
    PortRecord,
    boottime,
)
from cairn_agent.host.bridge_kernel import (
    Detail,
    collect,
    read_details,
    read_sysctl,
    write_sysctl,
)
from cairn_agent.host.bridge_port import (
    check_port,
    detach,
    ensure_port,
    explain,
    port_name,
    read_port,
    recall,
    unrecorded,
)
from cairn_agent.host.network import BRIDGE_PREFIX, OWN_MARK
from cairn_agent.protocol.gateway import Guards

log = logging.getLogger(__name__)

_AGEING: Final = 30_000  # hundredths of a second: 300 s
_MOST_GROUPS: Final = 1024  # multicast groups on the LAN port
_NO_LINK_LOCAL_LEARN: Final = 1
_ROUTER: Final = 2  # MDB_RTR_TYPE_PERM: gets all multicast, whoever listens
_TAP_QUEUE: Final = 8192  # frames: a burst of a whole LAN; a TAP of the kernel's has 1,000
_GENERATE_NONE: Final = 1
_MASTER, _STICKY = 0x04, 0x40  # NTF_ of an entry of the bridge
_REACHABLE: Final = 0x02  # NUD_: ages, and moves when it is heard elsewhere
_STATIC, _PERMANENT = 0x40, 0x80  # NUD_NOARP; NUD_PERMANENT is a port's own MAC
_DUE_S: Final = 1.0
_NEIGHBOURS: Final = 0x4  # RTMGRP_NEIGH, which is bridges' tables too
_AF_BRIDGE: Final = 7
_BURST_S: Final = 0.1
_REOPEN_S: Final = 1.0
_ON_OTHER_LANS: Final = 4096  # stations: the kernel has one limit for both ports
_COPIED: Final = {
    "ipv4": ("rp_filter", "arp_ignore", "arp_announce", "forwarding", "accept_redirects"),
    "ipv6": ("accept_ra", "autoconf", "use_tempaddr", "accept_redirects"),
}


@dataclass(frozen=True, slots=True)
class BridgeWanted:
    """One LAN port to be joined with one vSubnet.

    `overlay_macs` are the MACs of the vSubnet's members, none of which is on this LAN. Those of
    stations on the vSubnet's other LANs nobody knows beforehand: where there are any, the bridge
    learns on that side as well, which is also how it forgets a station that moved there.
    """

    vni: int
    tap: str
    port: str  # the NIC
    vlan: int  # 0: untagged
    guards: Guards
    overlay_macs: frozenset[str]
    mtu: int  # of the vSubnet
    has_other_lans: bool = False

    @property
    def bridge(self) -> str:
        """The name of the bridge."""
        return f"{BRIDGE_PREFIX}{self.vni}"


@dataclass(frozen=True, slots=True)
class BridgeOutcome:
    """The bridge as it is now, or why it can't be."""

    port: str = ""  # LAN side's interface
    ifindex: int = 0
    error: AgentError | None = None
    changes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()  # sentences: what this kernel or host lacks
    is_one_nic: bool = False  # the host's own address is on the bridge
    unconfirmed_s: float = 0.0  # until that goes back, unless `confirm` is called


async def ensure_bridges(
    netlink: AsyncIPRoute, wanted: Sequence[BridgeWanted], journal: Journal
) -> Mapping[int, BridgeOutcome]:
    """Make the bridges be as they should; one that fails doesn't stop the others.

    The guards are loaded before anything is joined; where they can't be, nothing new is.
    """
    async with journal.lock:
        await _revert_unconfirmed(netlink, journal)
        failed: dict[int, AgentError] = {}
        made: dict[int, list[str]] = {}
        for one in wanted:
            with _failures(one, failed):
                made[one.vni] = await _prepare(netlink, one, wanted, journal)
        prepared = [one for one in wanted if one.vni not in failed]
        try:
            await ensure_guards(_guards(wanted, journal))
        except AgentError as error:
            failed |= {one.vni: error for one in prepared}
            prepared = []
        outcomes = {vni: BridgeOutcome(error=error) for vni, error in failed.items()}
        for one in prepared:
            with _failures(one, failed):
                changes = made[one.vni] + await _join(netlink, one, journal)
                outcomes[one.vni] = await _outcome(netlink, one, journal, changes)
        return outcomes | {vni: BridgeOutcome(error=error) for vni, error in failed.items()}


async def remove_other_bridges(
    netlink: AsyncIPRoute, wanted: Sequence[BridgeWanted], journal: Journal
) -> tuple[str, ...]:
    """Take apart every bridge that isn't wanted; its port is as it was before."""
    async with journal.lock:
        kept = {one.vni for one in wanted}
        links = await read_details(netlink)
        records = [record for vni, record in journal.bridges.items() if vni not in kept]
        records += [
            await recall(netlink, vni, bridge, port, f"cairn{vni}")
            for vni, bridge, port in unrecorded(links, journal)
            if vni not in kept
        ]
        changes: list[str] = []
        failed: list[AgentError] = []
        for record in records:
            try:
                changes += await _detach(netlink, record, journal)
            except AgentError as error:
                failed.append(error)
        _log(changes)
        if records:
            await ensure_guards(_guards(wanted, journal))
        if failed:
            raise failed[0]
        return tuple(changes)


def confirm(journal: Journal) -> None:
    """Let moved management addresses stay where they are: an appliance has been reached."""
    journal.confirm()


async def revert_unconfirmed(netlink: AsyncIPRoute, journal: Journal) -> tuple[str, ...]:
    """Put back addresses that an earlier run moved, or that nobody confirmed in time."""
    async with journal.lock:
        changes = await _revert_unconfirmed(netlink, journal)
        if changes and not journal.bridges:
            await ensure_guards([])  # else the next look at the others does it
        return changes


async def revert_when_due(netlink: AsyncIPRoute, journal: Journal) -> tuple[str, ...]:
    """Wait until no move is unconfirmed any more; put back what nobody confirmed in time."""
    changes: tuple[str, ...] = ()
    while due := [r.revert_at for r in journal.bridges.values() if not r.is_confirmed]:
        await asyncio.sleep(min(max(0.0, min(due) - boottime()), _DUE_S))
        changes += await revert_unconfirmed(netlink, journal)
    return changes


async def stations(netlink: AsyncIPRoute, vni: int) -> frozenset[str]:
    """Return the MACs that the bridge has learned on the LAN port."""
    links = await read_details(netlink)
    bridge, port = _lan_port(links, vni)
    if bridge is None or port is None:
        return frozenset()
    entries = await _entries(netlink, bridge.index, port.index)
    return frozenset(mac for mac, state in entries.items() if not state & (_STATIC | _PERMANENT))


async def station_changes(netlink: AsyncIPRoute) -> AsyncIterator[frozenset[int]]:
    """Yield the VNIs of which stations came or went; never ends by itself.

    Bursts come as one change. After an interruption of the watch all VNIs are yielded.
    """
    while True:
        with contextlib.suppress(NetlinkError, OSError):
            async with AsyncIPRoute() as monitor:
                await monitor.bind(groups=_NEIGHBOURS)
                yield frozenset(_vnis(await read_details(netlink)).values())
                while True:
                    touched = await _touched(monitor)
                    await asyncio.sleep(_BURST_S)
                    vnis = _vnis(await read_details(netlink))
                    if changed := frozenset(vnis[index] for index in touched & vnis.keys()):
                        yield changed
        log.warning("watch of stations was interrupted and is opened again")
        await asyncio.sleep(_REOPEN_S)


async def learn_stations(netlink: AsyncIPRoute, vni: int, macs: Iterable[str]) -> None:
    """Let the bridge know stations on the LAN port that another gateway heard there.

    They age as those that it heard itself; what it knows already stays as it is.
    """
    _, port = _lan_port(await read_details(netlink), vni)
    if port is None:
        return
    for mac in sorted(macs):
        try:
            # Not by `fdb`, which makes entries that never age of those that are added.
            await netlink.neigh(
                "add",
                family=_AF_BRIDGE,
                ifindex=port.index,
                lladdr=mac,
                state=_REACHABLE,
                flags=_MASTER,
            )
        except NetlinkError as error:
            if error.code != errno.EEXIST:
                raise


async def flush_stations(netlink: AsyncIPRoute, vni: int) -> None:
    """Forget what was learned on the LAN port."""
    _, port = _lan_port(await read_details(netlink), vni)
    if port is not None:
        await netlink.brport("set", index=port.index, flush=None)


async def block_port(netlink: AsyncIPRoute, vni: int, is_blocked: bool) -> None:
    """Let nothing go between LAN port and TAP, or everything again that the guards let.

    The host's own traffic in one-NIC mode goes on: both ports are isolated from one another,
    which a cable that is pulled and plugged in doesn't undo.
    """
    _, port = _lan_port(await read_details(netlink), vni)
    if port is not None and bool(port.port.get("IFLA_BRPORT_ISOLATED")) != is_blocked:
        await netlink.brport("set", index=port.index, isolated=int(is_blocked))


@contextlib.contextmanager
def _failures(one: BridgeWanted, failed: dict[int, AgentError]) -> Iterator[None]:
    """Keep what one bridge fails with."""
    try:
        yield
    except NetlinkError as error:
        failed[one.vni] = explain(one.port, error)
    except AgentError as error:
        failed[one.vni] = error


async def _prepare(
    netlink: AsyncIPRoute, one: BridgeWanted, wanted: Sequence[BridgeWanted], journal: Journal
) -> list[str]:
    """Have a record of the port, and a bridge without ports."""
    links = await read_details(netlink)
    record = journal.bridges.get(one.vni)
    changes: list[str] = []
    if record is not None and (record.parent, record.vlan) != (one.port, one.vlan):
        changes += await _detach(netlink, record, journal)
        links, record = await read_details(netlink), None
    name = record.port.name if record else port_name(links, one.port, one.vlan, one.vni)
    _check(one, wanted, links, name, journal)
    if record is None:
        record = await _record(netlink, one, links, name, journal)
        journal.keep(record)
    changes += await ensure_port(netlink, links, record, journal)
    links = await read_details(netlink)
    changes += await _ensure_bridge(netlink, one, record, links, journal)
    _log(changes)
    return changes


def _check(
    one: BridgeWanted,
    wanted: Iterable[BridgeWanted],
    links: Mapping[str, Detail],
    name: str,
    journal: Journal,
) -> None:
    first = next(o for o in wanted if o.vni == one.vni or (o.port, o.vlan) == (one.port, one.vlan))
    if first is not one:
        raise BadInput(
            f"{name} and vSubnet {one.vni} are bridged already, for vSubnet {first.vni}",
            "one vSubnet has one port of a gateway, and one port one vSubnet; detach the other",
        )
    if one.port not in links:
        raise Environment(f"there is no interface {one.port}", "name one that `ip link` shows")
    if one.tap not in links:
        raise Environment(f"the TAP {one.tap} isn't there yet", "it is tried again by itself")
    bridge = links.get(one.bridge)
    if bridge is not None and not (bridge.is_own_bridge or bridge.is_half_made):
        raise Environment(
            f"the interface {one.bridge} exists, and the agent didn't make it",
            f"remove or rename it (ip link delete {one.bridge})",
        )
    check_port(links, name, one.bridge)
    if journal.is_refused(name):
        raise Environment(
            f"the host's address was moved from {name} to {one.bridge}, no appliance was reached "
            f"within {CONFIRM_S:g} s, and it was moved back",
            "look at firewall rules and services of this host that name "
            f"{name}; it is tried again after 10 minutes",
        )


async def _record(
    netlink: AsyncIPRoute,
    one: BridgeWanted,
    links: Mapping[str, Detail],
    name: str,
    journal: Journal,
) -> BridgeRecord:
    for vni, bridge, port in unrecorded(links, journal):
        if vni == one.vni and port.name == name:
            lost = await recall(netlink, vni, bridge, port, one.tap)
            return msgspec.structs.replace(lost, parent=one.port, vlan=one.vlan)
    port_record: PortRecord = await read_port(netlink, links.get(name), name)
    return BridgeRecord(
        vni=one.vni,
        bridge=one.bridge,
        tap=one.tap,
        parent=one.port,
        vlan=one.vlan,
        port=port_record,
        is_one_nic=any(is_of_the_host(address) for address in port_record.addresses),
    )


async def _ensure_bridge(
    netlink: AsyncIPRoute,
    one: BridgeWanted,
    record: BridgeRecord,
    links: Mapping[str, Detail],
    journal: Journal,
) -> list[str]:
    changes: list[str] = []
    if (bridge := links.get(one.bridge)) is None:
        journal.step(one.vni, "bridge made")
        # By itself a bridge takes the least MAC of its ports, another one when the TAP comes.
        mac = links[record.port.name].mac
        await netlink.link("add", ifname=one.bridge, kind="bridge", address=mac, br_stp_state=0)
        changes.append(f"made {one.bridge}")
        if record.is_moved:  # somebody removed the bridge, and the host's addresses with it
            journal.keep(msgspec.structs.replace(record, is_moved=False))
        bridge = (await read_details(netlink))[one.bridge]
    changes += await _set_bridge(netlink, one, bridge)
    if not bridge.is_own_bridge:
        await _quiet(netlink, one, record, bridge)
        alias = f"{OWN_MARK} gateway of vSubnet {one.vni}"
        await netlink.link("set", index=bridge.index, ifalias=alias)
    if not bridge.is_up:
        journal.step(one.vni, "bridge up")
        await netlink.link("set", index=bridge.index, state="up")
    return changes


async def _set_bridge(netlink: AsyncIPRoute, one: BridgeWanted, bridge: Detail) -> list[str]:
    desired = {
        "IFLA_BR_STP_STATE": 0,
        "IFLA_BR_GROUP_FWD_MASK": 0,
        "IFLA_BR_AGEING_TIME": _AGEING,
        "IFLA_BR_MCAST_SNOOPING": 1,
        "IFLA_BR_MCAST_QUERIER": 1,  # where nobody else asks: the kernel listens first
        "IFLA_BR_FDB_MAX_LEARNED": one.guards.mac_limit + one.has_other_lans * _ON_OTHER_LANS,
    }
    # What this kernel doesn't show it doesn't have; _warnings says so.
    differs = {k: v for k, v in desired.items() if k in bridge.data and bridge.data[k] != v}
    options = bridge.data.get("IFLA_BR_MULTI_BOOLOPT")
    if options is not None and not options["optval"] & _NO_LINK_LOCAL_LEARN:
        both = {"optval": _NO_LINK_LOCAL_LEARN, "optmask": _NO_LINK_LOCAL_LEARN}
        differs["IFLA_BR_MULTI_BOOLOPT"] = both  # type: ignore[assignment]
    if not differs:
        return []
    await netlink.link("set", index=bridge.index, kind="bridge", **differs)
    return [f"configured {one.bridge}"]


async def _quiet(
    netlink: AsyncIPRoute, one: BridgeWanted, record: BridgeRecord, bridge: Detail
) -> None:
    """Let no address appear on the bridge by itself; in one-NIC mode let it be as the port was."""
    mode = {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _GENERATE_NONE)]}
    try:
        spec = {"attrs": [("AF_INET6", mode)]}
        await netlink.link("set", index=bridge.index, IFLA_AF_SPEC=spec)
    except NetlinkError as error:
        log.info("IPv6 of %s can't be configured error=%s", one.bridge, error)
    if not record.is_one_nic:
        write_sysctl(f"ipv6/conf/{one.bridge}/disable_ipv6", "1")
        return
    for family, names in _COPIED.items():
        for name in names:
            value = read_sysctl(f"{family}/conf/{record.port.name}/{name}")
            if value is not None:
                write_sysctl(f"{family}/conf/{one.bridge}/{name}", value)


async def _join(netlink: AsyncIPRoute, one: BridgeWanted, journal: Journal) -> list[str]:
    record = journal.bridges[one.vni]
    changes = await _join_port(netlink, one, record, journal)
    if record.is_one_nic:
        changes += await _move_addresses(netlink, one, journal)
    changes += await _join_tap(netlink, one, journal)
    changes += await _set_entries(netlink, one, record.port.name)
    _log(changes)
    return changes


async def _join_port(
    netlink: AsyncIPRoute, one: BridgeWanted, record: BridgeRecord, journal: Journal
) -> list[str]:
    changes: list[str] = []
    links = await read_details(netlink)
    port, bridge = links[record.port.name], links[one.bridge]
    quiet = f"ipv6/conf/{port.name}/disable_ipv6"
    if not record.is_one_nic and read_sysctl(quiet) == "0":
        journal.step(one.vni, "port quiet")
        write_sysctl(quiet, "1")
    if port.master != bridge.index:
        journal.step(one.vni, "port joined")
        await netlink.link("set", index=port.index, master=bridge.index)
        changes.append(f"made {port.name} a port of {one.bridge}")
        port = (await read_details(netlink))[port.name]
    # A router's port: nothing on the LAN misses multicast because a switch kept it from asking.
    flags = {"LEARNING": 1, "UNICAST_FLOOD": 0, "MULTICAST_ROUTER": _ROUTER}
    changes += await _set_port(netlink, port, flags | {"MCAST_MAX_GROUPS": _MOST_GROUPS})
    if not port.is_up:
        journal.step(one.vni, "port up")
        await netlink.link("set", index=port.index, state="up")
        changes.append(f"set {port.name} up")
    return changes


async def _move_addresses(netlink: AsyncIPRoute, one: BridgeWanted, journal: Journal) -> list[str]:
    """Move what the port has of the host's to the bridge; the clock of the revert begins before."""
    record = journal.bridges[one.vni]
    links = await read_details(netlink)
    port, bridge = links[record.port.name], links[one.bridge]
    held = await read_addresses(netlink, port.index)
    if record.is_moved and not held:
        return []
    if not record.is_moved:
        journal.keep(
            msgspec.structs.replace(
                record,
                is_confirmed=False,
                revert_at=boottime() + CONFIRM_S,
                run=journal.run,
            )
        )
    routes = await read_routes(netlink, port.index)
    if not record.is_moved:
        held += [a for a in record.port.addresses if a not in held]
        routes += [route for route in record.port.routes if route not in routes]
    journal.step(one.vni, "addresses moved")
    await move(
        netlink,
        held,
        routes,
        source=port.index,
        target=bridge.index,
        names=(port.name, one.bridge),
    )
    journal.keep(msgspec.structs.replace(journal.bridges[one.vni], is_moved=True))
    journal.step(one.vni, "addresses are on the bridge")
    return [f"moved {len(held)} addresses and {len(routes)} routes to {one.bridge}"]


async def _join_tap(netlink: AsyncIPRoute, one: BridgeWanted, journal: Journal) -> list[str]:
    changes: list[str] = []
    links = await read_details(netlink)
    tap, bridge = links[one.tap], links[one.bridge]
    port = links[journal.bridges[one.vni].port.name]
    # The kernel drops in silence what is longer than the MTU of the port that it leaves by. With
    # the LAN's, the data plane gets it, and tells the sender.
    if tap.mtu != (mtu := max(one.mtu, port.mtu)):
        await netlink.link("set", index=tap.index, mtu=mtu)
        changes.append(f"set MTU {mtu} on {one.tap}")
    if tap.master != bridge.index:
        journal.step(one.vni, "TAP joined")
        await netlink.link("set", index=tap.index, master=bridge.index, txqlen=_TAP_QUEUE)
        changes.append(f"made {one.tap} a port of {one.bridge}")
        tap = (await read_details(netlink))[one.tap]
    flags = {"UNICAST_FLOOD": 0, "MULTICAST_ROUTER": _ROUTER, "ISOLATED": 1}
    flags["LEARNING"] = int(one.has_other_lans)
    return changes + await _set_port(netlink, tap, flags)


async def _set_port(netlink: AsyncIPRoute, port: Detail, flags: Mapping[str, int]) -> list[str]:
    named = {f"IFLA_BRPORT_{name}": value for name, value in flags.items()}
    differs = {k: v for k, v in named.items() if k in port.port and port.port[k] != v}
    if not differs:
        return []
    await netlink.brport("set", index=port.index, **differs)
    return [f"configured port {port.name}"]


async def _set_entries(netlink: AsyncIPRoute, one: BridgeWanted, lan: str) -> list[str]:
    """Pin the overlay's MACs to the TAP, so that no LAN station takes one; silent hosts too."""
    links = await read_details(netlink)
    bridge = links[one.bridge].index
    silent = frozenset(mac.lower() for mac in one.guards.silent_hosts)
    overlay = frozenset(mac.lower() for mac in one.overlay_macs)
    changes = 0
    for name, macs, extra in ((one.tap, overlay, _STICKY), (lan, silent - overlay, 0)):
        index = links[name].index
        entries = await _entries(netlink, bridge, index)
        present = {m for m, state in entries.items() if state & _STATIC and not state & _PERMANENT}
        for mac in sorted(present - macs):
            await _remove_entry(netlink, index, mac)
        for mac in sorted(macs - present):
            await netlink.fdb(
                "replace", ifindex=index, lladdr=mac, state=_STATIC, flags=_MASTER | extra
            )
        changes += len(present ^ macs)
    return [f"set {changes} entries of {one.bridge}"] if changes else []


async def _remove_entry(netlink: AsyncIPRoute, index: int, mac: str) -> None:
    try:
        await netlink.fdb("del", ifindex=index, lladdr=mac, state=_STATIC, flags=_MASTER)
    except NetlinkError as error:
        if error.code != errno.ENOENT:
            raise


async def _entries(netlink: AsyncIPRoute, bridge: int, port: int) -> dict[str, int]:
    """Return the state of each MAC that a bridge has on a port."""
    messages = await collect(lambda: netlink.fdb("dump"))
    return {
        message.get_attr("NDA_LLADDR").lower(): int(message["state"])
        for message in messages
        if message["ifindex"] == port
        and message.get_attr("NDA_MASTER") == bridge
        and message.get_attr("NDA_VLAN") is None
    }


async def _touched(monitor: AsyncIPRoute) -> set[int]:
    """Wait for changes of bridges' tables; return the indexes of the bridges."""
    return {
        int(message.get_attr("NDA_MASTER") or 0)
        async for message in monitor.get()
        if message.get("family") == _AF_BRIDGE
    }


def _vnis(links: Mapping[str, Detail]) -> dict[int, int]:
    """Return the VNIs of own bridges by the bridge's index."""
    own = {link.index: link.name for link in links.values() if link.is_own_bridge}
    digits = {index: name.removeprefix(BRIDGE_PREFIX) for index, name in own.items()}
    return {index: int(number) for index, number in digits.items() if number.isdigit()}


def _lan_port(links: Mapping[str, Detail], vni: int) -> tuple[Detail | None, Detail | None]:
    bridge = links.get(f"{BRIDGE_PREFIX}{vni}")
    if bridge is None or not bridge.is_own_bridge:
        return None, None
    ports = [p for p in links.values() if p.master == bridge.index and p.kind != "tun"]
    return bridge, ports[0] if ports else None


def _guards(wanted: Iterable[BridgeWanted], journal: Journal) -> list[GuardsWanted]:
    """Return the guards of every bridge that there may be, wanted or not, made or failed.

    One that isn't wanted any more is guarded until it has been taken apart, by the defaults.
    """
    by_vni = {one.vni: one for one in reversed(list(wanted))}
    found = []
    for vni, record in journal.bridges.items():
        one = by_vni.get(vni)
        macs = one.overlay_macs if one is not None else ()
        found.append(
            GuardsWanted(
                vni=vni,
                lan=record.port.name,
                tap=record.tap,
                guards=one.guards if one is not None else Guards(),
                overlay_macs=frozenset(mac.lower() for mac in macs),
                has_host=record.is_one_nic,
            )
        )
    return found


async def _outcome(
    netlink: AsyncIPRoute, one: BridgeWanted, journal: Journal, changes: Sequence[str]
) -> BridgeOutcome:
    links = await read_details(netlink)
    record = journal.bridges[one.vni]
    port = links[record.port.name]
    left = 0.0 if record.is_confirmed else max(0.0, record.revert_at - boottime())
    return BridgeOutcome(
        port=port.name,
        ifindex=port.index,
        changes=tuple(changes),
        warnings=tuple(_warnings(one, links[one.bridge], port)),
        is_one_nic=record.is_one_nic,
        unconfirmed_s=left,
    )


def _warnings(one: BridgeWanted, bridge: Detail, port: Detail) -> list[str]:
    found: list[str] = []
    if "IFLA_BR_FDB_MAX_LEARNED" not in bridge.data:
        found.append(
            "this kernel can't limit the MACs that a bridge learns (6.7 can): a flood of MACs on "
            f"the LAN fills the table of {one.bridge}"
        )
    if "IFLA_BR_MCAST_SNOOPING" not in bridge.data:
        found.append(
            "this kernel's bridges don't snoop multicast: who listens on the LAN isn't known"
        )
    for family in ("ip", "ip6"):
        if read_sysctl(f"bridge/bridge-nf-call-{family}tables") == "1":
            found.append(
                f"this host's {family}tables see bridged frames too, and may drop them "
                f"(Docker does): sysctl net.bridge.bridge-nf-call-{family}tables=0, or let "
                f"{one.bridge} forward"
            )
    if one.mtu > port.mtu:
        found.append(
            f"the vSubnet's MTU of {one.mtu} is over the {port.mtu} of {port.name}: what is "
            "longer doesn't reach the LAN; give both the same"
        )
    return found


async def _detach(netlink: AsyncIPRoute, record: BridgeRecord, journal: Journal) -> list[str]:
    try:
        return await detach(netlink, record, journal)
    except NetlinkError as error:
        raise explain(record.port.name, error) from error


async def _revert_unconfirmed(netlink: AsyncIPRoute, journal: Journal) -> tuple[str, ...]:
    changes: list[str] = []
    for record in journal.bridges.values():
        is_other_run, is_late = record.run != journal.run, boottime() >= record.revert_at
        if record.is_confirmed or not (is_other_run or is_late):
            continue
        log.warning(
            "nobody confirmed that this host is reachable with its address on a bridge: it goes "
            "back bridge=%s port=%s",
            record.bridge,
            record.port.name,
        )
        journal.refuse(record.port.name)
        changes += await _detach(netlink, record, journal)
    _log(changes)
    return tuple(changes)


def _log(changes: Sequence[str]) -> None:
    for change in changes:
        log.info("host changed: %s", change)
