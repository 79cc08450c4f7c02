"""Replacing the cluster's authority and its map key, step by step (domain/trust.py).

Every step is a transaction on one value that compares what was read, so it happens once. A
step is taken by an operator, or by any replica as soon as everybody has done their part of
the one before: who began a replacement may end, another goes on with it.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from cairn_agent.protocol import netmap as wire

from cairn_appliance.domain.cluster import KEYS_REPLACED_FORMAT, Replica
from cairn_appliance.domain.errors import CairnError, Clash
from cairn_appliance.domain.event import Severity
from cairn_appliance.domain.identity import SYSTEM, Actor
from cairn_appliance.domain.node import Node, NodeState, Presence
from cairn_appliance.domain.token import Token
from cairn_appliance.domain.trust import (
    ANNOUNCED_FOR_AWAY_S,
    ISSUED_FOR_AWAY_S,
    Behind,
    Phase,
    Succession,
    Trust,
    is_due,
)
from cairn_appliance.netmap import render
from cairn_appliance.netmap.netmaps import Netmaps
from cairn_appliance.pki.authority import key_id_of, pin_of, utc_now
from cairn_appliance.pki.keyring import (
    Keyring,
    as_secrets,
    open_authority,
    open_map_key,
    seal_authority,
    seal_map_key,
)
from cairn_appliance.pki.map_key import MapKey
from cairn_appliance.pki.sealing import Sealer
from cairn_appliance.services.backups import wish_for_one
from cairn_appliance.services.clock import Clock, wall_clock
from cairn_appliance.services.commit import until_committed
from cairn_appliance.services.events import Journal
from cairn_appliance.services.formats import check_writable
from cairn_appliance.services.presence import PresenceBoard
from cairn_appliance.services.stored import read, read_all
from cairn_appliance.store import keys, records
from cairn_appliance.store.port import Compare, Put, Store, StoreError

log = logging.getLogger(__name__)

LOOKED_AT_EVERY_S = 1.0
# Steps after which nodes don't believe, or soon won't, what a backup of before brings back.
_ENDS_BACKUPS: Final = {
    "map_key_used": "the map key was replaced",
    "ca_issues": "a new CA issues",
    "ca_retired": "the CA was replaced",
}
_FRESH_S = 60.0  # a node that has come within it may not have had its say yet


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the replacement of one key is."""

    phase: Phase
    since: float  # of the phase; seconds since 1970
    nodes: int
    done: int  # nodes that have done their part
    behind: tuple[Behind, ...]
    goes_on_at: float  # without those that are away; 0: nothing is waited for


@dataclass(frozen=True, slots=True)
class View:
    """The cluster's keys for people."""

    trust: Trust
    ca: Progress
    map_key: Progress
    old_tokens: tuple[Token, ...]  # that end, or have ended, with the former authority


class Rotation:
    """All there is to do with the replacement of the cluster's keys."""

    def __init__(
        self,
        store: Store,
        keyring: Keyring,
        sealer: Sealer,
        netmaps: Netmaps,
        presence: PresenceBoard,
        journal: Journal,
        clock: Clock = wall_clock,
    ) -> None:
        self._store = store
        self._keyring = keyring
        self._sealer = sealer
        self._netmaps = netmaps
        self._presence = presence
        self._journal = journal
        self._clock = clock

    async def begin_ca(self, by: Actor) -> None:
        """Make the next authority and make it known; raise Clash while one is under way."""
        await self._check_replicas()

        def change(old: Trust) -> tuple[Trust, str]:
            authorities = old.authorities
            if authorities.phase is not Phase.STEADY:
                raise _under_way("the CA", "cairn ca status")
            now = utc_now()
            former = open_authority(self._sealer, authorities.issuer)
            following = former.successor(now)
            cross = former.cross(following, now).decode()
            sealed = seal_authority(self._sealer, following)
            text = f"a new CA was made, {following.pin[:16]}..., and is made known to all nodes"
            new = authorities.announced(sealed, cross, self._clock())
            return replace(old, authorities=new), text

        await self._change(change, by, "ca_announced")

    async def issue_ca(self, by: Actor) -> None:
        """Let the next authority issue; raise Clash where none was made known."""
        nodes = sum(1 for _ in self._nodes())

        def change(old: Trust) -> tuple[Trust, str]:
            if old.authorities.phase is not Phase.ANNOUNCED:
                raise _not_now(
                    "no new CA waits to issue", "look at `cairn ca status`; `cairn ca rotate`"
                )
            new = old.authorities.issuing(nodes, self._clock())
            text = (
                f"the new CA, {pin_of(new.issuer.public)[:16]}..., issues from now on; "
                f"{nodes} nodes renew within {new.renew_within_s:.0f} s"
            )
            return replace(old, authorities=new), text

        await self._change(change, by, "ca_issues")

    async def retire_ca(self, by: Actor) -> None:
        """Believe the former authority no more; raise Clash where there is none."""
        stored = await read(self._store, records.trust, keys.TRUST)
        old_tokens = await self._old_tokens(stored.value) if stored else ()

        def change(old: Trust) -> tuple[Trust, str]:
            if old.authorities.phase is not Phase.ISSUING or old.authorities.other is None:
                raise _not_now("no former CA is believed any more", "look at `cairn ca status`")
            text = f"the former CA, {pin_of(old.authorities.other.public)[:16]}..., was retired"
            if old_tokens:
                text += f"; {len(old_tokens)} enrolment tokens ended with it"
            return replace(old, authorities=old.authorities.without_former(self._clock())), text

        await self._change(change, by, "ca_retired")

    async def begin_map_key(self, by: Actor) -> None:
        """Make the next map key and make it known; raise Clash while one is under way."""
        await self._check_replicas()

        def change(old: Trust) -> tuple[Trust, str]:
            if old.map_keys.phase is not Phase.STEADY:
                raise _under_way("the map key", "cairn map-key status")
            former, following = open_map_key(self._sealer, old.map_keys.current), MapKey.create()
            octets = wire.succession_octets(
                self._netmaps.cluster.id, former.public, following.public
            )
            signature = base64.b64encode(former.sign(octets)).decode()
            sealed = seal_map_key(self._sealer, following)
            succession = Succession(former.public, following.public, signature)
            text = f"a new map key was made, {following.public[:16]}..., and is made known"
            new = old.map_keys.announced(sealed, succession, self._clock())
            return replace(old, map_keys=new), text

        await self._change(change, by, "map_key_announced")

    async def use_map_key(self, by: Actor) -> None:
        """Sign netmaps by the next map key; raise Clash where none was made known."""

        def change(old: Trust) -> tuple[Trust, str]:
            if old.map_keys.phase is not Phase.ANNOUNCED:
                raise _not_now(
                    "no new map key waits to be used",
                    "look at `cairn map-key status`; `cairn map-key rotate`",
                )
            new = old.map_keys.switched(self._clock())
            text = f"netmaps are signed by the new map key, {new.current.public[:16]}..."
            return replace(old, map_keys=new), text

        await self._change(change, by, "map_key_used")

    async def view(self) -> View:
        """Return how it is with both keys."""
        stored = await read(self._store, records.trust, keys.TRUST)
        trust = stored.value if stored else self._keyring.as_trust()
        replicas = [
            each.value for each in await read_all(self._store, records.replicas, keys.REPLICAS)
        ]
        digest = wire.trust_digest(render.trust_document(trust)) if stored else ""
        return View(
            trust,
            self._progress_of_ca(trust, digest, replicas),
            self._progress_of_map_key(trust, digest),
            await self._old_tokens(trust),
        )

    async def step(self) -> None:
        """Take the next step of what is under way where everybody is ready for it."""
        known = self._keyring.trust
        if known is None or _is_steady(known):
            return
        view = await self.view()
        if view.trust != known:
            return  # this replica's netmaps are about to follow
        now = self._clock()
        if _is_ready(view.map_key, ANNOUNCED_FOR_AWAY_S, now):
            await self.use_map_key(SYSTEM)
        elif view.ca.phase is Phase.ANNOUNCED and _is_ready(view.ca, ANNOUNCED_FOR_AWAY_S, now):
            await self.issue_ca(SYSTEM)
        elif view.ca.phase is Phase.ISSUING and _is_ready(view.ca, ISSUED_FOR_AWAY_S, now):
            await self.retire_ca(SYSTEM)

    async def run(self) -> None:
        """Take what steps there are until cancelled."""
        while True:
            await asyncio.sleep(LOOKED_AT_EVERY_S * random.uniform(0.8, 1.2))
            try:
                await self.step()
            except Clash as clash:
                log.info("another replica has taken the step: %s", clash.cause)
            except (StoreError, CairnError) as error:
                log.warning("replacing a key was put off reason=%s", error)

    async def _change(
        self, change: Callable[[Trust], tuple[Trust, str]], by: Actor, kind: str
    ) -> None:
        await until_committed(lambda: self._attempt(change, by, kind))

    async def _attempt(
        self, change: Callable[[Trust], tuple[Trust, str]], by: Actor, kind: str
    ) -> None:
        """Do one step, if the keys are still as they were read.

        The two secrets that older appliances know of go along, so that a downgrade finds the
        keys of now.
        """
        stored = await read(self._store, records.trust, keys.TRUST)
        old = stored.value if stored else self._keyring.as_trust()
        new, text = change(old)
        authority = open_authority(self._sealer, new.authorities.issuer)
        map_key = open_map_key(self._sealer, new.map_keys.current)
        severity = Severity.WARNING if kind == "ca_retired" else Severity.INFO
        entry = self._journal.entry(kind, text, by, severity=severity)
        put = Put(keys.TRUST, records.trust.encode(new))
        writes = [put, entry, *as_secrets(self._sealer, authority, map_key)]
        if kind in _ENDS_BACKUPS:
            writes.append(wish_for_one(_ENDS_BACKUPS[kind], self._clock()))
        compare = Compare(keys.TRUST, stored.revision if stored else 0)
        await self._store.commit([compare], writes)
        log.warning("%s", text)

    async def _check_replicas(self) -> None:
        """Raise Clash where an appliance could not follow, or may be put back to who couldn't."""
        for each in await read_all(self._store, records.replicas, keys.REPLICAS):
            if not each.value.issuer:
                raise Clash(
                    f"appliance {each.value.name} runs version {each.value.version}, which can't "
                    "replace keys",
                    "update all appliances first",
                    code="appliance_too_old",
                )
        await check_writable(self._store, KEYS_REPLACED_FORMAT, "replacing keys")

    async def _old_tokens(self, trust: Trust) -> tuple[Token, ...]:
        """Return the tokens in force whose string names another authority than the issuer."""
        authorities, now = trust.authorities, self._clock()
        pin = pin_of(authorities.issuer.public)
        is_first = authorities.phase is not Phase.ISSUING and not authorities.retired
        return tuple(
            each.value
            for each in await read_all(self._store, records.tokens, keys.TOKENS)
            if each.value.pin != pin
            and not (is_first and not each.value.pin)
            and each.value.expires_at > now
            and each.value.uses < each.value.max_uses
        )

    def _nodes(self) -> Iterator[tuple[Node, Presence | None]]:
        for node in self._netmaps.snapshot.nodes.values():
            if node.state is not NodeState.REMOVED:
                yield node, self._presence.of(node.id)

    def _progress_of_map_key(self, trust: Trust, digest: str) -> Progress:
        return self._progress(
            trust.map_keys.phase,
            trust.map_keys.since,
            self._behind_in_trust(digest, "cairn map-key use"),
            for_away_s=ANNOUNCED_FOR_AWAY_S,
        )

    def _progress_of_ca(self, trust: Trust, digest: str, replicas: list[Replica]) -> Progress:
        authorities = trust.authorities
        is_issuing = authorities.phase is Phase.ISSUING
        command = "cairn ca retire" if is_issuing else "cairn ca issue"
        behind = self._behind_in_trust(digest, command)
        if is_issuing:
            issuer = key_id_of(authorities.issuer.public)
            late = {each.node for each in behind}
            behind += [each for each in self._behind_in_issuer(issuer) if each.node not in late]
            behind += self._appliances_behind(issuer, replicas)
        return self._progress(
            authorities.phase,
            authorities.since,
            behind,
            for_away_s=ISSUED_FOR_AWAY_S if is_issuing else ANNOUNCED_FOR_AWAY_S,
        )

    def _progress(
        self, phase: Phase, since: float, behind: list[Behind], *, for_away_s: float
    ) -> Progress:
        nodes = sum(1 for _ in self._nodes())
        late = sum(bool(each.node) for each in behind)
        goes_on_at = since + for_away_s if phase is not Phase.STEADY else 0.0
        ordered = tuple(sorted(behind, key=lambda each: (each.is_away, each.name, each.node)))
        return Progress(phase, since, nodes, nodes - late, ordered, goes_on_at)

    def _behind_in_trust(self, digest: str, command: str) -> list[Behind]:
        """Return who does not keep yet what all are to trust; none where there is nothing."""
        return [
            self._why(node, presence, command)
            for node, presence in self._nodes()
            if digest and (presence is None or presence.trust != digest)
        ]

    def _behind_in_issuer(self, issuer: str) -> list[Behind]:
        """Return whose certificate is of another authority than the one that issues."""
        return [
            Behind(
                node.name,
                node.id,
                "its certificate is still of the former CA",
                "it renews by itself within some minutes; if not, look into the log of "
                "cairn-agent there",
                is_away=not presence.connected,
            )
            for node, presence in self._nodes()
            if presence is not None and presence.issuer != issuer
        ]

    def _appliances_behind(self, issuer: str, replicas: list[Replica]) -> list[Behind]:
        running = {each.name: each for each in replicas}
        late = [
            Behind(
                each.name,
                "",
                "its APIs still show a certificate of the former CA",
                "it renews by itself within some seconds; if not, look into its log",
            )
            for each in replicas
            if each.issuer != issuer
        ]
        off = [name for name in self._netmaps.snapshot.appliances if name not in running]
        return late + [
            Behind(name, "", "it is off", "it renews by itself when it starts", is_away=True)
            for name in off
        ]

    def _why(self, node: Node, presence: Presence | None, command: str) -> Behind:
        if presence is None or not presence.connected:
            return Behind(
                node.name,
                node.id,
                "it is away",
                "it follows by itself when it comes back, also long after",
                is_away=True,
            )
        if presence.refused:
            remedy = "look at `cairn-agent status` there"
            return Behind(node.name, node.id, f"it refuses its netmap: {presence.refused}", remedy)
        if presence.trust or self._clock() - presence.since < _FRESH_S:
            remedy = "wait a moment; if it lasts, look into the log of cairn-agent there"
            return Behind(node.name, node.id, "it has not acknowledged yet", remedy)
        return Behind(
            node.name,
            node.id,
            "its agent says nothing of whom it trusts: it is too old",
            f"update cairn-agent there, or go on without it: `{command}`",
        )


def _is_steady(trust: Trust) -> bool:
    return trust.map_keys.phase is trust.authorities.phase is Phase.STEADY


def _is_ready(progress: Progress, for_away_s: float, now: float) -> bool:
    return progress.phase is not Phase.STEADY and is_due(
        progress.behind, since=progress.since, for_away_s=for_away_s, now=now
    )


def _under_way(what: str, command: str) -> Clash:
    return Clash(
        f"{what} is being replaced already", f"look at `{command}`", code="rotation_under_way"
    )


def _not_now(cause: str, remedy: str) -> Clash:
    return Clash(cause, remedy, code="no_rotation")
