"""Enrolment by a token, and leaving: what a person asks for once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable
from typing import Final

from cairn_agent.control.backoff import Backoff
from cairn_agent.control.replica import Replica
from cairn_agent.control.tls import node_context, pinned_authority, server_context
from cairn_agent.errors import Busy, Refused, Unreachable
from cairn_agent.identity import Identity, Keys, certificate_request, data_public_key
from cairn_agent.protocol.enrolment import EnrolAnswer, EnrolRequest, Facts, LeaveRequest
from cairn_agent.protocol.token import Token

log = logging.getLogger(__name__)

_BOUND_S: Final = 20.0
_LEAVE_BOUND_S: Final = 10.0


async def enrol(
    token: Token,
    keys: Keys,
    *,
    name: str,
    facts: Facts,
    version: str,
    before_sending: Callable[[], None] = lambda: None,
) -> Identity:
    """Enrol at one of the token's appliances and return the identity that came of it.

    Tries them in turn for up to 20 s; an answer that says no ends it at once. The same
    node ID and keys are shown each time, so that an answer that was lost uses up nothing.
    `before_sending` is called before an appliance sees the token: it may count as used then.
    """
    request = EnrolRequest(
        token_id=token.id,
        token_secret=token.secret,
        node_id=keys.node_id,
        name=name,
        certificate_request=certificate_request(keys),
        data_public_key=data_public_key(keys),
        facts=facts,
        agent_version=version,
    )
    addresses = random.SystemRandom().sample(token.appliances, len(token.appliances))
    backoff = Backoff(first_s=1.0, max_s=4.0)
    deadline = asyncio.get_running_loop().time() + _BOUND_S
    while True:
        for address in addresses:
            try:
                authority = await pinned_authority(address, token.pin)
                before_sending()
                return _identity(token, keys, name, await _enrol_at(address, authority, request))
            except Unreachable as error:
                last = error
                log.debug("no enrolment at appliance=%s: %s", address, error.cause)
        wait_s = backoff.next_s(last.retry_after_s if isinstance(last, Busy) else 0.0)
        if asyncio.get_running_loop().time() + wait_s > deadline:
            raise last
        await asyncio.sleep(wait_s)


async def leave(identity: Identity, reason: str = "") -> None:
    """Tell an appliance that the node leaves; raise Unreachable where none answers, Refused.

    A node that the appliances don't know any more has left already.
    """
    last = Unreachable("no appliance is known", "give the node up with --force")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LEAVE_BOUND_S):
            for address in identity.appliances:
                try:
                    async with Replica(address, node_context(identity)) as replica:
                        return await replica.leave(LeaveRequest(reason))
                except Unreachable as error:
                    last = error
                except Refused as error:
                    if error.code == "node_removed":
                        return None
                    raise
    raise last


def not_this_machine(why: str) -> Refused:
    """Return why a machine that may be a copy can't have the node removed."""
    return Refused(
        f"the node isn't given up for a machine that may be a copy of it: {why}",
        "leave with --force: the identity is removed from this machine only",
    )


async def _enrol_at(address: str, authority: str, request: EnrolRequest) -> EnrolAnswer:
    async with Replica(address, server_context(authority)) as replica:
        return await replica.enrol(request)


def _identity(token: Token, keys: Keys, name: str, answer: EnrolAnswer) -> Identity:
    return Identity(
        keys=keys,
        name=name,
        state=answer.state,
        cluster_id=answer.cluster_id,
        pin=token.pin,
        certificate=answer.certificate,
        ca=answer.ca,
        map_key=answer.map_key,
        appliances=answer.appliances or token.appliances,
        generation=answer.generation,
    )
