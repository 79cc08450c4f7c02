"""Gives out MAC and IP addresses: create-if-absent on every address key in one transaction.

What is read only chooses a candidate; that it is free is decided by the compares of the
transaction that takes it (trust.md 2.6).
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import random
import time
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass

from cairn_appliance.domain.addressing import candidates, checked_static, is_held
from cairn_appliance.domain.errors import Clash, NoAddressLeft
from cairn_appliance.domain.member import Claim, derived_mac
from cairn_appliance.domain.vsubnet import Prefix, VSubnet
from cairn_appliance.services.clock import Clock, wall_clock
from cairn_appliance.services.stored import Stored, decoded, read_all
from cairn_appliance.store import keys, records
from cairn_appliance.store.port import Compare, Conflict, Delete, Put, Store

_MAC_TRIES = 8
_SPREAD_MAX = 256
TIDIED_EVERY_S = 3600.0
_FORGOTTEN_AT_ONCE = 50
_LOOKED_AT_ONCE = 500  # then all else that waits has its turn


@dataclass(frozen=True, slots=True)
class Claiming:
    """Addresses with the compares and writes that take them."""

    mac: str
    ips: tuple[str, ...]
    compares: tuple[Compare, ...]
    writes: tuple[Put, ...]


@dataclass(frozen=True, slots=True)
class Claims:
    """What a vSubnet has given out, by key, as it was read."""

    by_key: dict[str, Stored[Claim]]

    def held(self, key: str, node: str, now: float) -> bool:
        """True while another node has the address or it is in quarantine."""
        stored = self.by_key.get(key)
        return stored is not None and is_held(stored.value, node, now)

    def take(self, key: str, node: str) -> tuple[Compare, Put]:
        """Return what takes the address unless someone else was faster."""
        stored = self.by_key.get(key)
        compare = Compare(key, stored.revision if stored else 0)
        return compare, Put(key, records.claims.encode(Claim(node)))


class Addressing:
    """Plans which addresses a member takes and releases."""

    def __init__(
        self, store: Store, clock: Clock = wall_clock, monotonic: Clock = time.monotonic
    ) -> None:
        self._store = store
        self._clock = clock
        self._monotonic = monotonic
        # Not all replicas at once, and not while the agents come back after a start.
        self._tidied_again_at = monotonic() + random.uniform(0.1, 1.0) * TIDIED_EVERY_S

    async def claims(self, vsubnet_id: str) -> Claims:
        """Return what the vSubnet has given out."""
        items = (await self._store.list(keys.addresses_of(vsubnet_id))).items
        found = {}
        for item in items:
            for stored in decoded(records.claims, [item]):
                found[item.key] = stored
        return Claims(found)

    async def plan(
        self, vsubnet: VSubnet, node: str, static: Collection[str] = (), *, attempt: int = 0
    ) -> Claiming:
        """Return what a new member takes; raise NoAddressLeft, Clash (static one is held).

        `attempt` counts lost races: each spreads the choice wider, so that n who join at
        once don't fight over the same lowest address n times.
        """
        claims = await self.claims(vsubnet.id)
        mac = self._mac(vsubnet, node, claims)
        ips = checked_static(vsubnet, static)
        self._check_static(vsubnet, node, ips, claims)
        if not static:
            spread = min(4**attempt, _SPREAD_MAX)
            ips = tuple(
                self._allocate(vsubnet, network, node, claims, spread)
                for network in vsubnet.networks
            )
        return _claiming(vsubnet.id, mac, ips, node, claims)

    async def plan_mac(self, vsubnet: VSubnet, node: str) -> Claiming:
        """Return what a member takes that has no addresses: a gateway; raise Clash."""
        claims = await self.claims(vsubnet.id)
        return _claiming(vsubnet.id, self._mac(vsubnet, node, claims), (), node, claims)

    async def replan(
        self, vsubnet: VSubnet, node: str, mac: str, old: Collection[str], static: Collection[str]
    ) -> Claiming:
        """Return what changes a member's addresses to the static ones; raise Clash."""
        claims = await self.claims(vsubnet.id)
        ips = checked_static(vsubnet, static)
        self._check_static(vsubnet, node, ips, claims)
        taken = _claiming(vsubnet.id, mac, [ip for ip in ips if ip not in old], node, claims)
        dropped = [keys.ip(vsubnet.id, ip) for ip in old if ip not in ips]
        released = self._released(dropped, node, claims)
        return Claiming(
            mac,
            ips,
            taken.compares[1:] + tuple(compare for compare, _ in released),
            taken.writes[1:] + tuple(put for _, put in released),
        )

    def release(self, vsubnet_id: str, node: str, mac: str, ips: Collection[str]) -> list[Put]:
        """Return the writes that put a member's addresses in quarantine.

        They need no compare of their own: the member's key is compared, and the addresses
        are the member's as long as it is there.
        """
        claim = records.claims.encode(Claim(node, self._clock()))
        places = [keys.mac(vsubnet_id, mac), *(keys.ip(vsubnet_id, ip) for ip in ips)]
        return [Put(key, claim) for key in places]

    async def tidy(self) -> None:
        """Now and then: forget the claims whose quarantine is over. All that are are read."""
        if self._monotonic() < self._tidied_again_at:
            return
        self._tidied_again_at = self._monotonic() + random.uniform(0.8, 1.2) * TIDIED_EVERY_S
        for vsubnet in await read_all(self._store, records.vsubnets, keys.VSUBNETS):
            await self.forget_released(vsubnet.value.id)

    async def forget_released(self, vsubnet_id: str) -> int:
        """Delete a vSubnet's claims that hold nobody up any more; return how many.

        Each as it was read: one that was taken meanwhile is somebody's again, and stays.
        """
        over, now = [], self._clock()
        items = (await self._store.list(keys.addresses_of(vsubnet_id))).items
        for number, item in enumerate(items):
            for claim in records.claims.decode_all([item], records.quarantine):
                if claim.released_at and not is_held(claim, "", now):
                    over.append(item)
            if number % _LOOKED_AT_ONCE == _LOOKED_AT_ONCE - 1:
                await asyncio.sleep(0)
        forgotten = 0
        for start in range(0, len(over), _FORGOTTEN_AT_ONCE):
            batch = over[start : start + _FORGOTTEN_AT_ONCE]
            compares = [Compare(item.key, item.revision) for item in batch]
            with suppress(Conflict):  # the rest of these has its turn with the next round
                await self._store.commit(compares, [Delete(item.key) for item in batch])
                forgotten += len(batch)
        return forgotten

    def _released(
        self, places: Iterable[str], node: str, claims: Claims
    ) -> list[tuple[Compare, Put]]:
        value = records.claims.encode(Claim(node, self._clock()))
        return [(claims.take(key, node)[0], Put(key, value)) for key in places]

    def _mac(self, vsubnet: VSubnet, node: str, claims: Claims) -> str:
        now = self._clock()
        for attempt in range(_MAC_TRIES):
            mac = derived_mac(node, vsubnet.vni, attempt)
            if not claims.held(keys.mac(vsubnet.id, mac), node, now):
                return mac
        raise Clash(f"no MAC address could be derived for node {node}")

    def _check_static(
        self, vsubnet: VSubnet, node: str, ips: Collection[str], claims: Claims
    ) -> None:
        now = self._clock()
        for ip in ips:
            key = keys.ip(vsubnet.id, ip)
            if claims.held(key, node, now):
                claim = claims.by_key[key].value
                state = "was released less than a day ago" if claim.released_at else "is taken"
                raise Clash(
                    f"{ip} {state} in vSubnet {vsubnet.name} by node {claim.node}",
                    "choose another address",
                    code="address_taken",
                )

    def _allocate(
        self, vsubnet: VSubnet, network: Prefix, node: str, claims: Claims, spread: int
    ) -> str:
        """Return the node's own released address, or one of the lowest `spread` free ones."""
        now = self._clock()
        prefix = keys.ips_of(vsubnet.id)
        ips = {
            key.removeprefix(prefix): c
            for key, c in claims.by_key.items()
            if key.startswith(prefix)
        }
        own = [ip for ip, claim in ips.items() if claim.value.node == node and _in(ip, network)]
        if own:
            return own[0]
        taken = {ip for ip, claim in ips.items() if is_held(claim.value, node, now)}
        kept_back = vsubnet.reserved + tuple(f"{ip}-{ip}" for ip in vsubnet.policy.shared_ips)
        free = list(itertools.islice(candidates(network, kept_back, taken), spread))
        if not free:
            raise NoAddressLeft(f"vSubnet {vsubnet.name} has no free address in {network}")
        return random.choice(free)


def _in(ip: str, network: Prefix) -> bool:
    return ipaddress.ip_address(ip) in network


def _claiming(
    vsubnet_id: str, mac: str, ips: Collection[str], node: str, claims: Claims
) -> Claiming:
    places = [keys.mac(vsubnet_id, mac), *(keys.ip(vsubnet_id, ip) for ip in ips)]
    pairs = [claims.take(key, node) for key in places]
    return Claiming(
        mac,
        tuple(ips),
        tuple(compare for compare, _ in pairs),
        tuple(put for _, put in pairs),
    )
