"""Enrolment: a new node shows a token and gets its certificate."""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import logging
import weakref
from dataclasses import dataclass, replace

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cairn_appliance.domain.errors import CertificateRequired, Clash, Invalid, TokenRefused
from cairn_appliance.domain.event import Severity
from cairn_appliance.domain.identity import (
    SYSTEM,
    Actor,
    ActorKind,
    Facts,
    checked_node_id,
)
from cairn_appliance.domain.node import Node, NodeState, Registration
from cairn_appliance.domain.token import Token
from cairn_appliance.pki.authority import AGENT_LIFE_DAYS, checked_request, utc_now
from cairn_appliance.pki.errors import RequestRefused
from cairn_appliance.pki.keyring import Keyring
from cairn_appliance.services.clock import Clock, wall_clock
from cairn_appliance.services.commit import until_committed
from cairn_appliance.services.directory import check_key, check_not_removed, living_node
from cairn_appliance.services.events import Journal
from cairn_appliance.services.nodes import Nodes
from cairn_appliance.services.stored import Stored, read
from cairn_appliance.store import keys, records
from cairn_appliance.store.port import Compare, Put, Store, StoreError

log = logging.getLogger(__name__)

_X25519_OCTETS = 32
REFUSALS_TOLD_A_MINUTE = 300
_NOBODY = Token("nobody", "0" * 64, 0.0, "", 0.0)
_UNKNOWN = "the token is unknown here, was deleted, or its secret is wrong"


class _FromElsewhere(TokenRefused):
    """The token is right and for other networks: operators are told, the one who asks isn't."""


@dataclass(frozen=True, slots=True)
class Newcomer:
    """What a node says when it joins; without a token where it comes as a copy of another."""

    node: str  # ID
    name: str
    certificate_request: str  # PEM
    data_public_key: str  # base64 of 32 octets
    facts: Facts
    agent_version: str
    token_id: str = ""
    token_secret: str = ""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the node keeps."""

    state: NodeState
    certificate: str  # PEM
    ca: str  # PEM bundle
    generation: int


class Enrolment:
    """Lets new nodes in, and renews the certificates of those that are."""

    def __init__(
        self,
        store: Store,
        keyring: Keyring,
        nodes: Nodes,
        journal: Journal,
        clock: Clock = wall_clock,
        certificate_days: float = AGENT_LIFE_DAYS,
    ) -> None:
        self._certificate_days = certificate_days
        self._store = store
        self._keyring = keyring
        self._nodes = nodes
        self._journal = journal
        self._clock = clock
        # Within a replica the uses of one token queue up instead of racing each other.
        self._turns: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._told_since, self._told = 0.0, 0  # refusals told since

    async def enrol(self, newcomer: Newcomer, address: str) -> Credentials:
        """Return the node's credentials; raise TokenRefused, NodeRemoved, Clash, Invalid.

        The same node with the same keys and token gets the same answer again without a
        further use of the token: an answer that was lost on the way costs nothing.
        """
        node = checked_newcomer(newcomer)
        turn = self._turns.get(newcomer.token_id) or asyncio.Lock()
        self._turns[newcomer.token_id] = turn
        try:
            async with turn:
                stored = await until_committed(lambda: self._admit(node, newcomer, address))
        except TokenRefused as error:
            await self._tell_refused(newcomer, address, error)
            raise
        await self._nodes.fulfil(node.id)
        log.info("node enrolled node=%s name=%s state=%s", node.id, node.name, stored.state)
        return await self.credentials(stored, newcomer.certificate_request)

    async def credentials(self, node: Node, certificate_request: str) -> Credentials:
        """Return what a node keeps that has proved to be this one."""
        registration = await self._registration(node.id)
        certificate = self._issue(certificate_request, node.id)
        return Credentials(node.state, certificate, self.ca, registration.generation.offered)

    @property
    def ca(self) -> str:
        """The cluster's authorities, PEM."""
        return self._keyring.believed

    async def renew(
        self,
        node_id: str,
        certificate_request: str,
        shown_key: str = "",
        *,
        is_retired: bool = False,
    ) -> str:
        """Return a new certificate (PEM) for a node that has proved to be itself.

        `shown_key` is the control key of the certificate that it comes with. Where that is of
        a retired authority, it proves nothing: the key has to be the one on record.
        """
        control_key = control_key_of(certificate_request, node_id)

        async def attempt() -> None:
            old = await living_node(self._store, node_id)
            check_key(old.value, shown_key)
            check_key(old.value, control_key)
            if is_retired and not shown_key == control_key == old.value.control_key:
                raise CertificateRequired(
                    "the client certificate is of an authority that was replaced, and its key "
                    "is not the one on record",
                    "leave and join again with a new token",
                )
            if old.value.control_key == control_key:
                return
            key = keys.node(node_id)
            put = Put(key, records.nodes.encode(replace(old.value, control_key=control_key)))
            text = f"node {old.value.name} has a new control key"
            by = Actor(ActorKind.NODE, node_id)
            entry = self._journal.entry("node_key_changed", text, by, node=node_id)
            await self._store.commit([Compare(key, old.revision)], [put, entry])

        await until_committed(attempt)
        log.info("certificate renewed node=%s", node_id)
        return self._issue(certificate_request, node_id)

    async def _admit(self, node: Node, newcomer: Newcomer, address: str) -> Node:
        token = await self._token(newcomer, address)
        existing = await read(self._store, records.nodes, keys.node(node.id))
        if existing:
            return same_or_refused(existing.value, node)
        self._check_usable(token.value)
        _check_instance(token.value, newcomer.facts)
        node = replace(_admitted(node, token.value), created_at=self._clock())
        registration = Registration(
            node.id, facts=newcomer.facts, agent_version=newcomer.agent_version[:64]
        )
        used = replace(token.value, uses=token.value.uses + 1)
        token_key = keys.token(used.id)
        puts = [
            Put(keys.node(node.id), records.nodes.encode(node)),
            Put(keys.registration(node.id), records.registrations.encode(registration)),
        ]
        compares = [Compare(token_key, token.revision), *(Compare(put.key, 0) for put in puts)]
        entry = self._journal.entry(
            "node_enrolled",
            f"node {node.name} enrolled and is {node.state}",
            Actor(ActorKind.NODE, node.id, address),
            node=node.id,
            token=used.id,
            use=f"{used.uses} of {used.max_uses}",
        )
        await self._store.commit(
            compares, [*puts, Put(token_key, records.tokens.encode(used)), entry]
        )
        return node

    async def _token(self, newcomer: Newcomer, address: str) -> Stored[Token]:
        """Return the token if the secret is right, and the node comes from where it may.

        Unknown, wrong and from elsewhere look the same to the one who asks.
        """
        try:
            found = await read(self._store, records.tokens, keys.token(newcomer.token_id))
        except ValueError:
            found = None
        token = found.value if found else _NOBODY
        if not token.matches(newcomer.token_secret) or found is None:
            raise TokenRefused(_UNKNOWN)
        if not token.is_for(address):
            raise _FromElsewhere(_UNKNOWN)
        return found

    def _check_usable(self, token: Token) -> None:
        if self._clock() >= token.expires_at:
            raise TokenRefused("the token has expired", code="token_expired")
        if token.uses >= token.max_uses:
            raise TokenRefused(
                f"the token has been used up ({token.uses} of {token.max_uses})",
                code="token_used_up",
            )
        if not self._keyring.is_pin_good(token.pin):
            raise TokenRefused("the token was made before the cluster's CA was changed")

    async def _registration(self, node_id: str) -> Registration:
        found = await read(self._store, records.registrations, keys.registration(node_id))
        return found.value if found else Registration(node_id)

    def _issue(self, certificate_request: str, node_id: str) -> str:
        pem = certificate_request.encode()
        days = self._certificate_days
        return self._keyring.authority.issue_agent(pem, node_id, utc_now(), days).decode()

    async def _tell_refused(self, newcomer: Newcomer, address: str, error: TokenRefused) -> None:
        """Write an event; the name of a token that is none is not worth keeping.

        Strangers must not push all else out of the events, so the log alone has what is
        beyond some a minute. They are refused whether or not it can be written.
        """
        log.warning("token refused address=%s code=%s", address, error.code)
        now = self._clock()
        if abs(now - self._told_since) >= 60.0:
            self._told_since, self._told = now, 0
        self._told += 1
        if self._told > REFUSALS_TOLD_A_MINUTE:
            return
        is_elsewhere = isinstance(error, _FromElsewhere)
        why = f"its token is not for nodes from {address or '?'}" if is_elsewhere else error.cause
        entry = self._journal.entry(
            "token_refused",
            f"a node was turned away: {why}",
            Actor(SYSTEM.kind, SYSTEM.name, address),
            severity=Severity.WARNING,
            token=newcomer.token_id[:32],
            name=newcomer.name,
            code="token_from_elsewhere" if is_elsewhere else error.code,
        )
        try:
            await self._store.commit([], [entry])
        except StoreError as failure:
            log.warning("refusal could not be written as an event reason=%s", failure)


def checked_newcomer(newcomer: Newcomer) -> Node:
    """Return the node as it asks to be; raise Invalid."""
    node_id = checked_node_id(newcomer.node)
    data_public_key = checked_data_key(newcomer.data_public_key)
    return Node(
        id=node_id,
        name=host_name(newcomer.name, node_id),
        state=NodeState.PENDING,
        data_public_key=data_public_key,
        control_key=control_key_of(newcomer.certificate_request, node_id),
        created_at=0.0,
        token=newcomer.token_id,
    )


def checked_data_key(text: str) -> str:
    """Return a node's data public key in canonical base64; raise Invalid."""
    try:
        octets = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Invalid("the data public key is not base64", code="invalid_key") from error
    if len(octets) != _X25519_OCTETS or not any(octets):
        raise Invalid("the data public key is not one of X25519", code="invalid_key")
    return base64.b64encode(octets).decode()


def host_name(name: str, node_id: str) -> str:
    """Return what of a host name can be shown safely; it comes from outside."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "._-") else "-" for c in name[:63])
    return kept.strip("._-") or f"node-{node_id[:8]}"


def control_key_of(certificate_request: str, node_id: str) -> str:
    """Return the hex SHA-256 of the request's public key; raise Invalid."""
    try:
        key = checked_request(certificate_request.encode(), node_id)
    except RequestRefused as error:
        raise Invalid(str(error), code="invalid_certificate_request") from error
    spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(spki).hexdigest()


def _check_instance(token: Token, facts: Facts) -> None:
    """Raise TokenRefused where the token is for other machines.

    Unlike one that comes from elsewhere, the machine is told: what it says of itself proves
    nothing, so nothing is lost by it. Which machines the token is for isn't said.
    """
    own = facts.instance_id
    if token.is_for_instance(own):
        return
    cause = "the token is for some machines only, and this one says no instance ID"
    remedy = "see `cairn-agent doctor` on it, or make a token without --instance"
    if own:
        cause = f"the token is for other machines than this one, whose instance ID is {own!r}"
        remedy = (
            "join the machine that the token is for, or make one for this machine: "
            "`cairn token create --instance ID`"
        )
    raise TokenRefused(cause, remedy, code="token_for_other_instance")


def _admitted(node: Node, token: Token) -> Node:
    return replace(
        node,
        state=NodeState.PENDING if token.needs_approval else NodeState.APPROVED,
        site=token.site,
        labels=token.labels,
        wanted=token.vsubnets,
    )


def same_or_refused(existing: Node, node: Node) -> Node:
    """Return the node that is there if it is the same one asking again."""
    check_not_removed(existing)
    keys_match = (existing.data_public_key, existing.control_key) == (
        node.data_public_key,
        node.control_key,
    )
    if not keys_match or (existing.token, existing.copy_of) != (node.token, node.copy_of):
        raise Clash(
            "a node with this ID has enrolled already",
            "run `cairn-agent leave` on this machine, then join again: it gets an ID of its own",
            code="node_exists",
        )
    return existing
