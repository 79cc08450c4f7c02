"""vSubnets: create, change, delete, and the epochs of their secrets."""

from __future__ import annotations

import base64
import builtins
import os
import secrets
import uuid
from dataclasses import dataclass, field, replace

from cairn_appliance.domain.addressing import checked_reserved, checked_shared
from cairn_appliance.domain.cluster import SHARED_IPS_FORMAT
from cairn_appliance.domain.errors import Changed, Clash, NotFound
from cairn_appliance.domain.identity import Actor, checked_name
from cairn_appliance.domain.vsubnet import (
    PSK_LIFE_S,
    PSK_OVERLAP_S,
    VNI_MAX,
    Policy,
    Psks,
    VSubnet,
    checked_mtu,
    checked_policy,
    checked_prefixes,
)
from cairn_appliance.pki.sealing import Sealer
from cairn_appliance.services.attachments import segments_on
from cairn_appliance.services.backups import wish_for_one
from cairn_appliance.services.clock import Clock, wall_clock
from cairn_appliance.services.commit import until_committed
from cairn_appliance.services.events import Journal
from cairn_appliance.services.formats import check_writable
from cairn_appliance.services.stored import Stored, read, read_all
from cairn_appliance.store import keys, records
from cairn_appliance.store.port import Compare, Conflict, Delete, Put, Store

_PSK_OCTETS = 32


@dataclass(frozen=True, slots=True)
class VSubnetOrder:
    """A vSubnet to be; the VNI, the ID and the first secret are drawn."""

    name: str
    prefixes: tuple[str, ...] = ()
    reserved: tuple[str, ...] = ()
    mtu: int = 1400
    policy: Policy = field(default_factory=Policy)


@dataclass(frozen=True, slots=True)
class VSubnetChange:
    """What is to change; None: stays."""

    name: str | None = None
    prefixes: tuple[str, ...] | None = None  # only while it has no members
    reserved: tuple[str, ...] | None = None
    mtu: int | None = None
    policy: Policy | None = None


@dataclass(frozen=True, slots=True)
class Rotation:
    """What starts a new epoch, to be part of a transaction."""

    epoch: int
    compare: Compare
    put: Put


class Epochs:
    """Draws and seals the secrets of vSubnets' epochs."""

    def __init__(self, sealer: Sealer, clock: Clock = wall_clock) -> None:
        self._sealer = sealer
        self._clock = clock

    def next(self, psks: Psks, *, overlap_s: float = PSK_OVERLAP_S) -> Psks:
        """Return the epochs with a new one that is used to send."""
        place = seal_place(psks.vsubnet, psks.next_epoch())
        sealed = self._sealer.seal(place, os.getrandom(_PSK_OCTETS))
        return psks.rotated(base64.b64encode(sealed).decode(), self._clock(), overlap_s)

    def open(self, vsubnet: str, epoch: int, sealed: str) -> str:
        """Return the secret in base64, for the members' netmaps; raise SealBroken."""
        octets = self._sealer.open(seal_place(vsubnet, epoch), base64.b64decode(sealed))
        return base64.b64encode(octets).decode()


def drafted(order: VSubnetOrder, now: float) -> VSubnet:
    """Return the vSubnet that was ordered, without its VNI; raise Invalid."""
    prefixes = checked_prefixes(order.prefixes)
    return VSubnet(
        id=str(uuid.UUID(bytes=os.getrandom(16), version=4)),
        vni=0,
        name=checked_name(order.name, "vSubnet"),
        created_at=now,
        prefixes=prefixes,
        reserved=checked_reserved(order.reserved, prefixes),
        mtu=checked_mtu(order.mtu),
        policy=_checked(order.policy, prefixes),
    )


def seal_place(vsubnet: str, epoch: int) -> str:
    """Return the name that a sealed secret is bound to."""
    return f"psk/{vsubnet}/{epoch}"


class VSubnets:
    """All there is to do with vSubnets."""

    def __init__(
        self, store: Store, epochs: Epochs, journal: Journal, clock: Clock = wall_clock
    ) -> None:
        self._store = store
        self._epochs = epochs
        self._journal = journal
        self._clock = clock

    async def create(self, order: VSubnetOrder, by: Actor) -> Stored[VSubnet]:
        """Return the new vSubnet; raise Invalid, Clash (name taken)."""
        vsubnet = drafted(order, self._clock())
        await self._check_format(order.policy)
        return await until_committed(lambda: self._create(vsubnet, by))

    async def _check_format(self, policy: Policy | None) -> None:
        if policy is not None and policy.shared_ips:
            await check_writable(self._store, SHARED_IPS_FORMAT, "a shared address")

    async def _create(self, draft: VSubnet, by: Actor) -> Stored[VSubnet]:
        name_key = keys.name("vsubnet", draft.name)
        if await self._store.get(name_key):
            raise _name_taken(draft.name)
        vsubnet = replace(draft, vni=1 + secrets.randbelow(VNI_MAX))  # a taken one conflicts
        psks = self._epochs.next(Psks(vsubnet.id, ()))
        own_id = vsubnet.id.encode()
        writes = [
            Put(name_key, own_id),
            Put(keys.vni(vsubnet.vni), own_id),
            Put(keys.vsubnet(vsubnet.id), records.vsubnets.encode(vsubnet)),
            Put(keys.psks(vsubnet.id), records.psks.encode(psks)),
        ]
        compares = [Compare(write.key, 0) for write in writes]
        text = f"vSubnet {vsubnet.name} was created"
        entry = self._journal.entry("vsubnet_created", text, by, vsubnet=vsubnet.id)
        revision = await self._store.commit(compares, [*writes, entry])
        return Stored(vsubnet, revision)

    async def list(self) -> tuple[Stored[VSubnet], ...]:
        """Return all vSubnets by name."""
        found = await read_all(self._store, records.vsubnets, keys.VSUBNETS)
        return tuple(sorted(found, key=lambda stored: stored.value.name.casefold()))

    async def get(self, reference: str) -> Stored[VSubnet]:
        """Return the vSubnet with this name, ID or VNI (decimal); raise NotFound."""
        vsubnet_id = await self._id_of(reference)
        found = vsubnet_id and await read(self._store, records.vsubnets, keys.vsubnet(vsubnet_id))
        if not found:
            raise NotFound(
                f"there is no vSubnet {reference[:80]!r}", "look at `cairn vsubnet list`"
            )
        return found

    async def change(
        self, reference: str, change: VSubnetChange, by: Actor, *, expected: int | None = None
    ) -> Stored[VSubnet]:
        """Return the vSubnet after the change; raise NotFound, Invalid, Clash, Changed."""
        await self._check_format(change.policy)
        if change.prefixes is None:
            return await until_committed(lambda: self._change(reference, change, by, expected))
        _changed((await self.get(reference)).value, change)  # refuse nonsense before closing
        closed = await self._close(reference, expected)
        await self._check_empty(closed)
        try:
            return await until_committed(lambda: self._change(closed.value.id, change, by, None))
        except Clash:
            await self._reopen(closed)
            raise

    async def _change(
        self, reference: str, change: VSubnetChange, by: Actor, expected: int | None
    ) -> Stored[VSubnet]:
        old = await self.get(reference)
        _check_expected(old, expected)
        new = _changed(old.value, change)
        if new == old.value:
            return old
        key = keys.vsubnet(new.id)
        compares = [Compare(key, old.revision)]
        writes: builtins.list[Put | Delete] = [Put(key, records.vsubnets.encode(new))]
        old_name, new_name = keys.name("vsubnet", old.value.name), keys.name("vsubnet", new.name)
        if old_name != new_name:
            if await self._store.get(new_name):
                raise _name_taken(new.name)
            compares.append(Compare(new_name, 0))
            writes += [Delete(old_name), Put(new_name, new.id.encode())]
        text = f"vSubnet {new.name} was changed"
        fields = ", ".join(name for name in new.__slots__ if _differ(old.value, new, name))
        entry = self._journal.entry("vsubnet_changed", text, by, vsubnet=new.id, fields=fields)
        revision = await self._store.commit(compares, [*writes, entry])
        return Stored(new, revision)

    async def rotate_secret(self, reference: str, by: Actor, *, revoke_now: bool = False) -> int:
        """Start a new epoch and return its number; `revoke_now`: the old ends at once."""
        vsubnet = (await self.get(reference)).value
        return await until_committed(lambda: self._rotate(vsubnet, by, revoke_now))

    async def _rotate(self, vsubnet: VSubnet, by: Actor, revoke_now: bool) -> int:
        rotation = await self.rotation(vsubnet.id, revoke_now=revoke_now)
        text = f"vSubnet {vsubnet.name} has a new secret, epoch {rotation.epoch}"
        entry = self._journal.entry("secret_rotated", text, by, vsubnet=vsubnet.id)
        wish = wish_for_one(f"the secret of vSubnet {vsubnet.name} was replaced", self._clock())
        await self._store.commit([rotation.compare], [rotation.put, entry, wish])
        return rotation.epoch

    async def rotation(self, vsubnet_id: str, *, revoke_now: bool = False) -> Rotation:
        """Return compare and put that start a new epoch, for a transaction of the caller."""
        key = keys.psks(vsubnet_id)
        old = await read(self._store, records.psks, key)
        psks = old.value if old else Psks(vsubnet_id, ())
        new = self._epochs.next(psks, overlap_s=0 if revoke_now else PSK_OVERLAP_S)
        put = Put(key, records.psks.encode(new))
        return Rotation(new.epochs[0].epoch, Compare(key, old.revision if old else 0), put)

    async def delete(self, reference: str, by: Actor, *, expected: int | None = None) -> None:
        """Delete a vSubnet without members; raise NotFound, Clash (has members), Changed."""
        closed = await self._close(reference, expected)
        await self._check_empty(closed)
        await self._check_without_segments(closed)
        await until_committed(lambda: self._delete(closed, by))

    async def _delete(self, closed: Stored[VSubnet], by: Actor) -> None:
        vsubnet = closed.value
        key = keys.vsubnet(vsubnet.id)
        text = f"vSubnet {vsubnet.name} was deleted"
        entry = self._journal.entry("vsubnet_deleted", text, by, vsubnet=vsubnet.id)
        writes: builtins.list[Put | Delete] = [
            Delete(key),
            Delete(keys.psks(vsubnet.id)),
            Delete(keys.probe_key(vsubnet.id)),
            Delete(keys.name("vsubnet", vsubnet.name)),
            Delete(keys.vni(vsubnet.vni)),
            entry,
        ]
        try:
            await self._store.commit([Compare(key, closed.revision)], writes)
        except Conflict as error:
            raise Changed(f"vSubnet {vsubnet.name} was changed meanwhile") from error
        await self._forget_addresses(vsubnet.id)

    async def tidy(self) -> None:
        """Drop epochs that are over and start the daily new ones."""
        now = self._clock()
        for stored in await read_all(self._store, records.psks, keys.PSKS):
            psks = stored.value
            if psks.epochs and now - psks.epochs[0].since >= PSK_LIFE_S:
                new = self._epochs.next(psks)
            else:
                new = psks.unexpired(now)
            if new != psks:
                key = keys.psks(psks.vsubnet)
                try:
                    put = Put(key, records.psks.encode(new))
                    await self._store.commit([Compare(key, stored.revision)], [put])
                except Conflict:
                    continue  # another replica, or a removal, did more than this

    async def _close(self, reference: str, expected: int | None) -> Stored[VSubnet]:
        """Make it take no new members, so that what is counted next stays true.

        Cut short after this (the appliance is killed), the vSubnet keeps its members and
        takes no new ones until the deletion or change is repeated.
        """

        async def attempt() -> Stored[VSubnet]:
            old = await self.get(reference)
            _check_expected(old, expected)
            new = replace(old.value, closed=True)
            key = keys.vsubnet(new.id)
            put = Put(key, records.vsubnets.encode(new))
            return Stored(new, await self._store.commit([Compare(key, old.revision)], [put]))

        return await until_committed(attempt)

    async def _check_empty(self, closed: Stored[VSubnet]) -> None:
        """Open it again and raise Clash if it has members."""
        vsubnet = closed.value
        listing = await self._store.list(keys.members_of(vsubnet.id))
        if not listing.items:
            return
        await self._reopen(closed)
        raise Clash(
            f"vSubnet {vsubnet.name} has {len(listing.items)} members",
            "delete its members first (`cairn member delete`)",
            code="has_members",
        )

    async def _check_without_segments(self, closed: Stored[VSubnet]) -> None:
        """Open it again and raise Clash if it has LAN segments; none can be made meanwhile."""
        segments = await segments_on(self._store, closed.value.id)
        if not segments:
            return
        await self._reopen(closed)
        raise Clash(
            f"vSubnet {closed.value.name} has {len(segments)} LAN segments",
            "delete them first (`cairn gateway segment delete`)",
            code="has_segments",
        )

    async def _reopen(self, closed: Stored[VSubnet]) -> None:
        vsubnet = closed.value
        key = keys.vsubnet(vsubnet.id)
        put = Put(key, records.vsubnets.encode(replace(vsubnet, closed=False)))
        try:
            await self._store.commit([Compare(key, closed.revision)], [put])
        except Conflict as error:
            raise Changed(f"vSubnet {vsubnet.name} was changed meanwhile") from error

    async def _forget_addresses(self, vsubnet_id: str) -> None:
        """Delete the claims, which are all released; a rest would lie there unused."""
        items = (await self._store.list(keys.addresses_of(vsubnet_id))).items
        for start in range(0, len(items), 100):
            deletes = [Delete(item.key) for item in items[start : start + 100]]
            await self._store.commit([], deletes)

    async def _id_of(self, reference: str) -> str:
        try:
            name_key = keys.name("vsubnet", reference)
        except ValueError:
            return ""
        item = await self._store.get(name_key)
        if item is None and reference.isdecimal() and 0 < int(reference[:9]) <= VNI_MAX:
            item = await self._store.get(keys.vni(int(reference[:9])))
        if item is not None:
            return item.value.decode()
        try:
            return str(uuid.UUID(reference))
        except ValueError:
            return ""


def _check_expected(stored: Stored[VSubnet], expected: int | None) -> None:
    """Raise Changed if the caller has seen another revision."""
    if expected is not None and stored.revision != expected:
        raise Changed(f"vSubnet {stored.value.name} was changed meanwhile")


def _checked(policy: Policy, prefixes: tuple[str, ...]) -> Policy:
    """Return the policy in canonical form; raise Invalid."""
    shared = checked_shared(policy.shared_ips, prefixes)
    return replace(checked_policy(policy), shared_ips=shared)


def _changed(old: VSubnet, change: VSubnetChange) -> VSubnet:
    prefixes = old.prefixes if change.prefixes is None else checked_prefixes(change.prefixes)
    reserved = old.reserved if change.reserved is None else change.reserved
    return replace(
        old,
        name=old.name if change.name is None else checked_name(change.name, "vSubnet"),
        prefixes=prefixes,
        reserved=checked_reserved(reserved, prefixes),
        mtu=old.mtu if change.mtu is None else checked_mtu(change.mtu),
        policy=_checked(change.policy or old.policy, prefixes),
        closed=False,
    )


def _differ(old: VSubnet, new: VSubnet, name: str) -> bool:
    return name != "closed" and getattr(old, name) != getattr(new, name)


def _name_taken(name: str) -> Clash:
    return Clash(f"there is a vSubnet {name!r} already", "choose another name", code="name_taken")
