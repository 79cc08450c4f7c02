"""Moves a host's addresses and routes from one interface to another, as they are.

Nothing is ever on neither: an address is on both for a moment, and so is its connected route.
A connection of TCP knows addresses and no interfaces, and goes on.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
from collections.abc import Iterable, Sequence
from functools import partial
from socket import AF_INET, AF_INET6
from typing import Any, Final

import msgspec
from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from cairn_agent.host.bridge_journal import AddressRecord, HopRecord, RouteRecord
from cairn_agent.host.bridge_kernel import collect

log = logging.getLogger(__name__)

_NO_DAD: Final = 0x02
_TEMPORARY: Final = 0x01  # of IPv6: the kernel makes them, and nobody else can
_OF_THE_KERNEL: Final = 0x01 | 0x08 | 0x20 | 0x40 | 0x80  # flags that can't be set
_LOCAL_TABLE: Final = 255
_BY_KERNEL: Final = 2  # RTPROT_KERNEL: comes and goes with its address
_ROUTE_FLAGS: Final = 0x4  # RTNH_F_ONLINK; the others are states
_CLONED: Final = 0x200
_KINDS: Final = (1, 6, 7, 8)  # unicast, blackhole and the like; not what belongs to an address
_FOREVER: Final = 0xFFFF_FFFF


async def read_addresses(netlink: AsyncIPRoute, index: int) -> list[AddressRecord]:
    """Return an interface's addresses in the order that the kernel has them."""
    messages = await collect(lambda: netlink.addr("dump", index=index))
    found = [_address(message) for message in messages if message["index"] == index]
    return [a for a in found if not (a.family == AF_INET6 and a.flags & _TEMPORARY)]


async def read_routes(netlink: AsyncIPRoute, index: int) -> list[RouteRecord]:
    """Return the routes over an interface that don't come with an address by themselves."""
    found: list[RouteRecord] = []
    for family in (AF_INET, AF_INET6):
        messages = await collect(partial(netlink.route, "dump", family=family))
        found += [_route(message, index) for message in messages if _is_over(message, index)]
    return found


def is_of_the_host(address: AddressRecord) -> bool:
    """Whether others use it to reach this host: all but IPv6 link-local ones."""
    return address.family == AF_INET or not ipaddress.ip_address(address.address).is_link_local


async def move(
    netlink: AsyncIPRoute,
    addresses: Sequence[AddressRecord],
    routes: Sequence[RouteRecord],
    *,
    source: int,
    target: int,
    names: tuple[str, str],
) -> None:
    """Put addresses and routes on `target`, and take all addresses of `source` away.

    Can be done again after a stop anywhere. `names` are those of source and target.
    """
    for address in _as_added(addresses):
        await _add_address(netlink, address, target, names)
    await _settle_flags(netlink, addresses, target)
    for route in in_order(routes):
        await _set_route(netlink, route, source, target)
    # The last first: what a stop leaves are the first, so that their order can be had again.
    for address in reversed(_as_added(await read_addresses(netlink, source))):
        await _remove_address(netlink, address, source)
    await _remove_routes(netlink, source)
    # An address that went may have taken a route along that names it as its source.
    await add_missing_routes(netlink, routes, source=source, target=target)


async def add_missing_routes(
    netlink: AsyncIPRoute, routes: Sequence[RouteRecord], *, source: int, target: int
) -> None:
    """Put those of the routes on `target` that it doesn't have."""
    present = {_identity(route) for route in await read_routes(netlink, target)}
    for route in in_order(routes):
        if _identity(route) not in present:
            await _set_route(netlink, route, source, target)


def in_order(routes: Iterable[RouteRecord]) -> list[RouteRecord]:
    """Return routes so that each gateway is reachable by those before it."""
    return sorted(routes, key=lambda route: bool(route.gateway or route.hops))


def _as_added(addresses: Sequence[AddressRecord]) -> list[AddressRecord]:
    """Return addresses in the order that gives their order: of IPv6 the kernel has the last first.

    The first IPv4 address of a prefix is what the host sends from.
    """
    ours = [address for address in addresses if address.family == AF_INET]
    return ours + [address for address in reversed(addresses) if address.family == AF_INET6]


def _identity(route: RouteRecord) -> tuple[object, ...]:
    destination = (route.destination, route.length)
    return (route.family, route.table, route.tos, route.metric, route.gateway, *destination)


def _address(message: Any) -> AddressRecord:
    get = message.get_attr
    family = int(message["family"])
    local = get("IFA_LOCAL") or get("IFA_ADDRESS")
    flags = get("IFA_FLAGS")
    lives = get("IFA_CACHEINFO") or {}
    return AddressRecord(
        family=family,
        address=local,
        prefix_length=int(message["prefixlen"]),
        scope=int(message["scope"]),
        flags=int(message["flags"]) if flags is None else flags,
        peer=get("IFA_ADDRESS") if get("IFA_ADDRESS") != local else "",
        label=get("IFA_LABEL") or "",
        broadcast=get("IFA_BROADCAST") or "",
        origin=get("IFA_PROTO") or 0,
        metric=get("IFA_RT_PRIORITY") or 0,
        preferred_s=lives.get("ifa_preferred", _FOREVER),
        valid_s=lives.get("ifa_valid", _FOREVER),
    )


def _is_over(message: Any, index: int) -> bool:
    get = message.get_attr
    hops = get("RTA_MULTIPATH") or []
    if get("RTA_OIF") != index and not any(hop["oif"] == index for hop in hops):
        return False
    if int(message["flags"]) & _CLONED or int(message["type"]) not in _KINDS:
        return False
    return int(message["proto"]) != _BY_KERNEL and _table(message) != _LOCAL_TABLE


def _table(message: Any) -> int:
    table = message.get_attr("RTA_TABLE")
    return int(message["table"] if table is None else table)


def _route(message: Any, index: int) -> RouteRecord:
    get = message.get_attr
    metrics = get("RTA_METRICS")
    hops = [
        HopRecord(
            index=int(hop["oif"]),
            weight=int(hop["hops"]),
            flags=int(hop["flags"]) & _ROUTE_FLAGS,
            gateway=hop.get_attr("RTA_GATEWAY") or "",
        )
        for hop in get("RTA_MULTIPATH") or []
    ]
    return RouteRecord(
        family=int(message["family"]),
        table=_table(message),
        kind=int(message["type"]),
        proto=int(message["proto"]),
        scope=int(message["scope"]),
        tos=int(message["tos"]),
        flags=int(message["flags"]) & _ROUTE_FLAGS,
        index=index,
        destination=get("RTA_DST") or "",
        length=int(message["dst_len"]),
        gateway=_gateway(get),
        source=get("RTA_PREFSRC") or "",
        metric=get("RTA_PRIORITY") or 0,
        metrics={
            str(name).removeprefix("RTAX_").lower(): value
            for name, value in (metrics or {"attrs": []})["attrs"]
        },
        preference=get("RTA_PREF") or 0,
        hops=hops,
    )


def _gateway(get: Any) -> str:
    via = get("RTA_VIA")  # a gateway of the other family
    return str(get("RTA_GATEWAY") or (via["addr"] if via else ""))


async def _add_address(
    netlink: AsyncIPRoute, address: AddressRecord, target: int, names: tuple[str, str]
) -> None:
    request: dict[str, Any] = {
        "index": target,
        "family": address.family,
        "address": address.peer or address.address,
        "local": address.address,
        "prefixlen": address.prefix_length,
        "scope": address.scope,
        "IFA_FLAGS": (address.flags & ~_OF_THE_KERNEL) | _no_dad(address),
        "preferred": address.preferred_s,
        "valid": address.valid_s,
    }
    if address.family == AF_INET6 and not address.peer:
        del request["local"]
    if address.label:
        request["label"] = names[1] if address.label == names[0] else address.label
    if address.broadcast:
        request["broadcast"] = address.broadcast
    if address.origin:
        request["IFA_PROTO"] = address.origin
    if address.metric:
        request["IFA_RT_PRIORITY"] = address.metric
    try:
        await netlink.addr("add", **request)
    except NetlinkError as error:
        if error.code != errno.EEXIST:
            raise


def _no_dad(address: AddressRecord) -> int:
    """Duplicates were looked for where the address was; looking again would take it away."""
    return _NO_DAD if address.family == AF_INET6 else 0


async def _settle_flags(
    netlink: AsyncIPRoute, addresses: Sequence[AddressRecord], target: int
) -> None:
    """Let IPv6 addresses have the flags that they had, now that they are there."""
    present = {a.address: a for a in await read_addresses(netlink, target)}
    for address in addresses:
        now = present.get(address.address)
        wanted = address.flags & ~_OF_THE_KERNEL
        if address.family != AF_INET6 or now is None or now.flags & ~_OF_THE_KERNEL == wanted:
            continue
        request: dict[str, Any] = {"IFA_PROTO": address.origin} if address.origin else {}
        if address.metric:
            request["IFA_RT_PRIORITY"] = address.metric
        await netlink.addr(
            "replace",
            index=target,
            family=AF_INET6,
            address=address.address,
            prefixlen=address.prefix_length,
            IFA_FLAGS=wanted,
            preferred=address.preferred_s,
            valid=address.valid_s,
            **request,
        )


async def _remove_address(netlink: AsyncIPRoute, address: AddressRecord, index: int) -> None:
    try:
        await netlink.addr(
            "del",
            index=index,
            family=address.family,
            address=address.peer or address.address,
            local=address.address,
            prefixlen=address.prefix_length,
        )
    except NetlinkError as error:
        if error.code not in (errno.EADDRNOTAVAIL, errno.ENODEV):
            raise  # a secondary may have gone with its primary


async def _remove_routes(netlink: AsyncIPRoute, index: int) -> None:
    """Remove what addresses that went left behind: of two in one IPv6 prefix, its route."""
    for message in await collect(partial(netlink.route, "dump", family=AF_INET6)):
        is_over = message.get_attr("RTA_OIF") == index and int(message["type"]) in _KINDS
        if not is_over or _table(message) == _LOCAL_TABLE or int(message["flags"]) & _CLONED:
            continue
        destination = message.get_attr("RTA_DST")
        request = {"dst": f"{destination}/{message['dst_len']}"} if destination else {}
        with contextlib.suppress(NetlinkError):  # gone by itself meanwhile
            await netlink.route(
                "del",
                family=AF_INET6,
                oif=index,
                table=_table(message),
                priority=message.get_attr("RTA_PRIORITY") or 0,
                **request,
            )


async def _set_route(netlink: AsyncIPRoute, route: RouteRecord, source: int, target: int) -> None:
    request: dict[str, Any] = {
        "family": route.family,
        "table": route.table,
        "type": route.kind,
        "proto": route.proto,
        "scope": route.scope,
        "tos": route.tos,
        "flags": route.flags,
        "dst_len": route.length,
    }
    if route.destination:
        request["dst"] = f"{route.destination}/{route.length}"
    if route.metric:
        request["priority"] = route.metric
    if route.source:
        request["prefsrc"] = route.source
    if route.metrics:
        request["metrics"] = dict(route.metrics)
    if route.family == AF_INET6 and route.preference:
        request["pref"] = route.preference
    if route.hops:
        request["multipath"] = [_hop(hop, source, target) for hop in route.hops]
    else:
        request["oif"] = target
        request |= _via(route)
    try:
        await netlink.route("replace", **request)
    except NetlinkError as error:
        log.warning("a route can't be moved route=%s error=%s", msgspec.to_builtins(route), error)


def _via(route: RouteRecord) -> dict[str, Any]:
    if not route.gateway:
        return {}
    if (":" in route.gateway) == (route.family == AF_INET6):
        return {"gateway": route.gateway}
    return {"via": {"family": AF_INET6, "addr": route.gateway}}


def _hop(hop: HopRecord, source: int, target: int) -> dict[str, Any]:
    index = target if hop.index in (source, target) else hop.index
    attributes = [["RTA_GATEWAY", hop.gateway]] if hop.gateway else []
    return {"oif": index, "hops": hop.weight, "flags": hop.flags, "attrs": attributes}


async def put_back(
    netlink: AsyncIPRoute,
    addresses: Sequence[AddressRecord],
    routes: Sequence[RouteRecord],
    index: int,
    name: str,
) -> None:
    """Add what of these an interface doesn't have."""
    for address in _as_added(addresses):
        await _add_address(netlink, address, index, (name, name))
    await _settle_flags(netlink, addresses, index)
    await add_missing_routes(netlink, routes, source=index, target=index)
