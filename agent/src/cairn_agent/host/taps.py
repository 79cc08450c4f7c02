"""Makes the host's TAPs what they should be; touches only what the agent made.

A TAP is persistent and has the virtio-net header and many queues: the data plane attaches
to it by name, and both must agree on these flags. What tells ours apart is the alias,
and for an address its origin (IFA_PROTO, kernel 5.18): addresses that a DHCP client or a
person put there stay.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pyroute2 import AsyncIPRoute
from pyroute2.netlink.exceptions import NetlinkError

from cairn_agent.errors import AgentError, Environment
from cairn_agent.host.network import OWN_MARK, Link, Network, read_network
from cairn_agent.netmap.desired import Tap

log = logging.getLogger(__name__)

_ORIGIN: Final = 0xCA  # IFA_PROTO of the addresses that the agent sets
_NO_DAD: Final = 0x02  # bindings make addresses unique; detection would cost the first seconds
_GENERATE_NONE: Final = 1  # IN6_ADDR_GEN_MODE_NONE: the link-local address is set like the others
_QUEUE_FRAMES: Final = 1000
_LONGEST_DATAGRAM: Final = 65_507  # of UDP over IPv4
_MOST_SEGMENTS: Final = 64  # that a kernel sends or joins at once
_SEALED_OVERHEAD: Final = 14 + 2 + 16 + 16  # Ethernet, prefix, header, tag: docs/protocol.md 1.2
_MOST_SUPERFRAME: Final = 65_536  # a data plane reads no longer one, whatever the kernel could
_TAP_FLAGS: Final = {
    "no_pi": 1,
    "one_queue": 0,
    "vnet_hdr": 1,
    "tun_excl": 1,
    "multi_queue": 1,
    "persist": 0,
    "nofilter": 0,
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was changed, as sentences, and which TAPs can't be had, by VNI."""

    changes: tuple[str, ...]
    failed: Mapping[int, AgentError]


async def ensure_taps(
    netlink: AsyncIPRoute, taps: Sequence[Tap], owner: int | None = None
) -> Outcome:
    """Make the desired TAPs exist as they should; one that fails doesn't stop the others.

    `owner` is the user of the data plane: the kernel gives a queue of a new TAP to no other user
    (of a TAP without an owner to anyone).
    """
    network = await read_network(netlink)
    changes: list[str] = []
    failed: dict[int, AgentError] = {}
    for tap in taps:
        try:
            changes += await _ensure(netlink, network, tap, owner)
        except NetlinkError as error:
            failed[tap.vni] = _environment(tap, error)
        except OSError as error:
            failed[tap.vni] = _no_tun(tap, error)
        except AgentError as error:
            failed[tap.vni] = error
    _log(changes)
    return Outcome(tuple(changes), failed)


async def remove_other_taps(netlink: AsyncIPRoute, taps: Sequence[Tap]) -> tuple[str, ...]:
    """Remove the TAPs that the agent made and that aren't desired; return what was done."""
    own = (await read_network(netlink)).own()
    changes: list[str] = []
    for name in sorted(own.keys() - {tap.name for tap in taps}):
        changes += await _remove(netlink, own[name])
    _log(changes)
    return tuple(changes)


def _log(changes: Sequence[str]) -> None:
    for change in changes:
        log.info("host changed: %s", change)


async def _ensure(
    netlink: AsyncIPRoute, network: Network, tap: Tap, owner: int | None
) -> list[str]:
    link = next((link for link in network.links if link.name == tap.name), None)
    changes: list[str] = []
    if link is None or not (link.is_own or _is_left_half_made(link)):
        if link is not None:
            raise Environment(
                f"the interface {tap.name} exists, and the agent didn't make it",
                f"remove or rename it (ip link delete {tap.name})",
            )
        await _create(netlink, tap, owner)
        changes.append(f"made {tap.name}")
        network = await read_network(netlink)
        link = next(link for link in network.links if link.name == tap.name)
    changes += await _set_link(netlink, link, tap)
    if tap.is_up:
        changes += await _set_addresses(netlink, network, link, tap)
    return changes


def _is_left_half_made(link: Link) -> bool:
    """Return whether a crash came between making a TAP and marking it."""
    return link.kind == "tun" and not link.alias and not link.is_up


async def _create(netlink: AsyncIPRoute, tap: Tap, owner: int | None) -> None:
    who = {} if owner is None else {"uid": owner}
    await netlink.link("add", ifname=tap.name, kind="tuntap", mode="tap", ifr=_TAP_FLAGS, **who)


async def _set_link(netlink: AsyncIPRoute, link: Link, tap: Tap) -> list[str]:
    changes: list[str] = []
    if not link.is_own:
        await netlink.link(
            "set",
            index=link.index,
            ifalias=f"{OWN_MARK} vSubnet {tap.vni}",
            txqlen=_QUEUE_FRAMES,
        )
    if not link.is_up:
        await _keep_ipv6_quiet(netlink, link, tap)
        # Without it, removing our address would remove others' addresses of its prefix.
        _set_sysctl(f"ipv4/conf/{tap.name}/promote_secondaries", "1")
    if link.mac.lower() != tap.mac.lower():
        await netlink.link("set", index=link.index, address=tap.mac)
        changes.append(f"set MAC {tap.mac} on {tap.name}")
    is_fit = link.mtu == tap.mtu or (link.master != 0 and link.mtu > tap.mtu)  # bridge.py's
    if not is_fit:
        await netlink.link("set", index=link.index, mtu=tap.mtu)
        changes.append(f"set MTU {tap.mtu} on {tap.name}")
    if not is_fit or not link.is_own:
        await _fit_superframes(netlink, link, tap)
    if link.is_up != tap.is_up:
        state = "up" if tap.is_up else "down"
        await netlink.link("set", index=link.index, state=state)
        changes.append(f"set {tap.name} {state}")
    return changes


async def _fit_superframes(netlink: AsyncIPRoute, link: Link, tap: Tap) -> None:
    """Let a superframe have as many segments as one send of the data plane takes."""
    segments = min(_MOST_SEGMENTS, _LONGEST_DATAGRAM // (tap.mtu + _SEALED_OVERHEAD))
    try:
        await netlink.link(
            "set",
            index=link.index,
            gso_max_segs=segments,
            gso_max_size=_MOST_SUPERFRAME,
        )
    except NetlinkError as error:
        # It works without, a few per cent slower.
        log.info("superframes of %s keep their size error=%s", tap.name, error)


async def _keep_ipv6_quiet(netlink: AsyncIPRoute, link: Link, tap: Tap) -> None:
    """Let no address or route appear on the TAP that the netmap doesn't know of."""
    mode = {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _GENERATE_NONE)]}
    try:
        await netlink.link("set", index=link.index, IFLA_AF_SPEC={"attrs": [("AF_INET6", mode)]})
        _set_sysctl(f"ipv6/conf/{tap.name}/accept_ra", "0")
    except NetlinkError as error:
        log.warning("IPv6 of %s can't be configured error=%s", tap.name, error)


def _set_sysctl(name: str, value: str) -> None:
    path = Path("/proc/sys/net") / name
    try:
        if path.exists():
            path.write_text(value)
    except OSError as error:
        log.warning("%s can't be set: %s", path, error.strerror)


async def _set_addresses(
    netlink: AsyncIPRoute, network: Network, link: Link, tap: Tap
) -> list[str]:
    wanted = {ipaddress.ip_interface(address) for address in tap.addresses}
    present = {a.interface: a for a in network.addresses if a.index == link.index}
    changes: list[str] = []
    for interface in sorted(present.keys() - wanted, key=str):
        if present[interface].origin == _ORIGIN:
            await netlink.addr(
                "del", index=link.index, address=str(interface.ip), prefixlen=_length(interface)
            )
            changes.append(f"removed {interface} from {tap.name}")
    for interface in sorted(wanted - present.keys(), key=str):
        if await _add_address(netlink, link.index, interface, tap):
            changes.append(f"added {interface} to {tap.name}")
    return changes


async def _add_address(
    netlink: AsyncIPRoute,
    index: int,
    interface: ipaddress.IPv4Interface | ipaddress.IPv6Interface,
    tap: Tap,
) -> bool:
    extra = {"IFA_FLAGS": _NO_DAD} if interface.version == 6 else {}
    try:
        await netlink.addr(
            "add",
            index=index,
            address=str(interface.ip),
            prefixlen=_length(interface),
            IFA_PROTO=_ORIGIN,
            **extra,
        )
    except NetlinkError as error:
        if error.code == errno.EEXIST:
            return False
        if interface.version == 6 and error.code in (errno.EACCES, errno.EOPNOTSUPP):
            log.warning("IPv6 is switched off on this host: %s has no %s", tap.name, interface)
            return False
        raise
    return True


def _length(interface: ipaddress.IPv4Interface | ipaddress.IPv6Interface) -> int:
    return interface.network.prefixlen


async def _remove(netlink: AsyncIPRoute, link: Link) -> list[str]:
    try:
        await netlink.link("del", index=link.index)
    except NetlinkError as error:
        if error.code == errno.ENODEV:
            return []
        raise Environment(f"{link.name} can't be removed: {error}", "run as root") from error
    return [f"removed {link.name}"]


def _environment(tap: Tap, error: NetlinkError) -> Environment:
    if error.code in (errno.EPERM, errno.EACCES):
        return Environment(f"making {tap.name} is not permitted", "run the agent as root")
    return Environment(f"{tap.name} can't be configured: {error}", "look at `dmesg`, and retry")


def _no_tun(tap: Tap, error: OSError) -> Environment:
    if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
        return Environment(
            "/dev/net/tun is missing",
            "load the module (modprobe tun), or give this container the device",
        )
    if error.errno in (errno.EPERM, errno.EACCES):
        return Environment(f"making {tap.name} is not permitted", "run the agent as root")
    return Environment(f"{tap.name} can't be made: {error}", "look at `dmesg`, and retry")
