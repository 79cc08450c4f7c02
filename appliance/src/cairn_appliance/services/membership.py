"""Appliances that join, leave and are replaced; how the cluster is.

A change of etcd's membership is made by the appliance that was asked. A newcomer is a
learner first: it has no vote, so that it can fail at any step without harm to the others.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import logging
import os
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

import msgspec

from cairn_appliance.domain import joining as join_string
from cairn_appliance.domain.alarm import Sign
from cairn_appliance.domain.backup import BackupHealth
from cairn_appliance.domain.cluster import (
    Appliance,
    Cluster,
    EtcdAlarm,
    EtcdMember,
    EtcdState,
    Joining,
    Replica,
    joining_hash,
)
from cairn_appliance.domain.cluster_health import ClusterView, Seen
from cairn_appliance.domain.errors import (
    Clash,
    Invalid,
    JoinRefused,
    NotFound,
    QuorumAtRisk,
    Unavailable,
)
from cairn_appliance.domain.event import Severity
from cairn_appliance.domain.identity import SYSTEM, Actor
from cairn_appliance.domain.joining import ClusterKeys, Handover, JoinString
from cairn_appliance.domain.restored import RestoreHealth
from cairn_appliance.pki.sealing import exchange_sealer
from cairn_appliance.services.backups import health_of
from cairn_appliance.services.clock import Clock, wall_clock
from cairn_appliance.services.commit import unchanged, until_committed
from cairn_appliance.services.events import Journal
from cairn_appliance.services.formats import Raised, raise_level
from cairn_appliance.services.restoration import restore_health
from cairn_appliance.services.stored import Stored, read, read_all
from cairn_appliance.store import keys, port, records
from cairn_appliance.store.port import Compare, Conflict, Delete, Put, Store

log = logging.getLogger(__name__)
T = TypeVar("T")

LIFE_MIN_S, LIFE_S, LIFE_MAX_S = 60.0, 3600.0, 86_400.0
NONCE_OCTETS = 16
_ID_OCTETS = 8
_SECRET_OCTETS = 32
# Within what one request may take. etcd refuses a change for about 5 s after the last one.
_CHANGE_WITHIN_S = 8.0
_AGAIN_S = 0.5
_KNOWN_WITHIN_S = 4.0
_LEAD_WITHIN_S = 2.5  # a member that is away takes 1.5 s of it


@dataclass(frozen=True, slots=True)
class OwnSigns:
    """What this appliance notices of itself; None: it does not look."""

    appliance: str = ""
    signs: tuple[Sign, ...] | None = None


class Etcd(Protocol):
    """What is asked of etcd's membership; what it can't do now raises `port.Unavailable`."""

    async def members(self) -> tuple[EtcdMember, ...]:
        """Return all members."""

    async def add_learner(self, peer_url: str) -> tuple[EtcdMember, ...]:
        """Add a member without a vote; return all members."""

    async def remove(self, member_id: int) -> None:
        """Remove a member for good."""

    async def states(self, members: tuple[EtcdMember, ...]) -> dict[int, EtcdState | None]:
        """Ask members how they are; None for those that give no answer."""

    async def alarms(self) -> tuple[EtcdAlarm, ...]:
        """Return what etcd complains of."""

    async def hand_over(self, leader: EtcdMember, to: EtcdMember) -> None:
        """Make another member the leader."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An appliance that shows a join string."""

    id: str
    secret: str
    nonce: bytes
    peer_url: str  # https://ADDRESS:PORT of its etcd


@dataclass(frozen=True, slots=True)
class Issued:
    """A join string; the string is shown this once only."""

    joining: Joining
    text: str


class Membership:
    """All there is to do with the cluster's appliances."""

    def __init__(
        self,
        store: Store,
        etcd: Etcd,
        cluster: Callable[[], Cluster],
        pin: Callable[[], str],
        shared_keys: Callable[[], ClusterKeys],
        clock: Clock = wall_clock,
        signs: Callable[[], OwnSigns] = OwnSigns,
        *,
        backup_every_s: float = 0.0,
    ) -> None:
        self._backup_every_s = backup_every_s
        self._store = store
        self._etcd = etcd
        self._cluster = cluster
        self._pin = pin
        self._shared_keys = shared_keys
        self._clock = clock
        self._signs = signs
        self._journal = Journal(clock)

    async def view(self) -> ClusterView:
        """Return how all members are; where no etcd answers, what is noticed here."""
        signs = self._signs()
        try:
            view = await view_of(self._store, self._etcd, self._backup_every_s, self._clock())
        except port.Unavailable as error:
            log.info("no etcd answers reason=%s", error)
            view = ClusterView(())
        return replace(view, asked=signs.appliance, own_signs=signs.signs)

    async def finish_upgrade(self, by: Actor) -> Raised:
        """Let the newest format be written from now on; raise Clash where one is not upgraded."""
        raised = await raise_level(self._store, self._journal, by)
        log.info("upgrade finished format=%d before=%d", raised.now, raised.before)
        return raised

    async def issue(self, by: Actor, life_s: float = LIFE_S) -> Issued:
        """Return a new join string; raise Invalid."""
        if not LIFE_MIN_S <= life_s <= LIFE_MAX_S:
            raise Invalid("a join string lives from 1 minute to 24 hours")
        secret = base64.urlsafe_b64encode(os.getrandom(_SECRET_OCTETS)).rstrip(b"=").decode()
        joining = await until_committed(lambda: self._issue(secret, life_s, by))
        appliances = await read_all(self._store, records.appliances, keys.APPLIANCES)
        places = tuple(place for each in appliances for place in each.value.operations)
        text = join_string.encode(JoinString(places, self._pin(), joining.id, secret))
        return Issued(joining, text)

    async def admit(self, candidate: Candidate) -> bytes:
        """Make the candidate a learner and return what it needs, sealed for this exchange.

        Raises JoinRefused, Clash, Invalid, Unavailable. The same candidate may ask again, in
        its first life or another: what came of the time before is undone.
        """
        checked_peer(candidate.peer_url)
        joining = await until_committed(lambda: self._claim(candidate))
        members = await self._etcd_call(self._etcd.members)
        _check_reachable(members, candidate.peer_url)
        await self._make_room(members, candidate.peer_url)
        members = await self._change(lambda: self._etcd.add_learner(candidate.peer_url))
        cluster = self._cluster()
        handed = Handover(
            cluster_id=cluster.id,
            name=joining.name,
            initial_cluster=initial_cluster(members, joining.name, candidate.peer_url),
            endpoints=tuple(place for each in members for place in each.endpoints),
            heartbeat_s=cluster.heartbeat_s,
            keys=self._shared_keys(),
        )
        sealer = exchange_sealer(candidate.secret, candidate.nonce)
        log.info("appliance admitted name=%s peer=%s", joining.name, candidate.peer_url)
        return sealer.seal(candidate.id, msgspec.json.encode(handed))

    async def joined(self, name: str) -> None:
        """Note that an appliance has got its vote: its join string is used up."""
        found = await read_all(self._store, records.joinings, keys.JOININGS)
        used = [each.value.id for each in found if each.value.name == name]
        text = f"appliance {name} has joined the cluster"
        entry = self._journal.entry("appliance_joined", text, SYSTEM, appliance=name)
        fenced = (await self._store.list(keys.FENCED)).items  # whose place is taken by now
        gone = [*map(keys.joining, used), *(item.key for item in fenced)]
        await self._store.commit([], [entry, *map(Delete, gone)])

    async def leave(self, name: str, by: Actor) -> None:
        """Remove a living appliance; raise NotFound, QuorumAtRisk, Unavailable."""
        view = await self._view_for_change()
        seen = _find(view, name)
        if not view.survives_without(seen.name):
            raise QuorumAtRisk(f"without {name} the others would have no quorum")
        if seen.leads:
            await self._depose(view, seen)
        await self._remove(seen, by, "appliance_left", f"appliance {name} has left the cluster")

    async def hand_over_lead(self, name: str) -> None:
        """Let another member lead, if `name` does: its end is then no pause for the others.

        Ends within `_LEAD_WITHIN_S`. Where it can't be done the others elect a leader when they
        miss this one, within 1 to 2 s.
        """
        try:
            async with asyncio.timeout(_LEAD_WITHIN_S):
                members = await self._etcd.members()
                states = await self._etcd.states(members)
                view = ClusterView(tuple(Seen(each, states.get(each.id)) for each in members))
                for seen in view.seen:
                    if seen.leads and seen.name == name:
                        await self._depose(view, seen)
        except (port.StoreError, TimeoutError) as error:
            log.warning("the lead was not handed over name=%s reason=%s", name, error)

    async def replace(self, name: str, by: Actor) -> Issued:
        """Remove a dead appliance and return the join string for its successor.

        Raises NotFound, QuorumAtRisk, Unavailable; Clash where it is alive.
        """
        view = await self._view_for_change()
        seen = _find(view, name)
        if seen.state is not None:
            raise Clash(
                f"{name} is alive: its etcd answers",
                f"stop it first, or let it go in order with `cairn cluster leave {name}`",
                code="appliance_alive",
            )
        if not view.has_quorum:
            raise QuorumAtRisk(
                "there is no quorum to decide on it",
                "if the others are lost too, stop one that is left and run `cairn-appliance "
                "recover --data-dir DIR --others-are-lost` on it",
            )
        text = f"appliance {name} was removed, to be replaced"
        await self._remove(seen, by, "appliance_removed", text)
        return await self.issue(by)

    async def fence(self, member: EtcdMember) -> None:
        """Take out an appliance whose copy of the store differs from the majority's.

        Raises QuorumAtRisk, Unavailable.
        """
        view = await self._view_for_change()
        seen = _find(view, member.name)
        if not view.survives_without(seen.name):
            raise QuorumAtRisk(f"{seen.name} is damaged, and needed for the quorum")
        text = f"the copy of the store at {seen.name} was damaged: it was taken out"
        fenced = Put(keys.fenced(seen.name), b"{}")
        await self._remove(seen, SYSTEM, "appliance_fenced", text, Severity.ALARM, (fenced,))

    async def tidy(self) -> None:
        """Forget what belongs to appliances that are no more, and strings that have ended."""
        names = {each.name for each in await self._etcd.members()}
        for stored in await read_all(self._store, records.joinings, keys.JOININGS):
            if stored.value.expires_at < self._clock():
                await self._forget(keys.joining(stored.value.id), stored.revision)
        for each in await read_all(self._store, records.replicas, keys.REPLICAS):
            names.add(each.value.name)  # it runs: this member's list may be old
        for known in await read_all(self._store, records.appliances, keys.APPLIANCES):
            if known.value.name not in names:
                await self._forget(keys.appliance(known.value.name), known.revision)

    async def _forget(self, key: str, revision: int) -> None:
        try:
            await self._store.commit([Compare(key, revision)], [Delete(key)])
        except Conflict:
            log.debug("changed meanwhile key=%s", key)

    async def _issue(self, secret: str, life_s: float, by: Actor) -> Joining:
        """Give out the next name and keep the hash of the secret."""
        last = await self._store.get(keys.LAST_NAME)
        number = int(last.value) if last else await self._highest_number()
        joining_id, now = os.getrandom(_ID_OCTETS).hex(), self._clock()
        joining = Joining(
            id=joining_id,
            secret_hash=joining_hash(joining_id, secret),
            name=f"m{number + 1}",
            created_at=now,
            created_by=by.name,
            expires_at=now + life_s,
        )
        key = keys.joining(joining_id)
        text = f"a join string for appliance {joining.name} was made"
        entry = self._journal.entry("join_string_created", text, by, appliance=joining.name)
        compares = [unchanged(keys.LAST_NAME, last), Compare(key, 0)]
        name = Put(keys.LAST_NAME, str(number + 1).encode())
        put = Put(key, records.joinings.encode(joining))
        await self._store.commit(compares, [name, put, entry])
        return joining

    async def _highest_number(self) -> int:
        """Return the number of the newest appliance of a cluster that has never grown."""
        names = [each.name for each in await self._etcd_call(self._etcd.members)]
        numbers = [int(name[1:]) for name in names if name[:1] == "m" and name[1:].isdecimal()]
        return max(numbers, default=1)

    async def _claim(self, candidate: Candidate) -> Joining:
        """Bind the string to whoever shows it first; raise JoinRefused."""
        try:
            key = keys.joining(candidate.id)
        except ValueError as error:
            raise JoinRefused("the join string is not known") from error
        stored = await read(self._store, records.joinings, key)
        if stored is None or not stored.value.matches(candidate.secret):
            raise JoinRefused("the join string is not known, or was used up")
        joining = stored.value
        if joining.expires_at < self._clock():
            raise JoinRefused("the join string has expired")
        if joining.peer not in ("", candidate.peer_url):
            raise JoinRefused("the join string was used by another appliance")
        if not joining.peer:
            joining = replace(joining, peer=candidate.peer_url)
            put = Put(key, records.joinings.encode(joining))
            await self._store.commit([Compare(key, stored.revision)], [put])
        return joining

    async def _make_room(self, members: tuple[EtcdMember, ...], peer_url: str) -> None:
        """Remove the learner that a broken-off join left; raise Clash where one is under way.

        There is at most one learner, and one whose data are lost can never be it again.
        """
        for member in members:
            is_same = peer_url in member.peer_urls
            if is_same and not member.is_learner:
                raise Clash(
                    f"{member.name} at {peer_url} is in the cluster already",
                    f"stop it there and `cairn cluster replace {member.name}`, or choose "
                    "another --cluster-address",
                    code="appliance_exists",
                )
            if member.is_learner:
                if not is_same and await self._is_expected(member):
                    raise Clash(
                        f"another appliance is joining at {', '.join(member.peer_urls)}",
                        "let it get its vote first: start it with `cairn-appliance run`",
                        code="joining_under_way",
                    )
                await self._change(lambda found=member: self._etcd.remove(found.id))  # type: ignore[misc]

    async def _is_expected(self, member: EtcdMember) -> bool:
        joinings = await read_all(self._store, records.joinings, keys.JOININGS)
        return any(
            each.value.peer in member.peer_urls and each.value.expires_at >= self._clock()
            for each in joinings
        )

    async def _view_for_change(self) -> ClusterView:
        """Return how all are; the store is asked first, so that no decision is made on old news."""
        await self._store.get(keys.CLUSTER_INFO)
        return await view_of(self._store, self._etcd, self._backup_every_s, self._clock())

    async def _depose(self, view: ClusterView, leader: Seen) -> None:
        """Let another lead first: the others then notice nothing of the removal."""
        others = [each for each in view.voters if each.is_healthy and each.name != leader.name]
        heir = min(others, key=lambda each: view.lag(each) or 0, default=None)
        if heir is None:
            return
        try:
            await self._etcd.hand_over(leader.member, heir.member)
            log.info("the lead was handed over from=%s to=%s", leader.name, heir.name)
        except port.Unavailable as error:
            log.warning("the lead was not handed over name=%s reason=%s", leader.name, error)

    async def _remove(
        self,
        seen: Seen,
        by: Actor,
        kind: str,
        text: str,
        severity: Severity = Severity.INFO,
        more: Sequence[Put] = (),
    ) -> None:
        await self._change(lambda: self._etcd.remove(seen.member.id))
        entry = self._journal.entry(kind, text, by, severity=severity, appliance=seen.name)
        writes: list[Put | Delete] = [entry, *more]
        if seen.member.name:
            writes.append(Delete(keys.appliance(seen.member.name)))
            writes.append(Delete(keys.update(seen.member.name)))
        # Again where the member that was spoken to is the one that has just ended.
        await self._change(lambda: self._store.commit([], writes))
        log.info("appliance removed name=%s", seen.name)

    async def _change(self, change: Callable[[], Awaitable[T]]) -> T:
        """Change the membership, again while etcd wants to see the last change settled first."""
        loop = asyncio.get_running_loop()
        end = loop.time() + _CHANGE_WITHIN_S
        while True:
            try:
                return await change()
            except port.Unavailable as error:
                if loop.time() + _AGAIN_S >= end:
                    raise _not_now(error) from error
                log.debug("membership not changed yet reason=%s", error)
            await asyncio.sleep(_AGAIN_S * random.uniform(0.5, 1.0))

    async def _etcd_call(self, call: Callable[[], Awaitable[T]]) -> T:
        try:
            return await call()
        except port.Unavailable as error:
            raise _not_now(error) from error


async def view_of(
    store: Store, etcd: Etcd, backup_every_s: float = 0.0, now: float | None = None
) -> ClusterView:
    """Return how all members are; without a quorum all but what only a quorum knows."""
    now = wall_clock() if now is None else now
    members = await etcd.members()
    states = await etcd.states(members)
    alarms: tuple[EtcdAlarm, ...] = ()
    known: list[Stored[Appliance]] = []
    running: list[Stored[Replica]] = []
    backups: BackupHealth | None = None
    restore: RestoreHealth | None = None
    fenced: tuple[str, ...] = ()
    try:
        async with asyncio.timeout(_KNOWN_WITHIN_S):
            alarms = await etcd.alarms()
            known = await read_all(store, records.appliances, keys.APPLIANCES)
            running = await read_all(store, records.replicas, keys.REPLICAS)
            backups = await health_of(store, backup_every_s, now)
            restore = await restore_health(store, now)
            items = (await store.list(keys.FENCED)).items
            fenced = tuple(keys.last_part(item.key) for item in items)
    except (port.StoreError, TimeoutError) as error:
        log.info("only etcd's own state is known reason=%s", error)
    appliances = {each.value.name: each.value for each in known}
    replicas = {each.value.name: each.value for each in running}
    seen = (
        Seen(each, states.get(each.id), appliances.get(each.name), replicas.get(each.name))
        for each in members
    )
    return ClusterView(tuple(seen), alarms, fenced, backups=backups, restore=restore)


def checked_peer(url: str) -> str:
    """Return the URL of another appliance's etcd; raise Invalid."""
    try:
        parts = urlsplit(url)
        address = ipaddress.ip_address(parts.hostname or "")
        is_good = parts.scheme == "https" and parts.port is not None and not parts.path
    except ValueError:
        is_good = False
    if not is_good or address.is_unspecified or address.is_multicast:
        raise Invalid(f"{url[:80]!r} is not the address of an etcd", "use https://ADDRESS:PORT")
    return url


def _check_reachable(members: tuple[EtcdMember, ...], peer_url: str) -> None:
    """Raise Clash where the newcomer could never reach a member that is on loopback."""
    if _is_loopback(peer_url):
        return
    alone = [each for each in members if any(map(_is_loopback, each.peer_urls))]
    if alone:
        raise Clash(
            f"the etcd of {alone[0].name} is on loopback, where no other appliance reaches it",
            "write the address of that appliance as cluster_address into its settings.toml and "
            "restart it",
            code="cluster_address_missing",
        )


def _is_loopback(url: str) -> bool:
    return ipaddress.ip_address(urlsplit(url).hostname or "").is_loopback


def initial_cluster(members: tuple[EtcdMember, ...], name: str, peer_url: str) -> str:
    """Return exactly the members of now, the new one by the name it will have."""
    pairs = [
        (name if peer_url in each.peer_urls else each.name, url)
        for each in members
        for url in each.peer_urls
    ]
    return ",".join(f"{each}={url}" for each, url in pairs)


def _find(view: ClusterView, name: str) -> Seen:
    for seen in view.seen:
        if name in (seen.member.name, *seen.member.peer_urls):
            return seen
    known = ", ".join(seen.name for seen in view.seen)
    raise NotFound(f"there is no appliance {name[:80]!r}", f"choose one of {known}")


def _not_now(error: port.Unavailable) -> Unavailable:
    return Unavailable(f"etcd can't do it now: {error}", "try again in some seconds")
