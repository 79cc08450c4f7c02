"""Which addresses of a prefix may be given out, and which one next."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterator

from cairn_appliance.domain.errors import Invalid
from cairn_appliance.domain.member import Claim
from cairn_appliance.domain.vsubnet import Address, Prefix, VSubnet

QUARANTINE_S = 86_400.0  # a released address may still be in a neighbour's cache or a config

_Range = tuple[int, int]  # first and last, both in it


def is_held(claim: Claim, node: str, now: float) -> bool:
    """True while the address is another node's, or another's until the quarantine is over."""
    if claim.node == node:
        return False
    return not claim.released_at or now < claim.released_at + QUARANTINE_S


def checked_reserved(ranges: tuple[str, ...], prefixes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the ranges as "first-last" in canonical form; raise Invalid."""
    if len(ranges) > 64:
        raise Invalid("at most 64 reserved ranges")
    networks = [ipaddress.ip_network(prefix) for prefix in prefixes]
    return tuple(_checked_range(text, networks) for text in ranges)


def checked_shared(texts: tuple[str, ...], prefixes: tuple[str, ...]) -> tuple[str, ...]:
    """Return the shared addresses in canonical form; raise Invalid."""
    if len(texts) > 64:
        raise Invalid("at most 64 shared addresses")
    networks = [ipaddress.ip_network(prefix) for prefix in prefixes]
    found = sorted({_address(text) for text in texts}, key=lambda each: (each.version, int(each)))
    for address in found:
        if not any(address in network and address not in _never(network) for network in networks):
            raise Invalid(
                f"{address} can't be shared: it is no host's address in the vSubnet's prefixes",
                f"its prefixes: {', '.join(prefixes) or 'none, any address may be used anyway'}",
            )
    return tuple(map(str, found))


def checked_static(vsubnet: VSubnet, texts: Collection[str]) -> tuple[str, ...]:
    """Return static addresses in canonical form; raise Invalid unless the vSubnet has them."""
    addresses = [_address(text) for text in texts]
    if len({address.version for address in addresses}) != len(addresses):
        raise Invalid("a member has at most one IPv4 and one IPv6 address")
    for address in addresses:
        if str(address) in vsubnet.policy.shared_ips:
            raise Invalid(
                f"{address} is shared by the members of vSubnet {vsubnet.name}",
                "choose another address, or take it out: cairn vsubnet set --shared-ip",
            )
        network = network_of(vsubnet, address)
        if address in _never(network):
            raise Invalid(f"{address} can't be a host's address in {network}")
    return tuple(str(a) for a in sorted(addresses, key=lambda address: address.version))


def network_of(vsubnet: VSubnet, address: Address) -> Prefix:
    """Return the prefix of the vSubnet that the address is in; raise Invalid."""
    for network in vsubnet.networks:
        if address.version == network.version and address in network:
            return network
    raise Invalid(
        f"{address} is in no prefix of vSubnet {vsubnet.name}",
        f"its prefixes: {', '.join(vsubnet.prefixes) or 'none, it is unmanaged'}",
    )


def candidates(network: Prefix, reserved: tuple[str, ...], taken: Collection[str]) -> Iterator[str]:
    """Yield what may be allocated, lowest first.

    The first address stays free for a router, by custom. Work is proportional to what is
    taken and reserved, not to the size of the prefix.
    """
    ranges = sorted(_range(text) for text in reserved if _version(text) == network.version)
    last = int(network.broadcast_address) - (1 if network.version == 4 else 0)
    number = int(network.network_address) + 2
    make = ipaddress.IPv4Address if network.version == 4 else ipaddress.IPv6Address
    while number <= last:
        inside = next((end for first, end in ranges if first <= number <= end), None)
        if inside is not None:
            number = inside + 1
            continue
        text = str(make(number))
        if text not in taken:
            yield text
        number += 1


def _never(network: Prefix) -> tuple[Address, ...]:
    """The network's own address, and the broadcast address of IPv4."""
    if network.version == 4:
        return (network.network_address, network.broadcast_address)
    return (network.network_address,)


def _checked_range(text: str, networks: list[Prefix]) -> str:
    first_text, _, last_text = text.partition("-")
    first = _address(first_text.strip())
    last = _address(last_text.strip()) if last_text else first
    if first.version != last.version or int(first) > int(last):
        raise Invalid(f"{text[:100]!r} is no range", "write it as 10.7.0.10-10.7.0.20")
    fits = [n for n in networks if n.version == first.version and first in n and last in n]
    if not fits:
        raise Invalid(f"the reserved range {first}-{last} is in no prefix of the vSubnet")
    return f"{first}-{last}"


def _address(text: str) -> Address:
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise Invalid(
            f"{text[:80]!r} is no IP address", "write it without prefix length"
        ) from error
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id:
        raise Invalid(f"{text[:80]!r} has a scope; leave it out")
    return address


def _range(text: str) -> _Range:
    first, _, last = text.partition("-")
    return int(ipaddress.ip_address(first)), int(ipaddress.ip_address(last))


def _version(text: str) -> int:
    return ipaddress.ip_address(text.partition("-")[0]).version
