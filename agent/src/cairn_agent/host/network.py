"""The machine's links and addresses, as one value, and what they say of the underlay."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted

from cairn_agent.netmap.desired import TAP_PREFIX

OWN_MARK: Final = "cairn-agent:"  # begins the alias of each interface that the agent made
BRIDGE_PREFIX: Final = "cbr"  # of gateway mode's bridges
_MAX_ENDPOINTS = 16
_UDP_OVER_IPV4, _UDP_OVER_IPV6 = 28, 48
_SEALED = 52  # header, prefix, Ethernet, VLAN tag, tag: docs/protocol.md 1.7
_PAUSE_S = 0.02
_DUMPS = 10  # tries to read a network that keeps changing

IFF_UP = 0x1
IFF_LOOPBACK = 0x8
IFF_LOWER_UP = 0x10000  # has a carrier
IFA_F_TEMPORARY = 0x01  # of IPv6; IFA_F_SECONDARY of IPv4
IFA_F_DADFAILED = 0x08
IFA_F_DEPRECATED = 0x20
IFA_F_TENTATIVE = 0x40
_UNFIT = IFA_F_DADFAILED | IFA_F_DEPRECATED | IFA_F_TENTATIVE

IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
IpInterface = ipaddress.IPv4Interface | ipaddress.IPv6Interface


@dataclass(frozen=True, slots=True)
class Link:
    """One interface."""

    index: int
    name: str
    kind: str  # IFLA_INFO_KIND; "" for hardware
    mac: str
    mtu: int
    flags: int
    alias: str
    over: int  # index of the interface below (VLAN, macvlan), 0: none
    master: int  # index of the bridge or bond it belongs to, 0: none

    @property
    def is_up(self) -> bool:
        """Whether it is administratively up."""
        return bool(self.flags & IFF_UP)

    @property
    def is_own(self) -> bool:
        """Whether the agent made it."""
        named = self.name.startswith(TAP_PREFIX)
        return self.kind == "tun" and named and self.alias.startswith(OWN_MARK)

    @property
    def is_gateway(self) -> bool:
        """Whether it is a bridge of gateway mode (host/bridge.py)."""
        named = self.name.startswith(BRIDGE_PREFIX)
        return self.kind == "bridge" and named and self.alias.startswith(OWN_MARK)


@dataclass(frozen=True, slots=True)
class Address:
    """One address of an interface."""

    index: int
    interface: IpInterface
    flags: int
    origin: int  # IFA_PROTO: who set it


@dataclass(frozen=True, slots=True)
class Network:
    """All links and addresses at one moment."""

    links: tuple[Link, ...] = ()
    addresses: tuple[Address, ...] = ()

    def own(self) -> dict[str, Link]:
        """Return the interfaces that the agent made, by name."""
        return {link.name: link for link in self.links if link.is_own}

    def up_indexes(self) -> frozenset[int]:
        """Return the indexes of all interfaces that are up."""
        return frozenset(link.index for link in self.links if link.is_up)

    def overlay_indexes(self) -> frozenset[int]:
        """Return the indexes of own TAPs and of what is stacked on them.

        A gateway's bridge isn't among them: an address on it is the host's own, of its LAN.
        """
        found = {link.index for link in self.links if link.is_own}
        gateways = {link.index for link in self.links if link.is_gateway}
        while True:
            below = {link.master for link in self.links if link.index in found and link.master}
            below -= gateways
            above = {link.index for link in self.links if link.over in found}
            if below | above <= found:
                return frozenset(found)
            found |= below | above

    def underlay(self) -> tuple[Address, ...]:
        """Return the addresses at which other machines may reach this one."""
        overlay = self.overlay_indexes()
        usable = {
            link.index
            for link in self.links
            if link.is_up and not link.flags & IFF_LOOPBACK and link.index not in overlay
        }
        return tuple(a for a in self.addresses if a.index in usable and _is_reachable(a))

    def endpoints(self, port: int, overlay_prefixes: Iterable[str] = ()) -> tuple[str, ...]:
        """Return "address:port" of each underlay address, in a stable order.

        An address inside a prefix of an own vSubnet is never offered: peers would send
        sealed datagrams into the overlay itself.
        """
        inner = [ipaddress.ip_network(prefix, strict=False) for prefix in overlay_prefixes]
        addresses = {a.interface.ip for a in self.underlay() if not _is_inside(a, inner)}
        ordered = sorted(addresses, key=lambda address: (address.version, int(address)))
        return tuple(endpoint(str(address), port) for address in ordered[:_MAX_ENDPOINTS])

    def carried_mtu(self) -> int | None:
        """Return the largest inner IP packet that fits the underlay interface with most room."""
        mtus = {link.index: link.mtu for link in self.links}
        rooms = [
            mtus[a.index]
            - _SEALED
            - (_UDP_OVER_IPV6 if a.interface.version == 6 else _UDP_OVER_IPV4)
            for a in self.underlay()
        ]
        return max(rooms, default=None)

    def first_mac(self) -> str:
        """Return the MAC of the first interface that isn't ours; "" without one."""
        overlay = self.overlay_indexes()
        for link in sorted(self.links, key=lambda link: link.index):
            if not link.flags & IFF_LOOPBACK and link.index not in overlay and link.mac:
                return link.mac
        return ""


def endpoint(address: str, port: int) -> str:
    """Return "192.0.2.7:8002" or "[2001:db8::7]:8002"."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


async def read_network(netlink: AsyncIPRoute) -> Network:
    """Return the network as the kernel has it now."""
    for attempt in range(_DUMPS):
        try:
            return await _dump(netlink)
        except NetlinkDumpInterrupted:  # it changed meanwhile; a storm of changes has pauses
            await asyncio.sleep(attempt * _PAUSE_S)
    return await _dump(netlink)


async def _dump(netlink: AsyncIPRoute) -> Network:
    links = [_link(message) async for message in await netlink.link("dump")]
    addresses = [_address(message) async for message in await netlink.addr("dump")]
    return Network(tuple(links), tuple(addresses))


def _link(message: dict[str, object]) -> Link:
    get = message.get_attr  # type: ignore[attr-defined]
    info = get("IFLA_LINKINFO")
    # A peer in another namespace (veth) has an index of that namespace, not of ours.
    foreign = get("IFLA_LINK_NETNSID") is not None
    kind = (info.get_attr("IFLA_INFO_KIND") if info else "") or ""
    return Link(
        index=int(str(message["index"])),
        name=get("IFLA_IFNAME") or "",
        kind=kind,
        mac=get("IFLA_ADDRESS") or "",
        mtu=get("IFLA_MTU") or 0,
        flags=int(str(message["flags"])),
        alias=get("IFLA_IFALIAS") or "",
        over=0 if foreign or kind == "veth" else (get("IFLA_LINK") or 0),
        master=get("IFLA_MASTER") or 0,
    )


def _address(message: dict[str, object]) -> Address:
    get = message.get_attr  # type: ignore[attr-defined]
    # IPv4 has the own address in IFA_LOCAL; on a point-to-point link IFA_ADDRESS is the peer.
    address = get("IFA_LOCAL") or get("IFA_ADDRESS")
    flags = get("IFA_FLAGS")
    return Address(
        index=int(str(message["index"])),
        interface=ipaddress.ip_interface(f"{address}/{message['prefixlen']}"),
        flags=int(str(message["flags"])) if flags is None else flags,
        origin=get("IFA_PROTO") or 0,
    )


def _is_reachable(address: Address) -> bool:
    ip = address.interface.ip
    if ip.is_link_local or ip.is_loopback or ip.is_multicast or ip.is_unspecified:
        return False
    if address.flags & _UNFIT:
        return False
    return ip.version == 4 or not address.flags & IFA_F_TEMPORARY


def _is_inside(address: Address, prefixes: list[IpNetwork]) -> bool:
    ip = address.interface.ip
    return any(ip.version == prefix.version and ip in prefix for prefix in prefixes)
