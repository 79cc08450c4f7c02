"""The link to the appliances: registers, follows the netmap, acknowledges, renews.

Theory of operation. `Link.run` holds a session with one replica at a time: a registration,
then, side by side, the netmap stream and whatever the node has to say (a registration when
its endpoints changed, an acknowledgement when the data plane loaded something, a renewal
at half the certificate's life, or when another authority issues). When anything breaks,
both end, and after a jittered wait the next replica has its turn; the stream resumes from
the revision that is held.

It never ends by itself, except by Barred: the appliances said that this node is no longer
one of theirs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import random
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Final, Protocol

import msgspec
from cryptography import x509

from cairn_agent.control.backoff import Backoff, turned_away_backoff
from cairn_agent.control.pace import acknowledged_within_s
from cairn_agent.control.patience import Patience
from cairn_agent.control.reasserting import reassert
from cairn_agent.control.replica import Replica, Silent
from cairn_agent.control.tls import (
    is_address,
    issuer_of,
    node_context,
    show_certificate,
    trust_also,
)
from cairn_agent.errors import (
    AgentError,
    Busy,
    NoAnswer,
    Refused,
    StateUnusable,
    TurnedAway,
    Unreachable,
)
from cairn_agent.identity import Identity, certificate_request, data_public_key
from cairn_agent.netmap.held import Netmap, NetmapCopy, NetmapRefused
from cairn_agent.protocol import acks, enrolment
from cairn_agent.protocol import netmap as wire
from cairn_agent.protocol.reassertion import RESTORING
from cairn_agent.racing import first_to_end

log = logging.getLogger(__name__)

_BARRING_CODES: Final = frozenset({"node_removed", "duplicate_node", "node_became"})
_TOO_MANY: Final = "too_many_requests"
_NEXT_REPLICA_S: Final = 0.2  # when the first of several can't be reached
# After a silence, which is not noticed by all agents at once: the last words were not either.
_SPREAD_S: Final = 0.3
# So long after a link was lost the others may be choosing a leader, which takes a second or two:
# they are asked again sooner than they ask for.
_FAILOVER_S: Final = 10.0
_AGAIN_MIN_S, _AGAIN_MAX_S = 0.3, 1.0
# One that fell silent or gives no answer is tried again only where no other is left.
_SHUNNED_S: Final = 15.0
_HASTEN_AGAIN_S: Final = 10.0
_RENEW_AGAIN_S: Final = 3600.0  # a wrong clock must not make us renew all the time
_REISSUE_AGAIN_S: Final = 60.0  # an appliance may not know yet who issues now


class Barred(Exception):
    """The appliances removed or refused this node; it must not come back as it is.

    `code` is the refusal's: a copy becomes another node, for one (cairn_agent.copies).
    """

    def __init__(self, reason: str, remedy: str, code: str = "node_removed") -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy
        self.code = code


class SentAway(Busy):
    """The appliance asks to use another one, and says when: it has chosen the jitter."""


class Node(Protocol):
    """What the link asks of the agent, and tells it."""

    def identity(self) -> Identity:
        """Return the newest identity."""

    def registration(self) -> enrolment.RegisterRequest:
        """Return what to register now."""

    def registered(self, answer: enrolment.RegisterAnswer) -> None:
        """Keep what the appliance answered."""

    def renewed(self, answer: enrolment.RenewAnswer) -> None:
        """Keep the new certificate."""

    def trust_changed(self) -> None:
        """The copy says anew whom to trust."""

    def netmap_changed(self) -> None:
        """There is a new netmap in the copy."""

    def heard(self) -> None:
        """An appliance said that the held netmap is the newest."""


@dataclass(frozen=True, slots=True)
class LinkState:
    """How the link is, for people; times are of the running loop, in seconds."""

    is_up: bool = False
    appliance: str = ""
    since: float = 0.0
    error: str = ""
    remedy: str = ""
    skew_s: float | None = None
    appliances: tuple[str, ...] = field(default=())


class Link:
    """The agent's link to whichever appliance answers."""

    def __init__(self, node: Node, copy: NetmapCopy) -> None:
        self._node = node
        self._copy = copy
        self._backoff = Backoff()
        self._turned_away = turned_away_backoff()
        self._wants_registration = asyncio.Event()
        self._register_at = -math.inf  # of the loop's clock: not before
        self._hurry = asyncio.Event()
        self._anew = asyncio.Event()
        self.nobody_there = asyncio.Event()  # no replica could be reached, once
        self.told = asyncio.Event()  # the appliance knows what there is to register by now
        self._say = asyncio.Event()
        self._ack: enrolment.AckRequest | None = None
        self._ack_at = math.inf  # when to send it, of the loop's clock
        self._ack_not_before = -math.inf
        self._has_first_word = False  # of this session
        self._resync = False
        self._tried = ""
        self._lost_at: dict[str, float] = {}  # address -> of the loop's clock
        self._was_up_at = -math.inf  # of the loop's clock
        self._was_busy_at = -math.inf  # anyone: it was there, and refused for now
        self._patience = Patience()
        self._turn = random.SystemRandom().randrange(1 << 16)
        self._unreachable = 0  # replicas in a row
        self._renewed_at = -_RENEW_AGAIN_S
        self._reissue_at = math.inf  # when to have the certificate signed by who issues now
        self._hastened_at = -_HASTEN_AGAIN_S
        self._followed: Replica | None = None
        self.streams = 0  # how many there were: what was told on one is not known on the next
        self.state = LinkState()

    def register_soon(self) -> None:
        """Register again, at once if there is a session; end a wait for the next try."""
        self._want_registration()
        self._reset_backoff()
        self._hurry.set()

    def connect_anew(self) -> None:
        """Register again on a new connection, at once: the old one's address is gone.

        On the old one the answer would be waited for until it times out.
        """
        self._anew.set()
        self.register_soon()

    def hasten(self) -> None:
        """End a wait for the next try, now and then: a peer is lost, and may be elsewhere.

        Every agent that lost the same peer wants this as often as its data plane does.
        """
        now = asyncio.get_running_loop().time()
        if now - self._hastened_at >= _HASTEN_AGAIN_S:
            self._hastened_at = now
            self._hurry.set()

    def acknowledge(self, ack: enrolment.AckRequest) -> None:
        """Tell the appliances what is loaded, when it is our turn; only the newest is sent."""
        self._ack = ack
        self._acknowledge_in_turn()

    @property
    def takes_reports(self) -> bool:
        """True while an appliance reads what the node reports of itself."""
        return self._followed is not None and self._followed.takes_reports

    async def report(self, line: bytes) -> bool:
        """Send a line up the stream; return whether there was one to send it on."""
        return self._followed is not None and await self._followed.report(line)

    async def run(self) -> None:
        """Keep the link until cancelled; raise Barred."""
        while True:
            address, wait_s = "", 0.0
            self._anew.clear()
            try:
                address = self._next_replica()
                await first_to_end(self._session(address), self._anew.wait())
                self._copy.stream_ended()
            except (AgentError, NetmapRefused) as error:
                wait_s = self._after(address, error)
            self._hurry.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._hurry.wait()

    def _after(self, address: str, error: AgentError | NetmapRefused) -> float:
        """Note why a session ended and return how long to wait; raise Barred."""
        self._copy.stream_ended()
        self.told.clear()  # who knows whether it has told anybody
        loop = asyncio.get_running_loop()
        if isinstance(error, NetmapRefused):
            error = Refused(f"the netmap of {address} was refused: {error}", "", "netmap_refused")
        if isinstance(error, Refused) and error.code in _BARRING_CODES:
            raise Barred(error.cause, error.remedy, error.code)
        was_up = self.state.is_up
        if isinstance(error, SentAway):
            log.info("%s; link ends", error.cause)
        elif was_up or error.cause != self.state.error:
            log.warning("no link to appliance=%s: %s", address, error.cause)
        self.state = replace(
            self.state, is_up=False, since=loop.time(), error=error.cause, remedy=error.remedy
        )
        self._unreachable = 0 if was_up else self._unreachable + 1
        self._was_up_at = loop.time() if was_up else self._was_up_at
        has_others = len(self._replicas()) > 1
        if isinstance(error, SentAway) and has_others:
            return error.retry_after_s
        self._note_whether_it_answers(address, error)
        if isinstance(error, Silent) and was_up and has_others:
            return random.uniform(0.0, _SPREAD_S)
        if self._unreachable % max(1, len(self._replicas())) != 0:
            return random.uniform(0.5, 1.5) * _NEXT_REPLICA_S
        is_recent = loop.time() - self._was_up_at < _FAILOVER_S
        if has_others and is_recent and self._was_busy_at > self._was_up_at:
            return random.uniform(_AGAIN_MIN_S, _AGAIN_MAX_S)
        if not isinstance(error, Busy):
            self.nobody_there.set()
        backoff = self._turned_away if isinstance(error, TurnedAway) else self._backoff
        return backoff.next_s(error.retry_after_s if isinstance(error, Busy) else 0.0)

    def _reset_backoff(self) -> None:
        self._backoff.reset()
        self._turned_away.reset()

    def _note_whether_it_answers(self, address: str, error: Exception) -> None:
        """One that refuses a connection is tried again at no cost; one that swallows it isn't."""
        now = asyncio.get_running_loop().time()
        if isinstance(error, NoAnswer):
            self._lost_at[address] = now
        elif isinstance(error, Busy):
            self._was_busy_at = now
            self._lost_at.pop(address, None)
        if isinstance(error, Silent):
            self._patience.fell_silent(now)

    def _replicas(self) -> list[str]:
        return list(filter(is_address, dict.fromkeys(self._node.identity().appliances)))

    def _next_replica(self) -> str:
        replicas = self._replicas()
        if not replicas:
            raise Unreachable("no appliance is known", "leave with --force and join again")
        replicas = self._hopeful(replicas) or replicas
        self._turn += 1
        if len(replicas) > 1 and replicas[self._turn % len(replicas)] == self._tried:
            self._turn += 1  # there are more or fewer of them than at the last turn
        self._tried = replicas[self._turn % len(replicas)]
        return self._tried

    def _hopeful(self, replicas: list[str]) -> list[str]:
        """Return those that were not lost of late: an answer of 503 is more than none."""
        now = asyncio.get_running_loop().time()
        self._lost_at = {each: at for each, at in self._lost_at.items() if now - at < _SHUNNED_S}
        return [each for each in replicas if each not in self._lost_at]

    def _replica(self, address: str) -> Replica:
        return Replica(address, node_context(self._node.identity()))

    async def _session(self, address: str) -> None:
        """Register and follow until something breaks.

        Returns only where a certificate was renewed that had expired, or that another
        authority had signed: the next session, at once, shows the new one.
        """
        async with self._replica(address) as replica:
            try:
                await self._register(replica)
            except Refused as refused:
                if refused.code == "certificate_expired" and await self._renew(replica):
                    return
                raise
            self._acknowledge_in_turn()  # this replica may not know yet
            self._plan_reissue()
            loop = asyncio.get_running_loop()
            self.state = LinkState(
                is_up=True, appliance=address, since=loop.time(), skew_s=replica.skew_s
            )
            log.info("link is up appliance=%s", address)
            self._followed, self.streams = replica, self.streams + 1
            self._has_first_word = False
            try:
                await first_to_end(self._follow(replica), self._speak(replica))
            finally:
                self._followed = None

    async def _register(self, replica: Replica) -> None:
        self._wants_registration.clear()
        try:
            answer = await replica.register(self._node.registration())
        except Busy as busy:
            if busy.code == RESTORING:
                await self._reassert(replica)
            raise
        if _is_heartbeat(answer.heartbeat_s):
            self._patience.heartbeat_s = answer.heartbeat_s
        self._node.registered(answer)
        if answer.again:  # what was registered was not noted
            self._want_registration()
        if not self._wants_registration.is_set():
            self.told.set()
        if answer.reassert:
            await self._reassert(replica)

    def _want_registration(self) -> None:
        self.told.clear()
        self._wants_registration.set()
        self._say.set()

    async def _register_anew(self, replica: Replica) -> None:
        """Register, or put it off where this node does so too often: the link stays."""
        try:
            await self._register(replica)
        except Busy as busy:
            if busy.code != _TOO_MANY:
                raise
            wait_s = max(busy.retry_after_s, _AGAIN_MIN_S) + random.uniform(0.0, _AGAIN_MAX_S)
            self._register_at = asyncio.get_running_loop().time() + wait_s
            self._wants_registration.set()
            log.info("registration put off by %.1f s appliance=%s", wait_s, replica.address)

    async def _reassert(self, replica: Replica) -> None:
        """Say what is held; a refusal of it changes nothing."""
        public_key = data_public_key(self._node.identity().keys)
        try:
            await reassert(replica, self._copy, public_key)
        except Refused as refused:
            if refused.code in _BARRING_CODES:
                raise
            log.warning("what is held was not taken appliance=%s: %s", replica.address, refused)

    async def _follow(self, replica: Replica) -> None:
        incarnation, revision = (0, 0) if self._resync else self._copy.position()
        now = asyncio.get_running_loop().time()
        self._patience.came_to_another(now)
        quiet_s = self._patience.limit_s(now)
        trust = "" if self._resync else self._node.identity().trust
        # Closed here and now: a generator left to the collector closes its connection too late.
        async with (
            contextlib.aclosing(
                replica.netmap_lines(incarnation, revision, quiet_s, trust)
            ) as lines,
            contextlib.aclosing(_messages(lines)) as messages,
        ):
            async for message in messages:
                await self._heed(replica, message)

    async def _heed(self, replica: Replica, message: wire.ReceivedMessage) -> None:
        match message:
            case wire.Removed():
                raise Barred(
                    message.reason or "the node was removed",
                    "run `cairn-agent leave --force`, then join again with a new token",
                    message.code,
                )
            case wire.GoAway():
                wait_s = min(message.after_ms / 1000, 60.0)
                raise SentAway(f"{replica.address} asks to use another appliance", "", wait_s)
            case _:
                await self._take(replica, message)

    async def _take(self, replica: Replica, message: wire.ReceivedMessage) -> None:
        self._patience.heard(asyncio.get_running_loop().time())
        try:
            changed = self._copy.apply(message)
        except NetmapRefused as refusal:
            self._resync = True
            await self._refuse(replica, str(refusal))
            raise
        if isinstance(message, wire.ReceivedTrust):
            self._trust_changed(replica)
        if isinstance(message, wire.InSync):
            self._hasten_first_ack(replica)
            self._resync = False
            self._reset_backoff()
            self._node.heard()
        if changed is not None:
            self._heed_heartbeat(changed)
            self._node.netmap_changed()
        replica.quiet_s = self._patience.limit_s(asyncio.get_running_loop().time())

    def _heed_heartbeat(self, netmap: Netmap) -> None:
        """The appliances speak more often when another has joined them, and less alone."""
        if netmap.node is not None and _is_heartbeat(netmap.node.document.settings.heartbeat_s):
            self._patience.heartbeat_s = netmap.node.document.settings.heartbeat_s

    def _trust_changed(self, replica: Replica) -> None:
        """Trust whom the netmap says, and let the appliances know that it is so."""
        self._node.trust_changed()
        trust_also(replica.context, self._node.identity().ca)
        self._plan_reissue()
        if self._ack is None:
            self._ack = enrolment.AckRequest(0, self._copy.position()[0])  # nothing is loaded
        self._acknowledge_in_turn()

    def _plan_reissue(self) -> None:
        """Choose when to have the certificate signed anew, where another authority issues now.

        At a random moment: all nodes of the cluster have to at once.
        """
        if not self._is_outdated():
            self._reissue_at = math.inf
        elif self._reissue_at == math.inf:
            within_s = self._node.identity().renew_within_s
            now = asyncio.get_running_loop().time()
            self._reissue_at = now + random.SystemRandom().uniform(0.0, within_s)
            self._say.set()

    def _is_outdated(self) -> bool:
        identity = self._node.identity()
        return bool(identity.issuer) and issuer_of(identity.certificate) != identity.issuer

    async def _refuse(self, replica: Replica, reason: str) -> None:
        """Say why a netmap is not used; whether it arrives changes nothing."""
        incarnation, revision = self._copy.position()
        ack = enrolment.AckRequest(revision=revision, incarnation=incarnation, refused=reason)
        with contextlib.suppress(AgentError):
            await replica.ack(ack)

    async def _speak(self, replica: Replica) -> None:
        """Send what the node has to say, one thing after the other."""
        while True:
            self._say.clear()
            now = asyncio.get_running_loop().time()
            if self._wants_registration.is_set() and now >= self._register_at:
                await self._register_anew(replica)
                continue
            register_s = self._register_at - now if self._wants_registration.is_set() else math.inf
            ack_s = self._ack_at - now
            if self._ack is not None and ack_s <= 0:
                self._ack_at = math.inf
                await self._send_ack(replica, self._stamped(self._ack))
                continue
            wait_s = self._renewal_in_s()
            if wait_s <= 0:
                was_outdated = self._is_outdated()
                if await self._renew(replica) and was_outdated:
                    return
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(wait_s, ack_s, register_s, 3600.0)):
                    await self._say.wait()

    async def _send_ack(self, replica: Replica, ack: enrolment.AckRequest) -> None:
        """Send it up the stream; to an older appliance, or before there is one, in a request."""
        # Beforehand: what is loaded while it is sent has its turn later, too.
        self._ack_not_before = asyncio.get_running_loop().time() + acks.APART_S
        if not await replica.ack_up(ack):
            self._ack_not_before = -math.inf
            await replica.ack(ack)

    def _acknowledge_in_turn(self) -> None:
        """Choose when, unless that is chosen: what is loaded until then goes along."""
        if self._ack is not None and self._ack_at == math.inf:
            self._choose_ack_at()
            self._say.set()

    def _hasten_first_ack(self, replica: Replica) -> None:
        """Choose anew once it is known that the stream takes it, which costs next to nothing."""
        if not self._has_first_word and replica.takes_acks and self._ack_at < math.inf:
            self._choose_ack_at()
            self._say.set()
        self._has_first_word = True

    def _choose_ack_at(self) -> None:
        goes_up = self._followed is not None and self._followed.takes_acks
        within_s = acknowledged_within_s(self._copy.current, goes_up=goes_up)
        now = asyncio.get_running_loop().time()
        self._ack_at = max(now + random.uniform(0, within_s), self._ack_not_before)

    def _stamped(self, ack: enrolment.AckRequest) -> enrolment.AckRequest:
        """Return it with whom the node trusts by now, and by whom its certificate is."""
        identity = self._node.identity()
        issuer = issuer_of(identity.certificate)
        return msgspec.structs.replace(ack, trust=identity.trust, issuer=issuer)

    def _renewal_in_s(self) -> float:
        certificate = self._node.identity().certificate
        is_reissue = self._reissue_at < math.inf
        most_s = _REISSUE_AGAIN_S if is_reissue else _RENEW_AGAIN_S
        pause_s = min(most_s, life_s(certificate) / 20)
        now = asyncio.get_running_loop().time()
        again_s = self._renewed_at + pause_s - now
        return max(again_s, min(renewal_in_s(certificate), self._reissue_at - now))

    async def _renew(self, replica: Replica) -> bool:
        """Renew the certificate and return whether that worked.

        A refusal is tried again later, the link stays.
        """
        self._renewed_at = asyncio.get_running_loop().time()
        request = enrolment.RenewRequest(certificate_request(self._node.identity().keys))
        try:
            answer = await replica.renew(request)
            _check_usable(self._node.identity(), answer)
            self._node.renewed(answer)
            show_certificate(replica.context, self._node.identity())
        except (Refused, StateUnusable, Busy) as refused:
            if isinstance(refused, Refused) and refused.code in _BARRING_CODES:
                raise
            if isinstance(refused, Busy) and refused.code != _TOO_MANY:
                raise
            log.warning("certificate could not be renewed: %s", refused.cause)
            return False
        log.info("certificate renewed appliance=%s", replica.address)
        self._plan_reissue()
        return True


def _is_heartbeat(seconds: float) -> bool:
    return 0.1 <= seconds <= 300


def _check_usable(identity: Identity, answer: enrolment.RenewAnswer) -> None:
    """Raise StateUnusable for what would take the node its identity if it were kept."""
    ca = answer.ca or identity.ca
    node_context(msgspec.structs.replace(identity, certificate=answer.certificate, ca=ca))


async def _messages(
    lines: AsyncIterator[bytes],
) -> AsyncGenerator[wire.ReceivedMessage, None]:
    async for line in lines:
        try:
            message = wire.decode_received(line)
        except msgspec.MsgspecError as error:
            raise NetmapRefused(f"a line can't be read: {error}") from error
        yield message


def life_s(certificate: str) -> float:
    """Return for how many seconds a certificate is valid in all."""
    parsed = x509.load_pem_x509_certificate(certificate.encode())
    return (parsed.not_valid_after_utc - parsed.not_valid_before_utc).total_seconds()


def renewal_in_s(certificate: str, *, spread: float = 0.1) -> float:
    """Return the seconds until half life; up to a tenth of the life later, as the serial says.

    By the wall clock: a certificate's dates are. The data plane knows of neither.
    """
    parsed = x509.load_pem_x509_certificate(certificate.encode())
    begin, end = parsed.not_valid_before_utc, parsed.not_valid_after_utc
    jitter = (parsed.serial_number % 1000) / 1000 * spread
    due = begin + (end - begin) * (0.5 + jitter)
    return (due - datetime.now(UTC)).total_seconds()
