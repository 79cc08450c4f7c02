"""The LAN port of a bridge: found or made, read as it was, put back as it was."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from typing import Final

import msgspec
from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from cairn_agent.errors import AgentError, Environment
from cairn_agent.host import bridge_addresses as addresses
from cairn_agent.host.bridge_journal import BridgeRecord, Journal, PortRecord
from cairn_agent.host.bridge_kernel import (
    Detail,
    has_lro,
    read_details,
    read_sysctl,
    restore_lro,
    write_sysctl,
)
from cairn_agent.host.network import BRIDGE_PREFIX, OWN_MARK

_LONGEST_NAME: Final = 15  # of an interface (IFNAMSIZ)


def port_name(links: Mapping[str, Detail], parent: str, vlan: int, vni: int) -> str:
    """Return the name of the interface that is the port: the NIC, or its VLAN's sub-interface."""
    if not vlan:
        return parent
    if parent in links:
        for link in links.values():
            data = link.data if link.kind == "vlan" else {}
            if data.get("IFLA_VLAN_ID") == vlan and link.over == links[parent].index:
                return link.name
    name = f"{parent}.{vlan}"
    return name if len(name) <= _LONGEST_NAME else f"cvl{vni}"


async def ensure_port(
    netlink: AsyncIPRoute, links: Mapping[str, Detail], record: BridgeRecord, journal: Journal
) -> list[str]:
    """Make the VLAN's sub-interface where it is missing, and its NIC up."""
    if not record.vlan:
        return []
    changes: list[str] = []
    parent = links[record.parent]
    if not parent.is_up:
        journal.keep_parent(parent.name, was_up=False)
        journal.step(record.vni, "NIC up")
        await netlink.link("set", index=parent.index, state="up")
        changes.append(f"set {parent.name} up")
    name = record.port.name
    if name in links:
        return changes
    journal.keep_parent(parent.name, was_up=parent.is_up)
    journal.step(record.vni, "VLAN made")
    try:
        await netlink.link("add", ifname=name, kind="vlan", link=parent.index, vlan_id=record.vlan)
    except NetlinkError as error:
        if error.code != errno.EOPNOTSUPP:
            raise
        raise Environment(
            f"this kernel has no VLANs (802.1Q), so {name} can't be made",
            "load the module (modprobe 8021q), install the kernel's extra modules, or make "
            f"an interface named {name} that carries the VLAN",
        ) from error
    [index] = await netlink.link_lookup(ifname=name)
    await netlink.link("set", index=index, ifalias=f"{OWN_MARK} VLAN {record.vlan}")
    return [*changes, f"made {name}"]


async def read_port(netlink: AsyncIPRoute, link: Detail | None, name: str) -> PortRecord:
    """Return how a port is; None where its sub-interface is yet to be made."""
    if link is None:
        return PortRecord(name, True, False, False, False, [], [])
    return PortRecord(
        name=name,
        is_ours=link.kind == "vlan" and link.alias.startswith(OWN_MARK),
        is_up=link.is_up,
        has_lro=has_lro(name),
        is_ipv6_off=read_sysctl(f"ipv6/conf/{name}/disable_ipv6") == "1",
        addresses=await addresses.read_addresses(netlink, link.index),
        routes=await addresses.read_routes(netlink, link.index),
    )


def check_port(links: Mapping[str, Detail], name: str, bridge: str) -> None:
    """Raise Environment where an interface can't be made the port of this bridge."""
    if (link := links.get(name)) is None:
        return
    if link.kind in ("tun", "bridge") or link.flags & 0x8:
        raise Environment(
            f"{name} is no LAN port, but a {link.kind or 'loopback'}",
            "name the NIC that the LAN's cable is in",
        )
    masters = [other for other in links.values() if link.master and other.index == link.master]
    if masters and masters[0].name != bridge:
        raise Environment(
            f"{name} belongs to {masters[0].name}",
            f"take it out (ip link set {name} nomaster), or name another port",
        )


async def detach(netlink: AsyncIPRoute, record: BridgeRecord, journal: Journal) -> list[str]:
    """Take one bridge apart, and put its port back as it was; can be done again after a stop."""
    links = await read_details(netlink)
    bridge, port = links.get(record.bridge), links.get(record.port.name)
    if bridge is not None and not (bridge.is_own_bridge or bridge.is_half_made):
        bridge = None
    if port is not None:
        if record.is_one_nic:
            await _take_addresses_back(netlink, record, bridge, port, journal)
        if bridge is not None and port.master == bridge.index:
            journal.step(record.vni, "port released")
            await netlink.link("set", index=port.index, master=0)
        await _restore(netlink, record, port, journal)
    if bridge is not None:
        journal.step(record.vni, "bridge removed")
        await netlink.link("del", index=bridge.index)
    await _release_vlan(netlink, record, links, journal)
    journal.forget(record.vni)
    return [f"removed {record.bridge}; {record.port.name} is as it was"]


def unrecorded(links: Mapping[str, Detail], journal: Journal) -> list[tuple[int, Detail, Detail]]:
    """Return (VNI, bridge, port) of own bridges that the journal lost."""
    found = []
    for bridge in links.values():
        digits = bridge.name.removeprefix(BRIDGE_PREFIX)
        if not bridge.is_own_bridge or not digits.isdigit() or int(digits) in journal.bridges:
            continue
        for port in links.values():
            if port.master == bridge.index and port.kind != "tun":
                found.append((int(digits), bridge, port))
    return found


async def recall(
    netlink: AsyncIPRoute, vni: int, bridge: Detail, port: Detail, tap: str
) -> BridgeRecord:
    """Return a record of a bridge that the journal lost, as far as the kernel tells."""
    held = await addresses.read_addresses(netlink, bridge.index)
    record = await read_port(netlink, port, port.name)
    # Whether the port had IPv6 is lost; nearly every interface has.
    record = msgspec.structs.replace(record, is_ipv6_off=False)
    return BridgeRecord(
        vni=vni,
        bridge=bridge.name,
        tap=tap,
        parent=port.name,
        vlan=0,
        port=record,
        is_one_nic=bool(held),
        is_moved=bool(held),
    )


async def _take_addresses_back(
    netlink: AsyncIPRoute,
    record: BridgeRecord,
    bridge: Detail | None,
    port: Detail,
    journal: Journal,
) -> None:
    held, routes = record.port.addresses, record.port.routes
    if record.is_moved and bridge is not None:
        # What is there now: a lease may have been renewed, and a person may have changed it.
        held = await addresses.read_addresses(netlink, bridge.index)
        routes = await addresses.read_routes(netlink, bridge.index)
    journal.step(record.vni, "addresses back")
    await addresses.move(
        netlink,
        held,
        routes,
        source=bridge.index if bridge is not None else 0,
        target=port.index,
        names=(record.bridge, record.port.name),
    )


async def _restore(
    netlink: AsyncIPRoute, record: BridgeRecord, port: Detail, journal: Journal
) -> None:
    was = record.port
    if was.is_ours:
        return
    journal.step(record.vni, "port restored")
    if not record.is_one_nic and not was.is_ipv6_off:
        write_sysctl(f"ipv6/conf/{was.name}/disable_ipv6", "0")
        await addresses.put_back(netlink, was.addresses, was.routes, port.index, was.name)
    if not was.is_up:
        await netlink.link("set", index=port.index, state="down")
    if was.has_lro:
        restore_lro(was.name)


async def _release_vlan(
    netlink: AsyncIPRoute, record: BridgeRecord, links: Mapping[str, Detail], journal: Journal
) -> None:
    if not record.vlan:
        return
    port, parent = links.get(record.port.name), links.get(record.parent)
    is_ours = port is not None and port.kind == "vlan" and port.alias.startswith(OWN_MARK)
    if port is not None and (is_ours or (record.port.is_ours and not port.alias)):
        journal.step(record.vni, "VLAN removed")
        await netlink.link("del", index=port.index)
    others = [r for r in journal.bridges.values() if r.vni != record.vni]
    if any(other.parent == record.parent for other in others):
        return
    if parent is not None and journal.parents.get(record.parent) is False:
        journal.step(record.vni, "NIC down")
        await netlink.link("set", index=parent.index, state="down")
    journal.forget_parent(record.parent)


def explain(name: str, error: NetlinkError) -> AgentError:
    """Return a failed change of the host's network as a sentence."""
    if error.code in (errno.EPERM, errno.EACCES):
        return Environment(f"bridging {name} is not permitted", "run the agent as root")
    if error.code == errno.EOPNOTSUPP:
        return Environment(
            f"{name} can't be bridged: {error}",
            "a wireless card can't be a bridge's port; on a cable, load the module "
            "(modprobe bridge) or install the kernel's extra modules",
        )
    if error.code in (errno.ELOOP, errno.EINVAL):
        return Environment(
            f"{name} can't be bridged: {error}", "name the NIC that the LAN's cable is in"
        )
    return Environment(f"{name} can't be bridged: {error}", "look at `dmesg`, and retry")
