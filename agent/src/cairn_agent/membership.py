"""One node's membership of one cluster: identity, netmap, link, and time on its own."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection

import msgspec

from cairn_agent.control.link import Link
from cairn_agent.control.tls import node_context
from cairn_agent.entropy import key_octets
from cairn_agent.errors import StateUnusable
from cairn_agent.host.machine import boottime, machine_facts, same_machine
from cairn_agent.host.network import Network
from cairn_agent.identity import Identity
from cairn_agent.netmap.held import (
    HeldVSubnet,
    MapKeys,
    Netmap,
    NetmapCopy,
    NetmapRefused,
    dump,
    load,
)
from cairn_agent.netmap.trust import OfflineTime, is_trusted
from cairn_agent.protocol import enrolment
from cairn_agent.report import VERSION
from cairn_agent.settings import UNDERLAY_PORT
from cairn_agent.state import Standing, StateDir

log = logging.getLogger(__name__)

_STARTS_SHIFT = 32  # of a try's number: what is above are the starts
_LONG_S = 60.0  # alone for longer than this was written down, so its end is too


class Membership:
    """What the link's `Node` asks for, kept on disk as it changes.

    A write that fails is logged and doesn't stop anything: what is in memory goes on.
    """

    def __init__(
        self,
        identity: Identity,
        state: StateDir,
        offline_trust_s: int | None,
        changed: Callable[[], None],
    ) -> None:
        self._identity = identity
        self._offline_trust_s = offline_trust_s
        self._state = state
        self._changed = changed
        self._used: object = None
        self._is_unkept = False
        self.copy = NetmapCopy(
            cluster_id=identity.cluster_id,
            node_id=identity.node_id,
            map_key=identity.map_key,
            next_map_keys=identity.next_map_keys,
            former_map_keys=identity.former_map_keys,
        )
        standing = state.standing()
        self.behind_nat = standing.behind_nat
        self.offline = OfflineTime(standing.offline_s, boottime())
        self.heard_at: float | None = None
        self.network = Network()
        self.dataplane_version = ""
        self.offloads: dict[str, str] = {}
        self.loaded_revision = 0
        self.link = Link(self, self.copy)
        self._facts: enrolment.Facts | None = None  # as registered last
        self._is_counted = False  # this start, on the disk
        self._tries: list[str] = []  # nonces of those with this generation since the start
        self._waits = ""  # why it takes no part for now
        self.answered = asyncio.Event()  # an appliance has said who this machine is

    def recognise(self) -> None:
        """Take no part on another machine than the last one, until an appliance lets it in.

        A copy would fight with the original for its sessions: it can't know that it is one.
        A machine that was moved is let in with its first registration.
        """
        known, facts = self._identity.machine, machine_facts(self.network)
        if known is not None and not same_machine(known, facts):
            self._waits = (
                "this machine isn't the one that has been this node: it takes part when an "
                "appliance has let it in"
            )
            log.warning("another machine than before: waiting for an appliance")

    def stand_aside(self, reason: str) -> None:
        """Take no part any more: the identity is another machine's."""
        self._waits = reason
        self.answered.set()
        try:
            self._state.forget_netmap()
        except StateUnusable as error:
            log.warning("the netmap of another node could not be removed: %s", error.cause)
        self._changed()

    @property
    def waits(self) -> str:
        """Why it takes no part for now: a sentence, or nothing."""
        return self._waits

    def load_netmap(self) -> None:
        """Use the netmap that was kept; one that can't be used is moved aside."""
        octets = self._state.netmap()
        if octets is None:
            return
        try:
            netmap = load(self.copy, octets)
        except NetmapRefused as refusal:
            self._state.set_netmap_aside(str(refusal))
        else:
            self._used = _content(netmap)
            log.info("kept netmap loaded revision=%d", netmap.revision)

    @property
    def netmap(self) -> Netmap | None:
        """The netmap in use; None while there is none, or the node takes no part."""
        return None if self._identity.barred or self._waits else self.copy.current

    def identity(self) -> Identity:
        """Return the newest identity."""
        return self._identity

    def overlay_prefixes(self) -> list[str]:
        """Return the prefixes of the own vSubnets."""
        return [prefix for vsubnet in self._vsubnets() for prefix in vsubnet.header.prefixes]

    def _vsubnets(self) -> Collection[HeldVSubnet]:
        return self.netmap.vsubnets.values() if self.netmap else ()

    def endpoints(self) -> tuple[str, ...]:
        """Return the own underlay addresses, as they are offered to peers."""
        return self.network.endpoints(UNDERLAY_PORT, self.overlay_prefixes())

    def has_moved(self) -> bool:
        """Return whether this node has an address that the netmap doesn't tell its peers."""
        own = set(self.endpoints())
        held = (each.members.get(self._identity.node_id) for each in self._vsubnets())
        members = (one.member for one in held if one is not None)
        return any(not own.issubset(each.endpoints) for each in members if each is not None)

    def registration(self) -> enrolment.RegisterRequest:
        """Return what to register now."""
        self._facts = machine_facts(self.network)
        number, nonce, given_up = self._next_try()
        return enrolment.RegisterRequest(
            generation=self._identity.generation,
            facts=self._facts,
            endpoints=list(self.endpoints()),
            name=self._identity.name,
            agent_version=VERSION,
            dataplane_version=self.dataplane_version,
            offloads=self.offloads,
            loaded_revision=self.loaded_revision,
            incarnation=self.copy.position()[0],
            attempt=number,
            nonce=nonce,
            given_up=given_up,
        )

    def _next_try(self) -> tuple[int, str, list[str]]:
        """Return the number of the next try with this generation, its nonce, and those before.

        The number is above all that this machine has used: of those that a process before this
        one used it is only known that they began with an earlier start. Without a disk to keep
        that, the appliances are told none: a number that comes twice is that of a copy.
        """
        given_up = list(self._tries)
        if not self._is_counted or len(given_up) >= enrolment.GIVEN_UP_MAX:
            given_up.clear()
            anew = msgspec.structs.replace(self._identity, starts=self._identity.starts + 1)
            self._is_counted = self._keep(anew)
            if not self._is_counted:
                return 0, "", []
        nonce = key_octets("registration", 16).hex()
        self._tries = [*given_up, nonce]
        return (self._identity.starts << _STARTS_SHIFT) + len(self._tries), nonce, given_up

    def registered(self, answer: enrolment.RegisterAnswer) -> None:
        """Keep the offered generation, the state, the replicas, and which machine this is."""
        self.answered.set()
        if self._waits:
            self._waits = ""
            self._changed()
        is_new = answer.generation != self._identity.generation
        self._tries = [] if is_new else self._tries
        newer = msgspec.structs.replace(
            self._identity,
            generation=answer.generation,
            starts=0 if is_new else self._identity.starts,
            state=answer.state,
            appliances=answer.appliances or self._identity.appliances,
            machine=self._facts,
        )
        self._keep(newer)
        behind_nat = _is_translated(answer.seen_address, self.network)
        if behind_nat != self.behind_nat:
            self.behind_nat = behind_nat
            self.keep_standing()
            self._changed()

    def renewed(self, answer: enrolment.RenewAnswer) -> None:
        """Keep the new certificate."""
        self._keep(
            msgspec.structs.replace(
                self._identity,
                certificate=answer.certificate,
                ca=answer.ca or self._identity.ca,
            )
        )

    def trust_changed(self) -> None:
        """Keep whom to trust from now on: the appliances' authorities and the map key.

        What can't be used or kept is not acknowledged, and asked for again.
        """
        held = self.copy.trust
        if held is None:
            return
        trusting = msgspec.structs.replace(
            with_map_keys(self._identity, self.copy.map_keys),
            ca="".join(held.document.authorities),
            issuer=held.document.issuer,
            renew_within_s=held.document.renew_within_s,
            trust=held.digest,
        )
        try:
            node_context(trusting)
        except StateUnusable as error:
            log.warning("whom to trust can't be used: %s", error.cause)
            return
        if self._keep(trusting):
            log.info("whom to trust was kept trust=%s", held.digest[:16])

    def netmap_changed(self) -> None:
        """Use the new netmap, and have it kept after that.

        The revision goes up with every write anywhere in the cluster: where nothing that
        concerns this node came with it, nothing is written and nothing applied.
        """
        netmap = self.copy.current
        content = _content(netmap)
        if netmap is None or content == self._used:
            return
        self._used = content
        self._keep(with_map_keys(self._identity, self.copy.map_keys))
        if netmap.node is not None and netmap.node.document.appliances:
            # The cluster grew or shrank: the next link may have to be with one that is new.
            known = list(netmap.node.document.appliances)
            self._keep(msgspec.structs.replace(self._identity, appliances=known))
        if self._identity.state == "pending" and netmap.vsubnets:
            self.link.register_soon()  # somebody approved it; the answer says so
        self._is_unkept = True
        self._changed()

    def keep_newest(self) -> None:
        """Write down what the data plane was told, not before: a slow disk would delay a removal.

        Where it ends in between, the appliances tell it again.
        """
        if not self._is_unkept:
            return
        self._is_unkept = False
        try:
            if self._identity.barred:
                self._state.keep_identity(self._identity)
                self._state.forget_netmap()
            elif self.netmap is not None:
                self._state.keep_netmap(dump(self.netmap))
        except StateUnusable as error:
            log.warning("what is in use could not be kept: %s", error.cause)

    def heard(self) -> None:
        """An appliance confirmed the netmap: the time alone begins anew."""
        now = boottime()
        was_alone_s = self.offline.seconds(now)
        self.offline.heard(now)
        self.heard_at = now
        if was_alone_s > _LONG_S:
            self.keep_standing()
        vsubnets = self.netmap.vsubnets.values() if self.netmap else ()
        if not all(is_trusted(v.header, was_alone_s, self._offline_trust_s) for v in vsubnets):
            self._changed()

    def bar(self, reason: str) -> None:
        """Mark the identity: it takes part no more until a person joins anew."""
        self.answered.set()
        self._identity = msgspec.structs.replace(self._identity, barred=reason)
        self._is_unkept = True
        self._changed()

    def keep_standing(self) -> None:
        """Write down how long the node has been on its own."""
        standing = Standing(round(self.offline.seconds(boottime()), 1), self.behind_nat)
        try:
            self._state.keep_standing(standing)
        except StateUnusable as error:
            log.warning("the time without an appliance could not be kept: %s", error.cause)

    def _keep(self, identity: Identity) -> bool:
        """Use it from now on; return whether it lies on the disk."""
        if identity == self._identity:
            return True
        before, self._identity = self._identity, identity
        try:
            self._state.keep_identity(identity)
        except StateUnusable as error:
            log.warning("the identity could not be kept: %s", error.cause)
            self._identity = msgspec.structs.replace(identity, trust=before.trust)
            return False
        return True


def with_map_keys(identity: Identity, keys: MapKeys) -> Identity:
    """Return the identity with the map keys as they are known now."""
    return msgspec.structs.replace(
        identity,
        map_key=keys.current,
        next_map_keys=list(keys.next),
        former_map_keys=list(keys.former),
    )


def _content(netmap: Netmap | None) -> object:
    """Return what tells apart two netmaps that differ in more than their revision."""
    return None if netmap is None else (netmap.incarnation, netmap.digests())


def _is_translated(seen: str, network: Network) -> bool:
    """Return whether the appliance saw an address that this machine doesn't have."""
    host = seen if seen.count(":") > 1 and "[" not in seen else seen.rpartition(":")[0] or seen
    host = host.removeprefix("[").removesuffix("]")
    if not host or host in ("127.0.0.1", "::1"):
        return False
    return host not in {str(address.interface.ip) for address in network.addresses}
