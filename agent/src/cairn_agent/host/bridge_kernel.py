"""What bridging needs of the kernel, beside pyroute2's own: links in detail, sysctls, LRO."""

from __future__ import annotations

import array
import asyncio
import fcntl
import logging
import socket
import struct
from collections.abc import AsyncIterable, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pyroute2 import AsyncIPRoute
from pyroute2.netlink import nla
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from cairn_agent.host.network import BRIDGE_PREFIX, IFF_UP, OWN_MARK

log = logging.getLogger(__name__)

_DUMPS: Final = 10  # tries to read what keeps changing
_PAUSE_S: Final = 0.02
_SIOCETHTOOL: Final = 0x8946
_GET_FLAGS, _SET_FLAGS, _LRO = 0x25, 0x26, 1 << 15  # linux/ethtool.h


class _BridgeData(ifinfmsg.ifinfo.bridge_data):  # type: ignore[misc]
    """A bridge's attributes, with those of later kernels (linux/if_link.h)."""

    nla_map = (
        *ifinfmsg.ifinfo.bridge_data.nla_map,
        ("IFLA_BR_VLAN_STATS_PER_PORT", "uint8"),
        ("IFLA_BR_MULTI_BOOLOPT", "boolopt"),
        ("IFLA_BR_MCAST_QUERIER_STATE", "hex"),
        ("IFLA_BR_FDB_N_LEARNED", "uint32"),
        ("IFLA_BR_FDB_MAX_LEARNED", "uint32"),
    )

    class boolopt(nla):  # type: ignore[misc] # noqa: N801 - pyroute2 finds it by this name
        """struct br_boolopt_multi (linux/if_bridge.h)."""

        fields = (("optval", "I"), ("optmask", "I"))


def know_bridges() -> None:
    """Teach pyroute2 the attributes that it doesn't know yet."""
    if ifinfmsg.ifinfo.data_map.get("bridge") is not _BridgeData:
        ifinfmsg.ifinfo.register_link_kind(module={"bridge": _BridgeData})


@dataclass(frozen=True, slots=True)
class Detail:
    """One interface, with what it is as a bridge, a bridge's port or a VLAN."""

    index: int
    name: str
    kind: str
    mac: str
    mtu: int
    flags: int
    alias: str
    over: int  # index of the interface below a VLAN
    master: int
    data: dict[str, Any]  # of its kind: IFLA_BR_..., IFLA_VLAN_...
    port: dict[str, Any]  # IFLA_BRPORT_... where it is a bridge's port

    @property
    def is_up(self) -> bool:
        """Whether it is administratively up."""
        return bool(self.flags & IFF_UP)

    @property
    def is_own_bridge(self) -> bool:
        """Whether it is a bridge that the agent made."""
        named = self.name.startswith(BRIDGE_PREFIX)
        return self.kind == "bridge" and named and self.alias.startswith(OWN_MARK)

    @property
    def is_half_made(self) -> bool:
        """Whether a crash may have come between making it as a bridge and marking it."""
        named = self.name.startswith(BRIDGE_PREFIX)
        return self.kind == "bridge" and named and not self.alias and not self.is_up


async def collect(dump: Callable[[], Awaitable[AsyncIterable[Any]]]) -> list[Any]:
    """Return a dump's messages, tried again while the kernel's tables change under it."""
    for attempt in range(_DUMPS):
        try:
            return [message async for message in await dump()]
        except NetlinkDumpInterrupted:
            await asyncio.sleep(attempt * _PAUSE_S)
    return [message async for message in await dump()]


async def read_details(netlink: AsyncIPRoute) -> dict[str, Detail]:
    """Return all interfaces by name."""
    know_bridges()
    found = [_detail(message) for message in await collect(lambda: netlink.link("dump"))]
    return {detail.name: detail for detail in found}


def _detail(message: Any) -> Detail:
    get = message.get_attr
    info = get("IFLA_LINKINFO")
    data = info.get_attr("IFLA_INFO_DATA") if info else None
    port = info.get_attr("IFLA_INFO_SLAVE_DATA") if info else None
    is_port = info is not None and info.get_attr("IFLA_INFO_SLAVE_KIND") == "bridge"
    return Detail(
        index=int(message["index"]),
        name=get("IFLA_IFNAME") or "",
        kind=(info.get_attr("IFLA_INFO_KIND") if info else "") or "",
        mac=(get("IFLA_ADDRESS") or "").lower(),
        mtu=get("IFLA_MTU") or 0,
        flags=int(message["flags"]),
        alias=get("IFLA_IFALIAS") or "",
        over=0 if get("IFLA_LINK_NETNSID") is not None else (get("IFLA_LINK") or 0),
        master=get("IFLA_MASTER") or 0,
        data=_attributes(data),
        port=_attributes(port) if is_port else {},
    )


def _attributes(nested: Any) -> dict[str, Any]:
    if not isinstance(nested, dict):
        return {}
    return {str(name): value for name, value in nested.get("attrs", [])}


def read_sysctl(name: str) -> str | None:
    """Return a value under /proc/sys/net, None where there is none."""
    try:
        return (Path("/proc/sys/net") / name).read_text().strip()
    except OSError:
        return None


def write_sysctl(name: str, value: str) -> bool:
    """Set a value under /proc/sys/net; return whether it changed; a log line where it can't be."""
    if read_sysctl(name) in (None, value):
        return False
    try:
        (Path("/proc/sys/net") / name).write_text(value)
    except OSError as error:
        log.warning("/proc/sys/net/%s can't be set: %s", name, error.strerror)
        return False
    return True


def has_lro(interface: str) -> bool:
    """Whether a NIC joins received frames in a way that can't be forwarded."""
    return bool((_ethtool(interface, _GET_FLAGS, 0) or 0) & _LRO)


def restore_lro(interface: str) -> None:
    """Switch it on again: the kernel switches it off for a bridge's port, and not on again."""
    flags = _ethtool(interface, _GET_FLAGS, 0)
    if flags is not None and not flags & _LRO:
        _ethtool(interface, _SET_FLAGS, flags | _LRO)


def _ethtool(interface: str, command: int, value: int) -> int | None:
    """Call ethtool's ioctl (its flags are in no netlink family that old kernels have)."""
    words = array.array("I", [command, value])
    request = struct.pack("16sP", interface.encode(), words.buffer_info()[0])
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
            fcntl.ioctl(opened.fileno(), _SIOCETHTOOL, request)
    except OSError:
        return None  # not a NIC that has such flags
    return words[1]
